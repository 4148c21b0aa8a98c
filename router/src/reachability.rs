//! What the last connection attempts said about each region. Passive: no probes of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::decide::{Health, Upstream, Upstreams};

/// How long a region that took no connection is passed over by requests that can go elsewhere.
const AVOID: Duration = Duration::from_secs(2);

/// Per upstream, until when it is avoided. Shared by all requests.
#[derive(Debug)]
pub(crate) struct Reachability {
    started: Instant,
    /// Milliseconds since `started`; 0 is "not avoided".
    avoided_until_ms: Vec<AtomicU64>,
}

impl Reachability {
    pub(crate) fn new(upstreams: &Upstreams) -> Self {
        Self {
            started: Instant::now(),
            avoided_until_ms: upstreams.iter().map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(crate) fn answered(&self, upstream: &Upstream) {
        let until = &self.avoided_until_ms[upstream.index()];
        // Almost always 0 already: read before write keeps the cache line shared.
        if until.load(Ordering::Relaxed) != 0 {
            until.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn refused(&self, upstream: &Upstream) {
        let until_ms = self.now_ms().saturating_add(millis(AVOID));
        self.avoided_until_ms[upstream.index()].store(until_ms, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self, upstreams: &Upstreams) -> Health {
        let now_ms = self.now_ms();
        let avoided =
            |upstream: &&Upstream| self.avoided_until_ms[upstream.index()].load(Ordering::Relaxed) > now_ms;
        upstreams.iter().filter(avoided).fold(Health::default(), Health::without)
    }

    fn now_ms(&self) -> u64 {
        millis(self.started.elapsed())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cell_core::id::RegionId;

    #[test]
    fn a_region_that_took_no_connection_is_avoided_until_it_answers() {
        let north = RegionId::new("north").unwrap();
        let upstreams = Upstreams::new(north, [(north, "n:1".parse().unwrap())]).unwrap();
        let upstream = upstreams.of(north).unwrap();
        let reachability = Reachability::new(&upstreams);
        assert!(reachability.snapshot(&upstreams).is_reachable(upstream));
        reachability.refused(upstream);
        assert!(!reachability.snapshot(&upstreams).is_reachable(upstream));
        reachability.answered(upstream);
        assert!(reachability.snapshot(&upstreams).is_reachable(upstream));
    }
}
