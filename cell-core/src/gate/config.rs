//! How long the gate is patient, and how much it holds.

/// Times in milliseconds, counts in messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Parked this long → fetch what is missing.
    pub fetch_after_ms: u64,
    /// Longest pause between two fetches; the first pause is `fetch_after_ms`, each next one twice as long.
    pub fetch_pause_max_ms: u64,
    /// Parked this long → warn.
    pub warn_after_ms: u64,
    /// First pause before the node is tried again; each next one twice as long.
    pub retry_after_ms: u64,
    pub retry_pause_max_ms: u64,
    /// Failures of the handler that make a message a dead letter.
    pub attempts_max: u8,
    /// Something handed to the node without an answer for this long counts as unreachable.
    pub answer_within_ms: u64,
    /// Handed to the node at the same time.
    pub in_flight_max: usize,
    /// Parked and dead-lettered together. Beyond it only messages that need not wait are accepted.
    pub waiting_max: usize,
    /// Everything held. Beyond it nothing is accepted.
    pub items_max: usize,
    /// Held whole in memory, while `waiting_max` is reached, to learn whether they would have to wait.
    pub probing_max: usize,
    /// Timers fired, or checks asked, in one step.
    pub batch_max: usize,
    /// Ended messages remembered so that a copy arriving right behind is not delivered once more.
    pub ended_max: usize,
    /// How long they are remembered. Short: a sender that still sees the need after this long is right.
    pub ended_for_ms: u64,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            fetch_after_ms: 2_000,
            fetch_pause_max_ms: 60_000,
            warn_after_ms: 10_000,
            retry_after_ms: 100,
            retry_pause_max_ms: 30_000,
            attempts_max: 8,
            answer_within_ms: 30_000,
            in_flight_max: 256,
            waiting_max: 100_000,
            items_max: 120_000,
            probing_max: 256,
            batch_max: 1_024,
            ended_max: 10_000,
            ended_for_ms: 30_000,
        }
    }
}

/// `base`, doubled `times`, at most `max`, and of that the upper half drawn by `seed`: many that failed together do
/// not come back together.
pub(super) fn pause_ms(base: u64, max: u64, times: u8, seed: u64) -> u64 {
    let factor = 1u64.checked_shl(u32::from(times)).unwrap_or(u64::MAX);
    let full = base.saturating_mul(factor).min(max).max(1);
    let half = full / 2;
    full - half + seed % (half + 1)
}

/// A number per (gate, message, count) that looks random: splitmix64 over the three.
pub(super) fn mix(seed: u64, id: &[u8; 16], count: u64) -> u64 {
    let high = u64::from_le_bytes(std::array::from_fn(|i| id[i]));
    let low = u64::from_le_bytes(std::array::from_fn(|i| id[i + 8]));
    let mut x = seed ^ high ^ low.rotate_left(32) ^ count.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
