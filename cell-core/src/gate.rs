//! The gate: a message from another region waits here until what it speaks of is present, and no longer than it may.
//!
//! On the road it stands in the receiving sync-agent, between the message channel and the region-node. It knows keys
//! and dots, not orders: what a message *means* is the node's business, which is idempotent. It does no I/O, has no
//! clock and draws no numbers; the simulator and the real agent run this same code.
//!
//! # The algorithm
//!
//! [`Gate::step`] takes one [`Input`] and returns [`Output`]s to be carried out in order. An [`Output::Persist`] is
//! durable before anything behind it happens; that is all the runtime has to promise. Where it put the record it says by
//! [`Gate::placed`], and asks by [`Gate::place`] when it needs the message again.
//!
//! ```text
//!              Arrived: persist, ack, register, check
//!                               │
//!        missing                ▼             nothing missing
//!      ┌──────────────────── Waiting ───────────────────────────┐
//!      │ deadline               │ Applied / Present / Checked   │
//!      ▼                        ▼                               ▼
//!  Dead letter ── arrives ──► Ready ── free place ──► InFlight ── Done / Refused / Moved ──► ended
//!      ▲          late          ▲                        │
//!      │                        └── pause ── Retrying ◄──┤ Busy / Unreachable (for ever), Failed (counted)
//!      └──────────────── Failed attempts_max times ──────┘
//! ```
//!
//! - **Waiting** is by version. Every missing dot stands in an index (actor, seq, message); a frontier that moves to
//!   seq n takes out everything up to n, so a wake costs what it wakes, and a parked message costs nothing. It is
//!   registered *before* the node is asked what is present: a version applied in between is in one of the two answers.
//!   [`Input::Reconnected`] and [`Gate::restore`] register and ask again, for everything; so no wake is lost. Those
//!   woken by one dot go in the order in which they lie in memory, which the inputs alone decide.
//! - **Time** only nags: fetch, then fetch again with growing pauses; warn once; at the deadline a dead letter and a
//!   stalled notice; at `until` the node is asked to let it expire, dead letter or not. One timer per message.
//! - **Dead letters** are states, not outcomes. One that misses a version stays registered and redrives itself when
//!   that comes late; poison waits for an operator or its `until`; what could not be decoded is read again at every
//!   start. The sender's duty stays with the sender throughout.
//! - **Attempts.** Only a failing handler uses up the budget (which a restart renews). Busy and unreachable are tried
//!   for ever, with pauses; moved ends it here, since the sender addresses it anew.
//! - **The same id again**: a higher epoch takes the place of what is kept; anything else is just acked. What has
//!   ended is remembered for some seconds to spare the node copies of the same packet, and then not at all: a need
//!   that the sender still sees is delivered again. A message of a sender whose slot has a higher term is dropped.
//! - **Bounds**: `waiting_max` parked and dead-lettered messages of less than 300 bytes each, the error of
//!   poison and the word of a discard excepted (bodies stay on disk; the runtime loads them from the [`Place`] that it
//!   named); beyond it, a message is accepted only if the node says that nothing is missing, so a backlog never stops
//!   what could pass. Refusing loses nothing: the sender still owes the message.
//!
//! What is persisted: messages, dead letters, discards, and that something is gone ([`Record`]). Attempts, warnings
//! and fetches are not; a restart does them again.

mod arrive;
mod config;
mod ended;
mod envelope;
mod hand;
mod held;
mod index;
mod item;
mod names;
mod operator;
mod place;
mod port;
mod record;
mod sorted;
mod wait;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use self::config::Config;
pub use self::envelope::{Envelope, MessageId, MessageKind, REQUIRES_MAX, Requirement};
pub use self::index::Counts;
pub use self::item::Stage;
pub use self::operator::{Entry, EntryMessage, Filter};
pub use self::place::Place;
pub use self::port::{Action, Answer, Ending, Input, Output, Refusal, Stall};
pub use self::record::{Accepted, DeadLettered, DeadReason, Discarded, Gone, Record, Undecoded};

use self::ended::Ended;
use self::held::{Held, ItemIx};
use self::index::Index;
use self::item::{Item, NEVER, State};
use crate::id::{ActorId, RegionId, Slot};
use crate::placement::Epoch;

/// What is kept in memory of bytes that cannot be read.
#[derive(Debug)]
struct Kept {
    from: RegionId,
    arrived_ms: u64,
    reason: String,
    place: Place,
}

/// The state machine of one region's gate. See the module for what it does.
#[derive(Debug)]
pub struct Gate {
    region: RegionId,
    config: Config,
    seed: u64,
    items: Held,
    index: Index,
    undecoded: BTreeMap<MessageId, Kept>,
    /// Not accepted yet: there is room only if they need not wait.
    probing: BTreeMap<MessageId, Envelope>,
    /// What the node said is applied, since the link to it is up.
    frontier: BTreeMap<ActorId, u64>,
    homes: BTreeMap<Slot, Epoch>,
    ended: Ended,
    /// From which one on parked messages are still to be asked for.
    recheck: Option<ItemIx>,
    announced_ms: Option<u64>,
}

impl Gate {
    /// An empty gate of `region`. `seed` spreads the pauses: different for every gate, else of no meaning.
    #[must_use]
    pub fn new(region: RegionId, config: Config, seed: u64) -> Gate {
        Gate {
            region,
            config,
            seed,
            items: Held::default(),
            index: Index::default(),
            undecoded: BTreeMap::new(),
            probing: BTreeMap::new(),
            frontier: BTreeMap::new(),
            homes: BTreeMap::new(),
            ended: Ended::default(),
            recheck: None,
            announced_ms: None,
        }
    }

