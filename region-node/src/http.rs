//! The JSON API, behind the router.

mod conditions;
mod cursor;
mod document;
mod events;
mod lists;
mod operations;
mod problem;
mod shapes;
mod version;

use std::error::Error;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequestParts, Path, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use cell_core::cell::{Ask, Command, Reply};
use cell_core::entity::Entity;
use cell_core::event::Op;
use cell_core::id::{OrderId, PaymentId, UserId};
use cell_core::version::Dot;
use document::{Body, Operation, Route};
use http_body_util::LengthLimitError;
pub(crate) use operations::operations;
pub(crate) use problem::PROBLEM_NAMES;
use problem::Problem;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::error::Category;
use serde_path_to_error::Segment;
use service_kit::{Shutdown, TraceParent, Words};
use shapes::{
    AskShape, CardShape, ContentShape, EmptyShape, Object, OrderShape, PaymentShape, PlaceShape, RefundShape,
    event_shapes, is_frozen, order_shape, payment_shape,
};

use tokio::sync::Semaphore;

use crate::gateway::{CallbackError, Callbacks};
use crate::node::Node;
use crate::writer::now_ms;

/// Largest request body; the router in front has the same limit.
pub const BODY_BYTES_MAX: usize = 64 * 1024;
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
/// For a whole body; longer than the router gives it.
const BODY_WITHIN: Duration = Duration::from_secs(75);
/// Event streams open at once.
pub(crate) const STREAMS_MAX: usize = 10_000;

/// What the handlers work with.
#[derive(Clone, Debug)]
pub(crate) struct Api {
    pub(crate) node: Node,
    pub(crate) gateway: Callbacks,
    pub(crate) shutdown: Shutdown,
    /// Places for event streams.
    pub(crate) streams: Arc<Semaphore>,
    /// How long a request waits for the version that it presents.
    pub(crate) session_wait: Duration,
}

