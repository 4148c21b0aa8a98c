//! Random interleavings with crashes, reconnects, jumps of time, a log written anew and a full gate, and then everything
//! heals.
//!
//! The world holds what a runtime would: the durable records, the node's applied versions, what is under way. Checked
//! after every step: nothing is delivered before all it requires is there; what the log says is kept is what the gate
//! holds, so nothing vanishes; an ack is for something kept or ended; the indexes say what the items say.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config as Runs, RngAlgorithm, TestRng, TestRunner};

use super::*;

const ACTORS: [&str; 3] = ["north", "south", "west"];
const SEQ_MAX: u64 = 4;

#[derive(Clone, Debug)]
enum Op {
    Arrive {
        message: usize,
        term: u64,
    },
    Apply {
        actor: usize,
        seq: u64,
    },
    Contain {
        message: usize,
    },
    AnswerCheck {
        which: usize,
    },
    Answer {
        which: usize,
        how: u8,
    },
    Pass {
        ms: u64,
    },
    Tick,
    /// The next step's outputs are carried out only up to here; then the process starts again.
    Crash {
        after: usize,
    },
    /// The log is written anew and the old one deleted; or the process dies when this many records are written.
    Tidy {
        upto: usize,
    },
    Reconnect,
    NeedGone {
        message: usize,
    },
    Home {
        slot: u16,
        term: u64,
        east: bool,
    },
    Redrive {
        message: usize,
    },
    RedriveAll,
    Discard {
        message: usize,
    },
}

fn op(messages: usize) -> impl Strategy<Value = Op> {
    let message = 0..messages;
    prop_oneof![
        8 => (message.clone(), 1..3u64).prop_map(|(message, term)| Op::Arrive { message, term }),
        5 => (0..ACTORS.len(), 1..=SEQ_MAX).prop_map(|(actor, seq)| Op::Apply { actor, seq }),
        2 => message.clone().prop_map(|message| Op::Contain { message }),
        6 => (0..4usize).prop_map(|which| Op::AnswerCheck { which }),
        8 => (0..4usize, any::<u8>()).prop_map(|(which, how)| Op::Answer { which, how }),
        3 => prop_oneof![1..100u64, 1_000..5_000u64, 10_000..90_000u64].prop_map(|ms| Op::Pass { ms }),
        5 => Just(Op::Tick),
        2 => (0..6usize).prop_map(|after| Op::Crash { after }),
        2 => (0..20usize).prop_map(|upto| Op::Tidy { upto }),
        1 => Just(Op::Reconnect),
        1 => message.clone().prop_map(|message| Op::NeedGone { message }),
        1 => (1..3u16, 1..4u64, any::<bool>()).prop_map(|(slot, term, east)| Op::Home { slot, term, east }),
        1 => message.clone().prop_map(|message| Op::Redrive { message }),
        1 => Just(Op::RedriveAll),
        1 => message.prop_map(|message| Op::Discard { message }),
    ]
}

fn envelope(n: usize) -> impl Strategy<Value = Envelope> {
    let requirement = (0..ACTORS.len(), 1..=SEQ_MAX, 0..2u8).prop_map(|(who, seq, entity)| Requirement {
        entity: order(entity),
        dot: Dot { actor: actor(ACTORS[who]), seq },
    });
    (vec(requirement, 0..3), 0..2u64, 0..2u64).prop_map(move |(requires, deadline, until)| Envelope {
        id: id(n as u8 + 1),
        requires,
        deadline_ms: deadline * (T0 + 20_000),
        until_ms: until * (T0 + 60_000),
        ..request(1)
    })
}

struct World {
    gate: Gate,
    config: Config,
    now_ms: u64,
    wake_at_ms: Option<u64>,
    records: BTreeMap<Place, Record>,
    next: u64,
    kept: BTreeMap<MessageId, Envelope>,
    ended: BTreeSet<MessageId>,
    delivered: BTreeSet<MessageId>,
    applied: BTreeMap<ActorId, u64>,
    contained: BTreeSet<Requirement>,
    checks: Vec<(MessageId, Vec<Requirement>)>,
    handed: Vec<(MessageId, u32)>,
    crash_after: Option<usize>,
}

impl World {
    fn new() -> World {
        let config = Config {
            attempts_max: 3,
            in_flight_max: 2,
            waiting_max: 3,
            items_max: 5,
            probing_max: 1,
            batch_max: 2,
            ended_max: 2,
            ..Config::default()
        };
        World {
            gate: Gate::new(region("east"), config.clone(), SEED),
            config,
            now_ms: T0,
            wake_at_ms: None,
            records: BTreeMap::new(),
            next: 0,
            kept: BTreeMap::new(),
            ended: BTreeSet::new(),
            delivered: BTreeSet::new(),
            applied: BTreeMap::new(),
            contained: BTreeSet::new(),
            checks: Vec::new(),
            handed: Vec::new(),
            crash_after: None,
        }
    }

