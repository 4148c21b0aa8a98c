//! What the owner of an order decides by itself.

use super::{Next, PaymentGlance, Row, stray};
use crate::entity::Reading;
use crate::event::{Barred, Capture, Fact, FactKey, Refund};
use crate::id::{Hash, PaymentId};
use crate::museum::{Bug, planted};
use crate::order::{
    Cancelled, CaptureSettled, CaptureVerdict, CaseOpened, Expired, FactNoted, How, Order, OrderDecision,
    OrderPhase, OrderState, PermitClosed, PermitClosing, RefundCase, RefundSettled, RefundVerdict, Why,
};
use crate::rules::Rules;

/// The next decisions the owner of this order owes, if any. `None` also while the entity is blocked.
pub fn next_order(
    reading: &Reading<'_, Order>,
    glance: &dyn Fn(&PaymentId) -> PaymentGlance,
    now_ms: u64,
    rules: &Rules,
) -> Option<Next<OrderDecision>> {
    if reading.blocked.is_some() {
        return None;
    }
    let state = reading.state.as_ref()?;
    next_fact(reading, state)
        .or_else(|| stray::next_order_stray(reading, state, glance, now_ms, rules))
        .or_else(|| next_ended_permit(state, glance))
        .or_else(|| next_barred(reading, state))
        .or_else(|| next_expiry(reading, state, now_ms))
}

/// The latest moment at which this order can be paid.
#[must_use]
pub fn expires_at_ms(reading: &Reading<'_, Order>) -> u64 {
    let window = reading.record.as_ref().map_or(0, |record| record.pay_window_ms);
    reading.created.wall_ms.saturating_add(window)
}

fn next_fact(reading: &Reading<'_, Order>, state: &OrderState) -> Option<Next<OrderDecision>> {
    for (key, contents) in &reading.facts {
        let (fact, _) = contents.first()?;
        let forged = contents.len() > 1;
        if state.settled.contains(key) {
            // Another content came behind what was settled: money may have moved otherwise than is known here.
            let said =
                state.cases.iter().any(|case| case.subject == key.outside && case.reason == TWO_CONTENTS);
            if forged && !said {
                return Some(Next { decisions: vec![case(key, TWO_CONTENTS)], row: None, command: None });
            }
            continue;
        }
        let next = match fact {
            Fact::Capture(_) if planted(Bug::FactNotSettled) && state.phase != OrderPhase::Payable => None,
            Fact::Capture(capture) => settle_capture(reading, state, capture),
            Fact::Refund(refund) => settle_refund(reading, state, refund),
            // Failures and closings concern the payment's owner; here they need no decision.
            Fact::Failure(_) | Fact::Barred(_) => None,
        };
        if let Some(mut next) = next {
            if forged {
                next.decisions.push(case(key, TWO_CONTENTS));
            }
            return Some(next);
        }
    }
    None
}

/// Why a case is opened where the gateway said two things of one capture or refund.
const TWO_CONTENTS: &str = "two contents under one outside id";

fn case(key: &FactKey, reason: &str) -> OrderDecision {
    OrderDecision::CaseOpened(CaseOpened { subject: key.outside.clone(), reason: reason.to_owned() })
}

fn settled(capture: &Capture, verdict: CaptureVerdict, refund: Option<RefundCase>) -> OrderDecision {
    OrderDecision::CaptureSettled(CaptureSettled {
        intent: capture.intent.clone(),
        payment: capture.permit.payment_id(),
        amount_minor: capture.amount_minor,
        verdict,
        refund,
    })
}

