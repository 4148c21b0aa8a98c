//! One request from its head to the head of its answer: identify, decide, send, follow.

mod follow;
mod send;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cell_core::id::UserId;
use cell_core::placement::Placement;
use http::request::Parts;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::{Body, Bytes, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use service_kit::{Answers, Shutdown};
use tracing::Instrument;

use crate::config::{Identity, Limits, Timeouts};
use crate::decide::{Health, Upstream, Upstreams, decide};
use crate::download::Download;
use crate::headers::{self, Correlation, Entropy, REQUEST_ID};
use crate::identify::{Key, identify};
use crate::metrics::DROPPED;
use crate::problem::Problem;
use crate::reachability::Reachability;
use crate::routes::{Found, find};
use crate::upload::{Attempt, Upload};

/// What a client gets back: a region's answer as it comes, or one held here.
pub(crate) type AnswerBody = Either<Download, Full<Bytes>>;

/// Kept connections per region; those above it are closed after use.
const IDLE_CONNECTIONS_MAX: usize = 256;
/// Finds regions whose machine vanished without a word under a silent event stream.
const TCP_KEEPALIVE: Duration = Duration::from_secs(15);

/// Everything a request needs, shared by all connections.
#[derive(Debug)]
pub(crate) struct Proxy {
    placement: Placement,
    upstreams: Upstreams,
    /// Per upstream, its name as a metric label.
    names: Vec<Arc<str>>,
    reachability: Reachability,
    client: Client<HttpConnector, Attempt>,
    identity: Identity,
    timeouts: Timeouts,
    limits: Limits,
    entropy: Entropy,
    shutdown: Shutdown,
}

/// An answer of a region, and which one it was.
struct Answer<'p> {
    upstream: &'p Upstream,
    response: Response<AnswerBody>,
}

/// A request as it goes to a region, whichever that is.
struct Outbound {
    parts: Parts,
    upload: Upload,
    key: Key,
}

/// What the access log and the counters say about a request.
struct Outcome {
    route: &'static str,
    region: Option<Arc<str>>,
    response: Response<AnswerBody>,
}