    fn is_present(&self, requirement: &Requirement) -> bool {
        let upto = self.applied.get(&requirement.dot.actor).copied().unwrap_or(0);
        upto >= requirement.dot.seq || self.contained.contains(requirement)
    }

    fn step(&mut self, input: Input) {
        let out = self.gate.step(self.now_ms, input);
        match self.crash_after.take() {
            None => self.carry_out(out),
            Some(after) => {
                self.carry_out(out.into_iter().take(after));
                self.restart();
            }
        }
        self.compare();
    }

    fn restart(&mut self) {
        self.checks.clear();
        self.handed.clear();
        self.wake_at_ms = None;
        let records = self.records.clone();
        let (gate, out) = Gate::restore(region("east"), self.config.clone(), SEED, self.now_ms, records);
        self.gate = gate;
        self.carry_out(out);
    }

    fn write(&mut self, record: Record) {
        let place = Place(self.next);
        self.next += 1;
        self.gate.placed(&record, place);
        self.records.insert(place, record);
    }

    fn tidy(&mut self, upto: usize) {
        let (old, mut written) = (self.next, 0);
        let mut places: Vec<Place> = self.gate.places().collect();
        places.sort_unstable();
        for place in places {
            let record = self.records[&place].clone();
            let notes = self.gate.notes(&record.id()).map(|place| self.records[&place].clone());
            let again: Vec<Record> = [record].into_iter().chain(notes).collect();
            for record in again {
                if written == upto {
                    return self.restart();
                }
                self.write(record);
                written += 1;
            }
        }
        self.records.retain(|place, _| place.0 >= old);
        self.compare();
    }

    fn carry_out(&mut self, out: impl IntoIterator<Item = Output>) {
        for output in out {
            match output {
                Output::Persist { record } => {
                    match &*record {
                        Record::Accepted(accepted) => {
                            self.kept.insert(record.id(), accepted.envelope.clone());
                        }
                        Record::Gone(gone) => {
                            assert!(self.kept.remove(&gone.id).is_some(), "{} went twice", gone.id);
                            self.ended.insert(gone.id);
                        }
                        _ => assert!(self.kept.contains_key(&record.id())),
                    }
                    self.write(*record);
                }
                Output::Ack { id } => {
                    assert!(
                        self.kept.contains_key(&id) || self.ended.contains(&id),
                        "{id} acked and not kept"
                    );
                }
                Output::Refuse { id, why } => {
                    assert!(why != Refusal::Busy || !self.kept.contains_key(&id), "{id} is kept");
                }
                Output::Ended { id, .. } => assert!(!self.kept.contains_key(&id), "{id} ended and kept"),
                Output::Check { id, requires } => self.checks.push((id, requires)),
                Output::Deliver { id, attempt } => {
                    let requires = &self.kept[&id].requires;
                    assert!(requires.iter().all(|r| self.is_present(r)), "{id} delivered before its data");
                    self.delivered.insert(id);
                    self.handed.push((id, attempt));
                }
                Output::HandExpired { id, attempt } | Output::HandDiscarded { id, attempt, .. } => {
                    self.handed.push((id, attempt));
                }
                Output::Fetch { missing, .. } | Output::Warn { missing, .. } => assert!(!missing.is_empty()),
                Output::DeadLetter { id, .. } => assert!(self.kept.contains_key(&id)),
                Output::WakeAt { ms } => self.wake_at_ms = Some(ms),
                Output::StalledNotice { .. } | Output::Decode { .. } | Output::Audit { .. } => {}
            }
        }
    }

