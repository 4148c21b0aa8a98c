//! Human cases: what a person decides about them, carried out by the owner like any command.

use super::command::{Refusal, blocked};
use super::draft::Draft;
use super::{Cell, Problem, Step, Unavailable, View};
use crate::entity::{DECISIONS_MAX, Reading};
use crate::event::{Audit, Body, Event};
use crate::id::{EntityId, Hash, OrderId, PaymentId};
use crate::order::{
    Cancelled, Case, CaseResolved, Order, OrderDecision, OrderPhase, OrderState, PermitClosing, RefundCase,
    RefundGranted, Remedy, Why,
};
use crate::payment::{Payment, PaymentDecision};

/// What a person decided about a case, who, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolve {
    /// The order or payment.
    pub entity: EntityId,
    /// The case's subject.
    pub subject: String,
    pub with: Remedy,
    pub identity: String,
    pub reason: String,
}

/// What an order's case can be resolved with by now.
#[must_use]
pub fn remedies(state: &OrderState) -> Vec<Remedy> {
    let fits = |with: &&Remedy| decisions(None, state, "", **with).is_some();
    Remedy::ALL.iter().filter(fits).copied().collect()
}

/// What follows from a remedy, if it is possible at all.
fn decisions(
    order: Option<OrderId>,
    state: &OrderState,
    subject: &str,
    with: Remedy,
) -> Option<Vec<OrderDecision>> {
    // Of what pays for the order, everything that nobody owes back yet. Its subject is the case, or the capture where
    // nothing of it is owed: then it is the one refund that any other rule would give.
    let left = state.applied.as_ref().and_then(|applied| {
        let owed = state.refunded_minor(&applied.intent);
        let amount_minor = applied.amount_minor.saturating_sub(owed);
        let whole = RefundCase::whole(&applied.intent, applied.payment, applied.amount_minor);
        let order = order.map(|order| order.0.0).unwrap_or_default();
        let case = Hash::of_parts(&[b"case", &order, applied.intent.as_bytes(), subject.as_bytes()]).short();
        let rest = RefundCase { case, amount_minor, ..whole.clone() };
        (amount_minor > 0).then_some(if owed == 0 { whole } else { rest })
    });
    let paid = state.phase == OrderPhase::Paid;
    let granted = |refund| OrderDecision::RefundGranted(RefundGranted { refund });
    match with {
        Remedy::Keep => Some(Vec::new()),
        Remedy::Refund => left.filter(|_| paid).map(|refund| vec![granted(refund)]),
        Remedy::Cancel if paid => {
            let cancelled = OrderDecision::Cancelled(Cancelled { refund: None });
            Some(left.map(granted).into_iter().chain([cancelled]).collect())
        }
        Remedy::Cancel if state.phase == OrderPhase::Payable => Some(match state.open_permit() {
            Some((payment, _)) => {
                vec![OrderDecision::PermitClosing(PermitClosing { payment: *payment, why: Why::Cancel })]
            }
            None => vec![OrderDecision::Cancelled(Cancelled { refund: None })],
        }),
        Remedy::Cancel => None,
    }
}

impl Cell {
    /// Resolves a case: the audit record, what follows from the remedy, and the case's end are one change. Resolving it
    /// again in the same way does nothing more.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn resolve(
        &mut self,
        view: &dyn View,
        resolve: &Resolve,
        now_ms: u64,
    ) -> Result<(Step, Result<(), Refusal>), Unavailable> {
        let mut draft = Draft::new(self, view, now_ms, "");
        let outcome = draft.resolve(resolve)?;
        draft.settle_touched()?;
        Ok((draft.finish(Vec::new())?, outcome))
    }

    /// Why nothing can be resolved about `entity` here, or not now.
    pub fn cannot_resolve(&self, entity: EntityId) -> Option<Refusal> {
        self.misdirected(entity).or_else(|| {
            let detail = "the node has just started and asks its peers what they hold of it";
            self.is_held_back().then(|| Refusal::new(Problem::Recovering, detail))
        })
    }

    /// Why nothing is decided about `id` here.
    pub(super) fn misdirected(&self, id: EntityId) -> Option<Refusal> {
        let slot = id.slot();
        if self.is_outranked(slot) {
            let detail = "another start of this node decides, or has just ended: ask again";
            return Some(Refusal::new(Problem::Recovering, detail));
        }
        (!self.is_home(slot)).then(|| {
            let home = *self.placement().home(slot);
            let detail = format!("{slot:?} has its home in {}", home.node.region);
            Refusal { home: Some(Box::new(home)), ..Refusal::new(Problem::Misdirected, detail) }
        })
    }
}