fn settle_capture(
    reading: &Reading<'_, Order>,
    state: &OrderState,
    capture: &Capture,
) -> Option<Next<OrderDecision>> {
    let payment = capture.permit.payment_id();
    let refunds = reading.known_facts().filter_map(|(_, fact)| match fact {
        Fact::Refund(refund) if refund.intent == capture.intent => Some(refund.amount_minor),
        _ => None,
    });
    if refunds.fold(0, u64::saturating_add) >= capture.amount_minor {
        let mut decisions = vec![settled(capture, CaptureVerdict::AlreadyRefunded, None)];
        decisions.extend(close_permit(state, &payment, How::Captured, true));
        return Next::row(Row::CaptureAlreadyRefunded, decisions);
    }
    let owed = || {
        let mut case = RefundCase::whole(&capture.intent, payment, capture.amount_minor);
        if planted(Bug::RefundKeyedByPosition) {
            case.case = Hash::of_parts(&[&case.case, &reading.next_place.to_be_bytes()]).short();
        }
        Some(case)
    };
    let total = state.content.total_minor().ok();
    let exact = capture.permit.content == state.content.hash()
        && Some(capture.amount_minor) == total
        && capture.amount_minor == capture.permit.amount_minor
        && capture.currency == state.content.currency;
    let permit = state.permits.get(&payment).filter(|permit| permit.closed.is_none());
    let refund = |row| {
        let mut decisions = vec![settled(capture, CaptureVerdict::RefundOwed, owed())];
        decisions.extend(close_permit(state, &payment, How::Captured, true));
        Next::row(row, decisions)
    };
    match state.phase {
        _ if !exact => refund(Row::CaptureOfSomethingElse),
        OrderPhase::Expired => refund(Row::CaptureAfterExpiry),
        OrderPhase::Cancelled | OrderPhase::Paid => refund(Row::CaptureAfterEnd),
        OrderPhase::Payable => {
            let mut decisions = vec![settled(capture, CaptureVerdict::Applied, None)];
            decisions.extend(close_permit(state, &payment, How::Captured, false));
            if permit.is_some_and(|permit| permit.closing == Some(Why::Cancel)) {
                decisions.push(OrderDecision::Cancelled(Cancelled { refund: owed() }));
                return Next::row(Row::CaptureWhileClosingForCancel, decisions);
            }
            let other = state.open_permit().filter(|(open, _)| **open != payment);
            decisions.extend(other.filter(|(_, permit)| permit.closing.is_none()).map(|(open, _)| {
                OrderDecision::PermitClosing(PermitClosing { payment: *open, why: Why::OtherPayer })
            }));
            Next::row(Row::CaptureApplied, decisions)
        }
    }
}

/// Closes the payment's permit if it is open; a cancel that the closing stood for follows.
fn close_permit(state: &OrderState, payment: &PaymentId, how: How, cancels: bool) -> Vec<OrderDecision> {
    let Some(permit) = state.permits.get(payment).filter(|permit| permit.closed.is_none()) else {
        return Vec::new();
    };
    let mut decisions = vec![OrderDecision::PermitClosed(PermitClosed { payment: *payment, how })];
    if cancels && permit.closing == Some(Why::Cancel) && state.phase == OrderPhase::Payable {
        decisions.push(OrderDecision::Cancelled(Cancelled { refund: None }));
    }
    decisions
}

/// A refund names its capture, and waits for it.
fn settle_refund(
    reading: &Reading<'_, Order>,
    state: &OrderState,
    refund: &Refund,
) -> Option<Next<OrderDecision>> {
    let capture = FactKey { kind: 1, outside: refund.intent.clone() };
    if !reading.facts.contains_key(&capture) || !state.settled.contains(&capture) {
        return None;
    }
    let settle = |verdict| {
        OrderDecision::RefundSettled(RefundSettled {
            refund: refund.refund.clone(),
            intent: refund.intent.clone(),
            case: refund.case,
            amount_minor: refund.amount_minor,
            verdict,
        })
    };
    let applied = state.applied.as_ref().is_some_and(|applied| applied.intent == refund.intent);
    let owed = state.refunds.contains_key(&refund.case);
    if owed || !applied || state.phase == OrderPhase::Cancelled {
        return Next::row(Row::RefundOfOwed, vec![settle(RefundVerdict::Settled)]);
    }
    let whole = state.applied.as_ref().is_some_and(|applied| applied.amount_minor == refund.amount_minor);
    if state.phase == OrderPhase::Paid && whole {
        let cancelled = OrderDecision::Cancelled(Cancelled { refund: None });
        return Next::row(Row::RefundOfApplied, vec![settle(RefundVerdict::Cancelled), cancelled]);
    }
    let key = FactKey { kind: 2, outside: refund.refund.clone() };
    let decisions =
        vec![settle(RefundVerdict::HumanCase), case(&key, "a part was refunded that nobody owed")];
    Next::row(Row::RefundUnasked, decisions)
}