    /// What is kept is what is held, and every index says what the items say.
    fn compare(&self) {
        assert!(
            self.gate.items.by_id(None).map(|item| &item.id).eq(self.kept.keys()),
            "held and kept differ"
        );
        assert_eq!(self.gate.items.iter().count(), self.kept.len());
        let mut counts = Counts::default();
        let (mut waits, mut timers, mut ready) = (BTreeSet::new(), 0, 0);
        for (ix, item) in self.gate.items.iter() {
            let id = &item.id;
            assert_eq!(self.gate.items.find(id), Some(ix), "{id} is held elsewhere");
            self.compare_places(id, item.is_discarded());
            let count = match item.state.stage() {
                Stage::Waiting => &mut counts.waiting,
                Stage::Ready => &mut counts.ready,
                Stage::InFlight => &mut counts.in_flight,
                Stage::Retrying => &mut counts.retrying,
                Stage::Dead => &mut counts.dead,
            };
            *count += 1;
            match item.state {
                State::Ready => ready += 1,
                _ if item.mark != NEVER => timers += 1,
                _ => {}
            }
            if item.registered {
                // A need that came by itself may stand in the index until the others are there.
                assert!(!item.is_complete(), "{id} waits for nothing");
                waits.extend(item.missing(&self.gate.index.names).iter().map(|r| (r.dot, *id)));
            }
            assert!(item.state != State::Waiting || item.registered, "{id} waits and nobody knows");
        }
        assert_eq!(self.gate.counts(), counts);
        let sizes = self.gate.index.sizes();
        assert!(sizes.0 >= waits.len() && (sizes.1, sizes.2) == (timers, ready), "{sizes:?}");
        assert!(counts.in_flight <= self.config.in_flight_max);
        assert!(counts.waiting + counts.dead <= self.config.items_max);
        assert!(self.gate.items.len() <= self.config.items_max);
    }

    /// Where the message and its notes are, by the log.
    fn compare_places(&self, id: &MessageId, discarded: bool) {
        let (mut accepted, mut dead, mut given_up): (Option<(&Accepted, Place)>, _, _) = (None, None, None);
        for (&at, record) in self.records.iter().filter(|(_, record)| record.id() == *id) {
            match record {
                Record::Accepted(record) => {
                    if accepted.is_none_or(|(before, _)| before != record) {
                        (dead, given_up) = (None, None);
                    }
                    accepted = Some((record, at));
                }
                Record::DeadLettered(_) => dead = Some(at),
                Record::Discarded(_) => given_up = Some(at),
                Record::Gone(_) => (accepted, dead, given_up) = (None, None, None),
                Record::Undecoded(_) => {}
            }
        }
        assert_eq!(self.gate.place(id), accepted.map(|(_, at)| at));
        assert_eq!(discarded, given_up.is_some());
        let mut notes: Vec<Place> = dead.into_iter().chain(given_up).collect();
        notes.sort_unstable();
        assert!(self.gate.notes(id).eq(notes), "{id}: its notes are elsewhere");
    }

    fn answer_check(&mut self, which: usize) {
        if !self.checks.is_empty() {
            let (id, requires) = self.checks.remove(which % self.checks.len());
            let present = requires.into_iter().filter(|r| self.is_present(r)).collect();
            self.step(Input::Checked { id, present });
        }
    }

    fn answer(&mut self, which: usize, answer: Answer) {
        if !self.handed.is_empty() {
            let (id, attempt) = self.handed.remove(which % self.handed.len());
            self.step(Input::Answered { id, attempt, answer });
        }
    }

    fn operator(&mut self, action: Action) {
        self.step(Input::Operator { identity: "ops".into(), action });
    }

    fn run(&mut self, op: Op, messages: &[Envelope]) {
        match op {
            Op::Arrive { message, term } => {
                let envelope = Envelope { epoch: epoch(term, "north"), ..messages[message].clone() };
                self.step(Input::Arrived { envelope });
            }
            Op::Apply { actor: who, seq } => {
                let upto = self.applied.entry(actor(ACTORS[who])).or_default();
                *upto = seq.max(*upto);
                self.step(Input::Applied { upto: vec![(actor(ACTORS[who]), seq)] });
            }
            Op::Contain { message } => {
                let present: Vec<_> = messages[message].requires.first().copied().into_iter().collect();
                self.contained.extend(&present);
                self.step(Input::Present { present });
            }
            Op::AnswerCheck { which } => self.answer_check(which),
            Op::Answer { which, how } => self.answer(
                which,
                match how % 12 {
                    0..3 => Answer::Done,
                    3 => Answer::Refused { reason: "no".into() },
                    4 => Answer::Moved,
                    5 => Answer::Busy,
                    6 => Answer::Unreachable,
                    _ => Answer::Failed { error: "broken".into() },
                },
            ),
            Op::Pass { ms } => self.now_ms += ms,
            Op::Tick => self.step(Input::Tick),
            Op::Crash { after } => self.crash_after = Some(after),
            Op::Tidy { upto } => self.tidy(upto),
            Op::Reconnect => {
                self.checks.clear();
                self.handed.clear();
                self.step(Input::Reconnected);
            }
            Op::NeedGone { message } => {
                self.step(Input::NeedGone { id: messages[message].id, why: "gone".into() });
            }
            Op::Home { slot: number, term, east } => {
                let home = if east { "east" } else { "south" };
                self.step(Input::SlotHome { slot: slot(number), epoch: epoch(term, home) });
            }
            Op::Redrive { message } => self.operator(Action::Redrive { id: messages[message].id }),
            Op::RedriveAll => {
                self.operator(Action::RedriveMatching { filter: Filter::default(), after: None, limit: 9 });
            }
            Op::Discard { message } => {
                self.operator(Action::Discard { id: messages[message].id, reason: "no".into() });
            }
        }
    }

