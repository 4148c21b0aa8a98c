//! The payment gateway. Its ledger is the truth about money.

use std::collections::{BTreeMap, BTreeSet};

use cell_core::duty::Charge;
use cell_core::event::{Barred, Capture, Fact, Failure, FailureKind, Refund};
use cell_core::id::{OrderId, PaymentId, Slot};
use cell_core::order::RefundCase;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IntentState {
    Pending,
    Captured { at_ms: u64 },
    Failed(FailureKind),
}

#[derive(Clone, Debug)]
pub(crate) struct Intent {
    pub(crate) id: String,
    pub(crate) charge: Charge,
    pub(crate) state: IntentState,
    pub(crate) refunded_minor: u64,
}

impl Intent {
    pub(crate) fn captured_minor(&self) -> u64 {
        match self.state {
            IntentState::Captured { .. } => self.charge.permit.amount_minor,
            _ => 0,
        }
    }
    fn fact(&self) -> Option<Fact> {
        let permit = self.charge.permit.clone();
        Some(match self.state {
            IntentState::Pending => return None,
            IntentState::Captured { at_ms } => Fact::Capture(Capture {
                intent: self.id.clone(),
                key: self.charge.key,
                k: self.charge.k,
                amount_minor: permit.amount_minor,
                currency: permit.currency.clone(),
                permit,
                at_ms,
                order_epoch: self.charge.order_epoch,
                payment_epoch: Some(self.charge.payment_epoch),
            }),
            IntentState::Failed(kind) => Fact::Failure(Failure {
                intent: self.id.clone(),
                key: self.charge.key,
                k: self.charge.k,
                payment: self.charge.payment,
                order: permit.order,
                kind,
                code: kind.as_str().to_owned(),
            }),
        })
    }
}

/// What a create was answered with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Created {
    New(String),
    Known(String),
    OtherBody(String),
    TooLate,
    Closed,
}

#[derive(Debug, Default)]
pub(crate) struct Gateway {
    pub(crate) intents: BTreeMap<String, Intent>,
    by_key: BTreeMap<[u8; 16], String>,
    closed: BTreeSet<PaymentId>,
    pub(crate) refunds: BTreeMap<[u8; 16], Refund>,
}

impl Gateway {
    /// Idempotent by key. An intent that is past its own expiry, or whose reference was closed, is never created.
    pub(crate) fn create(&mut self, charge: &Charge, now_ms: u64) -> Created {
        self.expire(now_ms);
        if let Some(id) = self.by_key.get(&charge.key) {
            let same = self.intents[id].charge == *charge;
            return if same { Created::Known(id.clone()) } else { Created::OtherBody(id.clone()) };
        }
        if now_ms >= charge.expires_at_ms {
            return Created::TooLate;
        }
        if self.closed.contains(&charge.payment) {
            return Created::Closed;
        }
        let id = format!("in_{}", self.intents.len() + 1);
        self.by_key.insert(charge.key, id.clone());
        let intent =
            Intent { id: id.clone(), charge: charge.clone(), state: IntentState::Pending, refunded_minor: 0 };
        self.intents.insert(id.clone(), intent);
        Created::New(id)
    }

    /// Ends a pending intent, with or without money. `false` if it had ended before.
    pub(crate) fn complete(&mut self, id: &str, failure: Option<FailureKind>, now_ms: u64) -> bool {
        self.expire(now_ms);
        let Some(intent) = self.intents.get_mut(id).filter(|intent| intent.state == IntentState::Pending)
        else {
            return false;
        };
        intent.state = failure.map_or(IntentState::Captured { at_ms: now_ms }, IntentState::Failed);
        true
    }

    pub(crate) fn expire(&mut self, now_ms: u64) {
        for intent in self.intents.values_mut() {
            if intent.state == IntentState::Pending && now_ms >= intent.charge.expires_at_ms {
                intent.state = IntentState::Failed(FailureKind::Expired);
            }
        }
    }

    /// Forgets keys of expired intents. `true` if any was forgotten.
    pub(crate) fn forget(&mut self, now_ms: u64) -> bool {
        let known = self.by_key.len();
        let intents = &self.intents;
        self.by_key.retain(|_, id| intents[id].charge.expires_at_ms > now_ms);
        self.by_key.len() < known
    }

    pub(crate) fn fact(&self, id: &str) -> Option<Fact> {
        self.intents.get(id)?.fact()
    }

    /// No intent of the payment takes money from now on; what is known of it, and that it is barred.
    pub(crate) fn close(&mut self, payment: PaymentId, order: OrderId, now_ms: u64) -> Vec<Fact> {
        self.expire(now_ms);
        self.closed.insert(payment);
        for intent in self.intents.values_mut() {
            if intent.charge.payment == payment && intent.state == IntentState::Pending {
                intent.state = IntentState::Failed(FailureKind::Closed);
            }
        }
        let mut facts = self.list(|intent| intent.charge.payment == payment);
        facts.push(Fact::Barred(Barred { payment, order }));
        facts
    }

    pub(crate) fn list(&self, wanted: impl Fn(&Intent) -> bool) -> Vec<Fact> {
        let intents: Vec<&Intent> = self.intents.values().filter(|intent| wanted(intent)).collect();
        let refunds =
            self.refunds.values().filter(|refund| intents.iter().any(|intent| intent.id == refund.intent));
        let facts = intents.iter().filter_map(|intent| intent.fact());
        facts.chain(refunds.cloned().map(Fact::Refund)).collect()
    }

    pub(crate) fn list_slots(&mut self, slots: &BTreeSet<Slot>, now_ms: u64) -> Vec<Fact> {
        self.expire(now_ms);
        self.list(|intent| {
            slots.contains(&intent.charge.payment.slot())
                || slots.contains(&intent.charge.permit.order.slot())
        })
    }

    /// Idempotent by case; never more than was captured.
    pub(crate) fn refund(&mut self, case: &RefundCase, order: OrderId, now_ms: u64) -> Option<Fact> {
        if let Some(refund) = self.refunds.get(&case.case) {
            return Some(Fact::Refund(refund.clone()));
        }
        let intent = self.intents.get_mut(&case.intent)?;
        if intent.refunded_minor + case.amount_minor > intent.captured_minor() {
            return None;
        }
        intent.refunded_minor += case.amount_minor;
        let refund = Refund {
            refund: format!("re_{}", self.refunds.len() + 1),
            intent: case.intent.clone(),
            case: case.case,
            payment: case.payment,
            order,
            amount_minor: case.amount_minor,
            currency: intent.charge.permit.currency.clone(),
            at_ms: now_ms,
        };
        self.refunds.insert(case.case, refund.clone());
        Some(Fact::Refund(refund))
    }

    pub(crate) fn refund_by_key(&self, case: &[u8; 16]) -> Option<Fact> {
        self.refunds.get(case).cloned().map(Fact::Refund)
    }

    /// Captured less refunded of an order.
    pub(crate) fn balance_minor(&self, order: OrderId) -> u64 {
        let of_order = self.intents.values().filter(|intent| intent.charge.permit.order == order);
        of_order.map(|intent| intent.captured_minor() - intent.refunded_minor).sum()
    }
}
