//! The gateway's books: intents, refunds, and what may happen to them. Pure: time is an argument, nothing is sent.

mod overview;

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

pub use overview::{Entry, Overview, Total};

/// Where an intent stands. All but `Pending` are final.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IntentStatus {
    Pending,
    Captured,
    Failed,
    Closed,
    Expired,
}

/// Why an intent failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    pub code: String,
    pub retryable: bool,
}

/// What the payer has to do next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextAction {
    pub kind: String,
    pub url: String,
}

/// A request for money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewIntent {
    pub key: String,
    /// The payment's id.
    pub reference: String,
    pub amount_minor: u64,
    /// ISO 4217.
    pub currency: String,
    /// Absolute; no money is taken after it.
    pub expires_at_ms: u64,
    #[serde(default)]
    pub card_token: String,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub callback_urls: Vec<String>,
}

/// An attempt to take money.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    pub id: String,
    pub key: String,
    pub reference: String,
    pub status: IntentStatus,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub failure: Option<Refusal>,
    pub amount_minor: u64,
    pub currency: String,
    pub captured_minor: u64,
    pub refunded_minor: u64,
    pub metadata: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_action: Option<NextAction>,
    pub created_at_ms: u64,
    pub expires_at_ms: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub captured_at_ms: Option<u64>,
    /// Where callbacks go.
    pub callback_urls: Vec<String>,
}

/// A request to give money back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewRefund {
    pub key: String,
    pub intent_id: String,
    pub amount_minor: u64,
    pub reference: String,
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    #[serde(default)]
    pub callback_urls: Vec<String>,
}

/// Money given back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    pub id: String,
    pub key: String,
    pub intent_id: String,
    pub status: String,
    pub amount_minor: u64,
    pub currency: String,
    pub reference: String,
    pub metadata: BTreeMap<String, String>,
    pub created_at_ms: u64,
    pub callback_urls: Vec<String>,
}

/// Why a request was refused. Nothing was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LedgerError {
    #[error("the key was used with another body")]
    KeyReused,
    #[error("the reference is closed")]
    ReferenceClosed,
    #[error("the intent's time is over")]
    Expired,
    #[error("no such key")]
    UnknownKey,
    #[error("no such intent, or nothing was captured")]
    NothingCaptured,
    #[error("more than was captured and not yet refunded")]
    OverRefund,
}

impl LedgerError {
    /// The stable problem type and HTTP status.
    #[must_use]
    pub(crate) fn problem(self) -> (&'static str, u16) {
        match self {
            LedgerError::KeyReused => ("key-reused", 409),
            LedgerError::ReferenceClosed => ("reference-closed", 409),
            LedgerError::Expired => ("expired", 410),
            LedgerError::UnknownKey => ("unknown-key", 404),
            LedgerError::NothingCaptured => ("nothing-captured", 409),
            LedgerError::OverRefund => ("over-refund", 409),
        }
    }
}

/// The books.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ledger {
    next: u64,
    intents: BTreeMap<String, Intent>,
    /// When a pending intent is to be captured, by its id. In the books because it was decided with the intent: a restart,
    /// or another behaviour set meanwhile, changes nothing about it.
    #[serde(default)]
    capture_at_ms: BTreeMap<String, u64>,
    keys: BTreeMap<String, (String, NewIntent)>,
    refunds: BTreeMap<String, Refund>,
    refund_keys: BTreeMap<String, (String, NewRefund)>,
    closed: BTreeSet<String>,
}