/// A permit whose payment has ended is closed on sight; what its closing says follows, follows.
fn next_ended_permit(
    state: &OrderState,
    glance: &dyn Fn(&PaymentId) -> PaymentGlance,
) -> Option<Next<OrderDecision>> {
    let (payment, permit) = state.open_permit()?;
    let how = glance(payment).ended?;
    // `captured` only with or after settling that capture, which closes the permit itself.
    (how != How::Captured).then(|| closed_with_follow_up(state, payment, permit.closing, how))
}

fn closed_with_follow_up(
    state: &OrderState,
    payment: &PaymentId,
    closing: Option<Why>,
    how: How,
) -> Next<OrderDecision> {
    let mut decisions = vec![OrderDecision::PermitClosed(PermitClosed { payment: *payment, how })];
    if closing == Some(Why::Cancel) {
        decisions.extend(late_cancel(state));
    }
    Next { decisions, row: None, command: None }
}

/// A cancel that was asked for before, as of now: another payer's capture may have been applied since, and goes back.
pub(super) fn late_cancel(state: &OrderState) -> Option<OrderDecision> {
    let cancelled = |refund| Some(OrderDecision::Cancelled(Cancelled { refund }));
    match state.phase {
        OrderPhase::Payable => cancelled(None),
        OrderPhase::Paid => {
            let owed = state
                .applied
                .as_ref()
                .map(|applied| RefundCase::whole(&applied.intent, applied.payment, applied.amount_minor));
            match owed.filter(|owed| state.refunded_minor(&owed.intent) == 0) {
                Some(owed) => cancelled(Some(owed)),
                // Parts were refunded already: a person looks at what is left.
                None => Some(OrderDecision::CaseOpened(CaseOpened {
                    subject: "cancel".to_owned(),
                    reason: "a late cancel of an order that is refunded in part".to_owned(),
                })),
            }
        }
        OrderPhase::Cancelled | OrderPhase::Expired => None,
    }
}

/// The gateway said it takes no money under this payment any more and listed no capture: the permit can close.
fn next_barred(reading: &Reading<'_, Order>, state: &OrderState) -> Option<Next<OrderDecision>> {
    let (payment, permit) = state.open_permit()?;
    let barred = Fact::Barred(Barred { payment: *payment, order: reading.entity.id.order()? }).key();
    let how =
        if permit.closing.is_some_and(|why| why != Why::Expiry) { How::Withdrawn } else { How::Expired };
    reading.facts.contains_key(&barred).then(|| closed_with_follow_up(state, payment, permit.closing, how))
}

fn next_expiry(reading: &Reading<'_, Order>, state: &OrderState, now_ms: u64) -> Option<Next<OrderDecision>> {
    let idle = state.phase == OrderPhase::Payable && state.open_permit().is_none();
    if idle && now_ms >= expires_at_ms(reading) {
        return Next::plain(OrderDecision::Expired(Expired {}));
    }
    None
}

/// A fact that needs no decision of this kind of entity is noted by its name.
#[must_use]
pub(super) fn noted(key: &FactKey) -> FactNoted {
    FactNoted { kind: u64::from(key.kind), outside: key.outside.clone() }
}
