//! The HTTP API.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use service_kit::Shutdown;
use tokio::sync::Semaphore;

use crate::behaviour::{Behaviour, MAGIC_AMOUNTS, of_amount};
use crate::callback::{CallbackBody, Caller};
use crate::journal::Journal;
use crate::ledger::{
    Intent, IntentStatus, Ledger, LedgerError, ListFilter, NewIntent, NewRefund, Refund, Refusal, Totals,
};

/// Callbacks under way at once.
const CALLBACKS_MAX: usize = 1_000;

/// Everything behind the API; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Gateway {
    books: Arc<Mutex<Books>>,
    caller: Caller,
    /// Places for callbacks under way; what finds none is not called back, and found by asking.
    callbacks: Arc<Semaphore>,
    shutdown: Shutdown,
}

#[derive(Debug)]
struct Books {
    ledger: Ledger,
    overrides: BTreeMap<String, (Behaviour, u64)>,
    events: u64,
    journal: Option<Journal>,
}

pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

// === problems ===

#[derive(Debug)]
pub(crate) struct Problem {
    kind: &'static str,
    status: u16,
    detail: String,
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Problem {
        let (kind, status) = error.problem();
        Problem { kind, status, detail: error.to_string() }
    }
}
impl From<JsonRejection> for Problem {
    fn from(error: JsonRejection) -> Problem {
        Problem { kind: "bad-request", status: 400, detail: error.body_text() }
    }
}
impl From<QueryRejection> for Problem {
    fn from(error: QueryRejection) -> Problem {
        Problem { kind: "bad-request", status: 400, detail: error.body_text() }
    }
}
impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Problem {
        Problem { kind: "ledger-unavailable", status: 503, detail: error.to_string() }
    }
}
impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::json!({ "type": self.kind, "status": self.status, "detail": self.detail });
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
    }
}

type Answer<T> = Result<Json<T>, Problem>;

// === Gateway ===

impl Gateway {
    pub(crate) fn new(
        ledger: Ledger,
        journal: Option<Journal>,
        secret: Vec<u8>,
        shutdown: Shutdown,
    ) -> Gateway {
        let pending = ledger.list(&ListFilter::default());
        let books = Books { ledger, overrides: BTreeMap::new(), events: 0, journal };
        let gateway = Gateway {
            books: Arc::new(Mutex::new(books)),
            caller: Caller::new(secret),
            callbacks: Arc::new(Semaphore::new(CALLBACKS_MAX)),
            shutdown,
        };
        // What was to be captured later when the gateway ended is captured all the same.
        for intent in pending.into_iter().filter(|intent| intent.status == IntentStatus::Pending) {
            if let (Behaviour::CaptureLater, delay_ms) = of_amount(intent.amount_minor) {
                let due_ms = intent.created_at_ms.saturating_add(delay_ms);
                gateway.later(intent.id, due_ms.saturating_sub(now_ms()));
            }
        }
        gateway
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        // A panic between two lines of bookkeeping is a bug; the books themselves stay readable.
        self.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Expires intents once a tick, for as long as the gateway runs.
    pub(crate) async fn expire_forever(self) {
        let mut tick = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                () = self.shutdown.begun() => return,
                _ = tick.tick() => {}
            }
            let expired = self.books().ledger.expire(now_ms());
            if expired.is_empty() {
                continue;
            }
            if let Err(error) = self.books().save() {
                tracing::error!(%error, "the ledger cannot be written");
            }
            expired.iter().for_each(|intent| self.tell(intent, None, 1));
        }
    }

    /// Tells whoever the intent named, `times` over.
    fn tell(&self, intent: &Intent, refund: Option<&Refund>, times: u32) {
        let urls = refund.map_or(&intent.callback_urls, |refund| &refund.callback_urls).clone();
        if urls.is_empty() {
            return;
        }
        let kind = match (refund, intent.status) {
            (Some(_), _) => "refund",
            (None, IntentStatus::Captured) => "capture",
            (None, IntentStatus::Failed) => "failure",
            (None, _) => "closed",
        };
        let event_id = {
            let mut books = self.books();
            books.events += 1;
            format!("ev_{}_{:06}", intent.id, books.events)
        };
        let body = CallbackBody { event_id, kind, created_at_ms: now_ms(), intent, refund };
        let Ok(body) = serde_json::to_vec(&body) else {
            return;
        };
        for _ in 0..times {
            let Ok(place) = self.callbacks.clone().try_acquire_owned() else {
                tracing::warn!(kind, id = intent.id, "too many callbacks are under way; this one is dropped");
                return;
            };
            let (caller, urls, body) = (self.caller.clone(), urls.clone(), body.clone());
            let stop = self.shutdown.token();
            self.shutdown.spawn("callback", async move {
                tokio::select! {
                    () = stop.cancelled() => {}
                    () = caller.send(urls, body, now_ms) => {}
                }
                drop(place);
            });
        }
    }

    fn later(&self, id: String, delay_ms: u64) {
        let this = self.clone();
        let stop = self.shutdown.token();
        self.shutdown.spawn("capture later", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(Duration::from_millis(delay_ms)) => {
                    if let Err(error) = this.capture(&id, 1) {
                        tracing::error!(error = ?error, id, "the ledger cannot be written");
                    }
                }
            }
        });
    }

    fn capture(&self, id: &str, times: u32) -> Result<Option<Intent>, Problem> {
        let moved = {
            let mut books = self.books();
            let moved = books.ledger.finish(id, IntentStatus::Captured, None, now_ms());
            books.save()?;
            moved
        };
        if let Some(intent) = &moved {
            self.tell(intent, None, times);
        }
        Ok(moved)
    }

    fn refuse(&self, id: &str, code: &str, retryable: bool) -> Result<(), Problem> {
        let failure = Some(Refusal { code: code.to_owned(), retryable });
        let moved = {
            let mut books = self.books();
            let moved = books.ledger.finish(id, IntentStatus::Failed, failure, now_ms());
            books.save()?;
            moved
        };
        moved.iter().for_each(|intent| self.tell(intent, None, 1));
        Ok(())
    }
}

