//! Pauses between attempts: doubled each time, and drawn, so that many who lost the same peer do not return together.

use std::time::Duration;

const FIRST_MS: u64 = 50;
const LONGEST_MS: u64 = 2_000;

/// The pauses of one link.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    tries: u32,
}

impl Backoff {
    /// The link worked: the next pause is short again.
    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }

    /// The next pause, between half of its bound and its bound.
    pub(crate) fn next(&mut self) -> Duration {
        let full = FIRST_MS.saturating_mul(1 << self.tries.min(10)).min(LONGEST_MS);
        self.tries = self.tries.saturating_add(1);
        let half = full / 2;
        // Without entropy the pauses are merely not spread.
        let drawn = getrandom::u64().unwrap_or(0) % (half + 1);
        Duration::from_millis(full - drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_two_seconds_and_begin_anew_after_success() {
        let mut backoff = Backoff::default();
        let first = backoff.next();
        assert!(first >= Duration::from_millis(25) && first <= Duration::from_millis(50));
        (0..40).for_each(|_| assert!(backoff.next() <= Duration::from_secs(2)));
        assert!(backoff.next() >= Duration::from_secs(1));
        backoff.reset();
        assert!(backoff.next() <= Duration::from_millis(50));
    }
}
