//! What is to be fetched for messages that wait, and in which order.
//!
//! When a region was away, thousands of messages wait for what the stream is bringing, oldest first. Fetches go from the
//! other end: the newest message has to wait longest for the stream. What does not fit is dropped: the stream brings it, or
//! the gate asks again after its pause.

use std::collections::VecDeque;

use cell_core::gate::{MessageId, Requirement};
use cell_core::id::RegionId;

/// Fetches under way at once.
const RUNNING_MAX: usize = 16;
/// Fetches whose turn has not come.
const WAITING_MAX: usize = 1_024;

/// One fetch.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) id: MessageId,
    pub(super) missing: Vec<Requirement>,
    /// Whom to ask, one after the other.
    pub(super) regions: Vec<RegionId>,
}

#[derive(Debug, Default)]
pub(super) struct Fetches {
    waiting: VecDeque<Wanted>,
    running: usize,
}

impl Fetches {
    /// Takes it up. `true`: one more may run, and has to ask for what is [`Fetches::next`] until nothing is.
    pub(super) fn want(&mut self, wanted: Wanted) -> bool {
        self.waiting.push_back(wanted);
        if self.waiting.len() > WAITING_MAX {
            self.waiting.pop_front();
        }
        let more = self.running < RUNNING_MAX;
        self.running += usize::from(more);
        more
    }

    /// The newest; `None`: whoever asks has ended.
    pub(super) fn next(&mut self) -> Option<Wanted> {
        let next = self.waiting.pop_back();
        if next.is_none() {
            self.running -= 1;
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(n: usize) -> Wanted {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        Wanted { id: MessageId(id), missing: Vec::new(), regions: Vec::new() }
    }

    #[test]
    fn the_newest_goes_first_and_what_waits_is_bounded() {
        let mut fetches = Fetches::default();
        let started = (0..5_000).filter(|n| fetches.want(wanted(*n))).count();
        assert_eq!(started, RUNNING_MAX);
        let next: Vec<MessageId> = std::iter::from_fn(|| fetches.next()).map(|wanted| wanted.id).collect();
        let newest: Vec<MessageId> = (5_000 - WAITING_MAX..5_000).rev().map(|n| wanted(n).id).collect();
        assert_eq!(next, newest);
        // The one that found nothing has ended, and may be followed.
        assert!(fetches.want(wanted(1)));
        assert!(!fetches.want(wanted(2)));
    }
}
