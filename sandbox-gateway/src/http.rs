//! The HTTP API.

use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};

use crate::behaviour::{Behaviour, MAGIC_AMOUNTS};
use crate::gateway::{Gateway, GatewayError};
use crate::ledger::{Intent, Ledger, LedgerError, ListFilter, NewIntent, NewRefund, Overview, Refund};

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
impl From<GatewayError> for Problem {
    fn from(error: GatewayError) -> Problem {
        match error {
            GatewayError::Ledger(error) => error.into(),
            error => Problem { kind: "ledger-unavailable", status: 503, detail: error.to_string() },
        }
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

// === routes ===

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
        .route("/control/ledger", get(overview))
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
    let (intent, behaviour) = gateway.create(new)?;
    match behaviour {
        Some((Behaviour::AnswerLate, delay_ms)) => gateway.dawdle(delay_ms).await,
        Some((Behaviour::AnswerBroken, _)) => {
            let detail = "the sandbox breaks this answer on purpose".to_owned();
            return Err(Problem { kind: "broken", status: 500, detail });
        }
        _ => {}
    }
    // As it stands by now, should the answer have taken its time.
    Ok(Json(gateway.read(|ledger| ledger.intent(&intent.id).cloned()).unwrap_or(intent)))
}

async fn by_key(State(gateway): State<Gateway>, Path(key): Path<String>) -> Answer<Intent> {
    Ok(Json(gateway.read(|ledger| ledger.by_key(&key).cloned())?))
}

async fn list(
    State(gateway): State<Gateway>,
    filter: Result<Query<ListFilter>, QueryRejection>,
) -> Answer<Vec<Intent>> {
    let filter = filter?.0;
    Ok(Json(gateway.read(|ledger| ledger.list(&filter))))
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
    Ok(Json(gateway.close(&of?.0.reference)?))
}

async fn refund(
    State(gateway): State<Gateway>,
    new: Result<Json<NewRefund>, JsonRejection>,
) -> Answer<Refund> {
    Ok(Json(gateway.refund(new?.0)?))
}

async fn refund_by_key(State(gateway): State<Gateway>, Path(key): Path<String>) -> Answer<Refund> {
    Ok(Json(gateway.read(|ledger| ledger.refund_by_key(&key).cloned())?))
}

async fn list_refunds(
    State(gateway): State<Gateway>,
    filter: Result<Query<ListFilter>, QueryRejection>,
) -> Answer<Vec<Refund>> {
    let filter = filter?.0;
    Ok(Json(gateway.read(|ledger| ledger.list_refunds(&filter))))
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
    gateway.set_behaviour(set.of, set.behaviour.map(|behaviour| (behaviour, set.delay_ms)));
    Ok(Json(Done { done: true }))
}

async fn complete(
    State(gateway): State<Gateway>,
    of: Result<Json<ByReference>, JsonRejection>,
) -> Answer<Done> {
    Ok(Json(Done { done: gateway.complete(&of?.0.reference)? }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ByKey {
    key: String,
}

async fn forget(State(gateway): State<Gateway>, of: Result<Json<ByKey>, JsonRejection>) -> Answer<Done> {
    Ok(Json(Done { done: gateway.forget(&of?.0.key)? }))
}

async fn overview(State(gateway): State<Gateway>) -> Json<Overview> {
    Json(gateway.read(Ledger::overview))
}
