//! Scripts: what the gate is told, and word for word what it then asks for.

mod bounds;
mod encoding;
mod operators;
mod random;
mod schedules;

use bytes::Bytes;

use super::*;
use crate::id::{EntityId, Hash, NodeId, OrderId, PaymentId, PublicId};
use crate::version::Dot;

const T0: u64 = 1_000_000;
const SECOND: u64 = 1_000;
const MINUTE: u64 = 60 * SECOND;
const HOUR: u64 = 60 * MINUTE;
const SEED: u64 = 7;

fn region(name: &str) -> RegionId {
    RegionId::new(name).unwrap()
}

fn actor(name: &str) -> ActorId {
    ActorId { node: NodeId { region: region(name), index: 0 }, start: 1, nonce: 1 }
}

fn slot(number: u16) -> Slot {
    Slot::new(number).unwrap()
}

fn epoch(term: u64, home: &str) -> Epoch {
    Epoch { term, step: 0, actor: actor(home) }
}

fn order(n: u8) -> EntityId {
    OrderId(PublicId::new(u64::from(n), slot(1), &Hash::of(&[n]))).into()
}

fn payment(n: u8) -> EntityId {
    PaymentId(PublicId::new(u64::from(n), slot(2), &Hash::of(&[n]))).into()
}

fn id(n: u8) -> MessageId {
    MessageId([n; 16])
}

/// Order `n` as north's change `seq` made it.
fn needs(n: u8, seq: u64) -> Requirement {
    Requirement { entity: order(n), dot: Dot { actor: actor("north"), seq } }
}

/// The pay request `n` from north's slot 1 to east's slot 2: requires order `n` at north#n, 30 minutes to its
/// deadline, two hours to its end.
fn request(n: u8) -> Envelope {
    Envelope {
        id: id(n),
        kind: MessageKind::PayRequest,
        from: region("north"),
        to_slot: slot(2),
        subject: payment(n),
        requires: vec![needs(n, u64::from(n))],
        epoch: epoch(1, "north"),
        deadline_ms: T0 + 30 * MINUTE,
        until_ms: T0 + 2 * HOUR,
        trace: String::new(),
        from_slot: slot(1),
        body: Bytes::from_static(b"permit"),
        created_ms: T0,
    }
}

/// Its withdrawal: requires nothing, and has all the time in the world.
fn withdrawal(n: u8) -> Envelope {
    Envelope {
        id: id(100 + n),
        kind: MessageKind::Withdrawal,
        requires: Vec::new(),
        deadline_ms: 0,
        until_ms: 0,
        ..request(n)
    }
}

/// A gate in east with its log, driven by hand.
struct East {
    gate: Gate,
    log: Vec<Record>,
    now_ms: u64,
    wake_at_ms: Option<u64>,
}

impl East {
    fn new(config: Config) -> East {
        let gate = Gate::new(region("east"), config, SEED);
        East { gate, log: Vec::new(), now_ms: T0, wake_at_ms: None }
    }

    fn raw(&mut self, input: Input) -> Vec<Output> {
        let out = self.gate.step(self.now_ms, input);
        self.carry_out(&out);
        out
    }

    fn carry_out(&mut self, out: &[Output]) {
        for output in out {
            match output {
                Output::Persist { record } => {
                    self.gate.placed(record, Place(self.log.len() as u64));
                    self.log.push((**record).clone());
                }
                Output::WakeAt { ms } => self.wake_at_ms = Some(*ms),
                _ => {}
            }
        }
    }

    fn tell(&mut self, input: Input) -> Vec<String> {
        self.raw(input).iter().map(say).collect()
    }

    /// What follows, without the timers.
    fn hear(&mut self, input: Input) -> Vec<String> {
        self.raw(input).iter().filter(|output| !matches!(output, Output::WakeAt { .. })).map(say).collect()
    }

    fn arrive(&mut self, envelope: Envelope) -> Vec<String> {
        self.hear(Input::Arrived { envelope })
    }

    fn apply(&mut self, seq: u64) -> Vec<String> {
        self.hear(Input::Applied { upto: vec![(actor("north"), seq)] })
    }

    fn checked(&mut self, n: u8, present: &[Requirement]) -> Vec<String> {
        self.hear(Input::Checked { id: id(n), present: present.to_vec() })
    }

