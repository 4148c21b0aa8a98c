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
    fn refused(
        name: &'static str,
        status: StatusCode,
        title: &'static str,
        detail: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            name,
            title,
            status,
            detail: detail.into(),
            retry_after_s: None,
            retryable: false,
            allow: None,
        }
    }

    fn passing(self, retry_after_s: u32) -> Self {
        Self { retryable: true, retry_after_s: Some(retry_after_s), ..self }
    }

    pub(crate) fn unknown_route() -> Self {
        let detail = "There is nothing at this path.";
        Self::refused("not-found", StatusCode::NOT_FOUND, "Not found", detail)
    }

    pub(crate) fn wrong_method(allow: String) -> Self {
        let detail = format!("This path answers {allow}.");
        let status = StatusCode::METHOD_NOT_ALLOWED;
        Self {
            allow: Some(allow),
            ..Self::refused("method-not-allowed", status, "Method not allowed", detail)
        }
    }

    pub(crate) fn body_too_large(limit_bytes: u64) -> Self {
        let detail = format!("A request body may have {limit_bytes} bytes.");
        let status = StatusCode::PAYLOAD_TOO_LARGE;
        Self::refused("body-too-large", status, "Body too large", detail)
    }

    pub(crate) fn body_broken() -> Self {
        let detail = "The request body ended early or was not well-formed.";
        Self::refused("bad-body", StatusCode::BAD_REQUEST, "Body cannot be read", detail)
    }

    pub(crate) fn body_too_slow() -> Self {
        let detail = "The rest of the request body did not arrive in time.";
        Self::refused("body-too-slow", StatusCode::REQUEST_TIMEOUT, "Body too slow", detail).passing(1)
    }

    pub(crate) fn too_many_connections() -> Self {
        let detail = "The router has as many connections as it may.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::refused("overloaded", status, "Overloaded", detail).passing(1)
    }

    /// A slot whose new home does not know about it yet, or a home that disowns it: it settles by itself.
    pub(crate) fn moving() -> Self {
        let detail = "The home of this request is being moved.";
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Self::refused("moving", status, "Moving", detail).passing(1)
    }

    pub(crate) fn unreachable(region: &str) -> Self {
        let detail = format!("Region {region} does not take connections. The request was not sent.");
        let status = StatusCode::BAD_GATEWAY;
        Self::refused("upstream-unreachable", status, "Region unreachable", detail).passing(1)
    }

    pub(crate) fn connect_timeout(region: &str) -> Self {
        let detail = format!("Region {region} did not take a connection in time. The request was not sent.");
        let status = StatusCode::GATEWAY_TIMEOUT;
        Self::refused("upstream-timeout", status, "Region too slow", detail).passing(1)
    }

    pub(crate) fn reset(region: &str) -> Self {
        let detail = format!(
            "Region {region} closed the connection before it answered. Whether the request took effect is not known; \
             repeat it with the same Idempotency-Key."
        );
        let status = StatusCode::BAD_GATEWAY;
        Self::refused("upstream-reset", status, "Region hung up", detail).passing(1)
    }

    pub(crate) fn response_timeout(region: &str) -> Self {
        let detail = format!(
            "Region {region} did not answer in time. Whether the request took effect is not known; repeat it with the \
             same Idempotency-Key."
        );
        let status = StatusCode::GATEWAY_TIMEOUT;
        Self::refused("upstream-timeout", status, "Region too slow", detail).passing(1)
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
            IdentifyError::NoUser | IdentifyError::BadUser => {
                let status = StatusCode::UNAUTHORIZED;
                Self::refused("unauthenticated", status, "Who is asking?", detail)
            }
            IdentifyError::BadOrder | IdentifyError::BadPayment => {
                Self::refused("bad-id", StatusCode::BAD_REQUEST, "Malformed id", detail)
            }
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        let status = StatusCode::SERVICE_UNAVAILABLE;
        // An operator has to add an address: no use in coming back every second.
        Self::refused("no-upstream", status, "No way to the home region", refusal.to_string()).passing(30)
    }
}
