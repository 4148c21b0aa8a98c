//! What the gate keeps in memory of one message: its keys and where it stands. The message itself stays on disk.

use super::config::Config;
use super::index::{ActorIx, Actors};
use super::{DeadReason, Envelope, MessageKind, Requirement};
use crate::canon::codes;
use crate::id::{EntityId, RegionId, Slot};
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
    pub(super) actor: ActorIx,
    entity: EntityId,
    pub(super) present: bool,
}

/// One message. A test holds its whole cost, indexes included, below 300 bytes.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) needs: Box<[Need]>,
    term: u64,
    step: u64,
    pub(super) arrived_ms: u64,
    pub(super) deadline_ms: u64,
    pub(super) until_ms: u64,
    pub(super) fetch_at_ms: u64,
    /// Set by the index only: when the timer rings, or the place in the ready queue.
    pub(super) mark: u64,
    epoch_actor: ActorIx,
    pub(super) attempt: u32,
    pub(super) from: RegionId,
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
    pub(super) discarded: bool,
}

impl Item {
    pub(super) fn new(envelope: &Envelope, arrived_ms: u64, config: &Config, actors: &mut Actors) -> Item {
        let needs = envelope.requires.iter().map(|requirement| Need {
            seq: requirement.dot.seq,
            actor: actors.hold(requirement.dot.actor),
            entity: requirement.entity,
            present: false,
        });
        Item {
            needs: needs.collect(),
            term: envelope.epoch.term,
            step: envelope.epoch.step,
            arrived_ms,
            deadline_ms: zero_is_never(envelope.deadline_ms),
            until_ms: zero_is_never(envelope.until_ms),
            fetch_at_ms: arrived_ms.saturating_add(config.fetch_after_ms),
            mark: NEVER,
            epoch_actor: actors.hold(envelope.epoch.actor),
            attempt: 0,
            from: envelope.from,
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
            discarded: false,
        }
    }

    /// Gives back what [`Item::new`] took from the table of actors.
    pub(super) fn release(&self, actors: &mut Actors) {
        self.needs.iter().for_each(|need| actors.release(need.actor));
        actors.release(self.epoch_actor);
    }

    pub(super) fn epoch(&self, actors: &Actors) -> Epoch {
        Epoch { term: self.term, step: self.step, actor: actors.get(self.epoch_actor) }
    }

    pub(super) fn term(&self) -> u64 {
        self.term
    }

    // === presence ===

    pub(super) fn is_complete(&self) -> bool {
        self.needs.iter().all(|need| need.present)
    }

    pub(super) fn cover(&mut self, actor: ActorIx, upto: u64) {
        let covered = |need: &&mut Need| need.actor == actor && need.seq <= upto;
        self.needs.iter_mut().filter(covered).for_each(|need| need.present = true);
    }

    /// Notes that these entities contain these versions; one entity's dot says nothing about another's.
    pub(super) fn contain(&mut self, present: &[Requirement], actors: &Actors) {
        for need in self.needs.iter_mut().filter(|need| !need.present) {
            need.present = present.contains(&requirement(need, actors));
        }
    }

    /// Forgets what is known to be present: the node may have been replaced by an older one.
    pub(super) fn doubt(&mut self) {
        self.needs.iter_mut().for_each(|need| need.present = false);
    }

    pub(super) fn requires(&self, actors: &Actors) -> Vec<Requirement> {
        self.needs.iter().map(|need| requirement(need, actors)).collect()
    }

    pub(super) fn missing(&self, actors: &Actors) -> Vec<Requirement> {
        let absent = self.needs.iter().filter(|need| !need.present);
        absent.map(|need| requirement(need, actors)).collect()
    }

    // === time ===

    /// What to ask of the node if it is asked now: past `until` nothing but to let it expire.
    pub(super) fn errand(&self, now_ms: u64) -> Errand {
        if self.discarded {
            Errand::Discard
        } else if self.expiring || now_ms >= self.until_ms {
            Errand::Expire
        } else {
            Errand::Deliver
        }
    }

    /// When a parked or dead-lettered message has to be looked at next.
    pub(super) fn due_ms(&self, dead: bool, config: &Config) -> u64 {
        let until = if self.expiring || self.discarded { NEVER } else { self.until_ms };
        if dead {
            return until;
        }
        let warn = if self.warned { NEVER } else { self.arrived_ms.saturating_add(config.warn_after_ms) };
        until.min(warn).min(self.fetch_at_ms).min(self.deadline_ms)
    }

    /// Whether an operator would say that it is about this entity.
    pub(super) fn concerns(&self, entity: &EntityId) -> bool {
        self.subject == *entity || self.needs.iter().any(|need| need.entity == *entity)
    }

    /// Bytes of memory that one parked message with this many needs takes, map and index entries included.
    #[cfg(test)]
    pub(super) fn resident_bytes(needs: usize) -> usize {
        // Nodes of a standard B-tree filled in random order are about 69 % full.
        let in_tree = |entry: usize| entry * 100 / 69;
        let allocation = |bytes: usize| bytes + 8;
        in_tree(size_of::<(super::MessageId, Box<Item>)>())
            + allocation(size_of::<Item>())
            + allocation(needs * size_of::<Need>())
            + needs * in_tree(size_of::<(ActorIx, u64, super::MessageId)>())
            + in_tree(size_of::<(u64, super::MessageId)>())
    }
}

fn requirement(need: &Need, actors: &Actors) -> Requirement {
    Requirement { entity: need.entity, dot: Dot { actor: actors.get(need.actor), seq: need.seq } }
}

fn zero_is_never(ms: u64) -> u64 {
    if ms == 0 { NEVER } else { ms }
}
