//! What the owner of a payment decides by itself.

use super::order::noted;
use super::{Next, PermitGlance, Row, stray};
use crate::entity::Reading;
use crate::event::{Capture, Fact, Failure, FailureKind};
use crate::museum::{Bug, planted};
use crate::order::{CaseOpened, How, RefundCase, Why};
use crate::payment::{
    AttemptEnd, AttemptEnded, AttemptStarted, ClosingAsked, EndAmended, Ended, Payment, PaymentDecision,
    PaymentPhase, PaymentState, Received, RefundOrphan, attempt_key,
};
use crate::rules::Rules;

/// What the owner of a payment knows around it.
#[derive(Clone, Copy, Debug)]
pub struct Around {
    pub permit: PermitGlance,
    /// Nobody has the order and the actor that opened the permit is closed: it will never come.
    pub order_lost: bool,
}

/// The next decisions the owner of this payment owes, if any. `None` also while the entity is blocked.
pub fn next_payment(
    reading: &Reading<'_, Payment>,
    around: Around,
    now_ms: u64,
    rules: &Rules,
) -> Option<Next<PaymentDecision>> {
    if reading.blocked.is_some() {
        return None;
    }
    let state = reading.state.as_ref()?;
    next_fact(reading, state, around)
        .or_else(|| stray::next_payment_stray(reading, state))
        .or_else(|| next_by_permit(reading, state, around.permit))
        .or_else(|| next_by_time(state, now_ms, rules))
}

fn next_fact(
    reading: &Reading<'_, Payment>,
    state: &PaymentState,
    around: Around,
) -> Option<Next<PaymentDecision>> {
    for (key, contents) in &reading.facts {
        let (fact, _) = contents.first()?;
        if state.settled.contains(key) {
            match fact {
                Fact::Capture(capture) if around.order_lost => {
                    let refund =
                        RefundCase::whole(&capture.intent, capture.permit.payment_id(), capture.amount_minor);
                    if !state.orphan_refunds.contains_key(&refund.case) {
                        let reason = "captured for an order that was lost with its region".to_owned();
                        let case = CaseOpened { subject: capture.intent.clone(), reason };
                        let decisions = vec![
                            PaymentDecision::RefundOrphan(RefundOrphan { refund }),
                            PaymentDecision::CaseOpened(case),
                        ];
                        return Next::row(Row::CaptureOfLostOrder, decisions);
                    }
                    continue;
                }
                // An attempt of a tail that was adopted after this was noted: the gateway says no more about it.
                Fact::Barred(_) if state.open_attempt().is_some() => {
                    return Some(end_all(state, AttemptEnd::Closed));
                }
                _ => continue,
            }
        }
        let mut next = match fact {
            Fact::Capture(capture) => settle_capture(state, capture),
            Fact::Failure(failure) => settle_failure(state, failure),
            Fact::Refund(_) => Next { decisions: Vec::new(), row: None, command: None },
            Fact::Barred(_) => end_all(state, AttemptEnd::Closed),
        };
        next.decisions.insert(0, PaymentDecision::FactNoted(noted(key)));
        return Some(next);
    }
    None
}

fn started(state: &PaymentState, k: u64, key: [u8; 16]) -> Option<PaymentDecision> {
    let expires_at_ms = state.permit.until_ms;
    let missing = !state.attempts.contains_key(&k);
    missing.then_some(PaymentDecision::AttemptStarted(AttemptStarted { k, key, expires_at_ms }))
}

fn ended(state: &PaymentState, k: u64, end: AttemptEnd, code: &str) -> Option<PaymentDecision> {
    let open = state.attempts.get(&k).is_none_or(|attempt| attempt.end.is_none());
    open.then(|| PaymentDecision::AttemptEnded(AttemptEnded { k, end, code: code.to_owned() }))
}

fn settle_capture(state: &PaymentState, capture: &Capture) -> Next<PaymentDecision> {
    let mut decisions: Vec<_> = started(state, capture.k, capture.key).into_iter().collect();
    decisions.extend(ended(state, capture.k, AttemptEnd::Captured, ""));
    let row = match state.ended() {
        None => {
            decisions.push(PaymentDecision::Ended(Ended { how: How::Captured, code: String::new() }));
            Row::PaymentCaptured
        }
        Some(How::Captured) => Row::PaymentCaptured,
        Some(_) => {
            decisions.push(PaymentDecision::EndAmended(EndAmended { intent: capture.intent.clone() }));
            Row::PaymentEndAmended
        }
    };
    Next { decisions, row: Some(row), command: None }
}

