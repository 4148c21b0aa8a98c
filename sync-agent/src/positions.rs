//! Where in the node's log to begin reading for a subscriber, given how far it is.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use cell_core::cell::Front;
use cell_core::fronts::Fronts;
use cell_core::id::ActorId;

/// Records between two marks, at first.
const APART: u64 = 256;
const MARKS_MAX: usize = 128;

/// How far each actor is known.
pub(crate) type Frontier = BTreeMap<ActorId, Front>;

/// Marks: a frontier that covers everything in the log before a position. Sparse and bounded; a subscriber that no mark
/// fits begins at the log's first record, which is right and slow.
#[derive(Debug, Default)]
pub(crate) struct Positions {
    marks: VecDeque<(u64, Arc<Fronts>)>,
}

impl Positions {
    pub(crate) fn clear(&mut self) {
        self.marks.clear();
    }

    /// Everything before `position` is covered by `frontier`.
    pub(crate) fn note(&mut self, position: u64, frontier: &Arc<Fronts>) {
        if self.marks.back().is_some_and(|(last, _)| position < last.saturating_add(APART)) {
            return;
        }
        if self.marks.len() >= MARKS_MAX {
            // Thinned out: every second one goes, the newest stays.
            let mut keep = false;
            self.marks.retain(|_| {
                keep = !keep;
                !keep
            });
        }
        self.marks.push_back((position, Arc::clone(frontier)));
    }

    /// The latest position before which the subscriber lacks nothing.
    pub(crate) fn start_for(&self, subscriber: &Frontier) -> u64 {
        let covered = |mark: &Fronts| {
            mark.iter().all(|(actor, front)| subscriber.get(actor).is_some_and(|has| has.seq >= front.seq))
        };
        let fitting = self.marks.iter().rev().find(|(_, mark)| covered(mark));
        fitting.map_or(0, |(position, _)| *position)
    }
}

#[cfg(test)]
mod tests {
    use cell_core::id::{Hash, NodeId, RegionId};

    use super::*;

    fn frontier(seqs: &[(u64, u64)]) -> Frontier {
        let node = NodeId { region: RegionId::new("north").unwrap(), index: 0 };
        let actor = |start| ActorId { node, start, nonce: 1 };
        let fronts = seqs.iter().map(|(start, seq)| (actor(*start), Front { seq: *seq, hash: Hash::ZERO }));
        fronts.collect()
    }

    fn mark(seqs: &[(u64, u64)]) -> Arc<Fronts> {
        let mut fronts = Fronts::default();
        frontier(seqs).into_iter().for_each(|(actor, front)| fronts.raise(actor, front));
        Arc::new(fronts)
    }

    #[test]
    fn reading_begins_where_the_subscriber_lacks_nothing_before() {
        let mut positions = Positions::default();
        positions.note(0, &mark(&[]));
        positions.note(5_000, &mark(&[(1, 4_000)]));
        positions.note(5_100, &mark(&[(1, 4_500)]));
        positions.note(10_000, &mark(&[(1, 8_000), (2, 1)]));
        assert_eq!(positions.start_for(&frontier(&[(1, 3_999)])), 0);
        assert_eq!(positions.start_for(&frontier(&[(1, 9_000)])), 5_000);
        assert_eq!(positions.start_for(&frontier(&[(1, 8_000), (2, 5)])), 10_000);
    }

    #[test]
    fn marks_stay_few_however_long_the_log_gets() {
        let mut positions = Positions::default();
        for i in 0..10_000 {
            positions.note(i * APART, &mark(&[(1, i * APART)]));
        }
        assert!(positions.marks.len() <= MARKS_MAX);
        let last = 9_999 * APART;
        assert_eq!(positions.start_for(&frontier(&[(1, last)])), last);
    }
}
