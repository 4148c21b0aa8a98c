//! What comes from other regions: accepted, replaced, kept whole, or refused.

use bytes::Bytes;

use super::held::{HELD_MAX, ItemIx};
use super::item::{Item, State};
use super::record::{Accepted, Gone, Record, Undecoded};
use super::{
    DeadReason, Ending, Envelope, Gate, Kept, MessageId, Output, Place, REQUIRES_MAX, Refusal, Requirement,
    persist,
};
use crate::canon::Message;
use crate::id::RegionId;

impl Gate {
    /// `true` if nothing more is owed to this copy: it, or a copy at least as new, is kept or has ended.
    pub(super) fn arrived(&mut self, now_ms: u64, envelope: Envelope, out: &mut Vec<Output>) -> bool {
        let id = envelope.id;
        if envelope.requires.len() > REQUIRES_MAX {
            let reason = format!("{} requirements, at most {REQUIRES_MAX}", envelope.requires.len());
            if self.malformed(now_ms, envelope.to_canon().into(), envelope.from, reason, out) {
                out.push(Output::Ack { id });
                return true;
            }
            out.push(Output::Refuse { id, why: Refusal::Busy });
            return false;
        }
        if let Some(why) = self.is_outdated(&envelope) {
            out.push(Output::Refuse { id, why });
            return false;
        }
        if let Some(ix) = self.items.find(&id) {
            if self.items.get(ix).is_some_and(|item| envelope.epoch > item.epoch(&self.index.names)) {
                self.replace(now_ms, ix, envelope, out);
            } else {
                out.push(Output::Ack { id });
                self.repeat_notice(ix, out);
            }
            return true;
        }
        if self.ended.covers(&id, &envelope.epoch, now_ms, self.config.ended_for_ms) {
            out.push(Output::Ack { id });
            return true;
        }
        // Asked about before and not answered: one of the two is enough, the newer.
        let envelope = match self.probing.remove(&id) {
            Some(probing) if probing.epoch > envelope.epoch => probing,
            _ => envelope,
        };
        if self.is_full() {
            out.push(Output::Refuse { id, why: Refusal::Busy });
            return false;
        }
        if self.is_full_of_waiting() && !self.is_covered(&envelope.requires, &[]) {
            self.probe(envelope, out);
            return false;
        }
        self.accept(now_ms, envelope, &[], out);
        true
    }

    /// Why a message is none of this gate's business, in the light of the homes it was told of.
    pub(super) fn is_outdated(&self, envelope: &Envelope) -> Option<Refusal> {
        let home = |slot| self.homes.get(slot);
        if home(&envelope.from_slot).is_some_and(|epoch| epoch.term > envelope.epoch.term) {
            Some(Refusal::SenderReplaced)
        } else if home(&envelope.to_slot).is_some_and(|epoch| epoch.actor.region() != self.region) {
            Some(Refusal::Moved)
        } else {
            None
        }
    }

    fn accept(&mut self, now_ms: u64, envelope: Envelope, present: &[Requirement], out: &mut Vec<Output>) {
        let id = envelope.id;
        let mut item = Item::new(&envelope, now_ms, &self.config, &mut self.index.names);
        self.index.add(&item);
        item.contain(present, &self.index.names);
        let ix = self.items.insert(item);
        persist(Record::Accepted(Accepted { envelope, arrived_ms: now_ms }), out);
        out.push(Output::Ack { id });
        self.begin(now_ms, ix, out);
    }

    /// The same need from a newer epoch: what it requires and says now is what counts. A discard stands.
    fn replace(&mut self, now_ms: u64, ix: ItemIx, envelope: Envelope, out: &mut Vec<Output>) {
        let id = envelope.id;
        let Some(item) = self.items.get_mut(ix) else {
            return;
        };
        let mut fresh = Item::new(&envelope, now_ms, &self.config, &mut self.index.names);
        self.index.remove(ix, item);
        // Answers to the old copy must not be taken for answers to this one.
        fresh.attempt = item.attempt;
        let discard = item.note.take().and_then(|note| note.discard);
        persist(Record::Accepted(Accepted { envelope, arrived_ms: now_ms }), out);
        if let Some(discard) = discard {
            persist(Record::Discarded((*discard).clone()), out);
            fresh.note_mut().discard = Some(discard);
        }
        self.index.add(&fresh);
        *item = fresh;
        out.push(Output::Ack { id });
        self.begin(now_ms, ix, out);
    }