impl Ledger {
    fn id(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}_{:08}", self.next)
    }

    /// Opens an intent, pending; or returns the one that this key opened before, and `false`.
    ///
    /// # Errors
    /// [`LedgerError`]: another body under the key, a closed reference, or past its time.
    pub(crate) fn create(&mut self, new: NewIntent, now_ms: u64) -> Result<(Intent, bool), LedgerError> {
        if let Some((id, body)) = self.keys.get(&new.key) {
            // Where callbacks go may differ between regions; the money must not.
            let same = NewIntent { callback_urls: body.callback_urls.clone(), ..new.clone() } == *body;
            return match self.intents.get(id) {
                Some(intent) if same => Ok((intent.clone(), false)),
                _ => Err(LedgerError::KeyReused),
            };
        }
        if self.closed.contains(&new.reference) {
            return Err(LedgerError::ReferenceClosed);
        }
        if now_ms >= new.expires_at_ms {
            return Err(LedgerError::Expired);
        }
        let id = self.id("in");
        let intent = Intent {
            id: id.clone(),
            key: new.key.clone(),
            reference: new.reference.clone(),
            status: IntentStatus::Pending,
            failure: None,
            amount_minor: new.amount_minor,
            currency: new.currency.clone(),
            captured_minor: 0,
            refunded_minor: 0,
            metadata: new.metadata.clone(),
            next_action: None,
            created_at_ms: now_ms,
            expires_at_ms: new.expires_at_ms,
            captured_at_ms: None,
            callback_urls: new.callback_urls.clone(),
        };
        self.keys.insert(new.key.clone(), (id.clone(), new));
        self.intents.insert(id, intent.clone());
        Ok((intent, true))
    }

    /// Moves a pending intent to an end; a final one stays as it is. Returns it if it moved.
    pub(crate) fn finish(
        &mut self,
        id: &str,
        status: IntentStatus,
        failure: Option<Refusal>,
        now_ms: u64,
    ) -> Option<Intent> {
        let intent = self.intents.get_mut(id).filter(|intent| intent.status == IntentStatus::Pending)?;
        self.capture_at_ms.remove(id);
        let late = now_ms >= intent.expires_at_ms;
        // Never money after its time, whoever asks.
        intent.status = if late && status == IntentStatus::Captured { IntentStatus::Expired } else { status };
        intent.failure = failure;
        intent.next_action = None;
        if intent.status == IntentStatus::Captured {
            intent.captured_minor = intent.amount_minor;
            intent.captured_at_ms = Some(now_ms);
        }
        Some(intent.clone())
    }

    /// Leaves a pending intent to be captured by [`Ledger::pass`] once it is `at_ms`.
    pub(crate) fn capture_at(&mut self, id: &str, at_ms: u64) {
        self.capture_at_ms.insert(id.to_owned(), at_ms);
    }

    pub(crate) fn redirect(&mut self, id: &str) {
        if let Some(intent) = self.intents.get_mut(id) {
            let url = format!("https://sandbox.example/pay/{id}");
            intent.next_action = Some(NextAction { kind: "redirect".to_owned(), url });
        }
    }

    /// Attempts of a reference so far.
    #[must_use]
    pub(crate) fn attempts(&self, reference: &str) -> usize {
        self.intents.values().filter(|intent| intent.reference == reference).count()
    }

    /// # Errors
    /// [`LedgerError::UnknownKey`], also for a key that was forgotten.
    pub(crate) fn by_key(&self, key: &str) -> Result<&Intent, LedgerError> {
        let id = self.keys.get(key).map(|(id, _)| id).ok_or(LedgerError::UnknownKey)?;
        self.intents.get(id).ok_or(LedgerError::UnknownKey)
    }

    /// Closes every pending intent of the reference and bars new ones. Returns those that moved.
    pub(crate) fn close(&mut self, reference: &str, now_ms: u64) -> Vec<Intent> {
        self.closed.insert(reference.to_owned());
        let of: Vec<String> = self.of_reference(reference).map(|intent| intent.id.clone()).collect();
        of.iter().filter_map(|id| self.finish(id, IntentStatus::Closed, None, now_ms)).collect()
    }

    /// What has become due by now: captures that were put off, and the end of intents whose time is over. Returns those
    /// that moved.
    pub(crate) fn pass(&mut self, now_ms: u64) -> Vec<Intent> {
        let due: Vec<String> =
            self.due_ms().filter(|(at_ms, _)| *at_ms <= now_ms).map(|(_, id)| id.to_owned()).collect();
        // An intent past its time expires, whatever it was to become.
        due.iter().filter_map(|id| self.finish(id, IntentStatus::Captured, None, now_ms)).collect()
    }

    /// When [`Ledger::pass`] will next have something to do.
    #[must_use]
    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.due_ms().map(|(at_ms, _)| at_ms).min()
    }

    fn due_ms(&self) -> impl Iterator<Item = (u64, &str)> {
        let pending = self.intents.values().filter(|intent| intent.status == IntentStatus::Pending);
        pending.map(|intent| {
            let capture_at_ms = self.capture_at_ms.get(&intent.id).copied().unwrap_or(u64::MAX);
            (capture_at_ms.min(intent.expires_at_ms), intent.id.as_str())
        })
    }

    pub(crate) fn of_reference<'a>(&'a self, reference: &'a str) -> impl Iterator<Item = &'a Intent> {
        self.intents.values().filter(move |intent| intent.reference == reference)
    }

    /// Intents by reference, by slot (the payer's or the buyer's) or by order; all given filters must fit.
    #[must_use]
    pub(crate) fn list(&self, filter: &ListFilter) -> Vec<Intent> {
        self.intents
            .values()
            .filter(|intent| filter.fits(&intent.reference, &intent.metadata))
            .cloned()
            .collect()
    }

    #[must_use]
    pub(crate) fn list_refunds(&self, filter: &ListFilter) -> Vec<Refund> {
        self.refunds
            .values()
            .filter(|refund| filter.fits(&refund.reference, &refund.metadata))
            .cloned()
            .collect()
    }

    /// Gives money back, once per key. `true` if it happened now.
    ///
    /// # Errors
    /// [`LedgerError`]: another body under the key, nothing captured, or more than is left.
    pub(crate) fn refund(&mut self, new: NewRefund, now_ms: u64) -> Result<(Refund, bool), LedgerError> {
        if let Some((id, body)) = self.refund_keys.get(&new.key) {
            let same = body.intent_id == new.intent_id && body.amount_minor == new.amount_minor;
            return match self.refunds.get(id) {
                Some(refund) if same => Ok((refund.clone(), false)),
                _ => Err(LedgerError::KeyReused),
            };
        }
        let intent = self.intents.get_mut(&new.intent_id).filter(|intent| intent.captured_minor > 0);
        let intent = intent.ok_or(LedgerError::NothingCaptured)?;
        let left = intent.captured_minor - intent.refunded_minor;
        if new.amount_minor == 0 || new.amount_minor > left {
            return Err(LedgerError::OverRefund);
        }
        intent.refunded_minor += new.amount_minor;
        let currency = intent.currency.clone();
        let id = self.id("re");
        let refund = Refund {
            id: id.clone(),
            key: new.key.clone(),
            intent_id: new.intent_id.clone(),
            status: "done".to_owned(),
            amount_minor: new.amount_minor,
            currency,
            reference: new.reference.clone(),
            metadata: new.metadata.clone(),
            created_at_ms: now_ms,
            callback_urls: new.callback_urls.clone(),
        };
        self.refund_keys.insert(new.key.clone(), (id.clone(), new));
        self.refunds.insert(id, refund.clone());
        Ok((refund, true))
    }

    /// # Errors
    /// [`LedgerError::UnknownKey`].
    pub(crate) fn refund_by_key(&self, key: &str) -> Result<&Refund, LedgerError> {
        let id = self.refund_keys.get(key).map(|(id, _)| id).ok_or(LedgerError::UnknownKey)?;
        self.refunds.get(id).ok_or(LedgerError::UnknownKey)
    }

    #[must_use]
    pub(crate) fn intent(&self, id: &str) -> Option<&Intent> {
        self.intents.get(id)
    }

    /// Forgets a key, as gateways do after a day; the books stay. `true` if it was known.
    pub(crate) fn forget(&mut self, key: &str) -> bool {
        self.keys.remove(key).is_some() | self.refund_keys.remove(key).is_some()
    }
}

