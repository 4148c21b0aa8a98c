//! The published graph: which command each status admits, as data.

use crate::canon::codes;
use crate::event::Op;
use crate::order::{OrderPhase, OrderState};
use crate::payment::{PaymentPhase, PaymentState};

codes! {
    /// Where an order stands for the graph.
    pub enum OrderStatus {
        1 => Payable: "payable",
        2 => PermitOpen: "permit-open",
        3 => PermitClosing: "permit-closing",
        4 => CancelPending: "cancel-pending",
        5 => Paid: "paid",
        6 => Cancelled: "cancelled",
        7 => Expired: "expired",
    }
}

codes! {
    /// Where a payment stands for the graph.
    pub enum PaymentStatus {
        1 => Known: "requested",
        2 => Received: "received",
        3 => Accepted: "accepted",
        4 => Closing: "closing",
        5 => Ended: "ended",
        6 => TryAgain: "try-again",
    }
}

codes! {
    /// What the graph says of a command.
    pub enum Verdict {
        1 => Allowed: "allowed",
        2 => PermitIsOpen: "permit-open",
        3 => NothingOpen: "no-permit-open",
        4 => AlreadyPaid: "already-paid",
        5 => AlreadyCancelled: "already-cancelled",
        6 => AlreadyExpired: "already-expired",
        7 => CancelIsPending: "cancel-pending",
        8 => NotPaid: "not-paid",
        9 => NotReceived: "not-received",
        10 => AlreadyAccepted: "already-accepted",
        11 => AlreadyEnded: "already-ended",
        12 => IsClosing: "closing",
        13 => WrongKind: "wrong-kind",
    }
}

/// The status of an order, for the graph.
#[must_use]
pub fn order_status(state: &OrderState) -> OrderStatus {
    use crate::order::Why;
    match state.phase {
        OrderPhase::Paid => OrderStatus::Paid,
        OrderPhase::Cancelled => OrderStatus::Cancelled,
        OrderPhase::Expired => OrderStatus::Expired,
        OrderPhase::Payable => match state.open_permit().map(|(_, permit)| permit.closing) {
            None => OrderStatus::Payable,
            Some(None) => OrderStatus::PermitOpen,
            Some(Some(Why::Cancel)) => OrderStatus::CancelPending,
            Some(Some(_)) => OrderStatus::PermitClosing,
        },
    }
}

/// The status of a payment, for the graph.
#[must_use]
pub fn payment_status(state: &PaymentState) -> PaymentStatus {
    match state.phase {
        PaymentPhase::Known => PaymentStatus::Known,
        PaymentPhase::Received => PaymentStatus::Received,
        PaymentPhase::Accepted if state.closing.is_some() => PaymentStatus::Closing,
        PaymentPhase::Accepted
            if state.accepts <= state.attempts.len() as u64 && state.open_attempt().is_none() =>
        {
            PaymentStatus::TryAgain
        }
        PaymentPhase::Accepted => PaymentStatus::Accepted,
        PaymentPhase::Ended(_) => PaymentStatus::Ended,
    }
}

/// The graph of orders.
#[must_use]
pub fn order_admits(status: OrderStatus, op: Op) -> Verdict {
    use {OrderStatus as S, Verdict as V};
    match (op, status) {
        (Op::Place, _) => V::Allowed,
        (Op::Amend | Op::Pay | Op::Ask, S::Payable) => V::Allowed,
        (Op::Amend | Op::Pay | Op::Ask, S::PermitOpen | S::PermitClosing) => V::PermitIsOpen,
        (Op::Amend | Op::Pay | Op::Ask | Op::Cancel | Op::Withdraw, S::CancelPending) => V::CancelIsPending,
        (Op::Amend | Op::Pay | Op::Ask, S::Paid) => V::AlreadyPaid,
        (Op::Cancel, S::Payable | S::PermitOpen | S::PermitClosing | S::Paid) => V::Allowed,
        (Op::Withdraw, S::PermitOpen) => V::Allowed,
        (Op::Withdraw, S::PermitClosing) => V::IsClosing,
        (Op::Withdraw, S::Payable) => V::NothingOpen,
        (Op::Withdraw, S::Paid) => V::AlreadyPaid,
        (Op::Refund, S::Paid) => V::Allowed,
        (Op::Refund, S::Payable | S::PermitOpen | S::PermitClosing | S::CancelPending) => V::NotPaid,
        (Op::Amend | Op::Pay | Op::Ask | Op::Cancel | Op::Withdraw | Op::Refund, S::Cancelled) => {
            V::AlreadyCancelled
        }
        (Op::Amend | Op::Pay | Op::Ask | Op::Cancel | Op::Withdraw | Op::Refund, S::Expired) => {
            V::AlreadyExpired
        }
        (Op::Accept | Op::Decline | Op::Discard, _) => V::WrongKind,
    }
}

/// The graph of payments.
#[must_use]
pub fn payment_admits(status: PaymentStatus, op: Op) -> Verdict {
    use {PaymentStatus as S, Verdict as V};
    match (op, status) {
        (Op::Accept | Op::Decline, S::Known) => V::NotReceived,
        (Op::Accept | Op::Decline, S::Received | S::TryAgain) => V::Allowed,
        (Op::Accept | Op::Decline, S::Accepted) => V::AlreadyAccepted,
        (Op::Accept | Op::Decline, S::Closing) => V::IsClosing,
        (Op::Accept | Op::Decline, S::Ended) => V::AlreadyEnded,
        (Op::Discard, S::Known | S::Received) => V::Allowed,
        (Op::Discard, S::Accepted | S::TryAgain) => V::AlreadyAccepted,
        (Op::Discard, S::Closing) => V::IsClosing,
        (Op::Discard, S::Ended) => V::AlreadyEnded,
        (Op::Place | Op::Amend | Op::Pay | Op::Ask | Op::Withdraw | Op::Cancel | Op::Refund, _) => {
            V::WrongKind
        }
    }
}
