//! What is done to the world: a list of operations that can be printed, read and replayed.

use std::fmt;

use super::net::Channel;
use super::rng::Rng;

/// One thing that a user, an operator or bad luck does. Users, orders and regions are numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    Place {
        order: usize,
        buyer: usize,
        amount: u64,
        window_ms: u64,
        twin_of: Option<usize>,
    },
    Ask {
        order: usize,
        payer: usize,
    },
    Pay {
        order: usize,
        card: &'static str,
    },
    Accept {
        order: usize,
        payer: usize,
        card: &'static str,
    },
    Decline {
        order: usize,
        payer: usize,
    },
    Withdraw {
        order: usize,
    },
    Cancel {
        order: usize,
    },
    Refund {
        order: usize,
        amount: Option<u64>,
    },
    Amend {
        order: usize,
        amount: u64,
    },
    Crash {
        for_ms: u64,
    },
    CrashAgent {
        for_ms: u64,
    },
    Unlink {
        for_ms: u64,
    },
    LoseGate,
    LoseDisk {
        for_ms: u64,
    },
    Backup,
    RestoreBackup {
        for_ms: u64,
    },
    CloneMachine {
        for_ms: u64,
    },
    Cut {
        to: usize,
        channel: Channel,
        both: bool,
        for_ms: u64,
    },
    /// The region takes the slots of these users.
    Decree {
        users: Vec<usize>,
    },
    MoveClock {
        by_ms: i64,
    },
    CloseLost,
    /// The log's segments are deleted, as far as others have what is in them, but for the last records.
    Trim {
        keep: usize,
    },
    /// The view is lost apart from the log, or an older copy takes its place.
    LoseView {
        older: bool,
        for_ms: u64,
    },
    ForgetKeys,
    RefundByHand {
        part: bool,
    },
    Redrive,
    SlowDisk {
        for_ms: u64,
    },
    /// The region cannot take larger changes for a while.
    OldSoftware {
        bytes_max: usize,
        for_ms: u64,
    },
}

/// An operation, when it happens, and in or through which region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub at_ms: u64,
    pub region: usize,
    pub op: Op,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = ["north", "east", "south"].get(self.region).copied().unwrap_or("?");
        write!(f, "{:>8} ms  {:<6} {:?}", self.at_ms, region, self.op)
    }
}

/// A run's operations, in order of time.
#[derive(Clone, Debug, Default)]
pub struct Script(pub Vec<Line>);

impl fmt::Display for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

pub(crate) const USERS: usize = 6;
const CARDS: &[&str] = &["ok", "ok", "ok", "slow", "slow", "refused", "retry", "hang", "late"];

/// Writes a script: a few orders with what people do about them, and what goes wrong meanwhile.
pub(crate) fn generate(rng: &mut Rng, length_ms: u64) -> Script {
    let mut lines = Vec::new();
    let orders = rng.between(2, 4) as usize;
    for order in 0..orders {
        order_story(rng, &mut lines, order, length_ms);
    }
    for _ in 0..rng.between(1, 6) {
        fault(rng, &mut lines, length_ms);
    }
    if rng.chance(550) {
        takeover(rng, &mut lines, orders, length_ms);
    } else if rng.chance(750) {
        recipe(rng, &mut lines, orders, length_ms);
    }
    if rng.chance(120) {
        stall(rng, &mut lines, orders + 1, length_ms);
    }
    if rng.chance(250) {
        lines.push(Line { at_ms: length_ms - rng.below(10_000), region: 0, op: Op::ForgetKeys });
    }
    if rng.chance(200) {
        let op =
            Op::OldSoftware { bytes_max: rng.between(120, 900) as usize, for_ms: rng.between(2_000, 60_000) };
        lines.push(Line { at_ms: rng.below(length_ms), region: rng.index(3), op });
    }
    if rng.chance(180) {
        view_lost(rng, &mut lines, length_ms);
    }
    lines.sort_by_key(|line| line.at_ms);
    Script(lines)
}

fn placing(rng: &mut Rng, order: usize, buyer: usize) -> Op {
    let window_ms = if rng.chance(350) { rng.between(15_000, 60_000) } else { 180_000 };
    Op::Place { order, buyer, amount: rng.between(1, 40) * 50, window_ms, twin_of: None }
}

