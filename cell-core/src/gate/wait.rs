//! Waiting: parked by version, woken by it, and what time does to those who wait.

use super::config::{mix, pause_ms};
use super::held::ItemIx;
use super::item::{Errand, Item, State};
use super::record::{DeadLettered, Record};
use super::{DeadReason, Gate, Output, Requirement, Stall, persist};
use crate::id::ActorId;

impl Gate {
    /// Parks the item, or makes it ready if nothing is missing. It is registered *before* it asks what is present,
    /// so whatever is applied meanwhile either is in the answer or wakes it.
    pub(super) fn begin(&mut self, now_ms: u64, ix: ItemIx, out: &mut Vec<Output>) {
        let Some(item) = self.items.get_mut(ix) else {
            return;
        };
        for requirement in item.requires(&self.index.names) {
            let seq = self.frontier.get(&requirement.dot.actor).copied().unwrap_or(0);
            if let Some(actor) = self.index.names.actors.find(&requirement.dot.actor) {
                item.cover(actor, seq);
            }
        }
        if item.is_complete() || item.errand(now_ms) != Errand::Deliver {
            self.make_ready(now_ms, ix);
        } else {
            self.index.register(ix, item);
            let due_ms = item.due_ms(false, &self.config);
            self.index.enter(ix, item, State::Waiting, due_ms);
            out.push(Output::Check { id: item.id, requires: item.missing(&self.index.names) });
        }
    }

    /// As after a restart: nothing is known to be present, everything parked is asked for again, and what was handed
    /// to the node is handed again. The answers get `fetch_after_ms` before time does anything.
    pub(super) fn enlist(&mut self, now_ms: u64, ix: ItemIx) {
        let Some(item) = self.items.get_mut(ix) else {
            return;
        };
        item.doubt();
        item.stalls = 0;
        let grace_ms = now_ms.saturating_add(self.config.fetch_after_ms);
        item.fetch_at_ms = item.fetch_at_ms.max(grace_ms);
        if let State::Dead(reason) = item.state {
            if item.registered || reason == DeadReason::MissingDependency {
                self.index.unregister(ix, item);
                self.index.register(ix, item);
            }
            let due_ms = item.due_ms(true, &self.config).max(grace_ms);
            self.index.enter(ix, item, item.state, due_ms);
        } else if item.is_complete() || item.errand(now_ms) != Errand::Deliver {
            self.make_ready(now_ms, ix);
        } else {
            self.index.unregister(ix, item);
            self.index.register(ix, item);
            let due_ms = item.due_ms(false, &self.config).max(grace_ms);
            self.index.enter(ix, item, State::Waiting, due_ms);
        }
    }

    /// Goes on asking for what is parked, a batch per step.
    pub(super) fn recheck_some(&mut self, out: &mut Vec<Output>) {
        let Some(from) = self.recheck.take() else { return };
        let mut room = self.config.batch_max.max(1);
        for (ix, item) in self.items.from(from) {
            if item.registered {
                if room == 0 {
                    self.recheck = Some(ix);
                    return;
                }
                room -= 1;
                out.push(Output::Check { id: item.id, requires: item.missing(&self.index.names) });
            }
        }
    }

    // === waking ===

    pub(super) fn applied(&mut self, now_ms: u64, upto: &[(ActorId, u64)]) {
        for &(actor, seq) in upto {
            let known = self.frontier.entry(actor).or_default();
            *known = seq.max(*known);
            let Some(actor) = self.index.names.actors.find(&actor) else {
                continue;
            };
            for ix in self.index.take_covered(actor, seq) {
                if let Some(item) = self.items.get_mut(ix) {
                    item.cover(actor, seq);
                    self.wake(now_ms, ix);
                }
            }
        }
    }

    pub(super) fn present(&mut self, now_ms: u64, present: &[Requirement]) {
        for requirement in present {
            for ix in self.index.waiting_for(requirement) {
                if let Some(item) = self.items.get_mut(ix) {
                    item.contain(std::slice::from_ref(requirement), &self.index.names);
                    self.wake(now_ms, ix);
                }
            }
        }
    }