    /// A gate with what an earlier one had persisted: `records` in the order written, or as a keyed store keeps them
    /// (see [`Record`]), each with its place. Everything parked is checked again, and what was handed to the node is handed again.
    #[must_use]
    pub fn restore(
        region: RegionId,
        config: Config,
        seed: u64,
        now_ms: u64,
        records: impl IntoIterator<Item = (Place, Record)>,
    ) -> (Gate, Vec<Output>) {
        let mut gate = Gate::new(region, config, seed);
        records.into_iter().for_each(|(place, record)| gate.replay(place, record));
        let mut out: Vec<Output> = gate.undecoded.keys().map(|&id| Output::Decode { id }).collect();
        gate.enlist_all(now_ms);
        gate.conclude(now_ms, &mut out);
        (gate, out)
    }

    /// Takes one input at `now_ms` (the agent's wall clock; it may jump) and says what to do, in order.
    #[must_use]
    pub fn step(&mut self, now_ms: u64, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::Arrived { envelope } => {
                self.arrived(now_ms, envelope, &mut out);
            }
            Input::Malformed { bytes, from, reason } => {
                self.malformed(now_ms, bytes, from, reason, &mut out);
            }
            Input::Decoded { id, envelope: Some(envelope) } => self.decoded(now_ms, id, envelope, &mut out),
            Input::Decoded { envelope: None, .. } => {}
            Input::Applied { upto } => self.applied(now_ms, &upto),
            Input::Present { present } => self.present(now_ms, &present),
            Input::Checked { id, present } => {
                self.probed(now_ms, id, &present, &mut out);
                self.present(now_ms, &present);
            }
            Input::Answered { id, attempt, answer } => self.answered(now_ms, id, attempt, answer, &mut out),
            Input::NeedGone { id, why } => self.need_gone(id, why, &mut out),
            Input::SlotHome { slot, epoch } => self.slot_home(slot, epoch, &mut out),
            Input::Reconnected => self.reconnected(now_ms, &mut out),
            Input::Tick => {
                // The timer asked for has rung; whatever is next has to be asked for again.
                self.announced_ms = self.announced_ms.filter(|&ms| ms > now_ms);
                self.ring(now_ms, &mut out);
            }
            Input::Operator { identity, action } => self.operate(now_ms, identity, action, &mut out),
        }
        self.conclude(now_ms, &mut out);
        out
    }

    /// Whether something is kept under this id, so that its records must be, too.
    #[must_use]
    pub fn holds(&self, id: &MessageId) -> bool {
        self.items.find(id).is_some() || self.undecoded.contains_key(id)
    }

    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts { undecoded: self.undecoded.len(), ..self.index.counts }
    }

    fn conclude(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        self.hand_out(now_ms, out);
        self.recheck_some(out);
        let next_ms = if self.recheck.is_some() { Some(now_ms) } else { self.index.next_timer_ms() };
        if next_ms != self.announced_ms {
            out.extend(next_ms.map(|ms| Output::WakeAt { ms }));
            self.announced_ms = next_ms;
        }
    }

    // === after a gap ===

    fn reconnected(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        self.frontier.clear();
        self.ended.clear();
        for (id, _) in std::mem::take(&mut self.probing) {
            out.push(Output::Refuse { id, why: Refusal::Busy });
        }
        self.enlist_all(now_ms);
    }

    fn enlist_all(&mut self, now_ms: u64) {
        self.items.numbers().for_each(|ix| self.enlist(now_ms, ix));
        self.recheck = Some(ItemIx::MIN);
    }

    fn replay(&mut self, place: Place, record: Record) {
        let id = record.id();
        let ix = self.items.find(&id);
        match record {
            Record::Accepted(Accepted { envelope, arrived_ms }) => {
                if let Some(item) = ix.and_then(|ix| self.items.get_mut(ix))
                    && (item.arrived_ms, item.epoch(&self.index.names)) == (arrived_ms, envelope.epoch)
                {
                    // Written once more as it was, so what is noted about it stands.
                    item.place = place;
                    return;
                }
                self.forget(id);
                let mut item = Item::new(&envelope, arrived_ms, &self.config, &mut self.index.names);
                item.place = place;
                self.index.add(&item);
                self.items.insert(item);
            }
            Record::Undecoded(Undecoded { from, reason, arrived_ms, .. }) => {
                self.undecoded.insert(id, Kept { from, arrived_ms, reason, place });
            }
            Record::DeadLettered(DeadLettered { reason, detail, .. }) => {
                if let Some((ix, item)) = ix.and_then(|ix| Some((ix, self.items.get_mut(ix)?))) {
                    item.told = true;
                    item.note_mut().dead = place;
                    item.note_mut().detail = detail.into();
                    self.index.enter(ix, item, State::Dead(reason), NEVER);
                }
            }
            Record::Discarded(discarded) => {
                if let Some((ix, item)) = ix.and_then(|ix| Some((ix, self.items.get_mut(ix)?))) {
                    let note = item.note_mut();
                    note.discarded = place;
                    note.detail = Box::default();
                    note.discard = Some(Box::new(discarded));
                    self.index.enter(ix, item, State::Waiting, NEVER);
                }
            }
            Record::Gone(_) => self.forget(id),
        }
    }

    fn forget(&mut self, id: MessageId) {
        if let Some(ix) = self.items.find(&id)
            && let Some(mut item) = self.items.remove(ix)
        {
            self.index.remove(ix, &mut item);
        }
        self.undecoded.remove(&id);
    }
}

fn persist(record: Record, out: &mut Vec<Output>) {
    out.push(Output::Persist { record: Box::new(record) });
}