fn order_story(rng: &mut Rng, lines: &mut Vec<Line>, order: usize, length_ms: u64) {
    let buyer = rng.index(USERS);
    let home = buyer % 3;
    let region = |rng: &mut Rng| if rng.chance(750) { home } else { rng.index(3) };
    let mut at_ms = rng.below(length_ms * 2 / 3);
    lines.push(Line { at_ms, region: region(rng), op: placing(rng, order, buyer) });
    if rng.chance(60) {
        // The same key, another body, through another region.
        let amount = rng.between(1, 40) * 50;
        let op = Op::Place { order: order + 50, buyer, amount, window_ms: 180_000, twin_of: Some(order) };
        lines.push(Line { at_ms: at_ms + rng.below(3_000), region: rng.index(3), op });
    }
    for _ in 0..rng.between(2, 7) {
        at_ms += rng.between(50, 12_000);
        let payer = rng.index(USERS);
        let card = *rng.pick(CARDS);
        let op = match rng.below(22) {
            0..=1 => Op::Pay { order, card },
            2..=3 => Op::Withdraw { order },
            4..=6 => Op::Cancel { order },
            7..=8 => Op::Refund { order, amount: rng.chance(600).then(|| rng.between(1, 20) * 10) },
            9..=10 => Op::Amend { order, amount: rng.between(1, 40) * 50 },
            _ => Op::Ask { order, payer },
        };
        let asked = matches!(op, Op::Ask { .. });
        let place = region(rng);
        lines.push(Line { at_ms, region: place, op });
        if rng.chance(25) {
            let crash_ms = at_ms + rng.between(1, 30);
            lines.push(Line {
                at_ms: crash_ms,
                region: place,
                op: Op::Crash { for_ms: rng.between(200, 5_000) },
            });
        }
        if asked && rng.chance(850) {
            reaction(rng, lines, order, payer, at_ms);
        }
    }
}

fn reaction(rng: &mut Rng, lines: &mut Vec<Line>, order: usize, payer: usize, at_ms: u64) {
    let at_ms = at_ms + rng.between(20, 15_000);
    let region = if rng.chance(750) { payer % 3 } else { rng.index(3) };
    let card = *rng.pick(CARDS);
    let op = if rng.chance(800) { Op::Accept { order, payer, card } } else { Op::Decline { order, payer } };
    lines.push(Line { at_ms, region, op });
}

fn fault(rng: &mut Rng, lines: &mut Vec<Line>, length_ms: u64) {
    let at_ms = rng.below(length_ms);
    let region = rng.index(3);
    let for_ms = rng.between(200, 30_000);
    let to = (region + 1 + rng.index(2)) % 3;
    let op = match rng.below(44) {
        0..=5 => Op::Crash { for_ms },
        6..=7 => Op::CrashAgent { for_ms: for_ms / 4 },
        8..=9 => Op::Unlink { for_ms },
        10 => Op::LoseGate,
        11..=13 => {
            if rng.chance(300) {
                // What ended and was closed is named no more, and is lost here.
                let early_ms = at_ms.saturating_sub(8_000);
                let crash = Op::Crash { for_ms: 300 };
                lines.push(Line { at_ms: early_ms, region: rng.index(3), op: crash });
                let close_ms = at_ms.saturating_sub(1_000);
                lines.push(Line { at_ms: close_ms, region: to, op: Op::CloseLost });
            }
            Op::LoseDisk { for_ms }
        }
        14..=15 => {
            let earlier = rng.below(at_ms + 1);
            lines.push(Line { at_ms: earlier, region, op: Op::Backup });
            Op::RestoreBackup { for_ms }
        }
        16..=17 => Op::CloneMachine { for_ms },
        18..=22 => Op::Cut { to, channel: Channel::Data, both: rng.chance(500), for_ms: for_ms * 2 },
        23..=25 => Op::Cut { to, channel: Channel::Message, both: rng.chance(500), for_ms: for_ms * 2 },
        26..=29 => Op::Decree { users: vec![rng.index(USERS), rng.index(USERS)] },
        30..=31 => Op::MoveClock { by_ms: rng.between(0, 1_200) as i64 - 600 },
        32 => Op::CloseLost,
        33 => Op::ForgetKeys,
        34..=36 => Op::RefundByHand { part: rng.chance(400) },
        37 => Op::Redrive,
        38..=41 => {
            // Who lost its disk finds no log that reaches back.
            let lost =
                Line { at_ms: at_ms + rng.below(4_000), region: to, op: Op::LoseDisk { for_ms: for_ms / 4 } };
            lines.extend(rng.chance(500).then_some(lost));
            Op::Trim { keep: if rng.chance(500) { 0 } else { rng.index(12) } }
        }
        _ => Op::SlowDisk { for_ms },
    };
    lines.push(Line { at_ms, region, op });
}

