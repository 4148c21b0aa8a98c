//! What the gate keeps in memory of one message: its keys and where it stands. The message itself stays on disk.

use super::config::Config;
use super::names::{Names, Sender, Short};
use super::record::Discarded;
use super::{DeadReason, Envelope, MessageId, MessageKind, Place, Requirement};
use crate::canon::codes;
use crate::id::{ActorId, EntityId, RegionId, Slot};
use crate::placement::Epoch;
use crate::version::Dot;

/// No time at all.
pub(super) const NEVER: u64 = u64::MAX;

codes! {
    /// Where a message stands, as operators and metrics see it.
    pub enum Stage {
        1 => Waiting: "waiting",
        /// To be handed to the node as soon as that has room.
        2 => Ready: "ready",
        3 => InFlight: "in-flight",
        /// To be handed to the node again after a pause.
        4 => Retrying: "retrying",
        5 => Dead: "dead",
    }
}

/// What the node is asked to do with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Errand {
    Deliver,
    Expire,
    Discard,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    Ready,
    InFlight(Errand),
    Retrying,
    Dead(DeadReason),
}

impl State {
    pub(super) fn stage(self) -> Stage {
        match self {
            State::Waiting => Stage::Waiting,
            State::Ready => Stage::Ready,
            State::InFlight(_) => Stage::InFlight,
            State::Retrying => Stage::Retrying,
            State::Dead(_) => Stage::Dead,
        }
    }
}

/// A requirement with its actor interned.
#[derive(Clone, Debug)]
pub(super) struct Need {
    pub(super) seq: u64,
    pub(super) actor: Short<ActorId>,
    entity: EntityId,
    pub(super) present: bool,
}

/// What a message requires; nearly every one that requires something at all requires one thing.
#[derive(Debug)]
enum Needs {
    None,
    One(Need),
    Several(Box<[Need]>),
}

/// What is noted about a dead letter, or about a message that an operator gave up; others have no such note.
#[derive(Debug)]
pub(super) struct Note {
    /// Where its last [`super::DeadLettered`] and its [`Discarded`] are; either may be unknown.
    pub(super) dead: Place,
    pub(super) discarded: Place,
    /// The error of poison.
    pub(super) detail: Box<str>,
    pub(super) discard: Option<Box<Discarded>>,
}

/// One message. A test holds its whole cost, indexes included, below 300 bytes.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) id: MessageId,
    needs: Needs,
    pub(super) note: Option<Box<Note>>,
    /// Where its record is, for the runtime.
    pub(super) place: Place,
    pub(super) arrived_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) until_ms: u64,
    pub(super) fetch_at_ms: u64,
    /// Set by the index only: when the timer rings, or the place in the ready queue.
    pub(super) mark: u64,
    sender: Short<Sender>,
    pub(super) attempt: u32,
    pub(super) subject: EntityId,
    pub(super) kind: MessageKind,
    pub(super) to_slot: Slot,
    pub(super) from_slot: Slot,
    /// Set by the index only, as is `registered`.
    pub(super) state: State,
    /// Whether the missing needs stand in the wait index.
    pub(super) registered: bool,
    pub(super) failures: u8,
    pub(super) stalls: u8,
    pub(super) fetches: u8,
    pub(super) warned: bool,
    /// The sender was told that it stalls.
    pub(super) told: bool,
    /// It is the node's to let it expire; `until_ms` rings no more.
    pub(super) expiring: bool,
}

impl Item {
    pub(super) fn new(envelope: &Envelope, arrived_ms: u64, config: &Config, names: &mut Names) -> Item {
        let mut need = |requirement: &Requirement| Need {
            seq: requirement.dot.seq,
            actor: names.actors.hold(requirement.dot.actor),
            entity: requirement.entity,
            present: false,
        };
        let needs = match &envelope.requires[..] {
            [] => Needs::None,
            [one] => Needs::One(need(one)),
            several => Needs::Several(several.iter().map(need).collect()),
        };
        Item {
            id: envelope.id,
            needs,
            note: None,
            place: Place::UNKNOWN,
            arrived_ms,
            deadline_ms: zero_is_never(envelope.deadline_ms),
            until_ms: zero_is_never(envelope.until_ms),
            fetch_at_ms: arrived_ms.saturating_add(config.fetch_after_ms),
            mark: NEVER,
            sender: names.senders.hold(Sender { region: envelope.from, epoch: envelope.epoch }),
            attempt: 0,
            subject: envelope.subject,
            kind: envelope.kind,
            to_slot: envelope.to_slot,
            from_slot: envelope.from_slot,
            state: State::Waiting,
            registered: false,
            failures: 0,
            stalls: 0,
            fetches: 0,
            warned: false,
            told: false,
            expiring: false,
        }
    }