impl Books {
    fn save(&mut self) -> std::io::Result<()> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.save(&self.ledger))
    }

    fn behaviour(&self, new: &NewIntent) -> (Behaviour, u64) {
        let names = [new.reference.as_str(), new.card_token.as_str(), "*"];
        let named = names.iter().find_map(|name| self.overrides.get(*name).copied());
        named.unwrap_or_else(|| of_amount(new.amount_minor))
    }
}

pub(crate) fn router(gateway: Gateway) -> Router {
    Router::new()
        .route("/v1/intents", post(create).get(list))
        .route("/v1/intents/by-key/{key}", get(by_key))
        .route("/v1/intents/close", post(close))
        .route("/v1/refunds", post(refund).get(list_refunds))
        .route("/v1/refunds/by-key/{key}", get(refund_by_key))
        .route("/v1/behaviours", get(async || Json(MAGIC_AMOUNTS)))
        .route("/control/behaviour", post(set_behaviour))
        .route("/control/complete", post(complete))
        .route("/control/forget", post(forget))
        .route("/control/ledger", get(totals))
        .with_state(gateway)
}

async fn create(
    State(gateway): State<Gateway>,
    new: Result<Json<NewIntent>, JsonRejection>,
) -> Answer<Intent> {
    let Json(new) = new?;
    if new.key.is_empty() || new.reference.is_empty() || new.amount_minor == 0 || new.currency.len() != 3 {
        let detail = "key, reference, amount_minor and a three-letter currency are needed".to_owned();
        return Err(Problem { kind: "bad-request", status: 400, detail });
    }
    let (intent, fresh, (behaviour, delay_ms), earlier) = {
        let mut books = gateway.books();
        let behaviour = books.behaviour(&new);
        let earlier = books.ledger.attempts(&new.reference);
        let (intent, fresh) = books.ledger.create(new, now_ms())?;
        books.save()?;
        (intent, fresh, behaviour, earlier)
    };
    if fresh {
        match behaviour {
            Behaviour::Capture | Behaviour::AnswerLate | Behaviour::AnswerBroken => {
                gateway.capture(&intent.id, 1)?;
            }
            Behaviour::DropCallback => drop(gateway.capture(&intent.id, 0)?),
            Behaviour::TripleCallback => drop(gateway.capture(&intent.id, 3)?),
            Behaviour::Refuse => gateway.refuse(&intent.id, "card_declined", false)?,
            Behaviour::RefuseOnce if earlier == 0 => gateway.refuse(&intent.id, "try_again", true)?,
            Behaviour::RefuseOnce => drop(gateway.capture(&intent.id, 1)?),
            Behaviour::CaptureLater => gateway.later(intent.id.clone(), delay_ms),
            Behaviour::StayPending => {}
            Behaviour::Redirect => gateway.books().ledger.redirect(&intent.id),
        }
        match behaviour {
            Behaviour::AnswerLate => tokio::time::sleep(Duration::from_millis(delay_ms)).await,
            Behaviour::AnswerBroken => {
                let detail = "the sandbox breaks this answer on purpose".to_owned();
                return Err(Problem { kind: "broken", status: 500, detail });
            }
            _ => {}
        }
    }
    let now = gateway.books().ledger.intent(&intent.id).cloned();
    Ok(Json(now.unwrap_or(intent)))
}