/// A message overtakes its order by more than its deadline.
fn stall(rng: &mut Rng, lines: &mut Vec<Line>, order: usize, length_ms: u64) {
    let at_ms = rng.below(length_ms / 3);
    let (buyer, payer) = (rng.index(3), rng.index(3));
    let for_ms = rng.between(20_000, 55_000);
    for to in 0..3 {
        if to != buyer {
            let op = Op::Cut { to, channel: Channel::Data, both: true, for_ms };
            lines.push(Line { at_ms, region: buyer, op });
        }
    }
    let op = Op::Place { order, buyer, amount: 500, window_ms: 180_000, twin_of: None };
    lines.push(Line { at_ms: at_ms + 100, region: buyer, op });
    lines.push(Line { at_ms: at_ms + 900, region: buyer, op: Op::Ask { order, payer } });
    for _ in 0..rng.between(1, 3) {
        let redrive_ms = at_ms + rng.between(20_000, 70_000);
        lines.push(Line { at_ms: redrive_ms, region: payer, op: Op::Redrive });
    }
    reaction(rng, lines, order, payer, at_ms + for_ms);
}

/// A view goes, or falls back behind what its log has left. Before that the region may have taken over state, since a
/// peer's log did not reach back either.
fn view_lost(rng: &mut Rng, lines: &mut Vec<Line>, length_ms: u64) {
    let region = rng.index(3);
    let at_ms = rng.between(20_000, length_ms);
    let mut say = |at_ms: u64, region: usize, op: Op| lines.push(Line { at_ms, region, op });
    if rng.chance(300) {
        say(at_ms - rng.between(9_000, 20_000), region, Op::Backup);
    }
    if rng.chance(600) {
        for peer in (0..3).filter(|peer| *peer != region) {
            say(at_ms - rng.between(8_000, 9_000), peer, Op::Trim { keep: rng.index(4) });
        }
        let for_ms = rng.between(200, 1_000);
        let away = if rng.chance(500) { Op::LoseDisk { for_ms } } else { Op::Crash { for_ms: 3 * for_ms } };
        say(at_ms - rng.between(6_500, 9_500), region, away);
    }
    for _ in 0..rng.between(1, 2) {
        say(at_ms - rng.between(10, 5_000), region, Op::Trim { keep: rng.index(25) });
    }
    say(at_ms, region, Op::LoseView { older: rng.chance(400), for_ms: rng.between(50, 8_000) });
    if rng.chance(300) {
        // Nobody tells it for a while what it lacks.
        let for_ms = rng.between(3_000, 15_000);
        for to in (0..3).filter(|to| *to != region) {
            say(at_ms, region, Op::Cut { to, channel: Channel::Data, both: true, for_ms });
        }
    }
}

/// A home is cut off, its slots are taken by one or two others, and users go on at both: strays are made here.
fn takeover(rng: &mut Rng, lines: &mut Vec<Line>, order: usize, length_ms: u64) {
    let at_ms = rng.between(3_000, length_ms / 2);
    let old = rng.index(3);
    let (first, second) = ((old + 1) % 3, (old + 2) % 3);
    let for_ms = rng.between(5_000, 60_000);
    // Silent: it hears the others and is not heard. Else it is alone.
    let silent = rng.chance(400);
    for to in [first, second] {
        lines.push(Line {
            at_ms,
            region: old,
            op: Op::Cut { to, channel: Channel::Data, both: !silent, for_ms },
        });
        if !silent {
            let op = Op::Cut { to, channel: Channel::Message, both: true, for_ms };
            lines.push(Line { at_ms, region: old, op });
        }
    }
    let users: Vec<usize> = (0..USERS).filter(|user| user % 3 == old).collect();
    let decree_ms = at_ms + rng.between(100, 6_000);
    lines.push(Line { at_ms: decree_ms, region: first, op: Op::Decree { users: users.clone() } });
    if rng.chance(300) {
        let op = Op::Decree { users: users.clone() };
        lines.push(Line { at_ms: decree_ms + rng.below(40), region: second, op });
    }
    if rng.chance(300) {
        let op = Op::LoseDisk { for_ms: for_ms / 3 };
        lines.push(Line { at_ms: at_ms + rng.below(for_ms), region: old, op });
    }
    // One order whose buyer, or else payer, lives there; sometimes it is placed only after the cut.
    let mine = *rng.pick(&users);
    let (buyer, payer) = if rng.chance(650) { (mine, rng.index(USERS)) } else { (rng.index(USERS), mine) };
    let placed_ms = if rng.chance(850) { at_ms - rng.between(500, 3_000) } else { at_ms + 50 };
    lines.push(Line { at_ms: placed_ms, region: buyer % 3, op: placing(rng, order, buyer) });
    if rng.chance(450) {
        let op = if rng.chance(500) { Op::Ask { order, payer } } else { Op::Pay { order, card: "ok" } };
        lines.push(Line { at_ms: placed_ms + 400, region: buyer % 3, op });
    }
    let tail_ms = if silent { decree_ms - at_ms } else { for_ms.min(20_000) };
    tail(rng, lines, order, payer, old, (at_ms + 20, tail_ms));
    tail(rng, lines, order, payer, first, (decree_ms + 50, for_ms.min(20_000)));
}