/// The API's routes, and what the document says of each.
fn routes() -> Vec<Route<Arc<Api>>> {
    use Body::{Empty, Of};
    let route =
        |path, handler, operations: &[Operation]| Route { path, handler, operations: operations.to_vec() };
    let get_of = |summary, name, query, problems| Operation {
        method: "get",
        summary,
        body: Body::None,
        answers: name,
        query,
        problems,
        of_user: true,
    };
    let post_of = |summary, body, answers, problems| Operation {
        method: "post",
        summary,
        body,
        answers,
        query: &[],
        problems,
        of_user: true,
    };
    const READ: &[&str] = &["bad-id", "not-found"];
    const LIST: &[&str] = &["invalid-request", "bad-cursor"];
    const COMMAND: &[&str] = &[
        "invalid-request",
        "bad-id",
        "not-found",
        "state-forbids",
        "superseded",
        "too-many-decisions",
        "changed",
        "too-large",
        "recovering",
        "blocked",
    ];
    const PLACE: &[&str] = &["invalid-request", "too-large", "low-disk"];
    const ORDER: &[(u16, &str)] = &[(200, "Order"), (201, "Order")];
    const BOTH: &[(u16, &str)] =
        &[(200, "OrderWithPayment"), (201, "OrderWithPayment"), (202, "OrderWithPayment")];
    const ONE_ORDER: &[(u16, &str)] = &[(200, "Order"), (304, "")];
    const ONE_PAYMENT: &[(u16, &str)] = &[(200, "Payment"), (304, "")];
    let command = |summary, body| post_of(summary, body, BOTH, COMMAND);
    let mut quoting =
        post_of("What an order would cost", Of("Content"), &[(200, "Quote")], &["invalid-request"]);
    quoting.problems = &["invalid-request", "too-large"];
    let called = Operation {
        method: "post",
        summary: "The payment gateway reports, signed, at any region; what it says again changes nothing, and is answered alike",
        body: Body::None,
        answers: &[(204, "")],
        query: &[],
        problems: &[
            "callback-unsigned",
            "callback-forged",
            "callback-stale",
            "callback-malformed",
            "too-large",
        ],
        of_user: false,
    };
    let described = Operation {
        method: "get",
        summary: "This document",
        body: Body::None,
        answers: &[(200, "")],
        query: &[],
        problems: &[],
        of_user: false,
    };
    vec![
        route(
            "/v1/orders",
            post(place).get(lists::list_orders),
            &[
                post_of("Place an order", Of("Place"), ORDER, PLACE),
                get_of("My orders, newest first", &[(200, "Orders")], lists::ORDER_FILTERS, LIST),
            ],
        ),
        route("/v1/orders/quote", post(quote), &[quoting]),
        route("/v1/orders/{order}", get(get_order), &[get_of("An order of mine", ONE_ORDER, &[], READ)]),
        route(
            "/v1/orders/{order}/events",
            get(order_events),
            &[get_of("What was decided on it", &[(200, "Events")], &[], READ)],
        ),
        route("/v1/orders/{order}/pay", post(pay), &[command("Pay for it myself", Of("Card"))]),
        route("/v1/orders/{order}/cancel", post(cancel), &[command("Cancel it", Empty)]),
        route("/v1/orders/{order}/amend", post(amend), &[command("Change what is bought", Of("Content"))]),
        route("/v1/orders/{order}/refunds", post(refund), &[command("Give money back", Of("Refund"))]),
        route(
            "/v1/orders/{order}/pay-requests",
            post(ask_payer),
            &[command("Ask somebody else to pay", Of("Ask"))],
        ),
        route(
            "/v1/pay-requests",
            get(lists::list_pay_requests),
            &[get_of("What I am asked to pay, or asked others to", &[(200, "Payments")], lists::ROLE, LIST)],
        ),
        route(
            "/v1/pay-requests/{payment}",
            get(get_payment),
            &[get_of("A request to pay", ONE_PAYMENT, &[], READ)],
        ),
        route("/v1/pay-requests/{payment}/accept", post(accept), &[command("Say yes, and pay", Of("Card"))]),
        route("/v1/pay-requests/{payment}/decline", post(decline), &[command("Say no", Empty)]),
        route("/v1/pay-requests/{payment}/withdraw", post(withdraw), &[command("Ask no longer", Empty)]),
        route("/v1/payments/{payment}", get(get_payment), &[get_of("A payment", ONE_PAYMENT, &[], READ)]),
        route("/v1/payments/callback", post(callback), &[called]),
        route(
            "/v1/notifications",
            get(events::notifications),
            &[get_of(
                "What I was told, in the order in which it came here",
                &[(200, "Notices")],
                events::AFTER,
                LIST,
            )],
        ),
        route(
            "/v1/events",
            get(events::events),
            &[get_of(
                "What I am told, as it happens",
                &[(200, "")],
                &events::AFTER[..1],
                &["invalid-request", "bad-cursor", "too-many-streams"],
            )],
        ),
        route("/openapi.json", get(openapi), &[described]),
    ]
}

/// The OpenAPI document of the API.
#[must_use]
pub fn document() -> serde_json::Value {
    document::document(&routes())
}

/// The API.
pub(crate) fn router(api: Api) -> Router {
    let mut router = Router::new();
    for route in routes() {
        router = router.route(route.path, route.handler);
    }
    router
        .fallback(async || Problem::new("unknown-route", "there is no such route"))
        .method_not_allowed_fallback(async || Problem::new("method-not-allowed", "not with this method"))
        .layer(axum::middleware::from_fn(around))
        .with_state(Arc::new(api))
}

