//! An HTTP port that nobody can exhaust: so many connections, and none that says nothing for long. What is left of the
//! process's file handles belongs to its files.

mod traffic;

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::response::IntoResponse;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, StatusCode, Version};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use rustix::process::{Resource, getrlimit};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinSet};
use tower::ServiceExt;

use self::traffic::{Connections, Traffic, Watched};

const HEAD_BYTES_MAX: usize = 64 * 1024;
const H2_HEAD_BYTES_MAX: u32 = 32 * 1024;
/// Connections above the limit that are told so at a time; the rest is closed without a word.
const REFUSALS_MAX: usize = 32;
/// They have so long to say something.
const REFUSED_WITHIN: Duration = Duration::from_secs(2);
/// Where idle connections make way, a new one waits so long for the place of one.
const PLACE_WITHIN: Duration = Duration::from_millis(200);
/// Out of file handles, most likely: give some time to come back.
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_millis(100);
/// Handles that a process keeps for its files, for the few connections of its admin and internal ports, and for its own.
const HANDLES_KEPT: usize = 512;

/// How many connections leave a process handles for its files, its other ports and its own connections.
pub(crate) fn handles_for_connections() -> usize {
    let handles = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |handles| handles as usize);
    handles.saturating_sub(HANDLES_KEPT).max(handles / 4)
}

/// What a port allows.
#[derive(Clone, Copy, Debug)]
pub struct PortLimits {
    /// Clients connected at a time; those above it are refused.
    pub connections_max: usize,
    /// Above it the one that has been idle longest is closed for a new one, if there is one with nothing under way.
    pub idle_makes_way: bool,
    /// For a request's head, and for the silence before the first one. Exceeded: the connection is closed.
    pub head_within: Duration,
    /// For the silence between two requests.
    pub idle_within: Duration,
    /// How long requests under way may take once the port is told to stop.
    pub drain_within: Duration,
    pub http2: Http2Limits,
}

/// What a port allows one HTTP/2 connection.
#[derive(Clone, Copy, Debug)]
pub struct Http2Limits {
    /// Requests at a time.
    pub streams_max: u32,
    /// Bytes of a request's body that may be under way unread.
    pub stream_window_bytes: u32,
    /// The same of all requests' bodies together.
    pub connection_window_bytes: u32,
    /// Finds clients that vanished; those of HTTP/1 run into the head timeout or a failing write.
    pub ping_every: Duration,
    pub pong_within: Duration,
}

impl Default for PortLimits {
    /// Of a port for a few.
    fn default() -> PortLimits {
        PortLimits {
            connections_max: 1_024,
            idle_makes_way: false,
            head_within: Duration::from_secs(60),
            idle_within: Duration::from_secs(60),
            drain_within: Duration::from_secs(10),
            http2: Http2Limits::default(),
        }
    }
}

impl Default for Http2Limits {
    fn default() -> Http2Limits {
        Http2Limits {
            streams_max: 64,
            stream_window_bytes: 1 << 20,
            connection_window_bytes: 1 << 20,
            ping_every: Duration::from_secs(20),
            pong_within: Duration::from_secs(20),
        }
    }
}

impl PortLimits {
    /// Of a gRPC port that the services of a cell, other cells and operators use: who has asked once may be silent for as
    /// long as they answer pings, and nobody else needs the place. Its open streams are to end within `drain_within`, and are cut off then.
    #[must_use]
    pub fn internal(drain_within: Duration, http2: Http2Limits) -> PortLimits {
        PortLimits {
            connections_max: 256.min(handles_for_connections() / 8).max(32),
            idle_makes_way: true,
            idle_within: Duration::MAX,
            drain_within,
            http2,
            ..PortLimits::default()
        }
    }

    /// The same with no more connections than leave the process some handles for its files. Says so where that is less.
    #[must_use]
    pub fn beside_files(self) -> PortLimits {
        let allowed = handles_for_connections().saturating_sub(REFUSALS_MAX).max(1);
        if allowed < self.connections_max {
            tracing::warn!(
                connections_max = allowed,
                wanted = self.connections_max,
                "this process may have too few open files (nofile) for so many connections: it takes fewer"
            );
        }
        PortLimits { connections_max: self.connections_max.min(allowed), ..self }
    }
}

/// Who answers what comes through a port.
pub trait Answers: Send + Sync + 'static {
    type Body: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static;

    fn answer(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
    ) -> impl Future<Output = Response<Self::Body>> + Send;

    /// There are as many connections as there may be.
    fn refuse(&self) -> Response<Self::Body>;

    /// There are even too many to tell them so.
    fn dropped(&self) {}
}

/// An axum router behind a port.
#[derive(Clone, Debug)]
pub struct Routes {
    pub router: axum::Router,
    /// The answer to a connection above the limit.
    pub refuse: fn() -> axum::response::Response,
}

impl Routes {
    /// With a refusal in plain words.
    #[must_use]
    pub fn new(router: axum::Router) -> Routes {
        let refuse =
            || (StatusCode::SERVICE_UNAVAILABLE, "as many connections as there may be\n").into_response();
        Routes { router, refuse }
    }

    /// Of gRPC services: refused is `RESOURCE_EXHAUSTED`.
    #[must_use]
    pub fn grpc(router: axum::Router) -> Routes {
        let refuse = || {
            let status = [
                ("content-type", "application/grpc"),
                ("grpc-status", "8"),
                ("grpc-message", "as many connections as there may be"),
            ];
            status.into_response()
        };
        Routes { router, refuse }
    }
}

impl Answers for Routes {
    type Body = axum::body::Body;

