//! Settling: what an owner has to decide by itself, as pure functions over one reading.
//!
//! Facts are settled first, then strays reconciled in chain order, then whatever time or the counterpart demands; only
//! then is a command admitted. Each function returns the *next* decisions, the caller folds them in and asks again, so a
//! step never builds on anything but an effective history. Which row of the table fired is returned for the simulator,
//! which fails a run that leaves a row unexercised.

mod order;
mod payment;
mod stray;

pub use order::{expires_at_ms, next_order};
pub(crate) use payment::withdraw;
pub use payment::{Around, next_payment};

use crate::canon::codes;
use crate::event::CommandRef;
use crate::order::How;
use crate::version::Dot;

codes! {
    /// The rows of the settling table.
    pub enum Row {
        1 => CaptureAlreadyRefunded: "capture-already-refunded",
        2 => CaptureWhileClosingForCancel: "capture-while-closing-for-cancel",
        3 => CaptureApplied: "capture-applied",
        4 => CaptureAfterExpiry: "capture-after-expiry",
        5 => CaptureAfterEnd: "capture-after-cancel-or-other-capture",
        6 => CaptureOfSomethingElse: "capture-of-something-else",
        7 => RefundOfOwed: "refund-of-owed",
        8 => RefundOfApplied: "refund-of-applied",
        9 => RefundUnasked: "refund-unasked",
        10 => StrayRefundAsked: "stray-refund-asked",
        11 => StrayCommandKnown: "stray-command-known",
        12 => StrayPermitKnown: "stray-permit-known",
        13 => StrayPermitAdopted: "stray-permit-adopted",
        14 => StrayPermitWithdrawn: "stray-permit-withdrawn",
        15 => StrayClosingAdopted: "stray-closing-adopted",
        16 => StrayClosingVoid: "stray-closing-void",
        17 => StrayCancelUnpaid: "stray-cancel-unpaid",
        18 => StrayCancelPaid: "stray-cancel-paid",
        19 => StrayTimerVoid: "stray-timer-void",
        20 => PaymentCaptured: "payment-captured",
        21 => PaymentEndAmended: "payment-end-amended",
        22 => PaymentRefused: "payment-refused",
        23 => PaymentRetryable: "payment-retryable",
        24 => StrayAttemptAdopted: "stray-attempt-adopted",
        25 => StrayAcceptAdopted: "stray-accept-adopted",
        26 => StrayDeclineAdopted: "stray-decline-adopted",
        27 => StrayPaymentVoid: "stray-payment-void",
        28 => CaptureOfLostOrder: "capture-of-lost-order",
    }
}

/// What an owner decides next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Next<D> {
    pub decisions: Vec<D>,
    pub row: Option<Row>,
    /// The command of an adopted stray: its last decision answers it from now on.
    pub command: Option<CommandRef>,
}

impl<D> Next<D> {
    fn row(row: Row, decisions: Vec<D>) -> Option<Next<D>> {
        Some(Next { decisions, row: Some(row), command: None })
    }
    fn plain(decision: D) -> Option<Next<D>> {
        Some(Next { decisions: vec![decision], row: None, command: None })
    }
}

/// What an order's owner sees of a payment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaymentGlance {
    pub ended: Option<How>,
    /// The dot of the decision that ended it.
    pub ended_by: Option<Dot>,
    /// A capture of it is known.
    pub captured: bool,
    /// Its owner has taken it up: the request need not be sent any more.
    pub received: bool,
}

/// What a payment's owner sees of the order's permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PermitGlance {
    /// Nothing is known of the order, or not enough to tell.
    Unknown,
    Open,
    Closing(crate::order::Why),
    Closed(How),
    /// The order's effective history is known and does not hold it: a stray's permit, or one that was never decided.
    Absent,
}
