//! One client connection: how long it may say nothing, and who answers its requests.

use std::convert::Infallible;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::header::CONNECTION;
use http::{HeaderValue, Request, Response, Version};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::Watcher;
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;

use crate::config::{Limits, Timeouts};
use crate::problem::Problem;
use crate::proxy::{AnswerBody, Proxy, refuse};

const HEAD_BYTES_MAX: usize = 64 * 1024;
const H2_HEAD_BYTES_MAX: u32 = 32 * 1024;
/// Finds HTTP/2 clients that vanished; those of HTTP/1 run into the head timeout or a failing write.
const H2_PING_EVERY: Duration = Duration::from_secs(20);

/// How connections are served, made once.
#[derive(Clone, Debug)]
pub(crate) struct Serving {
    builder: auto::Builder<TokioExecutor>,
    head_within: Duration,
}

/// What an accepted connection gets. The permit is given back when it is closed.
pub(crate) enum Admission {
    Served(OwnedSemaphorePermit, Arc<Proxy>),
    /// One too many: it is told so, briefly.
    Refused(OwnedSemaphorePermit),
}

impl Serving {
    pub(crate) fn new(timeouts: &Timeouts, limits: &Limits) -> Self {
        let head_within = Duration::from_millis(timeouts.head_ms);
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(head_within)
            .max_buf_size(HEAD_BYTES_MAX);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.streams_max)
            .max_header_list_size(H2_HEAD_BYTES_MAX)
            .keep_alive_interval(H2_PING_EVERY);
        Self { builder, head_within }
    }

    /// Serves a connection until either side closes it, or `watcher` says to finish what is under way.
    pub(crate) async fn serve(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        admission: Admission,
        watcher: Watcher,
    ) {
        // Fails only on a connection that is gone already; its first read will tell.
        let _ = stream.set_nodelay(true);
        let asked = Arc::new(AtomicBool::new(false));
        let service = {
            let asked = Arc::clone(&asked);
            let admission = Arc::new(admission);
            service_fn(move |request| {
                asked.store(true, Ordering::Relaxed);
                let admission = Arc::clone(&admission);
                async move { Ok::<_, Infallible>(admission.answer(request, peer).await) }
            })
        };
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let served = pin!(watcher.watch(connection));
        tokio::select! {
            result = served => {
                if let Err(error) = result {
                    tracing::debug!(%peer, error = %chain(error.as_ref()), "connection ended early");
                }
            }
            () = silent(&asked, self.head_within) => {
                tracing::debug!(%peer, "connection closed: no request in time");
            }
        }
    }
}

impl Admission {
    async fn answer(&self, request: Request<Incoming>, peer: SocketAddr) -> Response<AnswerBody> {
        match self {
            Admission::Served(_permit, proxy) => proxy.handle(request, peer).await,
            Admission::Refused(_permit) => {
                let mut response = refuse(Problem::too_many_connections());
                if request.version() < Version::HTTP_2 {
                    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                response
            }
        }
    }
}

/// Completes if no request came within `limit`. The head timeout of HTTP/1 starts only when the version is known, and
/// HTTP/2 has none: without this a client could hold a connection by sending nothing, or half a preface.
async fn silent(asked: &AtomicBool, limit: Duration) {
    tokio::time::sleep(limit).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
}

fn chain(error: &(dyn Error + 'static)) -> String {
    let causes = std::iter::successors(Some(error), |error| Error::source(*error));
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}
