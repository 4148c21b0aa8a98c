//! RFC 9457 problems with stable types.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cell_core::cell::{NOT_FOUND, Problem as Kind, Refusal};
use cell_store::StoreError;
use serde_json::json;

use crate::writer::NodeError;

pub(super) const CONTENT_TYPE: &str = "application/problem+json";
/// Base of every `type`.
pub(crate) const TYPES: &str = "https://homecell.dev/problems/";

/// Every problem there is: name, status, and when. The end of `type`, stable for ever.
pub(crate) const NAMES: &[(&str, u16, &str)] = &[
    ("invalid-request", 400, "the body or a parameter is not what this takes; `pointer` says where"),
    ("bad-body", 400, "the body ended early or was not well-formed"),
    ("idempotency-key-missing", 400, "a POST without an `Idempotency-Key` of 1 to 255 characters"),
    ("bad-id", 400, "not an order's or a payment's id"),
    ("bad-cursor", 400, "a cursor of another list, or none at all"),
    ("bad-version", 400, "a `Cell-Version` that is none, or given twice: leave it out"),
    ("callback-unsigned", 400, "a callback without `X-Gateway-Signature`"),
    ("callback-stale", 400, "a callback outside its window of five minutes"),
    ("callback-malformed", 400, "a genuine callback that cannot be understood"),
    ("callback-forged", 401, "the callback's signature does not fit"),
    ("unidentified", 401, "the request names no user"),
    ("not-found", 404, "there is no such thing of this user's"),
    ("unknown-route", 404, "there is no such path"),
    ("method-not-allowed", 405, "the path is known, the method is not"),
    ("state-forbids", 409, "the order or payment is in no state for this"),
    ("superseded", 409, "the command was overruled by a later home; it has no effect"),
    (
        "lost-or-late",
        409,
        "what the `Cell-Version` names is lost with its node, or comes late: look without it at what there is",
    ),
    ("too-many-decisions", 409, "the order or payment has as many decisions as it may have"),
    ("changed", 412, "`If-Match` names another state than the present one"),
    ("body-too-slow", 408, "the rest of the body did not arrive in time"),
    ("too-large", 413, "the body is over the limit"),
    ("misdirected", 421, "another region decides here: `home`"),
    ("key-reused", 422, "the key was used with another body"),
    ("busy", 503, "too much waits; come back"),
    ("blocked", 503, "this needs a newer version, or is damaged here"),
    (
        "recovering",
        503,
        "the node has just started and asks its peers what they hold of it; new orders are taken",
    ),
    ("version-not-here", 503, "what the `Cell-Version` names has not reached this region yet: come back"),
    ("low-disk", 503, "no new orders: the disk is nearly full; payments go on"),
    ("too-many-streams", 503, "as many event streams as this node gives are open"),
    ("unavailable", 503, "the store does not answer"),
];

const fn names<const N: usize>() -> [&'static str; N] {
    let mut names = [""; N];
    let mut i = 0;
    while i < N {
        names[i] = NAMES[i].0;
        i += 1;
    }
    names
}

/// The names of [`NAMES`] alone.
pub(crate) const PROBLEM_NAMES: [&str; NAMES.len()] = names();

/// What else a client can be told, by the router in front.
pub(crate) const AT_THE_EDGE: &[(&str, u16, &str)] = &[
    ("upstream-unreachable", 502, "the home region takes no connections; the request was not sent"),
    (
        "upstream-reset",
        502,
        "the home region hung up; whether it took effect is not known: repeat it with its key",
    ),
    ("overloaded", 503, "the router has as many connections as it may"),
    ("moving", 503, "the home of this request is being moved"),
    ("no-upstream", 503, "the router knows no way to the home region"),
    ("upstream-timeout", 504, "the home region did not answer in time: repeat it with its key"),
];

/// The status of a problem of [`NAMES`].
pub(crate) fn status_of(name: &str) -> u16 {
    NAMES.iter().find(|(known, _, _)| *known == name).map_or(500, |(_, status, _)| *status)
}

/// What a client is told when its request was not carried out.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    name: &'static str,
    detail: String,
    pointer: Option<String>,
    home: Option<(String, String)>,
    retryable: bool,
}

impl Problem {
    /// `name` is one of [`NAMES`].
    pub(crate) fn new(name: &'static str, detail: impl Into<String>) -> Problem {
        let status = StatusCode::from_u16(status_of(name)).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retryable = status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT;
        Problem { status, name, detail: detail.into(), pointer: None, home: None, retryable }
    }
    pub(crate) fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Problem {
        Problem { pointer: Some(pointer.into()), ..Problem::new("invalid-request", detail) }
    }
    /// The same of a member of the body.
    pub(crate) fn inside(self, member: &str) -> Problem {
        Problem { pointer: self.pointer.map(|pointer| format!("{member}{pointer}")), ..self }
    }
    pub(crate) fn not_found() -> Problem {
        Problem::new("not-found", NOT_FOUND)
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let name = match refusal.problem {
            Kind::NotFound => "not-found",
            Kind::Misdirected => "misdirected",
            Kind::Superseded => "superseded",
            Kind::KeyReused => "key-reused",
            Kind::Changed => "changed",
            Kind::Forbidden => "state-forbids",
            Kind::Invalid => "invalid-request",
            Kind::TooMany => "too-many-decisions",
            Kind::Recovering => "recovering",
            Kind::Blocked => "blocked",
        };
        let home = refusal.home.map(|home| {
            let epoch = format!("{}.{}", home.term, home.step);
            (home.node.region.to_string(), epoch)
        });
        let problem = Problem::new(name, refusal.detail);
        let retryable = problem.retryable || name == "misdirected";
        Problem { pointer: refusal.pointer.map(str::to_owned), home, retryable, ..problem }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        Problem::new("unavailable", error.to_string())
    }
}

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Problem {
        let name = match error {
            NodeError::Busy => "busy",
            NodeError::Unavailable(_) => "unavailable",
        };
        Problem::new(name, error.to_string())
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut body = json!({
            "type": format!("{TYPES}{}", self.name),
            "title": self.name.replace('-', " "),
            "status": self.status.as_u16(),
            "detail": self.detail,
            "retryable": self.retryable,
        });
        if let Some(pointer) = self.pointer {
            body["pointer"] = json!(pointer);
        }
        if let Some((home, epoch)) = self.home {
            body["home"] = json!(home);
            body["epoch"] = json!(epoch);
        }
        metrics::counter!("cell_problems_total", "type" => self.name).increment(1);
        let kind = [(header::CONTENT_TYPE, CONTENT_TYPE)];
        let mut response = (self.status, kind, body.to_string()).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