    /// Gives back what [`Item::new`] took from the table of names.
    pub(super) fn release(&self, names: &mut Names) {
        self.needs().iter().for_each(|need| names.actors.release(need.actor));
        names.senders.release(self.sender);
    }

    pub(super) fn epoch(&self, names: &Names) -> Epoch {
        names.senders.get(self.sender).epoch
    }

    pub(super) fn from(&self, names: &Names) -> RegionId {
        names.senders.get(self.sender).region
    }

    pub(super) fn note_mut(&mut self) -> &mut Note {
        self.note.get_or_insert_with(Box::default)
    }

    /// The operator's word that gave it up.
    pub(super) fn discard(&self) -> Option<&Discarded> {
        self.note.as_ref()?.discard.as_deref()
    }

    pub(super) fn is_discarded(&self) -> bool {
        self.discard().is_some()
    }

    pub(super) fn needs(&self) -> &[Need] {
        match &self.needs {
            Needs::None => &[],
            Needs::One(need) => std::slice::from_ref(need),
            Needs::Several(needs) => needs,
        }
    }

    fn needs_mut(&mut self) -> &mut [Need] {
        match &mut self.needs {
            Needs::None => &mut [],
            Needs::One(need) => std::slice::from_mut(need),
            Needs::Several(needs) => needs,
        }
    }

    // === presence ===

    pub(super) fn is_complete(&self) -> bool {
        self.needs().iter().all(|need| need.present)
    }

    pub(super) fn cover(&mut self, actor: Short<ActorId>, upto: u64) {
        let covered = |need: &&mut Need| need.actor == actor && need.seq <= upto;
        self.needs_mut().iter_mut().filter(covered).for_each(|need| need.present = true);
    }

    /// Notes that these entities contain these versions; one entity's dot says nothing about another's.
    pub(super) fn contain(&mut self, present: &[Requirement], names: &Names) {
        for need in self.needs_mut().iter_mut().filter(|need| !need.present) {
            need.present = present.contains(&requirement(need, names));
        }
    }

    /// Forgets what is known to be present: the node may have been replaced by an older one.
    pub(super) fn doubt(&mut self) {
        self.needs_mut().iter_mut().for_each(|need| need.present = false);
    }

    pub(super) fn requires(&self, names: &Names) -> Vec<Requirement> {
        self.needs().iter().map(|need| requirement(need, names)).collect()
    }

    pub(super) fn missing(&self, names: &Names) -> Vec<Requirement> {
        let absent = self.needs().iter().filter(|need| !need.present);
        absent.map(|need| requirement(need, names)).collect()
    }

    // === time ===

    /// What to ask of the node if it is asked now: past `until` nothing but to let it expire.
    pub(super) fn errand(&self, now_ms: u64) -> Errand {
        if self.is_discarded() {
            Errand::Discard
        } else if self.expiring || now_ms >= self.until_ms {
            Errand::Expire
        } else {
            Errand::Deliver
        }
    }

    /// When a parked or dead-lettered message has to be looked at next.
    pub(super) fn due_ms(&self, dead: bool, config: &Config) -> u64 {
        let until = if self.expiring || self.is_discarded() { NEVER } else { self.until_ms };
        if dead {
            return until;
        }
        let warn = if self.warned { NEVER } else { self.arrived_ms.saturating_add(config.warn_after_ms) };
        until.min(warn).min(self.fetch_at_ms).min(self.deadline_ms)
    }

    /// Whether an operator would say that it is about this entity.
    pub(super) fn concerns(&self, entity: &EntityId) -> bool {
        self.subject == *entity || self.needs().iter().any(|need| need.entity == *entity)
    }

    /// Bytes of memory that one parked message with this many needs takes, all that is kept of it anywhere included:
    /// in the rest of the process there is nothing but its record on disk.
    #[cfg(test)]
    pub(super) fn resident_bytes(needs: usize) -> usize {
        use super::held::Held;
        use super::index::{Timer, Wait};
        use super::sorted::Sorted;
        let boxed = if needs > 1 { needs * size_of::<Need>() } else { 0 };
        Held::resident_bytes()
            + boxed
            + needs * Sorted::<Wait>::resident_bytes()
            + Sorted::<Timer>::resident_bytes()
    }
}

impl Default for Note {
    fn default() -> Note {
        Note { dead: Place::UNKNOWN, discarded: Place::UNKNOWN, detail: Box::default(), discard: None }
    }
}

fn requirement(need: &Need, names: &Names) -> Requirement {
    Requirement { entity: need.entity, dot: Dot { actor: names.actors.get(need.actor), seq: need.seq } }
}

fn zero_is_never(ms: u64) -> u64 {
    if ms == 0 { NEVER } else { ms }
}