/// Around every request: it has a trace, which its answer names, and an answer of the framework's is in our words.
async fn around(mut request: Request, next: Next) -> Response {
    let trace = trace_for(request.headers());
    request.headers_mut().remove(TRACEPARENT);
    request.headers_mut().extend(trace.clone().map(|trace| (TRACEPARENT, trace)));
    // What is none is refused where it is asked for.
    let presented = version::presented(request.headers()).ok().flatten();
    let mut response = match with_body(request).await {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    version::put(&mut response, presented.as_ref());
    let ours = response.headers().get(header::CONTENT_TYPE).is_some_and(|kind| kind == problem::CONTENT_TYPE);
    if response.status().is_client_error() && !ours {
        // All else is read with words of its own.
        response = Problem::new("bad-id", "the id in the path is not UTF-8").into_response();
    }
    response.headers_mut().extend(trace.map(|trace| (TRACEPARENT, trace)));
    response
}

/// The request with its whole body: nobody holds a place by sending one byte after the other.
async fn with_body(request: Request) -> Result<Request, Problem> {
    if request.body().is_end_stream() {
        return Ok(request);
    }
    let too_large = || Problem::new("too-large", format!("a body has at most {BODY_BYTES_MAX} bytes"));
    // Said before somebody who asks first whether to send it is told to.
    if request.body().size_hint().lower() > BODY_BYTES_MAX as u64 {
        return Err(too_large());
    }
    let (head, body) = request.into_parts();
    match tokio::time::timeout(BODY_WITHIN, axum::body::to_bytes(body, BODY_BYTES_MAX)).await {
        Ok(Ok(bytes)) => Ok(Request::from_parts(head, bytes.into())),
        Ok(Err(error)) if error.source().is_some_and(|source| source.is::<LengthLimitError>()) => {
            Err(too_large())
        }
        Ok(Err(_)) => Err(Problem::new("bad-body", "the body ended early or was not well-formed")),
        Err(_) => Err(Problem::new("body-too-slow", format!("a body has {BODY_WITHIN:?} to arrive"))),
    }
}

/// More connections than the node serves.
pub(crate) fn too_many_connections() -> Response {
    Problem::new("busy", "the node has as many connections as it may").into_response()
}

/// The request's trace, or a new one: what follows from it in other regions is found under it.
fn trace_for(headers: &HeaderMap) -> Option<HeaderValue> {
    let given = headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()?.parse::<TraceParent>().ok());
    HeaderValue::from_str(&given.unwrap_or_else(TraceParent::fresh).to_string()).ok()
}

async fn openapi() -> Json<serde_json::Value> {
    static DOCUMENT: OnceLock<serde_json::Value> = OnceLock::new();
    Json(DOCUMENT.get_or_init(document).clone())
}

type Shared = State<Arc<Api>>;

// === who asks, and how ===

/// The user, as the edge identified them; the node has what they saw elsewhere, as far as they say so.
struct User(UserId);

impl FromRequestParts<Arc<Api>> for User {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, api: &Arc<Api>) -> Result<User, Problem> {
        let unidentified = |detail: String| Problem::new("unidentified", detail);
        let header = only(&parts.headers, "x-user-id")
            .map_err(unidentified)?
            .ok_or_else(|| unidentified("the request names no user (X-User-Id)".to_owned()))?;
        let user = UserId::new(header).map_err(|error| unidentified(error.to_string()))?;
        version::at_least(api, parts).await?;
        Ok(User(user))
    }
}

/// A header that may be given once, as text.
fn only<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<Option<&'a str>, String> {
    let mut given = headers.get_all(name).iter();
    let (Some(value), None) = (given.next(), given.next()) else {
        return if headers.contains_key(name) { Err(format!("{name} is given twice")) } else { Ok(None) };
    };
    std::str::from_utf8(value.as_bytes()).map(Some).map_err(|_| format!("{name} is no UTF-8"))
}

fn key_of(headers: &HeaderMap) -> Result<String, Problem> {
    let missing = |detail: String| Problem::new("idempotency-key-missing", detail);
    let key = only(headers, "idempotency-key").map_err(missing)?;
    let Some(key) = key.filter(|key| !key.is_empty() && key.len() <= 255) else {
        let detail = "every POST needs an Idempotency-Key of 1 to 255 bytes; a UUIDv7 is best";
        return Err(missing(detail.to_owned()));
    };
    Ok(key.to_owned())
}