/// Situations that chance alone meets too rarely.
fn recipe(rng: &mut Rng, lines: &mut Vec<Line>, order: usize, length_ms: u64) {
    let at_ms = rng.between(1_000, length_ms / 3);
    let old = rng.index(3);
    let first = (old + 1 + rng.index(2)) % 3;
    let third = 3 - old - first;
    let mut say = |at_ms: u64, region: usize, op: Op| lines.push(Line { at_ms, region, op });
    let cut = |to: usize, both: bool, channel: Channel, for_ms: u64| Op::Cut { to, channel, both, for_ms };
    let users: Vec<usize> = (0..USERS).filter(|user| user % 3 == old).collect();
    let place =
        |buyer: usize, window_ms: u64| Op::Place { order, buyer, amount: 900, window_ms, twin_of: None };
    let alone_ms = rng.between(12_000, 40_000);
    let kind = [0, 1, 1, 2, 3][rng.index(5)];
    let silent = kind == 1;
    for to in [first, third] {
        let cut_ms = at_ms + if kind == 3 { 4_500 } else { 1_000 };
        say(cut_ms, old, cut(to, !silent, Channel::Data, alone_ms));
        if !silent {
            say(cut_ms, old, cut(to, true, Channel::Message, alone_ms));
        }
    }
    let decree = Op::Decree { users };
    match kind {
        0 => {
            // The old home's last-minute payer is captured when the new home has let the order expire.
            let window_ms = rng.between(6_000, 20_000);
            say(at_ms, old, place(old, window_ms));
            say(at_ms + 1_500, old, Op::Pay { order, card: "late" });
            say(at_ms + 2_500, first, decree);
        }
        1 => {
            // A payer answers at a home that nobody hears.
            say(at_ms, third, place(third, 180_000));
            say(at_ms + 1_300, third, Op::Ask { order, payer: old });
            let answer = if rng.chance(400) {
                Op::Decline { order, payer: old }
            } else {
                Op::Accept { order, payer: old, card: if rng.chance(700) { "hang" } else { "slow" } }
            };
            say(at_ms + rng.between(1_700, 2_500), old, answer);
            say(at_ms + rng.between(2_500, 4_000), first, decree);
        }
        2 => {
            // A request opened and withdrawn at the old home, while the new one tried another.
            say(at_ms, old, place(old, 180_000));
            say(at_ms + 1_500, old, Op::Ask { order, payer: third });
            say(at_ms + 3_000, old, Op::Withdraw { order });
            say(at_ms + 3_500, first, decree);
            say(at_ms + 4_500, first, Op::Pay { order, card: "refused" });
        }
        _ => {
            // The new home withdraws what the old one has charged.
            say(at_ms, third, place(third, 180_000));
            say(at_ms + 1_000, third, Op::Ask { order, payer: old });
            say(at_ms + 4_600, old, Op::Accept { order, payer: old, card: "slow" });
            say(at_ms + 5_000, first, decree);
            say(
                at_ms + 5_500,
                third,
                if rng.chance(700) { Op::Withdraw { order } } else { Op::Cancel { order } },
            );
        }
    }
}

/// What one side of a cut does to an order, within a span of (from, length).
fn tail(rng: &mut Rng, lines: &mut Vec<Line>, order: usize, payer: usize, region: usize, span: (u64, u64)) {
    let card = *rng.pick(CARDS);
    let mut ops = match rng.below(14) {
        0 => vec![Op::Ask { order, payer }],
        1..=2 => vec![Op::Ask { order, payer }, Op::Withdraw { order }],
        3 => vec![Op::Ask { order, payer }, Op::Cancel { order }],
        4 => vec![Op::Cancel { order }],
        5 => vec![Op::Pay { order, card }],
        6 => vec![Op::Pay { order, card: "refused" }],
        7 => vec![Op::Amend { order, amount: 700 }, Op::Pay { order, card }],
        8 => vec![Op::Refund { order, amount: rng.chance(500).then_some(10) }],
        9 => vec![Op::Withdraw { order }],
        10..=11 => vec![Op::Accept { order, payer, card }],
        12 => vec![Op::Decline { order, payer }],
        _ => vec![Op::Ask { order, payer }, Op::Accept { order, payer, card }],
    };
    if rng.chance(250) {
        ops.push(Op::Cancel { order });
    }
    let mut at_ms = span.0;
    let step_ms = span.1 / (ops.len() as u64 + 1) + 1;
    for op in ops {
        lines.push(Line { at_ms, region, op });
        at_ms += rng.between(step_ms / 4, step_ms);
    }
}
