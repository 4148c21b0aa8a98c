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
    ForgetKeys,
    RefundByHand {
        part: bool,
    },
    Redrive,
    SlowDisk {
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
    let orders = rng.between(3, 6) as usize;
    for order in 0..orders {
        order_story(rng, &mut lines, order, length_ms);
    }
    let faults = rng.between(2, 7);
    for _ in 0..faults {
        fault(rng, &mut lines, length_ms);
    }
    if rng.chance(450) {
        takeover(rng, &mut lines, length_ms);
    }
    lines.sort_by_key(|line| line.at_ms);
    Script(lines)
}

fn order_story(rng: &mut Rng, lines: &mut Vec<Line>, order: usize, length_ms: u64) {
    let buyer = rng.index(USERS);
    let start_ms = rng.below(length_ms * 2 / 3);
    let amount = rng.between(1, 40) * 50;
    let home = buyer % 3;
    let region = |rng: &mut Rng| if rng.chance(750) { home } else { rng.index(3) };
    let mut at_ms = start_ms;
    lines.push(Line { at_ms, region: region(rng), op: Op::Place { order, buyer, amount, twin_of: None } });
    for _ in 0..rng.between(2, 7) {
        at_ms += rng.between(50, 12_000);
        let payer = rng.index(USERS);
        let card = *rng.pick(CARDS);
        let op = match rng.below(22) {
            0..=1 => Op::Pay { order, card },
            2..=8 => Op::Ask { order, payer },
            9..=10 => Op::Withdraw { order },
            11..=13 => Op::Cancel { order },
            14..=15 => Op::Refund { order, amount: rng.chance(600).then(|| rng.between(1, 20) * 10) },
            16..=17 => Op::Amend { order, amount: rng.between(1, 40) * 50 },
            _ => Op::Ask { order, payer },
        };
        let asked = matches!(op, Op::Ask { .. });
        lines.push(Line { at_ms, region: region(rng), op });
        if asked && rng.chance(850) {
            let reaction_ms = at_ms + rng.between(20, 15_000);
            let region = if rng.chance(750) { payer % 3 } else { rng.index(3) };
            let op = if rng.chance(800) {
                Op::Accept { order, payer, card }
            } else {
                Op::Decline { order, payer }
            };
            lines.push(Line { at_ms: reaction_ms, region, op });
        }
    }
}

fn fault(rng: &mut Rng, lines: &mut Vec<Line>, length_ms: u64) {
    let at_ms = rng.below(length_ms);
    let region = rng.index(3);
    let for_ms = rng.between(200, 30_000);
    let to = (region + 1 + rng.index(2)) % 3;
    let op = match rng.below(40) {
        0..=5 => Op::Crash { for_ms },
        6..=7 => Op::CrashAgent { for_ms: for_ms / 4 },
        8..=9 => Op::Unlink { for_ms },
        10 => Op::LoseGate,
        11..=13 => Op::LoseDisk { for_ms },
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
        33..=34 => Op::ForgetKeys,
        35..=36 => Op::RefundByHand { part: rng.chance(400) },
        37 => Op::Redrive,
        _ => Op::SlowDisk { for_ms },
    };
    lines.push(Line { at_ms, region, op });
}

/// A home is cut off, its slots are taken by one or two others, and users go on at both: strays are made here.
fn takeover(rng: &mut Rng, lines: &mut Vec<Line>, length_ms: u64) {
    let at_ms = rng.between(1_000, length_ms * 3 / 4);
    let old = rng.index(3);
    let (first, second) = ((old + 1) % 3, (old + 2) % 3);
    let for_ms = rng.between(5_000, 60_000);
    for to in [first, second] {
        for channel in [Channel::Data, Channel::Message] {
            lines.push(Line { at_ms, region: old, op: Op::Cut { to, channel, both: true, for_ms } });
        }
    }
    let users: Vec<usize> = (0..USERS).filter(|user| user % 3 == old).collect();
    let decree_ms = at_ms + rng.between(100, 6_000);
    lines.push(Line { at_ms: decree_ms, region: first, op: Op::Decree { users: users.clone() } });
    if rng.chance(300) {
        lines.push(Line { at_ms: decree_ms + rng.below(40), region: second, op: Op::Decree { users } });
    }
    if rng.chance(300) {
        lines.push(Line { at_ms: at_ms + for_ms / 2, region: old, op: Op::LoseDisk { for_ms: for_ms / 3 } });
    }
    // Commands on both sides of the cut.
    let placed: Vec<(usize, usize)> = lines
        .iter()
        .filter_map(|line| match line.op {
            Op::Place { order, buyer, .. } if line.at_ms < at_ms + for_ms => Some((order, buyer)),
            _ => None,
        })
        .collect();
    for _ in 0..rng.between(3, 9) {
        let Some(&(order, _)) = placed.get(rng.index(placed.len())) else { return };
        let time_ms = at_ms + rng.below(for_ms);
        let region = if rng.chance(500) { old } else { first };
        let payer = rng.index(USERS);
        let card = *rng.pick(CARDS);
        let op = match rng.below(12) {
            0..=1 => Op::Ask { order, payer },
            2..=3 => Op::Pay { order, card },
            4..=5 => Op::Cancel { order },
            6 => Op::Withdraw { order },
            7 => Op::Refund { order, amount: rng.chance(500).then_some(10) },
            8..=10 => Op::Accept { order, payer, card },
            _ => Op::Decline { order, payer },
        };
        lines.push(Line { at_ms: time_ms, region, op });
    }
}
