//! Hybrid logical clock: for showing times and sorting lists. Nothing is decided by it except deadlines.
//!
//! Source: Kulkarni, Demirbas et al., "Logical Physical Clocks" (2014). Unlike the paper, a remote stamp that runs ahead
//! by more than a bound is reported and does not drag the local clock.

use crate::canon::message;

/// A remote stamp ahead of us by more than this many milliseconds does not move our clock.
pub const SKEW_MS_MAX: u64 = 500;

message! {
    /// A point of hybrid time: wall milliseconds since the Unix epoch, and a counter within them.
    #[derive(Copy, PartialOrd, Ord, Hash, Default)]
    pub struct Hlc { 1 => wall_ms: u64, 2 => counter: u64 }
}

/// What observing a remote stamp did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Observed {
    Joined,
    /// The stamp is ahead by this much and was not followed: somebody's clock is off, alarm.
    Ahead {
        by_ms: u64,
    },
}

/// The clock of one actor. The wall time is handed in.
#[derive(Clone, Debug, Default)]
pub struct HlcClock {
    last: Hlc,
}

impl HlcClock {
    /// A stamp later than every stamp made or followed before.
    pub fn tick(&mut self, now_ms: u64) -> Hlc {
        self.last = if now_ms > self.last.wall_ms {
            Hlc { wall_ms: now_ms, counter: 0 }
        } else {
            Hlc { wall_ms: self.last.wall_ms, counter: self.last.counter + 1 }
        };
        self.last
    }

    /// Follows a remote stamp so that later local stamps sort behind it, within [`SKEW_MS_MAX`].
    pub fn observe(&mut self, remote: Hlc, now_ms: u64) -> Observed {
        let by_ms = remote.wall_ms.saturating_sub(now_ms);
        if by_ms > SKEW_MS_MAX {
            return Observed::Ahead { by_ms };
        }
        self.last = self.last.max(remote);
        Observed::Joined
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_rise_even_when_the_wall_clock_falls() {
        let mut clock = HlcClock::default();
        let first = clock.tick(1_000);
        let second = clock.tick(990);
        assert!(second > first);
        assert_eq!(clock.tick(1_001), Hlc { wall_ms: 1_001, counter: 0 });
    }

    #[test]
    fn a_remote_clock_far_ahead_is_reported_and_not_followed() {
        let mut clock = HlcClock::default();
        let ahead = Hlc { wall_ms: 1_000 + SKEW_MS_MAX + 1, counter: 0 };
        assert_eq!(clock.observe(ahead, 1_000), Observed::Ahead { by_ms: SKEW_MS_MAX + 1 });
        assert!(clock.tick(1_000) < ahead);
        assert_eq!(clock.observe(Hlc { wall_ms: 1_400, counter: 3 }, 1_000), Observed::Joined);
        assert_eq!(clock.tick(1_000), Hlc { wall_ms: 1_400, counter: 4 });
    }
}