    /// Makes ready what waits for nothing any more, dead letters too: they are redriven by themselves.
    fn wake(&mut self, now_ms: u64, ix: ItemIx) {
        let Some(item) = self.items.get_mut(ix) else {
            return;
        };
        if item.is_complete() && matches!(item.state, State::Waiting | State::Dead(_)) {
            self.make_ready(now_ms, ix);
        }
    }

    // === time ===

    /// Rings the timers that are due.
    pub(super) fn ring(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        for ix in self.index.ringing(now_ms, self.config.batch_max.max(1)) {
            let Some(item) = self.items.get_mut(ix) else {
                continue;
            };
            match item.state {
                State::Waiting if item.errand(now_ms) != Errand::Deliver => self.make_ready(now_ms, ix),
                State::Waiting if now_ms >= item.deadline_ms => {
                    self.die(now_ms, ix, DeadReason::MissingDependency, String::new(), out);
                }
                State::Waiting => self.wait_on(now_ms, ix, out),
                State::InFlight(_) => self.stall(now_ms, ix),
                State::Retrying => self.retry(now_ms, ix, out),
                // Only its `until` rings.
                State::Dead(_) => self.make_ready(now_ms, ix),
                State::Ready => {}
            }
        }
    }

    fn wait_on(&mut self, now_ms: u64, ix: ItemIx, out: &mut Vec<Output>) {
        let Some(item) = self.items.get_mut(ix) else {
            return;
        };
        let (id, config) = (item.id, &self.config);
        let waited_ms = now_ms.saturating_sub(item.arrived_ms);
        if now_ms >= item.fetch_at_ms {
            out.push(Output::Fetch { id, missing: item.missing(&self.index.names) });
            let seed = mix(self.seed, &id.0, u64::from(item.fetches));
            let pause = pause_ms(config.fetch_after_ms, config.fetch_pause_max_ms, item.fetches, seed);
            item.fetches = item.fetches.saturating_add(1);
            item.fetch_at_ms = now_ms.saturating_add(pause);
        }
        if !item.warned && waited_ms >= config.warn_after_ms {
            item.warned = true;
            out.push(Output::Warn { id, waited_ms, missing: item.missing(&self.index.names) });
        }
        let due_ms = item.due_ms(false, config);
        self.index.enter(ix, item, State::Waiting, due_ms);
    }

    // === dead letters ===

    /// Makes the item a dead letter. Not an outcome: it is kept, can still wake, and the sender is told.
    pub(super) fn die(
        &mut self,
        now_ms: u64,
        ix: ItemIx,
        reason: DeadReason,
        detail: String,
        out: &mut Vec<Output>,
    ) {
        let Some(item) = self.items.get_mut(ix) else {
            return;
        };
        let id = item.id;
        item.told = true;
        if !detail.is_empty() {
            item.note_mut().detail = detail.as_str().into();
        }
        let missing = item.missing(&self.index.names);
        let due_ms = item.due_ms(true, &self.config);
        self.index.enter(ix, item, State::Dead(reason), due_ms);
        let dead =
            DeadLettered { id, reason, missing: missing.clone(), detail: detail.clone(), at_ms: now_ms };
        persist(Record::DeadLettered(dead), out);
        out.push(Output::DeadLetter { id, reason, missing, detail });
        if let Some(item) = self.items.get(ix) {
            out.push(self.notice(item, reason.into()));
        }
    }

    pub(super) fn notice(&self, item: &Item, why: Stall) -> Output {
        let missing = item.missing(&self.index.names);
        Output::StalledNotice {
            id: item.id,
            to: item.from(&self.index.names),
            to_slot: item.from_slot,
            about: item.subject,
            why,
            missing,
        }
    }
}

impl From<DeadReason> for Stall {
    fn from(reason: DeadReason) -> Stall {
        match reason {
            DeadReason::MissingDependency => Stall::MissingDependency,
            DeadReason::Poison | DeadReason::Malformed => Stall::Poison,
        }
    }
}
