//! The JSON API, behind the router.

mod cursor;
mod events;
mod problem;
mod shapes;

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::QueryRejection;
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use cell_core::cell::{Ask, Command, Reply};
use cell_core::event::Op;
use cell_core::id::{EntityId, OrderId, PaymentId, PublicId, UserId};
use cell_store::Scan;
use problem::Problem;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use service_kit::{Shutdown, TraceParent};
use shapes::{
    AskShape, CardShape, ContentShape, EmptyShape, OrderShape, PaymentShape, PlaceShape, RefundShape,
    event_shapes, order_shape, payment_shape,
};

use tokio::sync::Semaphore;

use crate::gateway::{CallbackError, Gateway};
use crate::keys;
use crate::node::Node;
use crate::writer::now_ms;

/// Largest request body.
const BODY_BYTES_MAX: usize = 64 * 1024;
const PAGE_MAX: usize = 100;
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// Event streams open at once.
const STREAMS_MAX: usize = 10_000;

#[derive(Clone, Debug)]
pub(crate) struct Api {
    node: Node,
    gateway: Gateway,
    pay_window_ms: u64,
    shutdown: Shutdown,
    /// Places for event streams.
    streams: Arc<Semaphore>,
}

/// The API's routes.
pub(crate) fn router(node: Node, gateway: Gateway, pay_window_ms: u64, shutdown: Shutdown) -> Router {
    let streams = Arc::new(Semaphore::new(STREAMS_MAX));
    Router::new()
        .route("/v1/orders", post(place).get(list_orders))
        .route("/v1/orders/quote", post(quote))
        .route("/v1/orders/{order}", get(get_order))
        .route("/v1/orders/{order}/events", get(order_events))
        .route("/v1/orders/{order}/pay", post(pay))
        .route("/v1/orders/{order}/cancel", post(cancel))
        .route("/v1/orders/{order}/amend", post(amend))
        .route("/v1/orders/{order}/refunds", post(refund))
        .route("/v1/orders/{order}/pay-requests", post(ask_payer))
        .route("/v1/pay-requests", get(list_pay_requests))
        .route("/v1/pay-requests/{payment}", get(get_payment))
        .route("/v1/pay-requests/{payment}/accept", post(accept))
        .route("/v1/pay-requests/{payment}/decline", post(decline))
        .route("/v1/pay-requests/{payment}/withdraw", post(withdraw))
        .route("/v1/payments/{payment}", get(get_payment))
        .route("/v1/payments/callback", post(callback))
        .route("/v1/notifications", get(events::notifications))
        .route("/v1/events", get(events::events))
        .fallback(async || Problem::new(404, "unknown-route", "there is no such route"))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(Arc::new(Api { node, gateway, pay_window_ms, shutdown, streams }))
}

type Shared = State<Arc<Api>>;

// === who asks, and how ===

/// The user, as the edge identified them.
struct User(UserId);

impl<S: Sync> FromRequestParts<S> for User {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<User, Problem> {
        let header = parts.headers.get("x-user-id").and_then(|value| value.to_str().ok());
        let Some(header) = header else {
            return Err(Problem::new(401, "unidentified", "the request names no user (X-User-Id)"));
        };
        let user =
            UserId::new(header).map_err(|error| Problem::new(401, "unidentified", error.to_string()))?;
        Ok(User(user))
    }
}

fn key_of(headers: &HeaderMap) -> Result<String, Problem> {
    let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok());
    let Some(key) = key.filter(|key| !key.is_empty() && key.len() <= 255) else {
        let detail = "every POST needs an Idempotency-Key of 1 to 255 characters; a UUIDv7 is best";
        return Err(Problem::new(400, "idempotency-key-missing", detail));
    };
    Ok(key.to_owned())
}

/// The request's trace, or a new one: what follows from it in other regions is found under it.
fn trace_of(headers: &HeaderMap) -> String {
    let given = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()?.parse::<TraceParent>().ok());
    let trace = given.or_else(|| {
        let mut random = [0; 24];
        // Without entropy the request has no trace, and is carried out all the same.
        getrandom::fill(&mut random).ok().map(|()| TraceParent::from_random(random))
    });
    trace.map(|trace| trace.to_string()).unwrap_or_default()
}

fn body_of<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| {
        let pointer = if error.is_data() { "" } else { "/" };
        Problem::invalid(pointer, error.to_string())
    })
}

fn order_id(text: &str) -> Result<OrderId, Problem> {
    text.parse().map_err(|error| Problem::new(400, "bad-id", format!("{text}: {error}")))
}

fn payment_id(text: &str) -> Result<PaymentId, Problem> {
    text.parse().map_err(|error| Problem::new(400, "bad-id", format!("{text}: {error}")))
}

