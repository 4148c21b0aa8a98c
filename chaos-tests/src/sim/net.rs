//! The network: delay, loss, duplication, reordering, and links that are cut, one way or both.

use std::collections::BTreeMap;

use super::rng::Rng;

/// Changes and messages travel apart, so that either can be ahead of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    Data,
    Message,
}

#[derive(Debug)]
pub(crate) struct Net {
    pub(crate) delay_ms: (u64, u64),
    pub(crate) loss_per_mille: u64,
    pub(crate) duplicate_per_mille: u64,
    pub(crate) corrupt_per_mille: u64,
    /// (from, to, channel) → cut until.
    cuts: BTreeMap<(usize, usize, Channel), u64>,
}

impl Net {
    pub(crate) fn calm() -> Net {
        Net {
            delay_ms: (10, 10),
            loss_per_mille: 0,
            duplicate_per_mille: 0,
            corrupt_per_mille: 0,
            cuts: BTreeMap::new(),
        }
    }
    pub(crate) fn rough() -> Net {
        Net {
            delay_ms: (5, 120),
            loss_per_mille: 30,
            duplicate_per_mille: 30,
            corrupt_per_mille: 3,
            ..Net::calm()
        }
    }
    pub(crate) fn cut(&mut self, from: usize, to: usize, channel: Channel, until_ms: u64) {
        let until = self.cuts.entry((from, to, channel)).or_default();
        *until = until_ms.max(*until);
    }
    pub(crate) fn is_cut(&self, from: usize, to: usize, channel: Channel, now_ms: u64) -> bool {
        self.cuts.get(&(from, to, channel)).is_some_and(|until| now_ms < *until)
    }
    pub(crate) fn join(&mut self, from: usize, to: usize, channel: Channel) {
        self.cuts.remove(&(from, to, channel));
    }
    pub(crate) fn heal(&mut self) {
        *self = Net { delay_ms: self.delay_ms, ..Net::calm() };
    }
    pub(crate) fn delay(&self, rng: &mut Rng) -> u64 {
        rng.between(self.delay_ms.0, self.delay_ms.1)
    }
}
