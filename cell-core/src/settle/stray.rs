//! Reconciling strays: decisions of a home that was replaced before they arrived.
//!
//! One `Reconciled` per stray tail, its effects as ordinary decisions behind it in the same change. Only the first
//! unreconciled stray of the lowest epoch is ruled on at a time when it has an effect, so that each ruling is made
//! against the history as the rulings before it left it.

use super::order::late_cancel;
use super::{Next, PaymentGlance, Row};
use crate::entity::{Link, Reading};
use crate::event::Fact;
use crate::id::PaymentId;
use crate::order::{
    Cancelled, Order, OrderDecision, OrderPhase, OrderState, PermitClosing, PermitOpened, Reconciled,
    RefundCase, Ruling, Verdict, Why,
};
use crate::payment::{Accepted, AttemptStarted, Ended, Payment, PaymentDecision, PaymentPhase, PaymentState};
use crate::rules::Rules;

struct Ruled<D> {
    ruling: Ruling,
    row: Row,
    asks: Option<RefundCase>,
    follow: Vec<D>,
}

impl<D> Ruled<D> {
    fn void(row: Row) -> Self {
        Ruled { ruling: Ruling::Void, row, asks: None, follow: Vec::new() }
    }
}

fn reconciled<D>(link: &Link<'_, D>, ruled: &Ruled<D>) -> Reconciled {
    let verdict = Verdict {
        place: link.decided.place,
        hash: link.hash,
        ruling: ruled.ruling,
        asks: ruled.asks.clone(),
        user: link.command().map(|command| command.user.clone()),
        command: link.command().map(|command| command.id),
    };
    let place = link.decided.place;
    Reconciled { epoch: link.decided.epoch, from: place, to: place, verdicts: vec![verdict] }
}

/// The next stray of an order to be ruled on.
pub(super) fn next_order_stray(
    reading: &Reading<'_, Order>,
    state: &OrderState,
    glance: &dyn Fn(&PaymentId) -> PaymentGlance,
    now_ms: u64,
    rules: &Rules,
) -> Option<Next<OrderDecision>> {
    let link = reading.strays.iter().find(|link| !state.reconciled.contains(&link.hash))?;
    let mut ruled = rule_order(reading, state, link, glance, now_ms, rules);
    let mut decisions = vec![OrderDecision::Reconciled(reconciled(link, &ruled))];
    decisions.append(&mut ruled.follow);
    let adopted = ruled.ruling == Ruling::Adopted && decisions.len() > 1;
    let command = link.command().filter(|_| adopted).cloned();
    Some(Next { decisions, row: Some(ruled.row), command })
}

fn rule_order(
    reading: &Reading<'_, Order>,
    state: &OrderState,
    link: &Link<'_, OrderDecision>,
    glance: &dyn Fn(&PaymentId) -> PaymentGlance,
    now_ms: u64,
    rules: &Rules,
) -> Ruled<OrderDecision> {
    if let Some(refund) = link.body.refund() {
        if state.refunds.contains_key(&refund.case) {
            return Ruled {
                ruling: Ruling::Same,
                row: Row::StrayCommandKnown,
                asks: None,
                follow: Vec::new(),
            };
        }
        if let OrderDecision::Cancelled(_) = link.body {
            return rule_cancel(state, Some(refund));
        }
        return Ruled {
            ruling: Ruling::Asked,
            row: Row::StrayRefundAsked,
            asks: Some(refund.clone()),
            follow: Vec::new(),
        };
    }
    let known =
        link.command().is_some_and(|command| state.commands.contains_key(&command.id)) || voided(state, link);
    match link.body {
        OrderDecision::PermitOpened(opened) => {
            rule_permit(reading, state, opened, known, glance, now_ms, rules)
        }
        _ if known => {
            Ruled { ruling: Ruling::Same, row: Row::StrayCommandKnown, asks: None, follow: Vec::new() }
        }
        OrderDecision::PermitClosing(closing) => {
            let open = state.open_permit().filter(|(payment, _)| **payment == closing.payment);
            match (closing.why, open) {
                (Why::Cancel, _) => rule_cancel(state, None),
                (_, Some((_, permit))) if permit.closing.is_none() => Ruled {
                    ruling: Ruling::Adopted,
                    row: Row::StrayClosingAdopted,
                    asks: None,
                    follow: vec![OrderDecision::PermitClosing(closing.clone())],
                },
                _ => Ruled::void(Row::StrayClosingVoid),
            }
        }
        OrderDecision::Cancelled(_) => rule_cancel(state, None),
        _ => Ruled::void(Row::StrayTimerVoid),
    }
}

fn voided(state: &OrderState, link: &Link<'_, OrderDecision>) -> bool {
    link.command().is_some_and(|command| state.superseded.contains(&command.id))
}

