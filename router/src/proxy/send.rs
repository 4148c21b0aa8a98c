//! Getting one request to one region: connect, send, wait for the head of the answer.

use std::error::Error;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::header::CONTENT_LENGTH;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, Uri, Version};
use hyper::body::{Body, Incoming};
use hyper_util::client::legacy;

use super::{Outbound, Proxy};
use crate::decide::Upstream;
use crate::problem::Problem;
use crate::upload::{Attempt, UploadError};

/// Lets a node that is being restarted open its port.
const RECONNECT_AFTER: Duration = Duration::from_millis(50);

/// Why there is no answer. Which side failed, and whether the region may have seen the request.
#[derive(Debug)]
pub(super) struct Failure {
    kind: Kind,
    region: Arc<str>,
    body_bytes_max: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Not sent: nobody listens.
    Unreachable,
    /// Not sent: no connection within the time for it.
    ConnectTimeout,
    /// Unknown whether it took effect.
    Reset,
    /// Unknown whether it took effect.
    ResponseTimeout,
    BodyTooLarge,
    BodyBroken,
    BodyTooSlow,
}

impl Proxy {
    /// Sends a request to one region. Repeats only what never left: failed connections, a bounded number of times.
    pub(super) async fn send(
        &self,
        request: &Outbound,
        upstream: &Upstream,
    ) -> Result<Response<Incoming>, Failure> {
        let mut connects_left = self.limits.connect_attempts;
        loop {
            let kind = match request.upload.attempt() {
                Some(attempt) => match self.send_once(request, attempt, upstream).await {
                    Ok(response) => {
                        self.reachability.answered(upstream);
                        return Ok(response);
                    }
                    Err(kind) => kind,
                },
                // Only a failed attempt to follow gets here: what was kept of the body has been outgrown.
                None => Kind::Reset,
            };
            connects_left = connects_left.saturating_sub(1);
            if !kind.was_not_sent() {
                return Err(self.failure(kind, upstream));
            }
            if connects_left == 0 {
                self.reachability.refused(upstream);
                return Err(self.failure(kind, upstream));
            }
            tokio::time::sleep(RECONNECT_AFTER).await;
        }
    }

    async fn send_once(
        &self,
        request: &Outbound,
        attempt: Attempt,
        upstream: &Upstream,
    ) -> Result<Response<Incoming>, Kind> {
        let begun = Instant::now();
        let limit = Duration::from_millis(self.timeouts.response_ms);
        let mut response = pin!(self.client.request(to_upstream(request, attempt, upstream)));
        let mut silence = pin!(tokio::time::sleep(limit));
        let mut upload = pin!(tokio::time::sleep(Duration::from_millis(self.timeouts.upload_ms)));
        let mut uploading = true;
        loop {
            tokio::select! {
                biased;
                answered = &mut response => {
                    let region = Arc::clone(&self.names[upstream.index()]);
                    metrics::histogram!("cell_router_upstream_seconds", "region" => region).record(begun.elapsed());
                    return answered.map_err(|error| Kind::of(&error, request));
                }
                () = &mut upload, if uploading => {
                    if request.upload.waits_for_client() {
                        return Err(Kind::BodyTooSlow);
                    }
                    uploading = false;
                }
                () = &mut silence => {
                    // A long upload is not silence: the clock starts with its last piece.
                    let due = request.upload.progress_at() + limit;
                    if due > tokio::time::Instant::now() {
                        silence.as_mut().reset(due);
                    } else if request.upload.waits_for_client() {
                        return Err(Kind::BodyTooSlow);
                    } else {
                        return Err(Kind::ResponseTimeout);
                    }
                }
            }
        }
    }

    fn failure(&self, kind: Kind, upstream: &Upstream) -> Failure {
        let region = Arc::clone(&self.names[upstream.index()]);
        tracing::debug!(%region, ?kind, "no answer");
        Failure { kind, region, body_bytes_max: self.limits.body_bytes_max }
    }
}

fn to_upstream(request: &Outbound, attempt: Attempt, upstream: &Upstream) -> Request<Attempt> {
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = Some(upstream.address.clone());
    let path = request.parts.uri.path_and_query().cloned();
    uri.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));

    // Said outright (RFC 9110, section 8.6): some servers take a POST without a length for a broken one.
    let says_empty = request.parts.method == Method::POST && attempt.is_end_stream();
    let mut sent = Request::new(attempt);
    *sent.method_mut() = request.parts.method.clone();
    *sent.uri_mut() = Uri::from_parts(uri).expect("scheme, authority and path are all there");
    *sent.version_mut() = Version::HTTP_11;
    *sent.headers_mut() = request.parts.headers.clone();
    if says_empty {
        sent.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
    }
    sent
}

// === impl Kind, Failure ===

impl Kind {
    fn of(error: &legacy::Error, request: &Outbound) -> Self {
        match request.upload.fault() {
            Some(UploadError::TooLarge) => return Kind::BodyTooLarge,
            Some(UploadError::Broken) => return Kind::BodyBroken,
            Some(UploadError::Superseded) | None => {}
        }
        match error.is_connect() {
            true if is_timeout(error) => Kind::ConnectTimeout,
            true => Kind::Unreachable,
            false => Kind::Reset,
        }
    }

    fn was_not_sent(self) -> bool {
        matches!(self, Kind::Unreachable | Kind::ConnectTimeout)
    }
}

impl Failure {
    /// The region cannot have seen the request.
    pub(super) fn was_not_sent(&self) -> bool {
        self.kind.was_not_sent()
    }

    pub(super) fn into_problem(self) -> Problem {
        let region = &self.region;
        match self.kind {
            Kind::Unreachable => Problem::unreachable(region),
            Kind::ConnectTimeout => Problem::connect_timeout(region),
            Kind::Reset => Problem::reset(region),
            Kind::ResponseTimeout => Problem::response_timeout(region),
            Kind::BodyTooLarge => Problem::body_too_large(self.body_bytes_max),
            Kind::BodyBroken => Problem::body_broken(),
            Kind::BodyTooSlow => Problem::body_too_slow(),
        }
    }
}

/// The connector reports its own timeout as an I/O error some levels down.
fn is_timeout(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |error| Error::source(*error))
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::TimedOut)
}