/// As [`around`] put it there; empty without one.
fn trace_of(headers: &HeaderMap) -> String {
    headers.get(TRACEPARENT).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
}

/// The body's object; an empty body is an empty one.
fn body_of<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    let body = if body.is_empty() { b"{}" } else { body };
    match serde_json::from_slice(body) {
        Ok(Object(shape)) => Ok(shape),
        Err(error) => {
            let detail = match error.classify() {
                Category::Data => Words::Json.say(&error.to_string()),
                Category::Syntax | Category::Eof | Category::Io => format!("the body is not JSON: {error}"),
            };
            Err(Problem::invalid(pointer_of::<T>(body), detail))
        }
    }
}

/// Where in a refused body the fault is: read once more, with the way taken. Empty for the whole.
fn pointer_of<T: DeserializeOwned>(body: &[u8]) -> String {
    let mut json = serde_json::Deserializer::from_slice(body);
    let Err(error) = serde_path_to_error::deserialize::<_, Object<T>>(&mut json) else {
        return String::new();
    };
    let pointer = error.path().iter().map(|segment| match segment {
        Segment::Seq { index } => format!("/{index}"),
        Segment::Map { key } => format!("/{}", key.replace('~', "~0").replace('/', "~1")),
        Segment::Enum { .. } | Segment::Unknown => String::new(),
    });
    pointer.collect()
}

fn order_id(text: &str) -> Result<OrderId, Problem> {
    text.parse().map_err(|error| Problem::new("bad-id", format!("{text}: {error}")))
}

fn payment_id(text: &str) -> Result<PaymentId, Problem> {
    text.parse().map_err(|error| Problem::new("bad-id", format!("{text}: {error}")))
}

impl Api {
    /// What a user does not see; unless that is because its record was lost, or only a newer version can read it.
    fn not_shown(&self, entity: &Entity, user: &UserId) -> Problem {
        if is_frozen(entity, user) {
            let why = "it holds something that only a newer version of this service can read";
            return Problem::new("blocked", why);
        }
        let lost = self.node.working().recorded_or_lost(entity).map_err(crate::NodeError::from);
        lost.map_or_else(Problem::from, |()| Problem::not_found())
    }

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
        let condition = conditions::of(headers, &user, &command.ask)?;
        let (reply, written) = self.node.command_if(command, condition).await?;
        let reply = reply.map_err(|refusal| match op {
            // What an order is made of is a member of the body there, and elsewhere the body.
            Op::Place => Problem::from(refusal).inside("/content"),
            _ => Problem::from(refusal),
        })?;
        // Placing is the everyday; what involves others is worth a line that the trace begins with.
        if op != Op::Place
            && let Ok(trace) = trace.parse::<TraceParent>()
        {
            trace.span("command").in_scope(|| tracing::info!(%op, order = %reply.order, "carried out"));
        }
        self.answer(&user, &reply, written)
    }

    /// The thing that was acted on, as it stands now; `written` is what the command made of it.
    fn answer(&self, user: &UserId, reply: &Reply, written: Option<Dot>) -> Result<Response, Problem> {
        #[derive(Serialize)]
        struct Both<'a> {
            #[serde(flatten)]
            order: Option<&'a OrderShape>,
            payment: &'a PaymentShape,
        }
        let order = self.node.entity(reply.order.into())?;
        let payment = match reply.payment {
            Some(payment) => self.node.entity(payment.into())?,
            None => None,
        };
        let order = order.and_then(|order| order_shape(&order, user, now_ms()));
        let payment = payment.and_then(|payment| payment_shape(&payment, user));
        let alone = order.as_ref().map(conditions::json);
        let etag = alone.as_deref().map(conditions::etag);
        let body = match (&payment, alone) {
            (Some(payment), _) => conditions::json(&Both { order: order.as_ref(), payment }),
            (None, Some(alone)) => alone,
            (None, None) => b"{}".to_vec(),
        };
        let status = match (reply.pending, reply.repeated) {
            (true, _) => StatusCode::ACCEPTED,
            (false, true) => StatusCode::OK,
            (false, false) => StatusCode::CREATED,
        };
        let mut response = conditions::of_json(body);
        *response.status_mut() = status;
        response.headers_mut().extend(etag.map(|etag| (header::ETAG, etag)));
        let versions = [written, order.and_then(|it| it.version), payment.and_then(|it| it.version)];
        Ok(version::shows(response, versions.into_iter().flatten()))
    }
}