impl Api {
    async fn carry_out(
        &self,
        user: UserId,
        headers: &HeaderMap,
        body: &Bytes,
        ask: Ask,
    ) -> Result<Response, Problem> {
        let key = key_of(headers)?;
        let trace = trace_of(headers);
        let op = ask.op();
        let command = Command { user: user.clone(), key, body: body.to_vec(), trace: trace.clone(), ask };
        let reply = self.node.command(command).await??;
        // Placing is the everyday; what involves others is worth a line that the trace begins with.
        if op != Op::Place
            && let Ok(trace) = trace.parse::<TraceParent>()
        {
            trace.span("command").in_scope(|| tracing::info!(%op, order = %reply.order, "carried out"));
        }
        let mut response = self.answer(&user, &reply)?;
        response.headers_mut().extend(HeaderValue::from_str(&trace).ok().map(|trace| (TRACEPARENT, trace)));
        Ok(response)
    }

    /// The thing that was acted on, as it stands now.
    fn answer(&self, user: &UserId, reply: &Reply) -> Result<Response, Problem> {
        #[derive(Serialize)]
        struct Answer {
            #[serde(flatten)]
            order: Option<OrderShape>,
            #[serde(skip_serializing_if = "Option::is_none")]
            payment: Option<PaymentShape>,
        }
        let order = self.node.entity(reply.order.into())?;
        let payment = match reply.payment {
            Some(payment) => self.node.entity(payment.into())?,
            None => None,
        };
        let answer = Answer {
            order: order.and_then(|order| order_shape(&order, user, now_ms())),
            payment: payment.and_then(|payment| payment_shape(&payment, user)),
        };
        let status = match (reply.pending, reply.repeated) {
            (true, _) => StatusCode::ACCEPTED,
            (false, true) => StatusCode::OK,
            (false, false) => StatusCode::CREATED,
        };
        Ok((status, Json(answer)).into_response())
    }
}

// === orders ===

async fn place(
    State(api): Shared,
    User(user): User,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let shape: PlaceShape = body_of(&body)?;
    let record = shape.record(&user, &key_of(&headers)?, api.pay_window_ms)?;
    api.carry_out(user, &headers, &body, Ask::Place { record: Box::new(record) }).await
}

async fn quote(User(_): User, body: Bytes) -> Result<Response, Problem> {
    let content = body_of::<ContentShape>(&body)?.content();
    let total = content.total_minor().map_err(|error| Problem::invalid("/lines", error.to_string()))?;
    let quoted = serde_json::json!({ "total_minor": total, "currency": content.currency });
    Ok(Json(quoted).into_response())
}

async fn get_order(
    State(api): Shared,
    User(user): User,
    Path(order): Path<String>,
) -> Result<Response, Problem> {
    let entity = api.node.entity(order_id(&order)?.into())?.ok_or_else(Problem::not_found)?;
    let shape = order_shape(&entity, &user, now_ms()).ok_or_else(Problem::not_found)?;
    Ok(Json(shape).into_response())
}

async fn order_events(
    State(api): Shared,
    User(user): User,
    Path(order): Path<String>,
) -> Result<Response, Problem> {
    let entity = api.node.entity(order_id(&order)?.into())?.ok_or_else(Problem::not_found)?;
    order_shape(&entity, &user, now_ms()).ok_or_else(Problem::not_found)?;
    Ok(Json(event_shapes(&entity)).into_response())
}

async fn pay(
    State(api): Shared,
    User(user): User,
    Path(order): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let ask = Ask::Pay { order: order_id(&order)?, card: body_of::<CardShape>(&body)?.card_token };
    api.carry_out(user, &headers, &body, ask).await
}

async fn cancel(
    State(api): Shared,
    User(user): User,
    Path(order): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let EmptyShape {} = body_of(&body)?;
    api.carry_out(user, &headers, &body, Ask::Cancel { order: order_id(&order)? }).await
}

async fn amend(
    State(api): Shared,
    User(user): User,
    Path(order): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let content = Box::new(body_of::<ContentShape>(&body)?.content());
    api.carry_out(user, &headers, &body, Ask::Amend { order: order_id(&order)?, content }).await
}

async fn refund(
    State(api): Shared,
    User(user): User,
    Path(order): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let amount_minor = body_of::<RefundShape>(&body)?.amount_minor;
    api.carry_out(user, &headers, &body, Ask::Refund { order: order_id(&order)?, amount_minor }).await
}

async fn ask_payer(
    State(api): Shared,
    User(user): User,
    Path(order): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let shape: AskShape = body_of(&body)?;
    let payer = UserId::new(&shape.payer).map_err(|error| Problem::invalid("/payer", error.to_string()))?;
    let window_ms = shape.window_s.map(|window| window.saturating_mul(1_000));
    let ask = Ask::AskPayer { order: order_id(&order)?, payer, until_ms: shape.until_ms, window_ms };
    api.carry_out(user, &headers, &body, ask).await
}

// === payments ===

