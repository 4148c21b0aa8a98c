//! D9: every effective history is a path of the published graph, checked decision by decision.

use cell_core::entity::{Kind, Link, Reading};
use cell_core::event::Op;
use cell_core::graph::{PaymentStatus, Verdict, order_admits, order_status, payment_admits, payment_status};
use cell_core::order::{CaptureVerdict, Case, How, Order, OrderDecision, OrderPhase, OrderState};
use cell_core::payment::{Payment, PaymentDecision, PaymentPhase, PaymentState};

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "D9 state-machine", during: None, at_rest: Some(check) };

fn check(world: &World) -> Result<(), String> {
    world.each_order(0, |id, reading| walk_order(reading).map_err(|error| format!("{id}: {error}")))?;
    world.each_payment(0, |id, reading| walk_payment(reading).map_err(|error| format!("{id}: {error}")))
}

fn walk_order(reading: &Reading<'_, Order>) -> Result<(), String> {
    let Some(record) = &reading.record else { return Ok(()) };
    let mut state = Order::start(record);
    let mut before: Option<&Link<'_, OrderDecision>> = None;
    for link in &reading.history {
        let after_stray = matches!(before.map(|link| link.body), Some(OrderDecision::Reconciled(_)));
        ensure(order_step(&state, link.body), || {
            let status = order_status(&state);
            format!("{:?} is no step from {status} in epoch {}", link.body, link.decided.epoch)
        })?;
        if let Some(command) = link.command().filter(|_| !after_stray) {
            let admitted = order_admits(order_status(&state), command.op) == Verdict::Allowed;
            ensure(admitted, || format!("{} was admitted while {}", command.op, order_status(&state)))?;
        }
        Order::fold(&mut state, link);
        before = Some(link);
    }
    Ok(())
}

fn order_step(state: &OrderState, decision: &OrderDecision) -> bool {
    let payable = state.phase == OrderPhase::Payable;
    let open = |payment| state.permits.get(payment).is_some_and(|permit| permit.closed.is_none());
    let idle = payable && state.open_permit().is_none();
    match decision {
        OrderDecision::PermitOpened(opened) => {
            idle && opened.permit.content == state.content.hash()
                && Ok(opened.permit.amount_minor) == state.content.total_minor()
                && !state.permits.contains_key(&opened.permit.payment_id())
        }
        OrderDecision::PermitClosing(closing) => open(&closing.payment),
        OrderDecision::PermitClosed(closed) => open(&closed.payment),
        OrderDecision::CaptureSettled(settled) => {
            let fresh = !state.settled.iter().any(|key| key.kind == 1 && key.outside == settled.intent);
            fresh && (payable || settled.verdict != CaptureVerdict::Applied)
        }
        OrderDecision::RefundSettled(settled) => {
            !state.settled.iter().any(|key| key.kind == 2 && key.outside == settled.refund)
        }
        OrderDecision::Cancelled(_) => idle || state.phase == OrderPhase::Paid,
        OrderDecision::Expired(_) | OrderDecision::Amended(_) => idle,
        OrderDecision::RefundGranted(_) => state.phase == OrderPhase::Paid,
        OrderDecision::Reconciled(reconciled) => {
            reconciled.verdicts.iter().all(|verdict| !state.reconciled.contains(&verdict.hash))
        }
        OrderDecision::Stalled(_) | OrderDecision::CaseOpened(_) | OrderDecision::FactNoted(_) => true,
        OrderDecision::CaseResolved(resolved) => is_open(&state.cases, &resolved.subject),
    }
}

fn is_open(cases: &[Case], subject: &str) -> bool {
    cases.iter().any(|case| case.subject == subject && case.resolved.is_none())
}

fn walk_payment(reading: &Reading<'_, Payment>) -> Result<(), String> {
    let Some(record) = &reading.record else { return Ok(()) };
    let mut state = Payment::start(record);
    let mut before: Option<&PaymentDecision> = None;
    for link in &reading.history {
        let forced = matches!(before, Some(PaymentDecision::Reconciled(_) | PaymentDecision::FactNoted(_)));
        ensure(payment_step(&state, link.body, forced), || {
            format!("{:?} is no step from {} in epoch {}", link.body, state.label(), link.decided.epoch)
        })?;
        if let Some(command) = link.command().filter(|command| command.op != Op::Pay && !forced) {
            let admitted = payment_admits(payment_status(&state), command.op) == Verdict::Allowed;
            ensure(admitted, || format!("{} was admitted while {}", command.op, state.label()))?;
        }
        Payment::fold(&mut state, link);
        before = Some(link.body);
    }
    Ok(())
}

fn payment_step(state: &PaymentState, decision: &PaymentDecision, forced: bool) -> bool {
    let going = state.ended().is_none();
    match decision {
        PaymentDecision::Received(_) => state.phase == PaymentPhase::Known,
        PaymentDecision::Accepted(_) => {
            state.phase <= PaymentPhase::Received || payment_status(state) == PaymentStatus::TryAgain
        }
        PaymentDecision::AttemptStarted(started) => {
            !state.attempts.contains_key(&started.k) && (forced || (going && state.open_attempt().is_none()))
        }
        PaymentDecision::AttemptEnded(ended) => {
            state.attempts.get(&ended.k).is_some_and(|attempt| attempt.end.is_none())
        }
        PaymentDecision::Ended(ended) => {
            going
                && (ended.how == How::Captured || state.open_attempt().is_none() || ended.how == How::Failed)
        }
        PaymentDecision::EndAmended(_) => state.ended().is_some_and(|how| how != How::Captured),
        PaymentDecision::FactNoted(noted) => {
            let known = |key: &cell_core::event::FactKey| {
                u64::from(key.kind) == noted.kind && key.outside == noted.outside
            };
            !state.settled.iter().any(known)
        }
        PaymentDecision::Reconciled(reconciled) => {
            reconciled.verdicts.iter().all(|verdict| !state.reconciled.contains(&verdict.hash))
        }
        PaymentDecision::ClosingAsked(_) => going,
        PaymentDecision::RefundOrphan(_) | PaymentDecision::CaseOpened(_) => true,
        PaymentDecision::CaseResolved(resolved) => is_open(&state.cases, &resolved.subject),
    }
}
