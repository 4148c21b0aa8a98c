//! The gateway behind its API: the books, what becomes of intents with time, and who is told.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use hyper::body::Bytes;
use service_kit::Shutdown;
use tokio::sync::Notify;

use crate::behaviour::{Behaviour, of_amount};
use crate::callback::{CallbackBody, Caller};
use crate::journal::Journal;
use crate::ledger::{Intent, IntentStatus, Ledger, LedgerError, NewIntent, NewRefund, Refund, Refusal};

/// Callbacks under way at once; each may hold a connection.
const CALLBACKS_MAX: usize = 256;
/// The books are looked at this often whatever they say, since a wall clock can jump.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const WRITE_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Everything behind the API; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    books: Arc<Mutex<Books>>,
    caller: Caller,
    /// Something may be due earlier than was known.
    sooner: Arc<Notify>,
    shutdown: Shutdown,
}

#[derive(Debug)]
struct Books {
    ledger: Ledger,
    overrides: BTreeMap<String, (Behaviour, u64)>,
    journal: Option<Journal>,
}

/// Why the books did not change.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GatewayError {
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error("the ledger cannot be written: {0}")]
    Journal(#[from] io::Error),
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

impl Gateway {
    pub(crate) fn new(
        ledger: Ledger,
        journal: Option<Journal>,
        secret: Vec<u8>,
        shutdown: Shutdown,
    ) -> Gateway {
        let books = Books { ledger, overrides: BTreeMap::new(), journal };
        Gateway {
            books: Arc::new(Mutex::new(books)),
            caller: Caller::new(secret, CALLBACKS_MAX, shutdown.clone()),
            sooner: Arc::new(Notify::new()),
            shutdown,
        }
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // A panic between two lines of bookkeeping is a bug; the books themselves stay readable.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads the ledger.
    pub(crate) fn read<T>(&self, read: impl FnOnce(&Ledger) -> T) -> T {
        read(&self.books().ledger)
    }

    /// Opens an intent and does at once what its behaviour says; or returns the one that the key opened before. With it,
    /// if it is new, how the answer is to behave.
    pub(crate) fn create(&self, new: NewIntent) -> Result<(Intent, Option<(Behaviour, u64)>), GatewayError> {
        let now_ms = now_ms();
        let (intent, fresh, behaviour) = {
            let mut books = self.books();
            let behaviour = books.behaviour(&new);
            // One write: a crash leaves no intent behind that nobody goes on with.
            let (intent, fresh) = books.write(|ledger| {
                let first = ledger.attempts(&new.reference) == 0;
                let (intent, fresh) = ledger.create(new, now_ms)?;
                if fresh {
                    begin(ledger, &intent.id, behaviour, first, now_ms);
                }
                Ok((ledger.intent(&intent.id).cloned().unwrap_or(intent), fresh))
            })?;
            (intent, fresh, behaviour)
        };
        if !fresh {
            return Ok((intent, None));
        }
        match (intent.status, behaviour.0) {
            (IntentStatus::Pending, _) => self.sooner.notify_one(),
            (_, Behaviour::DropCallback) => {}
            (_, Behaviour::TripleCallback) => self.tell(&intent, None, 3),
            _ => self.tell(&intent, None, 1),
        }
        Ok((intent, Some(behaviour)))
    }

    /// Captures what is pending under a reference. `true` if anything moved.
    pub(crate) fn complete(&self, reference: &str) -> Result<bool, GatewayError> {
        let moved = self.books().write(|ledger| {
            let of: Vec<String> = ledger.of_reference(reference).map(|intent| intent.id.clone()).collect();
            let finish = |id: &String| ledger.finish(id, IntentStatus::Captured, None, now_ms());
            Ok(of.iter().filter_map(finish).collect::<Vec<_>>())
        })?;
        moved.iter().for_each(|intent| self.tell(intent, None, 1));
        Ok(!moved.is_empty())
    }

    /// Closes a reference; returns all its intents.
    pub(crate) fn close(&self, reference: &str) -> Result<Vec<Intent>, GatewayError> {
        let (moved, all) = self.books().write(|ledger| {
            let moved = ledger.close(reference, now_ms());
            Ok((moved, ledger.of_reference(reference).cloned().collect()))
        })?;
        moved.iter().for_each(|intent| self.tell(intent, None, 1));
        Ok(all)
    }

    /// Gives money back, once per key.
    pub(crate) fn refund(&self, new: NewRefund) -> Result<Refund, GatewayError> {
        let (refund, fresh, intent) = self.books().write(|ledger| {
            let (refund, fresh) = ledger.refund(new, now_ms())?;
            let intent = ledger.intent(&refund.intent_id).cloned();
            Ok((refund, fresh, intent))
        })?;
        if let Some(intent) = intent.filter(|_| fresh) {
            self.tell(&intent, Some(&refund), 1);
        }
        Ok(refund)
    }

    /// Forgets a key. `true` if it was known.
    pub(crate) fn forget(&self, key: &str) -> Result<bool, GatewayError> {
        self.books().write(|ledger| Ok(ledger.forget(key)))
    }

    /// How new intents of a reference, a card token or `*` behave; `None`: by their amount again.
    pub(crate) fn set_behaviour(&self, of: String, behaviour: Option<(Behaviour, u64)>) {
        let mut books = self.books();
        match behaviour {
            Some(behaviour) => drop(books.overrides.insert(of, behaviour)),
            None => drop(books.overrides.remove(&of)),
        }
    }

    /// Captures what was put off and expires what is over, when it is time, for as long as the gateway runs. It goes by the
    /// books alone, so what a process left pending is taken up by the next.
    pub(crate) async fn keep_time(self) {
        loop {
            let wait = self.pass_time(now_ms()).unwrap_or_else(|error| {
                tracing::error!(%error, "what is due is tried again");
                WRITE_AGAIN_AFTER
            });
            tokio::select! {
                () = self.shutdown.begun() => return,
                () = self.sooner.notified() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Does what is due and returns how long nothing else is.
    fn pass_time(&self, now_ms: u64) -> Result<Duration, GatewayError> {
        let (moved, next_ms) = {
            let mut books = self.books();
            let due = books.ledger.next_due_ms().is_some_and(|at_ms| at_ms <= now_ms);
            let moved = if due { books.write(|ledger| Ok(ledger.pass(now_ms)))? } else { Vec::new() };
            (moved, books.ledger.next_due_ms())
        };
        moved.iter().for_each(|intent| self.tell(intent, None, 1));
        let idle_ms = next_ms.map_or(u64::MAX, |at_ms| at_ms.saturating_sub(now_ms));
        Ok(LOOK_EVERY.min(Duration::from_millis(idle_ms)))
    }

    /// Until `delay_ms` has passed or the gateway ends.
    pub(crate) async fn dawdle(&self, delay_ms: u64) {
        tokio::select! {
            () = self.shutdown.begun() => {}
            () = tokio::time::sleep(Duration::from_millis(delay_ms)) => {}
        }
    }

    /// Tells whoever the intent or its refund named, `times` over.
    fn tell(&self, intent: &Intent, refund: Option<&Refund>, times: u32) {
        let urls = refund.map_or(&intent.callback_urls, |refund| &refund.callback_urls);
        if urls.is_empty() {
            return;
        }
        let kind = match (refund, intent.status) {
            (Some(_), _) => "refund",
            (None, IntentStatus::Captured) => "capture",
            (None, IntentStatus::Failed) => "failure",
            (None, _) => "closed",
        };
        // An intent ends once, and a refund is made once: the event needs no other number, before and after a restart.
        let event_id = format!("ev_{}", refund.map_or(&intent.id, |refund| &refund.id));
        let body = CallbackBody { event_id, kind, created_at_ms: now_ms(), intent, refund };
        let body = match serde_json::to_vec(&body) {
            Ok(body) => Bytes::from(body),
            Err(error) => return tracing::error!(%error, "a callback cannot be written down"),
        };
        let urls: Arc<[String]> = urls.as_slice().into();
        for _ in 0..times {
            if !self.caller.call(Arc::clone(&urls), body.clone()) {
                tracing::warn!(kind, id = intent.id, "too many callbacks are under way; this one is dropped");
                return;
            }
        }
    }
}

/// What becomes of a new intent right away.
fn begin(ledger: &mut Ledger, id: &str, (behaviour, delay_ms): (Behaviour, u64), first: bool, now_ms: u64) {
    let refusal = |code: &str, retryable| Some(Refusal { code: code.to_owned(), retryable });
    let (status, failure) = match behaviour {
        Behaviour::CaptureLater => return ledger.capture_at(id, now_ms.saturating_add(delay_ms)),
        Behaviour::StayPending => return,
        Behaviour::Redirect => return ledger.redirect(id),
        Behaviour::Refuse => (IntentStatus::Failed, refusal("card_declined", false)),
        Behaviour::RefuseOnce if first => (IntentStatus::Failed, refusal("try_again", true)),
        Behaviour::Capture
        | Behaviour::RefuseOnce
        | Behaviour::DropCallback
        | Behaviour::TripleCallback
        | Behaviour::AnswerLate
        | Behaviour::AnswerBroken => (IntentStatus::Captured, None),
    };
    ledger.finish(id, status, failure, now_ms);
}

impl Books {
    /// Changes the ledger, on disk first: what cannot be written has not happened.
    fn write<T>(
        &mut self,
        change: impl FnOnce(&mut Ledger) -> Result<T, LedgerError>,
    ) -> Result<T, GatewayError> {
        let Some(journal) = &mut self.journal else {
            return Ok(change(&mut self.ledger)?);
        };
        let mut next = self.ledger.clone();
        let changed = change(&mut next)?;
        if next != self.ledger {
            journal.save(&next)?;
            self.ledger = next;
        }
        Ok(changed)
    }

    fn behaviour(&self, new: &NewIntent) -> (Behaviour, u64) {
        let names = [new.reference.as_str(), new.card_token.as_str(), "*"];
        let named = names.iter().find_map(|name| self.overrides.get(*name).copied());
        named.unwrap_or_else(|| of_amount(new.amount_minor))
    }
}