async fn get_payment(
    State(api): Shared,
    User(user): User,
    Path(payment): Path<String>,
) -> Result<Response, Problem> {
    let entity = api.node.entity(payment_id(&payment)?.into())?.ok_or_else(Problem::not_found)?;
    let shape = payment_shape(&entity, &user).ok_or_else(Problem::not_found)?;
    Ok(Json(shape).into_response())
}

async fn accept(
    State(api): Shared,
    User(user): User,
    Path(payment): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let card = body_of::<CardShape>(&body)?.card_token;
    api.carry_out(user, &headers, &body, Ask::Accept { payment: payment_id(&payment)?, card }).await
}

async fn decline(
    State(api): Shared,
    User(user): User,
    Path(payment): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let EmptyShape {} = body_of(&body)?;
    api.carry_out(user, &headers, &body, Ask::Decline { payment: payment_id(&payment)? }).await
}

async fn withdraw(
    State(api): Shared,
    User(user): User,
    Path(payment): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let EmptyShape {} = body_of(&body)?;
    api.carry_out(user, &headers, &body, Ask::Withdraw { payment: payment_id(&payment)? }).await
}

/// From the gateway, at any region: genuine and recent ones become facts, also for a payment not known here yet.
async fn callback(State(api): Shared, headers: HeaderMap, body: Bytes) -> Result<Response, Problem> {
    let signature =
        headers.get("x-gateway-signature").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let facts = api.gateway.callback(signature, &body, now_ms()).map_err(|error| {
        let (status, name) = match error {
            CallbackError::Unsigned => (400, "callback-unsigned"),
            CallbackError::Forged => (401, "callback-forged"),
            CallbackError::Stale => (400, "callback-stale"),
            CallbackError::Malformed(_) => (400, "callback-malformed"),
        };
        Problem::new(status, name, error.to_string())
    })?;
    let trace = headers.get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or_default();
    api.node.facts(facts, trace.to_owned()).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

// === lists ===

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Page {
    #[serde(default)]
    limit: Option<usize>,
    /// As the page before named it.
    #[serde(default)]
    cursor: Option<String>,
    /// `payer` or `buyer`, for pay requests.
    #[serde(default)]
    role: Option<String>,
}

#[derive(Debug, Serialize)]
struct Listed<T> {
    items: Vec<T>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Api {
    /// Ids of a per-user index, newest first, and the cursor behind them.
    async fn newest(
        &self,
        prefix: u8,
        user: &UserId,
        page: &Page,
    ) -> Result<(Vec<PublicId>, Option<String>), Problem> {
        let limit = page.limit.unwrap_or(20).clamp(1, PAGE_MAX);
        let head = keys::of_user(prefix, user);
        let mut scan = Scan::prefix(head.clone(), limit).reversed();
        if let Some(cursor) = &page.cursor {
            let bad = || Problem::new(400, "bad-cursor", "the cursor is none of this list");
            let rest = from_hex(cursor).filter(|rest| rest.len() == 24).ok_or_else(bad)?;
            scan = scan.before([&head[..], &rest].concat());
        }
        let store = self.node.store().clone();
        let found = tokio::task::spawn_blocking(move || store.scan(&scan)).await;
        let found = found
            .map_err(|error| Problem::new(503, "unavailable", error.to_string()))?
            .map_err(|error| Problem::new(503, "unavailable", error.to_string()))?;
        let next = (found.len() == limit).then(|| found.last().map(|(key, _)| to_hex(&key[head.len()..])));
        let ids = found.iter().filter_map(|(key, _)| keys::id_of_user_entry(key)).map(PublicId);
        Ok((ids.collect(), next.flatten()))
    }
}

async fn list_orders(
    State(api): Shared,
    User(user): User,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(page) = page.map_err(|error| Problem::invalid("", error.body_text()))?;
    let (ids, next) = api.newest(b'u', &user, &page).await?;
    let mut items = Vec::with_capacity(ids.len());
    for id in ids {
        let entity = api.node.entity(EntityId::from(OrderId(id)))?;
        items.extend(entity.and_then(|entity| order_shape(&entity, &user, now_ms())));
    }
    Ok(Json(Listed { items, next }).into_response())
}

async fn list_pay_requests(
    State(api): Shared,
    User(user): User,
    page: Result<Query<Page>, QueryRejection>,
) -> Result<Response, Problem> {
    let Query(page) = page.map_err(|error| Problem::invalid("", error.body_text()))?;
    let prefix = match page.role.as_deref() {
        None | Some("payer") => b'p',
        Some("buyer") => b'b',
        Some(_) => return Err(Problem::invalid("/role", "a role is 'payer' or 'buyer'")),
    };
    let (ids, next) = api.newest(prefix, &user, &page).await?;
    let mut items = Vec::with_capacity(ids.len());
    for id in ids {
        let entity = api.node.entity(EntityId::from(PaymentId(id)))?;
        items.extend(entity.and_then(|entity| payment_shape(&entity, &user)));
    }
    Ok(Json(Listed { items, next }).into_response())
}