impl Proxy {
    pub(crate) fn new(
        placement: Placement,
        upstreams: Upstreams,
        identity: Identity,
        timeouts: Timeouts,
        limits: Limits,
        seed: u64,
        shutdown: Shutdown,
    ) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(Duration::from_millis(timeouts.connect_ms)));
        connector.set_keepalive(Some(TCP_KEEPALIVE));
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_millis(timeouts.upstream_idle_ms))
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build(connector);
        Self {
            names: upstreams.iter().map(|upstream| upstream.region.as_str().into()).collect(),
            reachability: Reachability::new(&upstreams),
            placement,
            upstreams,
            client,
            identity,
            timeouts,
            limits,
            entropy: Entropy::new(seed),
            shutdown,
        }
    }

    /// Answers a request. Never fails: what goes wrong becomes a problem.
    async fn handle(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<AnswerBody> {
        let begun = Instant::now();
        let correlation = Correlation::of_request(request.headers(), &self.entropy);
        let method = request.method().clone();
        let span = correlation.trace.span("route");
        let outcome = self.answer(request, peer.ip(), &correlation).instrument(span.clone()).await;

        let Outcome { route, region, mut response } = outcome;
        let status = response.status();
        let region = region.unwrap_or_else(|| Arc::from("none"));
        metrics::counter!("cell_router_requests_total",
            "route" => route, "region" => Arc::clone(&region), "status" => class(status))
        .increment(1);
        span.in_scope(|| {
            let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
            tracing::debug!(%method, route, %region, status = status.as_u16(), took_us,
                request_id = ?correlation.request_id, "answered");
        });
        response.headers_mut().insert(REQUEST_ID, correlation.request_id);
        response
    }

    async fn answer(&self, request: Request<Incoming>, peer: IpAddr, correlation: &Correlation) -> Outcome {
        let (parts, body) = request.into_parts();
        // The match borrows the path; the head itself is changed only after it.
        let path = parts.uri.path().to_owned();
        let (route, captured) = match find(&parts.method, &path) {
            Found::Route(route, captured) => (route, captured),
            Found::WrongMethod { allow } => return Outcome::problem("unknown", Problem::wrong_method(allow)),
            Found::Unknown => return Outcome::problem("unknown", Problem::unknown_route()),
        };
        let identified = match identify(self.identity, route, captured, &parts.headers) {
            Ok(identified) => identified,
            Err(error) => return Outcome::problem(route.path, error.into()),
        };
        if body.size_hint().lower() > self.limits.body_bytes_max {
            let problem = Problem::body_too_large(self.limits.body_bytes_max);
            return Outcome::problem(route.path, problem);
        }
        let request = self.outbound(parts, body, identified.user, identified.key, peer, correlation);
        match self.forward(&request).await {
            Ok(answer) => Outcome {
                route: route.path,
                region: Some(Arc::clone(&self.names[answer.upstream.index()])),
                response: answer.into_response(),
            },
            Err(problem) => Outcome::problem(route.path, problem),
        }
    }

    fn outbound(
        &self,
        mut parts: Parts,
        body: Incoming,
        user: Option<UserId>,
        key: Key,
        peer: IpAddr,
        correlation: &Correlation,
    ) -> Outbound {
        headers::to_region(&mut parts.headers, user.as_ref(), peer, correlation);
        Outbound { parts, upload: Upload::new(body, self.limits.body_bytes_max), key }
    }

    /// Sends the request where it belongs, and once more to where a region says it has moved.
    async fn forward(&self, request: &Outbound) -> Result<Answer<'_>, Problem> {
        let mut health = self.reachability.snapshot(&self.upstreams);
        let mut upstream = decide(&request.key, &self.placement, &self.upstreams, health)?;
        let mut tried = Health::default();
        loop {
            match self.send(request, upstream).await {
                Ok(response) if response.status() == StatusCode::MISDIRECTED_REQUEST => {
                    return self.follow(request, upstream, response).await;
                }
                Ok(response) => return Ok(self.pass(upstream, response)),
                Err(failure) if failure.was_not_sent() && request.key == Key::Any => {
                    health = health.without(upstream);
                    tried = tried.without(upstream);
                    upstream = decide(&request.key, &self.placement, &self.upstreams, health)?;
                    if !tried.is_reachable(upstream) {
                        // None is left that does not look unreachable; those that only looked so were not worth the wait.
                        return Err(failure.into_problem());
                    }
                }
                Err(failure) => return Err(failure.into_problem()),
            }
        }
    }

    fn pass<'p>(&self, upstream: &'p Upstream, response: Response<Incoming>) -> Answer<'p> {
        let idle = Duration::from_millis(self.timeouts.body_idle_ms);
        let (parts, body) = response.into_parts();
        let body = Download::new(body, &parts.headers, idle, &self.shutdown);
        Answer { upstream, response: Response::from_parts(parts, Either::Left(body)) }
    }
}

impl Answer<'_> {
    /// A region's answer with its body held here, as little as it is.
    fn held(upstream: &Upstream, parts: http::response::Parts, body: Bytes) -> Answer<'_> {
        Answer { upstream, response: Response::from_parts(parts, Either::Right(Full::new(body))) }
    }

    fn into_response(self) -> Response<AnswerBody> {
        let mut response = self.response;
        headers::to_client(response.headers_mut(), self.upstream.region);
        response
    }
}

impl Outcome {
    fn problem(route: &'static str, problem: Problem) -> Self {
        Self { route, region: None, response: refuse(problem) }
    }
}

/// The router's own answer, counted.
impl Answers for Proxy {
    type Body = AnswerBody;

    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<AnswerBody> {
        self.handle(request, peer).await
    }

    fn refuse(&self) -> Response<AnswerBody> {
        refuse(Problem::too_many_connections())
    }

    fn dropped(&self) {
        metrics::counter!("cell_router_refused_total", "reason" => DROPPED).increment(1);
    }
}

fn refuse(problem: Problem) -> Response<AnswerBody> {
    metrics::counter!("cell_router_refused_total", "reason" => problem.name()).increment(1);
    problem.into_response().map(Either::Right)
}

/// A small body as a whole, or `None` if it is too long, too slow or breaks off.
async fn collect_small(body: Incoming, bytes_max: usize, within: Duration) -> Option<Bytes> {
    let collected = http_body_util::Limited::new(body, bytes_max).collect();
    let collected = tokio::time::timeout(within, collected).await.ok()?.ok()?;
    Some(collected.to_bytes())
}

fn class(status: StatusCode) -> &'static str {
    match status.as_u16() / 100 {
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}
