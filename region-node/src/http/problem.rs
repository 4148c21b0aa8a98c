//! RFC 9457 problems with stable types.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use cell_core::cell::{Problem as Kind, Refusal};
use serde_json::json;

use crate::writer::NodeError;

/// Base of every `type`.
pub(crate) const TYPES: &str = "https://homecell.dev/problems/";

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
    pub(crate) fn new(status: u16, name: &'static str, detail: impl Into<String>) -> Problem {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retryable = status.is_server_error();
        Problem { status, name, detail: detail.into(), pointer: None, home: None, retryable }
    }
    pub(crate) fn invalid(pointer: impl Into<String>, detail: impl Into<String>) -> Problem {
        Problem { pointer: Some(pointer.into()), ..Problem::new(400, "invalid-request", detail) }
    }
    pub(crate) fn not_found() -> Problem {
        Problem::new(404, "not-found", "there is no such thing of yours")
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let (status, name) = match refusal.problem {
            Kind::NotFound => (404, "not-found"),
            Kind::Misdirected => (421, "misdirected"),
            Kind::Superseded => (409, "superseded"),
            Kind::KeyReused => (422, "key-reused"),
            Kind::Forbidden => (409, "state-forbids"),
            Kind::Invalid => (400, "invalid-request"),
            Kind::TooMany => (409, "too-many-decisions"),
            Kind::Blocked => (503, "blocked"),
        };
        let home = refusal.home.map(|home| {
            let epoch = format!("{}.{}", home.term, home.step);
            (home.node.region.to_string(), epoch)
        });
        let retryable = status == 421 || status >= 500;
        Problem {
            pointer: refusal.pointer.map(str::to_owned),
            home,
            retryable,
            ..Problem::new(status, name, refusal.detail)
        }
    }
}

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Problem {
        let name = match error {
            NodeError::Busy => "busy",
            NodeError::Unavailable(_) => "unavailable",
        };
        Problem::new(503, name, error.to_string())
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
        let kind = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (self.status, kind, body.to_string()).into_response();
        if self.status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