    /// Everything is applied, the node answers everything, time goes on: until nothing is left to be done.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            if !self.checks.is_empty() {
                self.answer_check(0);
            } else if !self.handed.is_empty() {
                self.answer(0, Answer::Done);
            } else if let Some(ms) = self.wake_at_ms.take() {
                self.now_ms = self.now_ms.max(ms);
                self.step(Input::Tick);
            } else {
                return;
            }
        }
        panic!("does not come to rest: {:?}", self.gate);
    }

    fn heal(&mut self) {
        self.crash_after = None;
        self.applied = ACTORS.iter().map(|name| (actor(name), SEQ_MAX)).collect();
        // Nobody says so: the reconnect alone has to find out.
        self.checks.clear();
        self.handed.clear();
        self.step(Input::Reconnected);
        self.settle();
        for (_, item) in self.gate.items.iter() {
            let id = item.id;
            assert_eq!(item.state, State::Dead(DeadReason::Poison), "{id} was not delivered");
        }
        self.operator(Action::RedriveMatching { filter: Filter::default(), after: None, limit: 100 });
        self.settle();
        assert!(self.kept.is_empty(), "redriven and still there: {:?}", self.kept.keys());
        let names = &self.gate.index.names;
        let left = (self.gate.index.sizes(), names.actors.len(), names.senders.len());
        assert_eq!(left, ((0, 0, 0), 0, 0), "the indexes remember what is gone");
        assert_eq!(self.gate.probing.len(), 0, "something is asked of what is gone");
    }
}

fn runner(cases: u32) -> TestRunner {
    let runs = Runs { cases, failure_persistence: None, ..Runs::default() };
    TestRunner::new_with_rng(runs, TestRng::deterministic_rng(RngAlgorithm::ChaCha))
}

const MESSAGES: usize = 7;

fn messages() -> impl Strategy<Value = Vec<Envelope>> {
    (0..MESSAGES).map(envelope).collect::<Vec<_>>()
}

#[test]
fn nothing_is_delivered_early_nothing_vanishes_and_everything_ends() {
    let scripts = (messages(), vec(op(MESSAGES), 1..120));
    let ran = runner(400).run(&scripts, |(messages, ops)| {
        let mut world = World::new();
        ops.into_iter().for_each(|op| world.run(op, &messages));
        world.heal();
        Ok(())
    });
    ran.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn without_a_single_tick_every_message_is_delivered_once_its_data_is_there() {
    let scripts = (messages(), vec((0..ACTORS.len(), 1..=SEQ_MAX), 0..12), any::<u64>());
    let ran = runner(200).run(&scripts, |(messages, applies, order)| {
        let mut world = World::new();
        world.config = Config::default();
        world.gate = Gate::new(region("east"), Config::default(), SEED);
        let mut ops: Vec<Op> = (0..MESSAGES).map(|message| Op::Arrive { message, term: 1 }).collect();
        ops.extend(applies.into_iter().map(|(actor, seq)| Op::Apply { actor, seq }));
        ops.extend([0, 1, 2].map(|actor| Op::Apply { actor, seq: SEQ_MAX }));
        ops.sort_by_key(|op| Hash::of_parts(&[&order.to_be_bytes(), format!("{op:?}").as_bytes()]));
        for op in ops {
            world.run(op, &messages);
            while !world.checks.is_empty() {
                world.answer_check(0);
            }
        }
        prop_assert_eq!(world.delivered.len(), MESSAGES);
        Ok(())
    });
    ran.unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn the_same_inputs_give_the_same_outputs() {
    let scripts = (messages(), vec(op(MESSAGES), 1..60));
    let ran = runner(50).run(&scripts, |(messages, ops)| {
        let logs = [(); 2].map(|()| {
            let mut world = World::new();
            ops.iter().cloned().for_each(|op| world.run(op, &messages));
            (world.records, world.checks, world.handed, world.wake_at_ms)
        });
        prop_assert_eq!(&logs[0], &logs[1]);
        Ok(())
    });
    ran.unwrap_or_else(|failure| panic!("{failure}"));
}