fn rule_permit(
    reading: &Reading<'_, Order>,
    state: &OrderState,
    opened: &PermitOpened,
    known: bool,
    glance: &dyn Fn(&PaymentId) -> PaymentGlance,
    now_ms: u64,
    rules: &Rules,
) -> Ruled<OrderDecision> {
    let payment = opened.permit.payment_id();
    let seen = glance(&payment);
    let captured = reading.known_facts().any(|(_, fact)| match fact {
        Fact::Capture(capture) => capture.permit.payment_id() == payment,
        _ => false,
    });
    if state.permits.contains_key(&payment) || seen.ended.is_some() || seen.captured || captured {
        return Ruled::void(Row::StrayPermitKnown);
    }
    let permit = &opened.permit;
    let fits = !known
        && state.phase == OrderPhase::Payable
        && state.open_permit().is_none()
        && permit.until_ms > now_ms.saturating_add(rules.attempt_margin_ms)
        && permit.content == state.content.hash()
        && Some(permit.amount_minor) == state.content.total_minor().ok();
    if fits {
        return Ruled {
            ruling: Ruling::Adopted,
            row: Row::StrayPermitAdopted,
            asks: None,
            follow: vec![OrderDecision::PermitOpened(opened.clone())],
        };
    }
    // Owed from now on: a withdrawal, because the permit is not open and its payment has not ended.
    Ruled {
        ruling: Ruling::Withdrawn,
        row: if known { Row::StrayCommandKnown } else { Row::StrayPermitWithdrawn },
        asks: None,
        follow: Vec::new(),
    }
}

fn rule_cancel(state: &OrderState, refund: Option<&RefundCase>) -> Ruled<OrderDecision> {
    let adopted = |row, follow| Ruled { ruling: Ruling::Adopted, row, asks: None, follow };
    match state.phase {
        OrderPhase::Payable => match state.open_permit() {
            Some((_, permit)) if permit.closing == Some(Why::Cancel) => {
                adopted(Row::StrayCancelUnpaid, Vec::new())
            }
            Some((payment, _)) => adopted(
                Row::StrayCancelUnpaid,
                vec![OrderDecision::PermitClosing(PermitClosing { payment: *payment, why: Why::Cancel })],
            ),
            None => {
                adopted(Row::StrayCancelUnpaid, vec![OrderDecision::Cancelled(Cancelled { refund: None })])
            }
        },
        OrderPhase::Paid => match late_cancel(state) {
            Some(case @ OrderDecision::CaseOpened(_)) => {
                Ruled { ruling: Ruling::HumanCase, ..adopted(Row::StrayCancelPaid, vec![case]) }
            }
            decision => adopted(Row::StrayCancelPaid, decision.into_iter().collect()),
        },
        OrderPhase::Cancelled | OrderPhase::Expired => {
            let mut ruled = Ruled::void(Row::StrayTimerVoid);
            // The stray may have asked the gateway for its refund already.
            ruled.asks = refund.cloned();
            if ruled.asks.is_some() {
                ruled.ruling = Ruling::Asked;
                ruled.row = Row::StrayRefundAsked;
            }
            ruled
        }
    }
}

/// The next stray of a payment to be ruled on.
pub(super) fn next_payment_stray(
    reading: &Reading<'_, Payment>,
    state: &PaymentState,
) -> Option<Next<PaymentDecision>> {
    let link = reading.strays.iter().find(|link| !state.reconciled.contains(&link.hash))?;
    let mut ruled = rule_payment(state, link);
    let mut decisions = vec![PaymentDecision::Reconciled(reconciled(link, &ruled))];
    decisions.append(&mut ruled.follow);
    let adopted = ruled.ruling == Ruling::Adopted && decisions.len() > 1;
    let command = link.command().filter(|_| adopted).cloned();
    Some(Next { decisions, row: Some(ruled.row), command })
}

fn rule_payment(state: &PaymentState, link: &Link<'_, PaymentDecision>) -> Ruled<PaymentDecision> {
    let adopted = |row, follow| Ruled { ruling: Ruling::Adopted, row, asks: None, follow: vec![follow] };
    let known = link.command().is_some_and(|command| state.commands.contains_key(&command.id));
    match link.body {
        PaymentDecision::AttemptStarted(started) if !state.attempts.contains_key(&started.k) => {
            let started = AttemptStarted { ..started.clone() };
            adopted(Row::StrayAttemptAdopted, PaymentDecision::AttemptStarted(started))
        }
        PaymentDecision::Accepted(accepted) if !known && state.phase <= PaymentPhase::Received => {
            let accepted = Accepted { card: accepted.card.clone() };
            adopted(Row::StrayAcceptAdopted, PaymentDecision::Accepted(accepted))
        }
        PaymentDecision::Ended(ended)
            if ended.how == crate::order::How::Declined
                && !known
                && state.phase <= PaymentPhase::Received
                && state.attempts.is_empty() =>
        {
            let ended = Ended { ..ended.clone() };
            adopted(Row::StrayDeclineAdopted, PaymentDecision::Ended(ended))
        }
        _ => Ruled::void(Row::StrayPaymentVoid),
    }
}