    async fn answer(&self, request: Request<Incoming>, _: SocketAddr) -> Response<Self::Body> {
        let request = request.map(axum::body::Body::new);
        self.router.clone().oneshot(request).await.unwrap_or_else(|never| match never {})
    }

    fn refuse(&self) -> Response<Self::Body> {
        (self.refuse)()
    }
}

/// What an accepted connection gets. The permit is given back when it is closed.
struct Admission<A> {
    answers: Arc<A>,
    is_refused: bool,
    _permit: OwnedSemaphorePermit,
}

/// The accept loop's state.
struct Port<A> {
    builder: Arc<auto::Builder<TokioExecutor>>,
    limits: PortLimits,
    served: Arc<Semaphore>,
    refused: Arc<Semaphore>,
    answers: Arc<A>,
    graceful: GracefulShutdown,
    open: Connections,
    connections: JoinSet<()>,
}

/// Serves until `stop`; then finishes the requests under way, as long as that may take.
pub async fn serve_http<A: Answers>(
    listener: TcpListener,
    answers: A,
    limits: PortLimits,
    stop: impl Future<Output = ()>,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    // Silence is watched below, for both versions, without a timer for each request.
    // Who has said everything and closes its side waits for the answer still.
    builder.http1().half_close(true).header_read_timeout(None).max_buf_size(HEAD_BYTES_MAX);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.http2.streams_max)
        .max_header_list_size(H2_HEAD_BYTES_MAX)
        .initial_stream_window_size(limits.http2.stream_window_bytes)
        .initial_connection_window_size(limits.http2.connection_window_bytes)
        .keep_alive_interval(limits.http2.ping_every)
        .keep_alive_timeout(limits.http2.pong_within);
    let mut port = Port {
        builder: Arc::new(builder),
        limits,
        served: Arc::new(Semaphore::new(limits.connections_max)),
        refused: Arc::new(Semaphore::new(REFUSALS_MAX)),
        answers: Arc::new(answers),
        graceful: GracefulShutdown::new(),
        open: Connections::default(),
        connections: JoinSet::new(),
    };
    let mut stop = pin!(stop);
    loop {
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(ended) = port.connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => port.take(stream, peer),
                Err(error) => {
                    tracing::warn!(%error, "cannot accept connections");
                    tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                }
            },
        }
    }
    // Closed before the drain, so that new clients go to a process that stays.
    drop(listener);
    port.drain().await;
}

impl<A: Answers> Port<A> {
    fn take(&mut self, stream: TcpStream, peer: SocketAddr) {
        let place = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        let served = place(&self.served);
        let is_refused = served.is_none();
        let Some(permit) = served.or_else(|| place(&self.refused)) else { return self.answers.dropped() };
        let mut admission = Admission { answers: Arc::clone(&self.answers), is_refused, _permit: permit };
        let traffic = Traffic::new();
        let free = (is_refused && self.limits.idle_makes_way).then(|| {
            self.open.make_way();
            Arc::clone(&self.served).acquire_owned()
        });
        if self.limits.idle_makes_way {
            self.open.add(&traffic);
        }
        let (builder, watcher) = (Arc::clone(&self.builder), self.graceful.watcher());
        let PortLimits { head_within, idle_within, .. } = self.limits;
        self.connections.spawn(async move {
            if let Some(free) = free
                && let Ok(Ok(permit)) = tokio::time::timeout(PLACE_WITHIN, free).await
            {
                admission = Admission { is_refused: false, _permit: permit, ..admission };
            }
            // One that is refused is told so soon, or never.
            let told_within = head_within.min(REFUSED_WITHIN);
            let silence = if admission.is_refused { [told_within; 2] } else { [head_within, idle_within] };
            serve(builder, stream, peer, admission, traffic, silence, watcher).await;
        });
    }

    async fn drain(self) {
        let Self { graceful, mut connections, limits, .. } = self;
        if tokio::time::timeout(limits.drain_within, graceful.shutdown()).await.is_err() {
            tracing::warn!(connections = connections.len(), "connections cut off at the end of the drain");
            connections.abort_all();
        }
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    }
}

/// Serves a connection until either side closes it, or `watcher` says to finish what is under way, or it was silent for
/// too long before its first request or between two, or another one needs its place.
async fn serve<A: Answers>(
    builder: Arc<auto::Builder<TokioExecutor>>,
    stream: TcpStream,
    peer: SocketAddr,
    admission: Admission<A>,
    traffic: Arc<Traffic>,
    silence: [Duration; 2],
    watcher: Watcher,
) {
    // Fails only on a connection that is gone already; its first read will tell.
    let _ = stream.set_nodelay(true);
    let service = {
        let (traffic, admission) = (Arc::clone(&traffic), Arc::new(admission));
        service_fn(move |request| {
            let (admission, open) = (Arc::clone(&admission), traffic.begin());
            async move {
                let response = admission.answer(request, peer).await;
                Ok::<_, Infallible>(response.map(|body| Watched { body, open }))
            }
        })
    };
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let served = pin!(watcher.watch(connection));
    tokio::select! {
        result = served => {
            if let Err(error) = result {
                tracing::debug!(%peer, error = %chain(error.as_ref()), "connection ended early");
            }
        }
        () = traffic.silent(silence) => {
            tracing::debug!(%peer, "connection closed: no request in time");
        }
        () = traffic.makes_way() => {
            tracing::debug!(%peer, "connection closed: it was idle, and another one needs its place");
        }
    }
}

impl<A: Answers> Admission<A> {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<A::Body> {
        if !self.is_refused {
            return self.answers.answer(request, peer).await;
        }
        let mut response = self.answers.refuse();
        if request.version() < Version::HTTP_2 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn report(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection's task died");
    }
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| Error::source(*error));
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
