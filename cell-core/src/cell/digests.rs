//! The digests of every slot, and what they were at an earlier version: so two regions compare what both have, while
//! both go on.
//!
//! A digest is a sum, so what came lately can be taken out of it again. The terms of the last minute are kept for that;
//! older ones are in both regions' sums, or in one of them, and that is what is looked for.

use std::collections::VecDeque;

use crate::digest::Digest;
use crate::id::{SLOT_COUNT, Slot};
use crate::version::{Dot, VersionVector};

/// How long a term can be taken out again, and how many.
const RECENT_MS: u64 = 60_000;
const RECENT_MAX: usize = 65_536;

/// Why no digest at a version can be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotComparable {
    /// This region is not that far itself: ask again.
    #[error("not that far yet")]
    Behind,
    /// What came since can no longer be told apart: ask with a newer version.
    #[error("too long ago")]
    TooOld,
}

#[derive(Clone, Debug)]
struct Recent {
    at_ms: u64,
    dot: Dot,
    slot: Slot,
    term: Digest,
}

/// The digests of all slots.
#[derive(Clone, Debug)]
pub struct SlotDigests {
    slots: Vec<Digest>,
    recent: VecDeque<Recent>,
    /// A version below it can be compared no longer.
    floor: VersionVector,
}

impl Default for SlotDigests {
    fn default() -> SlotDigests {
        let slots = vec![Digest::default(); usize::from(SLOT_COUNT)];
        SlotDigests { slots, recent: VecDeque::new(), floor: VersionVector::new() }
    }
}

impl SlotDigests {
    /// An event entered an entity of the slot, from the change at `dot`. `version` is how far this region is.
    pub(super) fn add(
        &mut self,
        version: &impl Fn(&Dot) -> bool,
        now_ms: u64,
        dot: Dot,
        slot: Slot,
        term: Digest,
    ) {
        let of_slot = &mut self.slots[usize::from(slot.number())];
        *of_slot = of_slot.plus(term);
        self.recent.push_back(Recent { at_ms: now_ms, dot, slot, term });
        let old = |recent: &Recent| recent.at_ms.saturating_add(RECENT_MS) < now_ms;
        while self.recent.len() > RECENT_MAX || self.recent.front().is_some_and(old) {
            let Some(gone) = self.recent.pop_front() else { break };
            // What is ahead of the frontier, and stays so, is in no version: it counts for all of them from now on.
            if version(&gone.dot) {
                self.floor.raise(gone.dot);
            }
        }
    }

    /// What was kept of a slot; only for a restart. Versions before `floor` cannot be compared.
    pub(super) fn restore(&mut self, slots: impl IntoIterator<Item = (Slot, Digest)>, floor: &VersionVector) {
        for (slot, digest) in slots {
            self.slots[usize::from(slot.number())] = digest;
        }
        self.floor.join(floor);
    }

    /// What is really there differs from what was counted, by what was found and what was expected.
    pub(super) fn correct(&mut self, slot: Slot, found: Digest, expected: Digest) {
        let of_slot = &mut self.slots[usize::from(slot.number())];
        *of_slot = of_slot.plus(found).minus(expected);
    }

    /// Of everything in the slot.
    #[must_use]
    pub fn of(&self, slot: Slot) -> Digest {
        self.slots[usize::from(slot.number())]
    }

    /// Of everything in each slot, in order.
    #[must_use]
    pub fn all(&self) -> &[Digest] {
        &self.slots
    }

    /// Of each slot, in order, what `at` covers, for a region that is as far as `version`.
    ///
    /// # Errors
    /// [`NotComparable`].
    pub fn at(&self, version: &VersionVector, at: &VersionVector) -> Result<Vec<Digest>, NotComparable> {
        if !version.covers_all(at) {
            return Err(NotComparable::Behind);
        }
        if !at.covers_all(&self.floor) {
            return Err(NotComparable::TooOld);
        }
        let mut slots = self.slots.clone();
        for recent in self.recent.iter().filter(|recent| !at.covers(&recent.dot)) {
            let of_slot = &mut slots[usize::from(recent.slot.number())];
            *of_slot = of_slot.minus(recent.term);
        }
        Ok(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ActorId, Hash, NodeId, RegionId};
    use crate::version::EventId;

    fn dot(seq: u64) -> Dot {
        let node = NodeId { region: RegionId::new("north").unwrap(), index: 0 };
        Dot { actor: ActorId { node, start: 1, nonce: 1 }, seq }
    }

    fn term(seq: u64) -> Digest {
        let mut digest = Digest::default();
        digest.add(&EventId { dot: dot(seq), place: 0 }, &Hash::of(&seq.to_be_bytes()));
        digest
    }

    fn slot(seq: u64) -> Slot {
        Slot::new((seq % 7) as u16).unwrap()
    }

    fn upto(seq: u64) -> VersionVector {
        [(dot(1).actor, seq)].into_iter().collect()
    }

    fn filled(seqs: impl IntoIterator<Item = u64>) -> SlotDigests {
        let mut digests = SlotDigests::default();
        seqs.into_iter().for_each(|seq| digests.add(&|_| true, 0, dot(seq), slot(seq), term(seq)));
        digests
    }

    #[test]
    fn two_that_are_not_equally_far_agree_on_what_both_have() {
        let (mine, theirs) = (filled(1..=100), filled((1..=80).rev()));
        let at = upto(80);
        assert_eq!(mine.at(&upto(100), &at), theirs.at(&upto(80), &at));
        assert_ne!(mine.at(&upto(100), &upto(79)), theirs.at(&upto(80), &at));
        assert_eq!(theirs.at(&upto(80), &upto(81)), Err(NotComparable::Behind));
        let lacking = filled((1..=80).filter(|seq| *seq != 33));
        let differ = mine.at(&upto(100), &at).unwrap();
        let lacking = lacking.at(&upto(80), &at).unwrap();
        let slots: Vec<usize> = (0..lacking.len()).filter(|i| lacking[*i] != differ[*i]).collect();
        assert_eq!(slots, [33 % 7]);
    }

    #[test]
    fn what_is_long_ago_is_told_apart_no_longer_and_what_is_ahead_counts_for_all() {
        let mut digests = filled(1..=5);
        digests.add(&|dot| dot.seq <= 5, RECENT_MS + 1, dot(9), slot(9), term(9));
        assert_eq!(digests.at(&upto(5), &upto(4)), Err(NotComparable::TooOld));
        let with_ahead = digests.at(&upto(5), &upto(5)).unwrap();
        assert_eq!(with_ahead, filled(1..=5).at(&upto(5), &upto(5)).unwrap(), "9 is not covered by 5");
        digests.add(&|dot| dot.seq <= 5, 3 * RECENT_MS, dot(5), slot(5), Digest::default());
        let later = digests.at(&upto(5), &upto(5)).unwrap();
        assert_ne!(later, with_ahead, "nobody takes it out any more");
    }
}