/// Which entries to list.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ListFilter {
    pub reference: Option<String>,
    pub slot: Option<String>,
    pub order: Option<String>,
}

impl ListFilter {
    fn fits(&self, reference: &str, metadata: &BTreeMap<String, String>) -> bool {
        let has = |key: &str, value: &String| metadata.get(key) == Some(value);
        self.reference.as_ref().is_none_or(|wanted| wanted == reference)
            && self.order.as_ref().is_none_or(|order| has("order", order))
            && self.slot.as_ref().is_none_or(|slot| has("payer_slot", slot) || has("buyer_slot", slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn new(key: &str, expires_at_ms: u64) -> NewIntent {
        NewIntent {
            key: key.to_owned(),
            reference: format!("pay_{key}"),
            amount_minor: 1_000,
            currency: "CNY".to_owned(),
            expires_at_ms,
            card_token: String::new(),
            metadata: BTreeMap::new(),
            callback_urls: Vec::new(),
        }
    }

    fn moved(ledger: &mut Ledger, now_ms: u64) -> Vec<(String, IntentStatus)> {
        ledger.pass(now_ms).into_iter().map(|intent| (intent.key, intent.status)).collect()
    }

    #[test]
    fn a_capture_that_was_put_off_is_read_back_from_the_books_and_never_made_after_its_time() {
        let mut ledger = Ledger::default();
        for (key, capture_at_ms) in [("soon", 500), ("too-late", 900), ("closed", 500)] {
            let (intent, _) = ledger.create(new(key, 800), 0).unwrap();
            ledger.capture_at(&intent.id, capture_at_ms);
        }
        ledger.create(new("pending", 600), 0).unwrap();
        ledger.close("pay_closed", 1);
        let text = serde_json::to_vec(&ledger).unwrap();
        let mut ledger: Ledger = serde_json::from_slice(&text).unwrap();
        assert_eq!((ledger.next_due_ms(), moved(&mut ledger, 499)), (Some(500), vec![]));
        assert_eq!(moved(&mut ledger, 500), [("soon".to_owned(), IntentStatus::Captured)]);
        assert_eq!(moved(&mut ledger, 600), [("pending".to_owned(), IntentStatus::Expired)]);
        assert_eq!(moved(&mut ledger, 1_000), [("too-late".to_owned(), IntentStatus::Expired)]);
        assert_eq!((ledger.next_due_ms(), ledger.capture_at_ms.len()), (None, 0));
    }

    #[test]
    fn a_process_that_slept_past_both_times_takes_no_money() {
        let mut ledger = Ledger::default();
        let (intent, _) = ledger.create(new("k", 800), 0).unwrap();
        ledger.capture_at(&intent.id, 500);
        assert_eq!(moved(&mut ledger, 801), [("k".to_owned(), IntentStatus::Expired)]);
    }
}