// === orders ===

async fn place(
    State(api): Shared,
    User(user): User,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    if api.node.is_low_on_disk() {
        let detail = "the disk is nearly full: new orders are refused, everything else goes on";
        return Err(Problem::new("low-disk", detail));
    }
    let shape: PlaceShape = body_of(&body)?;
    let record = shape.record(&user, &key_of(&headers)?)?;
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
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let entity = api.node.entity(order_id(&order)?.into())?.ok_or_else(Problem::not_found)?;
    let shape = order_shape(&entity, &user, now_ms()).ok_or_else(|| api.not_shown(&entity, &user))?;
    let version = shape.version;
    Ok(version::shows(conditions::unless_unchanged(&headers, &shape), version))
}

async fn order_events(
    State(api): Shared,
    User(user): User,
    Path(order): Path<String>,
) -> Result<Response, Problem> {
    let entity = api.node.entity(order_id(&order)?.into())?.ok_or_else(Problem::not_found)?;
    let shape = order_shape(&entity, &user, now_ms()).ok_or_else(|| api.not_shown(&entity, &user))?;
    Ok(version::shows(Json(event_shapes(&entity)).into_response(), shape.version))
}

async fn pay(
    State(api): Shared,
    User(user): User,
    Path(order): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let ask = Ask::Pay { order: order_id(&order)?, card: body_of::<CardShape>(&body)?.card()? };
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
    let content = Arc::new(body_of::<ContentShape>(&body)?.content());
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
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let entity = api.node.entity(payment_id(&payment)?.into())?.ok_or_else(Problem::not_found)?;
    let shape = payment_shape(&entity, &user).ok_or_else(|| api.not_shown(&entity, &user))?;
    let version = shape.version;
    Ok(version::shows(conditions::unless_unchanged(&headers, &shape), version))
}

async fn accept(
    State(api): Shared,
    User(user): User,
    Path(payment): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Problem> {
    let card = body_of::<CardShape>(&body)?.card()?;
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
        if let CallbackError::Malformed(_) = &error {
            // Genuine, and money may have moved.
            tracing::error!(%error, "a callback of the gateway cannot be understood");
        }
        let name = match error {
            CallbackError::Unsigned => "callback-unsigned",
            CallbackError::Forged => "callback-forged",
            CallbackError::Stale => "callback-stale",
            CallbackError::Malformed(_) => "callback-malformed",
        };
        Problem::new(name, error.to_string())
    })?;
    api.node.facts(facts, trace_of(&headers)).await?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// Reads that may wait for the disk, off the runtime.
async fn read<T: Send + 'static, E: Into<Problem> + Send + 'static>(
    read: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Result<T, Problem> {
    let read = tokio::task::spawn_blocking(read).await;
    read.map_err(|error| Problem::new("unavailable", error.to_string()))?.map_err(E::into)
}

// === text ===

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits: Option<Vec<u32>> = text.chars().map(|digit| digit.to_digit(16)).collect();
    let digits = digits.filter(|digits| digits.len().is_multiple_of(2))?;
    Some(digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect())
}

fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_is_not_waited_for() {
        let drip = futures::stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Some((Ok::<_, std::convert::Infallible>(Bytes::from_static(b" ")), ()))
        });
        let request = Request::builder().body(axum::body::Body::from_stream(drip)).unwrap();
        let problem = with_body(request).await.unwrap_err().into_response();
        assert_eq!(problem.status(), StatusCode::REQUEST_TIMEOUT);
    }
}
