//! Handing to the node: by turn, a bounded number at once, and what its answers mean.

use super::config::{mix, pause_ms};
use super::item::{Errand, State};
use super::record::{Gone, Record};
use super::{Answer, DeadReason, Ending, Gate, MessageId, Output, Refusal, Stall, persist};
use crate::id::Slot;
use crate::placement::Epoch;

/// Longest error of a handler that is kept, in bytes.
const DETAIL_BYTES_MAX: usize = 512;

impl Gate {
    /// Queues the item for the node. What it is asked to do there is decided when its turn comes.
    pub(super) fn make_ready(&mut self, now_ms: u64, id: MessageId) {
        let Some(item) = self.items.get_mut(&id) else {
            return;
        };
        if let State::Dead(_) = item.state {
            item.failures = 0;
            item.stalls = 0;
            self.details.remove(&id);
        }
        // Kept, so that a clock set back cannot turn it into the delivery of something incomplete.
        item.expiring |= item.errand(now_ms) == Errand::Expire;
        self.index.enter(id, item, State::Ready, 0);
    }

    /// Fills the free places at the node.
    pub(super) fn hand_out(&mut self, now_ms: u64, out: &mut Vec<Output>) {
        while self.index.counts.in_flight < self.config.in_flight_max.max(1)
            && let Some(id) = self.index.next_ready()
            && let Some(item) = self.items.get_mut(&id)
        {
            let errand = item.errand(now_ms);
            item.expiring |= errand == Errand::Expire;
            item.attempt = item.attempt.wrapping_add(1);
            let attempt = item.attempt;
            let due_ms = now_ms.saturating_add(self.config.answer_within_ms);
            self.index.enter(id, item, State::InFlight(errand), due_ms);
            out.push(match errand {
                Errand::Deliver => Output::Deliver { id, attempt },
                Errand::Expire => Output::HandExpired { id, attempt },
                Errand::Discard => {
                    let reason = self.discards.get(&id).map_or_else(String::new, |d| d.reason.clone());
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
        let Some(item) = self.items.get_mut(&id) else {
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
                self.remember(now_ms, id);
                self.finish(id, ending, out);
            }
            Answer::Refused { reason } => {
                self.remember(now_ms, id);
                self.finish(id, Ending::Refused { reason }, out);
            }
            Answer::Moved => self.finish(id, Ending::Moved, out),
            Answer::Busy | Answer::Unreachable => self.stall(now_ms, id),
            Answer::Failed { error } => {
                item.failures = item.failures.saturating_add(1);
                if item.failures >= self.config.attempts_max {
                    self.die(now_ms, id, DeadReason::Poison, shortened(error), out);
                } else {
                    let times = item.failures - 1;
                    self.pause(now_ms, id, times);
                }
            }
        }
    }

    /// The node had no time or was away: tried again for as long as it takes.
    pub(super) fn stall(&mut self, now_ms: u64, id: MessageId) {
        let Some(item) = self.items.get_mut(&id) else {
            return;
        };
        let times = item.stalls;
        item.stalls = times.saturating_add(1);
        self.pause(now_ms, id, times);
    }

    fn pause(&mut self, now_ms: u64, id: MessageId, times: u8) {
        let Some(item) = self.items.get_mut(&id) else {
            return;
        };
        let seed = mix(self.seed, &id.0, u64::from(item.attempt));
        let pause = pause_ms(self.config.retry_after_ms, self.config.retry_pause_max_ms, times, seed);
        self.index.enter(id, item, State::Retrying, now_ms.saturating_add(pause));
    }

    /// A pause is over. Past its deadline the sender is told, once, that the node does not take it.
    pub(super) fn retry(&mut self, now_ms: u64, id: MessageId, out: &mut Vec<Output>) {
        let Some(item) = self.items.get_mut(&id) else {
            return;
        };
        if now_ms >= item.deadline_ms && !item.told && item.errand(now_ms) == Errand::Deliver {
            item.told = true;
            if let Some(item) = self.items.get(&id) {
                out.push(self.notice(id, item, Stall::Undeliverable));
            }
        }
        self.make_ready(now_ms, id);
    }

    // === endings ===

    fn remember(&mut self, now_ms: u64, id: MessageId) {
        if let Some(item) = self.items.get(&id) {
            let epoch = item.epoch(&self.index.actors);
            self.ended.remember(id, epoch, now_ms, self.config.ended_max);
        }
    }

    /// The only way out for an accepted message.
    pub(super) fn finish(&mut self, id: MessageId, ending: Ending, out: &mut Vec<Output>) {
        let Some(mut item) = self.items.remove(&id) else {
            return;
        };
        self.index.remove(id, &mut item);
        self.details.remove(&id);
        self.discards.remove(&id);
        persist(Record::Gone(Gone { id }), out);
        out.push(Output::Ended { id, ending });
    }

    pub(super) fn need_gone(&mut self, id: MessageId, why: String, out: &mut Vec<Output>) {
        if self.probing.remove(&id).is_some() {
            // Never accepted, so there is nothing to end; the sender will see the need gone as well.
            out.push(Output::Refuse { id, why: Refusal::Busy });
        }
        self.finish(id, Ending::NeedGone { why }, out);
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
        for (&id, item) in &self.items {
            if moved && item.to_slot == slot {
                dropped.push((id, Ending::Moved));
            } else if item.from_slot == slot && item.term() < epoch.term && !item.discarded {
                dropped.push((id, Ending::SenderReplaced));
            }
        }
        for (id, ending) in dropped {
            self.finish(id, ending, out);
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
