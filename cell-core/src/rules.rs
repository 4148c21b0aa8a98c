//! The times and bounds that rules are made of; handed in, so that a simulation can shrink them.

/// How long an order can be paid if its client does not say. In no configuration: it is part of what an order's id is made
/// of, and the same request makes the same order in every region.
pub const PAY_WINDOW_MS: u64 = 30 * 60_000;

/// Every deadline states its margin for clock skew here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// How long a permit stays open if its client does not say.
    pub permit_window_ms: u64,
    /// No attempt starts, and no stray permit is adopted, later than this before `until`.
    pub attempt_margin_ms: u64,
    /// Past `until` by this much, an attempt key unknown at the gateway was never started, and the order's owner may
    /// close at the gateway by itself.
    pub close_margin_ms: u64,
    /// A request waits in the other region's gate at most this long (and never past `until` less the attempt margin).
    pub message_deadline_ms: u64,
    /// Attempts per payment.
    pub attempts_max: u64,
    /// A refund key unknown at the gateway for this long past its decision was never started.
    pub refund_expiry_ms: u64,
}

impl Default for Rules {
    fn default() -> Self {
        Rules {
            permit_window_ms: 15 * 60_000,
            attempt_margin_ms: 5_000,
            close_margin_ms: 60_000,
            message_deadline_ms: 10 * 60_000,
            attempts_max: 3,
            refund_expiry_ms: 24 * 3_600_000,
        }
    }
}