fn settle_failure(state: &PaymentState, failure: &Failure) -> Next<PaymentDecision> {
    let mut decisions: Vec<_> = started(state, failure.k, failure.key).into_iter().collect();
    let end = match failure.kind {
        FailureKind::Refused => AttemptEnd::Refused,
        FailureKind::Retryable => AttemptEnd::Retryable,
        FailureKind::Closed => AttemptEnd::Closed,
        FailureKind::Expired => AttemptEnd::Expired,
    };
    decisions.extend(ended(state, failure.k, end, &failure.code));
    let row = match failure.kind {
        FailureKind::Refused => {
            if state.ended().is_none() {
                let how = if state.closing.is_some() { How::Withdrawn } else { How::Failed };
                decisions.push(PaymentDecision::Ended(Ended { how, code: failure.code.clone() }));
            }
            Some(Row::PaymentRefused)
        }
        FailureKind::Retryable => Some(Row::PaymentRetryable),
        FailureKind::Closed | FailureKind::Expired => None,
    };
    Next { decisions, row, command: None }
}

/// The gateway takes nothing under this payment any more: every attempt without money is over, and so is the payment.
fn end_all(state: &PaymentState, end: AttemptEnd) -> Next<PaymentDecision> {
    let open = state.attempts.values().filter(|attempt| attempt.end.is_none());
    let mut decisions: Vec<_> = open
        .map(|attempt| PaymentDecision::AttemptEnded(AttemptEnded { k: attempt.k, end, code: String::new() }))
        .collect();
    if state.ended().is_none() {
        let how = if state.closing.is_some() { How::Withdrawn } else { How::Expired };
        decisions.push(PaymentDecision::Ended(Ended { how, code: String::new() }));
    }
    Next { decisions, row: None, command: None }
}

fn next_by_permit(
    reading: &Reading<'_, Payment>,
    state: &PaymentState,
    permit: PermitGlance,
) -> Option<Next<PaymentDecision>> {
    if state.ended().is_some() {
        return None;
    }
    let gone = match permit {
        PermitGlance::Closing(why) => Some(why),
        PermitGlance::Closed(How::Captured) | PermitGlance::Open | PermitGlance::Unknown => None,
        PermitGlance::Closed(_) | PermitGlance::Absent => Some(Why::Withdrawal),
    };
    if let Some(why) = gone {
        return withdraw(state, why);
    }
    // The data alone raises the request: the message is only the faster road.
    let fresh = state.phase == PaymentPhase::Known && permit == PermitGlance::Open;
    if fresh && reading.strays.iter().all(|stray| state.reconciled.contains(&stray.hash)) {
        return Next::plain(PaymentDecision::Received(Received {}));
    }
    None
}

/// Ends a payment that is not wanted any more, or has its attempt closed at the gateway first.
pub(crate) fn withdraw(state: &PaymentState, why: Why) -> Option<Next<PaymentDecision>> {
    if state.ended().is_some() {
        return None;
    }
    if state.open_attempt().is_none() {
        return Next::plain(PaymentDecision::Ended(Ended {
            how: How::Withdrawn,
            code: why.as_str().to_owned(),
        }));
    }
    let asked = state.closing.is_some();
    if asked { None } else { Next::plain(PaymentDecision::ClosingAsked(ClosingAsked { why })) }
}

fn next_by_time(state: &PaymentState, now_ms: u64, rules: &Rules) -> Option<Next<PaymentDecision>> {
    let early = planted(Bug::SecondAttemptEarly) && state.attempts.len() < 2 && state.closing.is_none();
    if state.ended().is_some() || (state.open_attempt().is_some() && !early) {
        return None;
    }
    let until = state.permit.until_ms;
    if state.closing.is_some() {
        return Next::plain(PaymentDecision::Ended(Ended { how: How::Withdrawn, code: String::new() }));
    }
    if now_ms >= until {
        return Next::plain(PaymentDecision::Ended(Ended { how: How::Expired, code: String::new() }));
    }
    if state.phase != PaymentPhase::Accepted || now_ms.saturating_add(rules.attempt_margin_ms) >= until {
        return None;
    }
    if state.accepts <= state.attempts.len() as u64 && !early {
        // The last one was refused and may be tried again: the payer says with which card.
        return None;
    }
    let k = state.attempts.keys().next_back().copied().unwrap_or(0) + 1;
    if k > rules.attempts_max {
        let last = "too-many-attempts".to_owned();
        return Next::plain(PaymentDecision::Ended(Ended { how: How::Failed, code: last }));
    }
    let payment = state.permit.payment_id();
    let key = attempt_key(&payment, k);
    Next::plain(PaymentDecision::AttemptStarted(AttemptStarted { k, key, expires_at_ms: until }))
}
