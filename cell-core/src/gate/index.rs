//! The orders in which messages are found: by what they wait for, by time, by turn.

use super::Requirement;
use super::held::ItemIx;
use super::item::{Item, NEVER, Stage, State};
use super::names::{Names, Short};
use super::sorted::Sorted;
use crate::id::ActorId;

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

/// Per actor, in the order of its sequence: who waits for what.
pub(super) type Wait = (Short<ActorId>, u64, ItemIx);
/// When whose timer rings, milliseconds.
pub(super) type Timer = (u64, ItemIx);

/// All that is derived from the items' states. An item's state changes only through [`Index::enter`].
#[derive(Debug, Default)]
pub(super) struct Index {
    pub(super) names: Names,
    pub(super) counts: Counts,
    waits: Sorted<Wait>,
    timers: Sorted<Timer>,
    /// By turn.
    ready: Sorted<(u64, ItemIx)>,
    tickets: u64,
}

impl Index {
    /// Takes a new item up, as waiting and without a timer.
    pub(super) fn add(&mut self, item: &Item) {
        *self.counts.of(item.state.stage()) += 1;
    }

    pub(super) fn remove(&mut self, ix: ItemIx, item: &mut Item) {
        self.leave(ix, item);
        self.unregister(ix, item);
        item.release(&mut self.names);
    }

    /// Moves an item to `state`. `due_ms` is when its timer rings ([`NEVER`]: not); it means nothing for `Ready`.
    pub(super) fn enter(&mut self, ix: ItemIx, item: &mut Item, state: State, due_ms: u64) {
        self.leave(ix, item);
        item.state = state;
        *self.counts.of(state.stage()) += 1;
        if let State::Ready = state {
            self.unregister(ix, item);
            self.tickets += 1;
            item.mark = self.tickets;
            self.ready.insert((item.mark, ix));
        } else {
            item.mark = due_ms;
            if due_ms != NEVER {
                self.timers.insert((due_ms, ix));
            }
        }
    }

    fn leave(&mut self, ix: ItemIx, item: &Item) {
        *self.counts.of(item.state.stage()) -= 1;
        if let State::Ready = item.state {
            self.ready.remove(&(item.mark, ix));
        } else {
            self.timers.remove(&(item.mark, ix));
        }
    }

    /// From here on the item is found by what it still misses.
    pub(super) fn register(&mut self, ix: ItemIx, item: &mut Item) {
        let missing = item.needs().iter().filter(|need| !need.present);
        for need in missing {
            self.waits.insert((need.actor, need.seq, ix));
        }
        item.registered = true;
    }

    pub(super) fn unregister(&mut self, ix: ItemIx, item: &mut Item) {
        if item.registered {
            for need in item.needs() {
                self.waits.remove(&(need.actor, need.seq, ix));
            }
            item.registered = false;
        }
    }

    /// Takes out everybody who waits for a change of `actor` up to `seq`, in the order of the changes.
    pub(super) fn take_covered(&mut self, actor: Short<ActorId>, seq: u64) -> Vec<ItemIx> {
        let covered = self.waiting(actor, 0, seq);
        covered
            .into_iter()
            .map(|entry| {
                self.waits.remove(&entry);
                entry.2
            })
            .collect()
    }

    /// Who waits for exactly this change, on whatever entity.
    pub(super) fn waiting_for(&self, requirement: &Requirement) -> Vec<ItemIx> {
        let Some(actor) = self.names.actors.find(&requirement.dot.actor) else {
            return Vec::new();
        };
        let seq = requirement.dot.seq;
        self.waiting(actor, seq, seq).into_iter().map(|entry| entry.2).collect()
    }

    fn waiting(&self, actor: Short<ActorId>, first: u64, last: u64) -> Vec<Wait> {
        let waits = self.waits.from((actor, first, ItemIx::MIN));
        waits.take_while(|wait| (wait.0, wait.1) <= (actor, last)).copied().collect()
    }

    pub(super) fn next_ready(&self) -> Option<ItemIx> {
        self.ready.first().map(|(_, ix)| *ix)
    }

    pub(super) fn next_timer_ms(&self) -> Option<u64> {
        self.timers.first().map(|(ms, _)| *ms)
    }

    /// Up to `max` items whose timer rings, earliest first. They stay armed until they enter a state again.
    pub(super) fn ringing(&self, now_ms: u64, max: usize) -> Vec<ItemIx> {
        let due = self.timers.from((0, ItemIx::MIN)).take_while(|(ms, _)| *ms <= now_ms);
        due.take(max).map(|(_, ix)| *ix).collect()
    }

    /// Everything derived, for a comparison with the items: (waits, timers, ready).
    #[cfg(test)]
    pub(super) fn sizes(&self) -> (usize, usize, usize) {
        (self.waits.len(), self.timers.len(), self.ready.len())
    }
}
