//! The digests of every slot, and what they were at an earlier version: so two regions compare what both have, while
//! both go on.
//!
//! A digest is a sum, so what came lately can be taken out of it again. The terms of the last minute are kept for that;
//! older ones are in both regions' sums, or in one of them, and that is what is looked for.

use std::collections::{BTreeMap, VecDeque};

use crate::digest::Digest;
use crate::id::{ActorId, SLOT_COUNT, Slot};
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

/// The terms of one actor's latest events, by seq; the second number only tells those of one change apart.
type Terms = BTreeMap<(u64, u64), Term>;

#[derive(Clone, Copy, Debug)]
struct Term {
    at_ms: u64,
    slot: Slot,
    digest: Digest,
}

#[derive(Clone, Copy, Debug)]
struct Entered {
    at_ms: u64,
    dot: Dot,
    nth: u64,
}

fn is_old(at_ms: u64, now_ms: u64) -> bool {
    at_ms.saturating_add(RECENT_MS) < now_ms
}

/// The digests of all slots.
#[derive(Clone, Debug)]
pub struct SlotDigests {
    slots: Vec<Digest>,
    /// Per actor, so that what a version does not cover is found without looking at the rest.
    recent: BTreeMap<ActorId, Terms>,
    /// In the order in which they came.
    entered: VecDeque<Entered>,
    nth: u64,
    /// A version below it can be compared no longer.
    floor: VersionVector,
}

impl Default for SlotDigests {
    fn default() -> SlotDigests {
        let slots = vec![Digest::default(); usize::from(SLOT_COUNT)];
        SlotDigests {
            slots,
            recent: BTreeMap::new(),
            entered: VecDeque::new(),
            nth: 0,
            floor: VersionVector::new(),
        }
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
        digest: Digest,
    ) {
        let of_slot = &mut self.slots[usize::from(slot.number())];
        *of_slot = of_slot.plus(digest);
        self.nth += 1;
        let nth = self.nth;
        let term = Term { at_ms: now_ms, slot, digest };
        self.recent.entry(dot.actor).or_default().insert((dot.seq, nth), term);
        self.entered.push_back(Entered { at_ms: now_ms, dot, nth });
        let old = |entered: &Entered| is_old(entered.at_ms, now_ms);
        while self.entered.len() > RECENT_MAX || self.entered.front().is_some_and(old) {
            let Some(gone) = self.entered.pop_front() else { break };
            if let Some(terms) = self.recent.get_mut(&gone.dot.actor) {
                terms.remove(&(gone.dot.seq, gone.nth));
                if terms.is_empty() {
                    self.recent.remove(&gone.dot.actor);
                }
            }
            // What is ahead of the frontier, and stays so, is in no version: it counts for all of them from now on.
            if version(&gone.dot) {
                self.floor.raise(gone.dot);
            }
        }
    }

    /// Nothing more comes of the actor's changes: what is ahead of its last one is in no version, and counts for all.
    pub(super) fn settle(&mut self, actor: &ActorId, last: u64) {
        if let Some(terms) = self.recent.get_mut(actor) {
            terms.retain(|(seq, _), _| *seq <= last);
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

    /// Of each slot, in order, what `at` covers, for a region that is as far as `version`; and what is in no version, since
    /// its changes do not come. That is a matter of time, not of what else comes: a cell whose users are silent compares, too.
    ///
    /// # Errors
    /// [`NotComparable`].
    pub fn at(
        &self,
        version: &VersionVector,
        at: &VersionVector,
        now_ms: u64,
    ) -> Result<Vec<Digest>, NotComparable> {
        if !version.covers_all(at) {
            return Err(NotComparable::Behind);
        }
        if !at.covers_all(&self.floor) {
            return Err(NotComparable::TooOld);
        }
        let mut slots = self.slots.clone();
        for (actor, terms) in &self.recent {
            let known = version.get(actor);
            for ((seq, _), term) in terms.range((at.get(actor) + 1, 0)..) {
                if *seq <= known || !is_old(term.at_ms, now_ms) {
                    let of_slot = &mut slots[usize::from(term.slot.number())];
                    *of_slot = of_slot.minus(term.digest);
                }
            }
        }
        Ok(slots)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Hash, NodeId, RegionId};
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
        assert_eq!(mine.at(&upto(100), &at, 0), theirs.at(&upto(80), &at, 0));
        assert_ne!(mine.at(&upto(100), &upto(79), 0), theirs.at(&upto(80), &at, 0));
        assert_eq!(theirs.at(&upto(80), &upto(81), 0), Err(NotComparable::Behind));
        let lacking = filled((1..=80).filter(|seq| *seq != 33));
        let differ = mine.at(&upto(100), &at, 0).unwrap();
        let lacking = lacking.at(&upto(80), &at, 0).unwrap();
        let slots: Vec<usize> = (0..lacking.len()).filter(|i| lacking[*i] != differ[*i]).collect();
        assert_eq!(slots, [33 % 7]);
    }

    #[test]
    fn what_is_long_ago_is_told_apart_no_longer_and_what_is_ahead_counts_for_all() {
        let now_ms = RECENT_MS + 1;
        let mut digests = filled(1..=5);
        digests.add(&|dot| dot.seq <= 5, now_ms, dot(9), slot(9), term(9));
        assert_eq!(digests.at(&upto(5), &upto(4), now_ms), Err(NotComparable::TooOld));
        let with_ahead = digests.at(&upto(5), &upto(5), now_ms).unwrap();
        assert_eq!(with_ahead, filled(1..=5).at(&upto(5), &upto(5), 0).unwrap(), "9 is not covered by 5");
        digests.add(&|dot| dot.seq <= 5, 3 * RECENT_MS, dot(5), slot(5), Digest::default());
        let later = digests.at(&upto(5), &upto(5), 3 * RECENT_MS).unwrap();
        assert_ne!(later, with_ahead, "nobody takes it out any more");
    }

    #[test]
    fn what_stays_ahead_counts_for_all_also_where_nothing_else_comes() {
        let mut digests = filled(1..=5);
        digests.add(&|dot| dot.seq <= 5, 0, dot(9), slot(9), term(9));
        let at = |now_ms| digests.at(&upto(5), &upto(5), now_ms).unwrap();
        assert_eq!(at(RECENT_MS), filled(1..=5).at(&upto(5), &upto(5), 0).unwrap(), "it may still come");
        assert_eq!(at(RECENT_MS + 1), digests.all(), "as after a restart");
        let come = digests.at(&upto(9), &upto(5), RECENT_MS + 1).unwrap();
        assert_eq!(come, at(RECENT_MS), "it came, and a version of before is without it");
    }
}
