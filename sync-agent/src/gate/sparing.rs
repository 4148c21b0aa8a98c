//! Says the first of many things of one sort, and afterwards how many more there were.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many are said in each [`WITHIN`].
const SAID_MAX: u64 = 20;
const WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Default)]
pub(super) struct Sparing(Mutex<Said>);

#[derive(Debug, Default)]
struct Said {
    since: Option<Instant>,
    count: u64,
}

impl Sparing {
    /// Whether this one is said; and, where it is the first after a time in which some were not, how many.
    pub(super) fn turn(&self, now: Instant) -> (bool, Option<u64>) {
        // Only assignments run under the lock.
        let mut said = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut unsaid = None;
        if said.since.is_none_or(|since| now.saturating_duration_since(since) >= WITHIN) {
            unsaid = Some(said.count.saturating_sub(SAID_MAX)).filter(|count| *count > 0);
            *said = Said { since: Some(now), count: 0 };
        }
        said.count += 1;
        (said.count <= SAID_MAX, unsaid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_are_said_and_the_others_counted() {
        let (sparing, begun) = (Sparing::default(), Instant::now());
        let turns: Vec<_> = (0..SAID_MAX + 5).map(|_| sparing.turn(begun)).collect();
        assert_eq!(turns.iter().filter(|(say, _)| *say).count() as u64, SAID_MAX);
        assert!(turns.iter().all(|(_, unsaid)| unsaid.is_none()));
        assert_eq!(sparing.turn(begun + WITHIN), (true, Some(5)));
        assert_eq!(sparing.turn(begun + WITHIN * 2), (true, None));
    }
}
