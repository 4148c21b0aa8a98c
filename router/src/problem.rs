//! Refusals a client can read: RFC 9457 `application/problem+json`.

use std::borrow::Cow;

use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use serde_json::json;

use crate::decide::Refusal;
use crate::identify::IdentifyError;

/// What every problem type starts with; the stable name follows.
const TYPE_PREFIX: &str = "https://homecell.dev/problems/";

/// Every problem of the router's own: name, status, title. The end of `type`, stable for ever; where a node has the same
/// problem, it has the same name.
pub const PROBLEMS: &[(&str, u16, &str)] = &[
    ("bad-body", 400, "Body cannot be read"),
    ("bad-id", 400, "Malformed id"),
    ("unidentified", 401, "Who is asking?"),
    ("unknown-route", 404, "Not found"),
    ("method-not-allowed", 405, "Method not allowed"),
    ("body-too-slow", 408, "Body too slow"),
    ("too-large", 413, "Body too large"),
    ("upstream-unreachable", 502, "Region unreachable"),
    ("upstream-reset", 502, "Region hung up"),
    ("overloaded", 503, "Overloaded"),
    ("moving", 503, "Moving"),
    ("no-upstream", 503, "No way to the home region"),
    ("upstream-timeout", 504, "Region too slow"),
];

/// An answer of the router's own. `retryable` means: the same request, with the same `Idempotency-Key`, may succeed later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    name: &'static str,
    title: &'static str,
    status: StatusCode,
    detail: Cow<'static, str>,
    retry_after_s: Option<u32>,
    retryable: bool,
    allow: Option<String>,
}

impl Problem {
    /// `name` is one of [`PROBLEMS`].
    fn refused(name: &'static str, detail: impl Into<Cow<'static, str>>) -> Self {
        let known = PROBLEMS.iter().find(|(known, ..)| *known == name);
        let (status, title) = known.map_or((500, name), |(_, status, title)| (*status, *title));
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let detail = detail.into();
        Self { name, title, status, detail, retry_after_s: None, retryable: false, allow: None }
    }

    fn passing(self, retry_after_s: u32) -> Self {
        Self { retryable: true, retry_after_s: Some(retry_after_s), ..self }
    }

    pub(crate) fn unknown_route() -> Self {
        let detail = "There is nothing at this path.";
        Self::refused("unknown-route", detail)
    }

    pub(crate) fn wrong_method(allow: String) -> Self {
        let detail = format!("This path answers {allow}.");
        Self { allow: Some(allow), ..Self::refused("method-not-allowed", detail) }
    }

    pub(crate) fn body_too_large(limit_bytes: u64) -> Self {
        let detail = format!("A request body may have {limit_bytes} bytes.");
        Self::refused("too-large", detail)
    }

    pub(crate) fn body_broken() -> Self {
        let detail = "The request body ended early or was not well-formed.";
        Self::refused("bad-body", detail)
    }

    pub(crate) fn body_too_slow() -> Self {
        let detail = "The rest of the request body did not arrive in time.";
        Self::refused("body-too-slow", detail).passing(1)
    }

    pub(crate) fn too_many_connections() -> Self {
        let detail = "The router has as many connections as it may.";
        Self::refused("overloaded", detail).passing(1)
    }

    /// A slot whose new home does not know about it yet, or a home that disowns it: it settles by itself.
    pub(crate) fn moving() -> Self {
        let detail = "The home of this request is being moved.";
        Self::refused("moving", detail).passing(1)
    }

    pub(crate) fn unreachable(region: &str) -> Self {
        let detail = format!("Region {region} does not take connections. The request was not sent.");
        Self::refused("upstream-unreachable", detail).passing(1)
    }

    pub(crate) fn connect_timeout(region: &str) -> Self {
        let detail = format!("Region {region} did not take a connection in time. The request was not sent.");
        Self::refused("upstream-timeout", detail).passing(1)
    }

    pub(crate) fn reset(region: &str) -> Self {
        let detail = format!(
            "Region {region} closed the connection before it answered. Whether the request took effect is not known; \
             repeat it with the same Idempotency-Key."
        );
        Self::refused("upstream-reset", detail).passing(1)
    }

    pub(crate) fn response_timeout(region: &str) -> Self {
        let detail = format!(
            "Region {region} did not answer in time. Whether the request took effect is not known; repeat it with the \
             same Idempotency-Key."
        );
        Self::refused("upstream-timeout", detail).passing(1)
    }

    /// The stable name at the end of `type`, also the `reason` in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.name
    }

    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer as it goes out.
    #[must_use]
    pub fn into_response(self) -> Response<Full<Bytes>> {
        let body = json!({
            "type": format!("{TYPE_PREFIX}{}", self.name),
            "title": self.title,
            "status": self.status.as_u16(),
            "detail": self.detail,
            "retryable": self.retryable,
        });
        let mut response = Response::new(Full::from(body.to_string()));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        if let Some(allow) = self.allow.and_then(|allow| HeaderValue::try_from(allow).ok()) {
            headers.insert(ALLOW, allow);
        }
        response
    }
}

impl From<IdentifyError> for Problem {
    fn from(error: IdentifyError) -> Self {
        let detail = error.to_string();
        match error {
            IdentifyError::NoUser | IdentifyError::BadUser => Self::refused("unidentified", detail),
            IdentifyError::BadOrder | IdentifyError::BadPayment => Self::refused("bad-id", detail),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        // An operator has to add an address: no use in coming back every second.
        Self::refused("no-upstream", refusal.to_string()).passing(30)
    }
}