impl Draft<'_> {
    fn resolve(&mut self, resolve: &Resolve) -> Result<Result<(), Refusal>, Unavailable> {
        if let Some(refusal) = self.cell.cannot_resolve(resolve.entity) {
            return Ok(Err(refusal));
        }
        if let Some(refusal) = self.withheld(resolve.entity)? {
            return Ok(Err(refusal));
        }
        // The tail first: it may bring the case, or its end.
        self.touch(resolve.entity);
        self.settle_touched()?;
        match (resolve.entity.order(), resolve.entity.payment()) {
            (Some(order), _) => self.resolve_order(order, resolve),
            (_, Some(payment)) => self.resolve_payment(payment, resolve),
            _ => Ok(Err(unknown(&resolve.subject))),
        }
    }

    fn resolve_order(
        &mut self,
        order: OrderId,
        resolve: &Resolve,
    ) -> Result<Result<(), Refusal>, Unavailable> {
        let follows = self.read::<Order, _>(order.into(), |reading: &Reading<'_, Order>| {
            let state = reading.state.as_ref().filter(|_| reading.blocked.is_none());
            let Some(state) = state else { return Err(blocked(reading.blocked)) };
            if !is_open(&state.cases, resolve, state.decisions)? {
                return Ok(None);
            }
            let follows = decisions(Some(order), state, &resolve.subject, resolve.with);
            let none = || forbidden(format!("'{}' is not possible: it is {}", resolve.with, state.label()));
            follows.map(Some).ok_or_else(none)
        })?;
        let follows = match follows.unwrap_or_else(|| Err(unknown(&resolve.subject))) {
            Ok(Some(follows)) => follows,
            Ok(None) => return Ok(Ok(())),
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.note(resolve)?;
        for decision in follows.into_iter().chain([OrderDecision::CaseResolved(resolved(resolve))]) {
            self.decide_order(order, decision, None)?;
        }
        self.touch(order.into());
        Ok(Ok(()))
    }

    fn resolve_payment(
        &mut self,
        payment: PaymentId,
        resolve: &Resolve,
    ) -> Result<Result<(), Refusal>, Unavailable> {
        let open = self.read::<Payment, _>(payment.into(), |reading: &Reading<'_, Payment>| {
            let state = reading.state.as_ref().filter(|_| reading.blocked.is_none());
            let Some(state) = state else { return Err(blocked(reading.blocked)) };
            is_open(&state.cases, resolve, state.decisions)
        })?;
        match open.unwrap_or_else(|| Err(unknown(&resolve.subject))) {
            // Its money goes back by itself; what is left is that somebody has seen it.
            Ok(true) if resolve.with != Remedy::Keep => {
                return Ok(Err(forbidden("a payment's case is only acknowledged: 'keep'".to_owned())));
            }
            Ok(true) => {}
            Ok(false) => return Ok(Ok(())),
            Err(refusal) => return Ok(Err(refusal)),
        }
        self.note(resolve)?;
        self.decide_payment(payment, PaymentDecision::CaseResolved(resolved(resolve)), None)?;
        self.touch(payment.into());
        Ok(Ok(()))
    }

    fn note(&mut self, resolve: &Resolve) -> Result<(), Unavailable> {
        let audit = Audit {
            identity: resolve.identity.clone(),
            action: format!("conflict resolve --with {}", resolve.with),
            subject: format!("{} {}", resolve.entity, resolve.subject),
            reason: resolve.reason.clone(),
        };
        self.push(Event::new(Vec::new(), Body::Audit(audit)))
    }
}

fn resolved(resolve: &Resolve) -> CaseResolved {
    CaseResolved {
        subject: resolve.subject.clone(),
        with: resolve.with,
        identity: resolve.identity.clone(),
        reason: resolve.reason.clone(),
    }
}

fn unknown(subject: &str) -> Refusal {
    Refusal::new(Problem::NotFound, format!("there is no case '{subject}'"))
}

fn forbidden(detail: String) -> Refusal {
    Refusal::new(Problem::Forbidden, detail)
}

/// Whether the case is there and open; `false` if it was resolved in just this way.
fn is_open(cases: &[Case], resolve: &Resolve, decided: usize) -> Result<bool, Refusal> {
    let of_subject = || cases.iter().filter(|case| case.subject == resolve.subject);
    if of_subject().any(|case| case.resolved.is_none()) {
        let room = decided < DECISIONS_MAX;
        let full = || Refusal::new(Problem::TooMany, "it has too many decisions");
        return room.then_some(true).ok_or_else(full);
    }
    match of_subject().next_back().and_then(|case| case.resolved) {
        None => Err(unknown(&resolve.subject)),
        Some(with) if with == resolve.with => Ok(false),
        Some(with) => Err(forbidden(format!("it was resolved with '{with}'"))),
    }
}
