//! What is to be fetched for messages that wait, and in which order.
//!
//! When a region was away, thousands of messages wait for what the stream is bringing, oldest first. Fetches go from the
//! other end: what the stream would bring last is fetched first. What does not fit is dropped: the stream brings it, or the
//! gate asks again after its pause.

use std::cmp::Reverse;

use cell_core::fronts::Fronts;
use cell_core::gate::{MessageId, Requirement};
use cell_core::id::RegionId;

/// Fetches under way at once.
const RUNNING_MAX: usize = 16;
/// Fetches whose turn has not come: so many stay when there are twice as many.
const WAITING_MAX: usize = 1_024;

/// One fetch.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) id: MessageId,
    pub(super) missing: Vec<Requirement>,
    /// Whom to ask, one after the other.
    pub(super) regions: Vec<RegionId>,
}

impl Wanted {
    /// How many changes the stream has to bring before this.
    fn behind(&self, known: &Fronts) -> u64 {
        let behind = |need: &Requirement| need.dot.seq.saturating_sub(known.seq(&need.dot.actor));
        self.missing.iter().map(behind).max().unwrap_or(0)
    }
}

#[derive(Debug, Default)]
pub(super) struct Fetches {
    waiting: Vec<Wanted>,
    running: usize,
}

impl Fetches {
    /// Takes it up. `true`: one more may run, and has to ask for what is [`Fetches::next`] until nothing is.
    pub(super) fn want(&mut self, wanted: Wanted, known: &Fronts) -> bool {
        self.waiting.push(wanted);
        if self.waiting.len() >= 2 * WAITING_MAX {
            self.waiting.sort_by_cached_key(|wanted| Reverse(wanted.behind(known)));
            self.waiting.truncate(WAITING_MAX);
        }
        let more = self.running < RUNNING_MAX;
        self.running += usize::from(more);
        more
    }

    /// What the stream would bring last; `None`: whoever asks has ended.
    pub(super) fn next(&mut self, known: &Fronts) -> Option<Wanted> {
        let waiting = self.waiting.iter().enumerate();
        let last = waiting.max_by_key(|(_, wanted)| wanted.behind(known)).map(|(nth, _)| nth);
        if last.is_none() {
            self.running -= 1;
        }
        last.map(|nth| self.waiting.swap_remove(nth))
    }
}

#[cfg(test)]
mod tests {
    use cell_core::cell::Front;
    use cell_core::id::{ActorId, EntityId, Hash, NodeId};
    use cell_core::version::Dot;

    use super::*;

    fn actor(start: u64) -> ActorId {
        ActorId { node: NodeId { region: RegionId::new("north").unwrap(), index: 0 }, start, nonce: 1 }
    }

    fn wanted(start: u64, seq: u64) -> Wanted {
        let dot = Dot { actor: actor(start), seq };
        let missing = vec![Requirement { entity: EntityId::from_bytes(&[2; 17]), dot }];
        Wanted { id: MessageId([0; 16]), missing, regions: Vec::new() }
    }

    fn seqs(fetches: &mut Fetches, known: &Fronts) -> Vec<u64> {
        std::iter::from_fn(|| fetches.next(known)).map(|wanted| wanted.missing[0].dot.seq).collect()
    }

    #[test]
    fn what_the_stream_brings_last_is_fetched_first_whenever_it_was_asked_for() {
        let (mut fetches, mut known) = (Fetches::default(), Fronts::default());
        known.raise(actor(1), Front { seq: 90, hash: Hash::ZERO });
        for (start, seq) in [(1, 200), (1, 300), (1, 100), (2, 150)] {
            fetches.want(wanted(start, seq), &known);
        }
        assert_eq!(seqs(&mut fetches, &known), [300, 150, 200, 100]);
    }

    #[test]
    fn what_waits_is_bounded_and_so_is_what_runs() {
        let (mut fetches, known) = (Fetches::default(), Fronts::default());
        let started = (1..=9_000).rev().filter(|seq| fetches.want(wanted(1, *seq), &known)).count();
        assert_eq!(started, RUNNING_MAX);
        assert!(fetches.waiting.len() < 2 * WAITING_MAX);
        let next = seqs(&mut fetches, &known);
        assert!(
            next.iter().rev().is_sorted()
                && next[..WAITING_MAX].iter().eq((7_977..=9_000).rev().collect::<Vec<_>>().iter())
        );
        // The one that found nothing has ended, and may be followed.
        assert!(fetches.want(wanted(1, 1), &known));
        assert!(!fetches.want(wanted(1, 2), &known));
    }
}
