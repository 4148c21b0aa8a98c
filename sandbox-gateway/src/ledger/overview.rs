//! The books as `/control/ledger` shows them: every entry, and their sums.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Intent, IntentStatus, Ledger, Refund, Refusal};

/// Sums of money, over one currency as long as callers use one per reference and order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Total {
    pub captured_minor: u64,
    pub refunded_minor: u64,
    pub captures: usize,
    pub intents: Vec<String>,
}

/// One intent or refund. `order` is the metadata of that name, empty where the caller gave none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Entry {
    Intent {
        id: String,
        /// Also where it was forgotten: the books stay.
        key: String,
        reference: String,
        order: String,
        status: IntentStatus,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        failure: Option<Refusal>,
        amount_minor: u64,
        captured_minor: u64,
        refunded_minor: u64,
        currency: String,
        created_at_ms: u64,
        expires_at_ms: u64,
        /// When a pending intent is going to be captured.
        #[serde(skip_serializing_if = "Option::is_none", default)]
        capture_at_ms: Option<u64>,
        #[serde(skip_serializing_if = "Option::is_none", default)]
        captured_at_ms: Option<u64>,
    },
    Refund {
        id: String,
        intent_id: String,
        key: String,
        reference: String,
        order: String,
        status: String,
        amount_minor: u64,
        currency: String,
        created_at_ms: u64,
    },
}

/// What the demo and the tests believe, rather than any log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Overview {
    pub by_reference: BTreeMap<String, Total>,
    pub by_order: BTreeMap<String, Total>,
    /// In the order in which they were made.
    pub entries: Vec<Entry>,
}

fn order(metadata: &BTreeMap<String, String>) -> String {
    metadata.get("order").cloned().unwrap_or_default()
}

impl Ledger {
    /// What was captured and refunded, per payment and per order, and every entry.
    #[must_use]
    pub(crate) fn overview(&self) -> Overview {
        let mut overview = Overview::default();
        for intent in self.intents.values() {
            for total in [
                overview.by_reference.entry(intent.reference.clone()).or_default(),
                overview.by_order.entry(order(&intent.metadata)).or_default(),
            ] {
                total.add(intent);
            }
        }
        let intents = self.intents.values().map(|intent| self.entry_of_intent(intent));
        overview.entries = intents.chain(self.refunds.values().map(entry_of_refund)).collect();
        overview.entries.sort_by(|one, other| one.number().cmp(other.number()));
        overview
    }

    fn entry_of_intent(&self, intent: &Intent) -> Entry {
        Entry::Intent {
            id: intent.id.clone(),
            key: intent.key.clone(),
            reference: intent.reference.clone(),
            order: order(&intent.metadata),
            status: intent.status,
            failure: intent.failure.clone(),
            amount_minor: intent.amount_minor,
            captured_minor: intent.captured_minor,
            refunded_minor: intent.refunded_minor,
            currency: intent.currency.clone(),
            created_at_ms: intent.created_at_ms,
            expires_at_ms: intent.expires_at_ms,
            capture_at_ms: self.capture_at_ms.get(&intent.id).copied(),
            captured_at_ms: intent.captured_at_ms,
        }
    }
}

fn entry_of_refund(refund: &Refund) -> Entry {
    Entry::Refund {
        id: refund.id.clone(),
        intent_id: refund.intent_id.clone(),
        key: refund.key.clone(),
        reference: refund.reference.clone(),
        order: order(&refund.metadata),
        status: refund.status.clone(),
        amount_minor: refund.amount_minor,
        currency: refund.currency.clone(),
        created_at_ms: refund.created_at_ms,
    }
}

impl Entry {
    /// Intents and refunds are counted together, so this is the order in which they were made.
    fn number(&self) -> &str {
        let (Entry::Intent { id, .. } | Entry::Refund { id, .. }) = self;
        id.split_once('_').map_or(id, |(_, number)| number)
    }
}

impl Total {
    /// Amounts are the caller's and may be absurd.
    fn add(&mut self, intent: &Intent) {
        self.captured_minor = self.captured_minor.saturating_add(intent.captured_minor);
        self.refunded_minor = self.refunded_minor.saturating_add(intent.refunded_minor);
        self.captures += usize::from(intent.captured_minor > 0);
        self.intents.push(intent.id.clone());
    }
}
