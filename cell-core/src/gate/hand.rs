//! Handing to the node: by turn, a bounded number at once, and what its answers mean.

use super::config::{mix, pause_ms};
use super::held::ItemIx;
use super::item::{Errand, State};
use super::record::{Gone, Record};
use super::{Answer, DeadReason, Ending, Gate, MessageId, Output, Refusal, Stall, persist};
use crate::id::Slot;
use crate::placement::Epoch;

/// Longest error of a handler that is kept, in bytes.
const DETAIL_BYTES_MAX: usize = 512;

impl Gate {
    /// Queues the item for the node. What it is asked to do there is decided when its turn comes.
    pub(super) fn make_ready(&mut self, now_ms: u64, ix: ItemIx) {
        let Some(item) = self.items.get_mut(ix) else {
            return;
        };
        if let State::Dead(_) = item.state {
            item.failures = 0;
            item.stalls = 0;
            if let Some(note) = &mut item.note {
                note.detail = Box::default();
            }
        }
        // Kept, so that a clock set back cannot turn it into the delivery of something incomplete.
        item.expiring |= item.errand(now_ms) == Errand::Expire;
        self.index.enter(ix, item, State::Ready, 0);
    }

    /// Fills the free places at the node.
    pub(super) fn hand_out(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        while self.index.counts.in_flight < self.config.in_flight_max.max(1)
            && let Some(ix) = self.index.next_ready()
            && let Some(item) = self.items.get_mut(ix)
        {
            let id = item.id;
            let errand = item.errand(now_ms);
            item.expiring |= errand == Errand::Expire;
            item.attempt = item.attempt.wrapping_add(1);
            let attempt = item.attempt;
            let due_ms = now_ms.saturating_add(self.config.answer_within_ms);
            self.index.enter(ix, item, State::InFlight(errand), due_ms);
            out.push(match errand {
                Errand::Deliver => Output::Deliver { id, attempt },
                Errand::Expire => Output::HandExpired { id, attempt },
                Errand::Discard => {
                    let reason = item.discard().map_or_else(String::new, |discard| discard.reason.clone());
                    Output::HandDiscarded { id, attempt, reason }
                }
            });
        }
    }

    /// Only the answer to the latest attempt counts; who handed it out again wants to hear that one.
    pub(super) fn answered(
        &mut self,
        now_ms: u64,
        id: MessageId,
        attempt: u32,
        answer: Answer,
        out: &mut Vec<Output>,
    ) {
        let Some(ix) = self.items.find(&id) else {
            return;
        };
        let Some(item) = self.items.get_mut(ix) else {
            return;
        };
        let State::InFlight(errand) = item.state else {
            return;
        };
        if item.attempt != attempt {
            return;
        }
        match answer {
            Answer::Done => {
                let ending = match errand {
                    Errand::Deliver => Ending::Done,
                    Errand::Expire => Ending::Expired,
                    Errand::Discard => Ending::Discarded,
                };
                self.remember(now_ms, ix);
                self.finish(ix, ending, out);
            }
            Answer::Refused { reason } => {
                self.remember(now_ms, ix);
                self.finish(ix, Ending::Refused { reason }, out);
            }
            Answer::Moved => self.finish(ix, Ending::Moved, out),
            Answer::Busy | Answer::Unreachable => self.stall(now_ms, ix),
            Answer::Failed { error } => {
                item.failures = item.failures.saturating_add(1);
                if item.failures >= self.config.attempts_max {
                    self.die(now_ms, ix, DeadReason::Poison, shortened(error), out);
                } else {
                    let times = item.failures - 1;
                    self.pause(now_ms, ix, times);
                }
            }
        }
    }

    /// The node had no time or was away: tried again for as long as it takes.
    pub(super) fn stall(&mut self, now_ms: u64, ix: ItemIx) {
        let Some(item) = self.items.get_mut(ix) else {
            return;
        };
        let times = item.stalls;
        item.stalls = times.saturating_add(1);
        self.pause(now_ms, ix, times);
    }

    fn pause(&mut self, now_ms: u64, ix: ItemIx, times: u8) {
        let Some(item) = self.items.get_mut(ix) else {
            return;
        };
        let seed = mix(self.seed, &item.id.0, u64::from(item.attempt));
        let pause = pause_ms(self.config.retry_after_ms, self.config.retry_pause_max_ms, times, seed);
        self.index.enter(ix, item, State::Retrying, now_ms.saturating_add(pause));
    }

    /// A pause is over. Past its deadline the sender is told, once, that the node does not take it.
    pub(super) fn retry(&mut self, now_ms: u64, ix: ItemIx, out: &mut Vec<Output>) {
        let Some(item) = self.items.get_mut(ix) else {
            return;
        };
        if now_ms >= item.deadline_ms && !item.told && item.errand(now_ms) == Errand::Deliver {
            item.told = true;
            if let Some(item) = self.items.get(ix) {
                out.push(self.notice(item, Stall::Undeliverable));
            }
        }
        self.make_ready(now_ms, ix);
    }

    // === endings ===

    fn remember(&mut self, now_ms: u64, ix: ItemIx) {
        if let Some(item) = self.items.get(ix) {
            let epoch = item.epoch(&self.index.names);
            self.ended.remember(item.id, epoch, now_ms, self.config.ended_max);
        }
    }

    /// The only way out for an accepted message.
    pub(super) fn finish(&mut self, ix: ItemIx, ending: Ending, out: &mut Vec<Output>) {
        let Some(mut item) = self.items.remove(ix) else {
            return;
        };
        self.index.remove(ix, &mut item);
        let id = item.id;
        persist(Record::Gone(Gone { id }), out);
        out.push(Output::Ended { id, ending });
    }

    pub(super) fn need_gone(&mut self, id: MessageId, why: String, out: &mut Vec<Output>) {
        if self.probing.remove(&id).is_some() {
            // Never accepted, so there is nothing to end; the sender will see the need gone as well.
            out.push(Output::Refuse { id, why: Refusal::Busy });
        }
        if let Some(ix) = self.items.find(&id) {
            self.finish(ix, Ending::NeedGone { why }, out);
        }
    }

    /// Drops what another home sends or receives now. What an operator discarded is still told to the node here,
    /// unless that is no longer the home.
    pub(super) fn slot_home(&mut self, slot: Slot, epoch: Epoch, out: &mut Vec<Output>) {
        if self.homes.get(&slot).is_some_and(|known| *known >= epoch) {
            return;
        }
        self.homes.insert(slot, epoch);
        let moved = epoch.actor.region() != self.region;
        let mut dropped = Vec::new();
        let names = &self.index.names;
        for (ix, item) in self.items.iter() {
            if moved && item.to_slot == slot {
                dropped.push((ix, Ending::Moved));
            } else if item.from_slot == slot && item.epoch(names).term < epoch.term && !item.is_discarded() {
                dropped.push((ix, Ending::SenderReplaced));
            }
        }
        for (ix, ending) in dropped {
            self.finish(ix, ending, out);
        }
        let outdated =
            self.probing.iter().filter_map(|(id, envelope)| Some((*id, self.is_outdated(envelope)?)));
        for (id, why) in outdated.collect::<Vec<_>>() {
            self.probing.remove(&id);
            out.push(Output::Refuse { id, why });
        }
    }
}

fn shortened(mut error: String) -> String {
    let mut end = error.len().min(DETAIL_BYTES_MAX);
    while !error.is_char_boundary(end) {
        end -= 1;
    }
    error.truncate(end);
    error
}