async fn by_key(State(gateway): State<Gateway>, Path(key): Path<String>) -> Answer<Intent> {
    Ok(Json(gateway.books().ledger.by_key(&key)?.clone()))
}

async fn list(
    State(gateway): State<Gateway>,
    filter: Result<Query<ListFilter>, QueryRejection>,
) -> Answer<Vec<Intent>> {
    Ok(Json(gateway.books().ledger.list(&filter?.0)))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByReference {
    reference: String,
}

async fn close(
    State(gateway): State<Gateway>,
    of: Result<Json<ByReference>, JsonRejection>,
) -> Answer<Vec<Intent>> {
    let reference = of?.0.reference;
    let (moved, all) = {
        let mut books = gateway.books();
        let moved = books.ledger.close(&reference, now_ms());
        books.save()?;
        let all: Vec<Intent> = books.ledger.of_reference(&reference).cloned().collect();
        (moved, all)
    };
    moved.iter().for_each(|intent| gateway.tell(intent, None, 1));
    Ok(Json(all))
}

async fn refund(
    State(gateway): State<Gateway>,
    new: Result<Json<NewRefund>, JsonRejection>,
) -> Answer<Refund> {
    let Json(new) = new?;
    let (refund, fresh, intent) = {
        let mut books = gateway.books();
        let (refund, fresh) = books.ledger.refund(new, now_ms())?;
        books.save()?;
        let intent = books.ledger.intent(&refund.intent_id).cloned();
        (refund, fresh, intent)
    };
    if let Some(intent) = intent.filter(|_| fresh) {
        gateway.tell(&intent, Some(&refund), 1);
    }
    Ok(Json(refund))
}

async fn refund_by_key(State(gateway): State<Gateway>, Path(key): Path<String>) -> Answer<Refund> {
    Ok(Json(gateway.books().ledger.refund_by_key(&key)?.clone()))
}

async fn list_refunds(
    State(gateway): State<Gateway>,
    filter: Result<Query<ListFilter>, QueryRejection>,
) -> Answer<Vec<Refund>> {
    Ok(Json(gateway.books().ledger.list_refunds(&filter?.0)))
}

// === control ===

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SetBehaviour {
    /// A reference, a card token, or `*`.
    of: String,
    /// Absent: back to the table.
    behaviour: Option<Behaviour>,
    #[serde(default)]
    delay_ms: u64,
}

#[derive(Debug, Serialize)]
struct Done {
    done: bool,
}

async fn set_behaviour(
    State(gateway): State<Gateway>,
    set: Result<Json<SetBehaviour>, JsonRejection>,
) -> Answer<Done> {
    let Json(set) = set?;
    let mut books = gateway.books();
    match set.behaviour {
        Some(behaviour) => drop(books.overrides.insert(set.of, (behaviour, set.delay_ms))),
        None => drop(books.overrides.remove(&set.of)),
    }
    Ok(Json(Done { done: true }))
}

async fn complete(
    State(gateway): State<Gateway>,
    of: Result<Json<ByReference>, JsonRejection>,
) -> Answer<Done> {
    let reference = of?.0.reference;
    let pending: Vec<String> =
        gateway.books().ledger.of_reference(&reference).map(|intent| intent.id.clone()).collect();
    let mut done = false;
    for id in pending {
        done |= gateway.capture(&id, 1)?.is_some();
    }
    Ok(Json(Done { done }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByKey {
    key: String,
}

async fn forget(State(gateway): State<Gateway>, of: Result<Json<ByKey>, JsonRejection>) -> Answer<Done> {
    let key = of?.0.key;
    let mut books = gateway.books();
    let done = books.ledger.forget(&key);
    books.save()?;
    Ok(Json(Done { done }))
}

async fn totals(State(gateway): State<Gateway>) -> Json<Totals> {
    Json(gateway.books().ledger.totals())
}