    fn answer(&mut self, n: u8, attempt: u32, answer: Answer) -> Vec<String> {
        self.hear(Input::Answered { id: id(n), attempt, answer })
    }

    fn operator(&mut self, action: Action) -> Vec<String> {
        self.hear(Input::Operator { identity: "ops".into(), action })
    }

    /// Lets time pass up to `T0 + after_ms`, ringing whenever the gate asked for it.
    fn pass(&mut self, after_ms: u64) -> Vec<String> {
        let end_ms = T0 + after_ms;
        let mut heard = Vec::new();
        while let Some(ms) = self.wake_at_ms.filter(|&ms| ms <= end_ms) {
            self.wake_at_ms = None;
            self.now_ms = self.now_ms.max(ms);
            heard.extend(self.hear(Input::Tick));
        }
        self.now_ms = end_ms;
        heard
    }

    /// The process ends and starts again with what it had persisted.
    fn restart(&mut self) -> Vec<String> {
        let config = self.gate.config.clone();
        let (gate, out) = Gate::restore(region("east"), config, SEED, self.now_ms, placed(&self.log));
        self.gate = gate;
        self.wake_at_ms = None;
        self.carry_out(&out);
        out.iter().filter(|output| !matches!(output, Output::WakeAt { .. })).map(say).collect()
    }

    fn is_empty(&self) -> bool {
        self.gate.counts() == Counts::default()
            && self.gate.index.sizes() == (0, 0, 0)
            && (self.gate.index.names.actors.len(), self.gate.index.names.senders.len()) == (0, 0)
    }
}

/// A log, each record with its place in it.
fn placed(log: &[Record]) -> impl Iterator<Item = (Place, Record)> {
    (0..).map(Place).zip(log.iter().cloned())
}

/// One line per output. Messages are named by the first byte of their id, times relative to `T0`.
fn say(output: &Output) -> String {
    let list = |missing: &[Requirement]| {
        let dots = missing.iter().map(|r| format!(" {}#{}", r.dot.actor.region(), r.dot.seq));
        dots.collect::<String>()
    };
    match output {
        Output::Persist { record } => {
            let what = match **record {
                Record::Accepted(_) => "accepted",
                Record::Undecoded(_) => "undecoded",
                Record::DeadLettered(_) => "dead-lettered",
                Record::Discarded(_) => "discarded",
                Record::Gone(_) => "gone",
            };
            format!("persist {what} {}", record.id().0[0])
        }
        Output::Ack { id } => format!("ack {}", id.0[0]),
        Output::Refuse { id, why } => format!("refuse {} {why}", id.0[0]),
        Output::Check { id, requires } => format!("check {}{}", id.0[0], list(requires)),
        Output::Deliver { id, attempt } => format!("deliver {}.{attempt}", id.0[0]),
        Output::HandExpired { id, attempt } => format!("expire {}.{attempt}", id.0[0]),
        Output::HandDiscarded { id, attempt, reason } => format!("discard {}.{attempt} {reason}", id.0[0]),
        Output::Fetch { id, missing } => format!("fetch {}{}", id.0[0], list(missing)),
        Output::Warn { id, waited_ms, missing } => format!("warn {} {waited_ms}{}", id.0[0], list(missing)),
        Output::DeadLetter { id, reason, missing, detail } => {
            format!("dead {} {reason}{}{detail}", id.0[0], list(missing))
        }
        Output::StalledNotice { id, to, why, missing, .. } => {
            format!("notice {} to {to} {why}{}", id.0[0], list(missing))
        }
        Output::Decode { id } => format!("decode {}", id.0[0]),
        Output::Ended { id, ending } => match ending {
            Ending::Refused { reason } => format!("ended {} refused {reason}", id.0[0]),
            Ending::NeedGone { why } => format!("ended {} need-gone {why}", id.0[0]),
            Ending::Decoded { into } => format!("ended {} decoded {}", id.0[0], into.0[0]),
            other => format!("ended {} {other:?}", id.0[0]).to_lowercase(),
        },
        Output::Audit { identity, ids, .. } => {
            let ids: String = ids.iter().map(|id| format!(" {}", id.0[0])).collect();
            format!("audit {identity}{ids}")
        }
        Output::WakeAt { ms } => format!("wake-at {}", ms.wrapping_sub(T0) as i64),
    }
}

fn count(heard: &[String], what: &str) -> usize {
    heard.iter().filter(|line| line.starts_with(what)).count()
}
