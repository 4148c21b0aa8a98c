//! The orders in which messages are found: by what they wait for, by time, by turn.

use std::collections::{BTreeMap, BTreeSet};

use super::item::{Item, NEVER, Stage, State};
use super::{MessageId, Requirement};
use crate::id::ActorId;

/// A short name for an actor, valid while somebody holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ActorIx(u32);

/// The actors that messages name, once each.
#[derive(Debug, Default)]
pub(super) struct Actors {
    held: Vec<(ActorId, u32)>,
    known: BTreeMap<ActorId, ActorIx>,
    free: Vec<ActorIx>,
}

impl Actors {
    pub(super) fn hold(&mut self, actor: ActorId) -> ActorIx {
        if let Some(&ix) = self.known.get(&actor) {
            self.held[ix.0 as usize].1 += 1;
            return ix;
        }
        let ix = match self.free.pop() {
            Some(ix) => {
                self.held[ix.0 as usize] = (actor, 1);
                ix
            }
            None => {
                self.held.push((actor, 1));
                ActorIx((self.held.len() - 1) as u32)
            }
        };
        self.known.insert(actor, ix);
        ix
    }

    pub(super) fn release(&mut self, ix: ActorIx) {
        let (actor, holders) = &mut self.held[ix.0 as usize];
        *holders -= 1;
        if *holders == 0 {
            self.known.remove(actor);
            self.free.push(ix);
        }
    }

    pub(super) fn get(&self, ix: ActorIx) -> ActorId {
        self.held[ix.0 as usize].0
    }

    pub(super) fn find(&self, actor: &ActorId) -> Option<ActorIx> {
        self.known.get(actor).copied()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}

/// How many messages stand where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub waiting: usize,
    pub ready: usize,
    pub in_flight: usize,
    pub retrying: usize,
    pub dead: usize,
    /// Kept whole because they cannot be read; not among `dead`.
    pub undecoded: usize,
}

impl Counts {
    fn of(&mut self, stage: Stage) -> &mut usize {
        match stage {
            Stage::Waiting => &mut self.waiting,
            Stage::Ready => &mut self.ready,
            Stage::InFlight => &mut self.in_flight,
            Stage::Retrying => &mut self.retrying,
            Stage::Dead => &mut self.dead,
        }
    }
}

/// All that is derived from the items' states. An item's state changes only through [`Index::enter`].
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) actors: Actors,
    pub(super) counts: Counts,
    /// Per actor, in the order of its sequence: who waits for what.
    waits: BTreeSet<(ActorIx, u64, MessageId)>,
    timers: BTreeSet<(u64, MessageId)>,
    ready: BTreeSet<(u64, MessageId)>,
    tickets: u64,
}

impl Index {
    /// Takes a new item up, as waiting and without a timer.
    pub(super) fn add(&mut self, item: &Item) {
        *self.counts.of(item.state.stage()) += 1;
    }

    pub(super) fn remove(&mut self, id: MessageId, item: &mut Item) {
        self.leave(id, item);
        self.unregister(id, item);
        item.release(&mut self.actors);
    }

    /// Moves an item to `state`. `due_ms` is when its timer rings ([`NEVER`]: not); it means nothing for `Ready`.
    pub(super) fn enter(&mut self, id: MessageId, item: &mut Item, state: State, due_ms: u64) {
        self.leave(id, item);
        item.state = state;
        *self.counts.of(state.stage()) += 1;
        if let State::Ready = state {
            self.unregister(id, item);
            self.tickets += 1;
            item.mark = self.tickets;
            self.ready.insert((item.mark, id));
        } else {
            item.mark = due_ms;
            if due_ms != NEVER {
                self.timers.insert((due_ms, id));
            }
        }
    }

    fn leave(&mut self, id: MessageId, item: &Item) {
        *self.counts.of(item.state.stage()) -= 1;
        if let State::Ready = item.state {
            self.ready.remove(&(item.mark, id));
        } else {
            self.timers.remove(&(item.mark, id));
        }
    }

    /// From here on the item is found by what it still misses.
    pub(super) fn register(&mut self, id: MessageId, item: &mut Item) {
        let missing = item.needs.iter().filter(|need| !need.present);
        self.waits.extend(missing.map(|need| (need.actor, need.seq, id)));
        item.registered = true;
    }

    pub(super) fn unregister(&mut self, id: MessageId, item: &mut Item) {
        if item.registered {
            for need in &item.needs {
                self.waits.remove(&(need.actor, need.seq, id));
            }
            item.registered = false;
        }
    }

    /// Takes out everybody who waits for a change of `actor` up to `seq`, in the order of the changes.
    pub(super) fn take_covered(&mut self, actor: ActorIx, seq: u64) -> Vec<MessageId> {
        let range = (actor, 0, MessageId::MIN)..=(actor, seq, MessageId::MAX);
        let covered: Vec<_> = self.waits.range(range).copied().collect();
        covered
            .into_iter()
            .map(|entry| {
                self.waits.remove(&entry);
                entry.2
            })
            .collect()
    }

    /// Who waits for exactly this change, on whatever entity.
    pub(super) fn waiting_for(&self, requirement: &Requirement) -> Vec<MessageId> {
        let Some(actor) = self.actors.find(&requirement.dot.actor) else {
            return Vec::new();
        };
        let seq = requirement.dot.seq;
        let range = (actor, seq, MessageId::MIN)..=(actor, seq, MessageId::MAX);
        self.waits.range(range).map(|entry| entry.2).collect()
    }

    pub(super) fn next_ready(&self) -> Option<MessageId> {
        self.ready.first().map(|(_, id)| *id)
    }

    pub(super) fn next_timer_ms(&self) -> Option<u64> {
        self.timers.first().map(|(ms, _)| *ms)
    }

    /// Up to `max` items whose timer rings, earliest first. They stay armed until they enter a state again.
    pub(super) fn ringing(&self, now_ms: u64, max: usize) -> Vec<MessageId> {
        let due = self.timers.iter().take_while(|(ms, _)| *ms <= now_ms);
        due.take(max).map(|(_, id)| *id).collect()
    }

    /// Everything derived, for a comparison with the items: (waits, timers, ready).
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.waits.len(), self.timers.len(), self.ready.len())
    }
}