    // === when no more may wait ===

    fn is_full(&self) -> bool {
        self.kept() >= self.config.items_max.min(HELD_MAX)
    }

    pub(super) fn is_full_of_waiting(&self) -> bool {
        let counts = &self.index.counts;
        counts.waiting + counts.dead + self.undecoded.len() >= self.config.waiting_max
    }

    /// No more may wait, but perhaps this one need not: asks before accepting it.
    fn probe(&mut self, envelope: Envelope, out: &mut Vec<Output>) {
        let id = envelope.id;
        if self.probing.len() >= self.config.probing_max {
            out.push(Output::Refuse { id, why: Refusal::Busy });
            return;
        }
        out.push(Output::Check { id, requires: envelope.requires.clone() });
        self.probing.insert(id, envelope);
    }

    /// The answer to a probe, if this was one.
    pub(super) fn probed(
        &mut self,
        now_ms: u64,
        id: MessageId,
        present: &[Requirement],
        out: &mut Vec<Output>,
    ) {
        let Some(envelope) = self.probing.remove(&id) else {
            return;
        };
        if self.is_full() || self.is_full_of_waiting() && !self.is_covered(&envelope.requires, present) {
            out.push(Output::Refuse { id, why: Refusal::Busy });
        } else {
            self.accept(now_ms, envelope, present, out);
        }
    }

    fn is_covered(&self, requires: &[Requirement], present: &[Requirement]) -> bool {
        let covered = |r: &Requirement| self.frontier.get(&r.dot.actor).is_some_and(|&seq| seq >= r.dot.seq);
        requires.iter().all(|r| covered(r) || present.contains(r))
    }

    // === what cannot be read ===

    /// Keeps the bytes whole. `false` if there is no room.
    pub(super) fn malformed(
        &mut self,
        now_ms: u64,
        bytes: Bytes,
        from: RegionId,
        reason: String,
        out: &mut Vec<Output>,
    ) -> bool {
        let id = MessageId::of_undecoded(&bytes);
        if self.undecoded.contains_key(&id) {
            out.push(Output::Ack { id });
            return true;
        }
        if self.is_full_of_waiting() || self.is_full() {
            out.push(Output::Refuse { id, why: Refusal::Busy });
            return false;
        }
        self.undecoded
            .insert(id, Kept { from, arrived_ms: now_ms, reason: reason.clone(), place: Place::UNKNOWN });
        let detail = reason.clone();
        persist(Record::Undecoded(Undecoded { id, from, bytes, reason, arrived_ms: now_ms }), out);
        out.push(Output::Ack { id });
        out.push(Output::DeadLetter { id, reason: DeadReason::Malformed, missing: Vec::new(), detail });
        true
    }

    /// Kept bytes were read again. They go only once what they say is kept in their stead.
    pub(super) fn decoded(&mut self, now_ms: u64, id: MessageId, envelope: Envelope, out: &mut Vec<Output>) {
        if !self.undecoded.contains_key(&id) || envelope.requires.len() > REQUIRES_MAX {
            return;
        }
        let into = envelope.id;
        let ending = match self.is_outdated(&envelope) {
            Some(Refusal::SenderReplaced) => Ending::SenderReplaced,
            Some(Refusal::Moved) => Ending::Moved,
            Some(Refusal::Busy) | None => {
                if !self.arrived(now_ms, envelope, out) {
                    return;
                }
                Ending::Decoded { into }
            }
        };
        self.undecoded.remove(&id);
        persist(Record::Gone(Gone { id }), out);
        out.push(Output::Ended { id, ending });
    }

    /// A sender that asks again about something that stalls is told again: the first notice may have been lost.
    fn repeat_notice(&self, ix: ItemIx, out: &mut Vec<Output>) {
        if let Some(item) = self.items.get(ix)
            && let State::Dead(reason) = item.state
        {
            out.push(self.notice(item, reason.into()));
        }
    }
}
