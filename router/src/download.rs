//! A response body on its way to the client, piece by piece as it comes.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use service_kit::Shutdown;
use tokio::time::{Instant, Sleep, sleep};

/// Streams a region's answer; what bounds it depends on what it is.
pub(crate) struct Download {
    inner: Incoming,
    bound: Bound,
}

enum Bound {
    /// An event stream lasts until either side, or this router, leaves. A clean end makes the client come back, to a router
    /// that stays.
    Leaving(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// Anything else must keep coming. The timer runs only while a piece is waited for.
    Idle { limit: Duration, timer: Option<Pin<Box<Sleep>>>, running: bool },
}

/// Why a response broke off after its head was sent; the client sees an incomplete body.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    #[error("the region broke off its answer: {0}")]
    Region(#[from] hyper::Error),
    #[error("the region stopped sending its answer")]
    Idle,
}

impl Download {
    pub(crate) fn new(body: Incoming, headers: &HeaderMap, idle: Duration, shutdown: &Shutdown) -> Self {
        let bound = if is_event_stream(headers) {
            Bound::Leaving(Box::pin(shutdown.token().cancelled_owned()))
        } else {
            Bound::Idle { limit: idle, timer: None, running: false }
        };
        Self { inner: body, bound }
    }
}

impl Body for Download {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadError>>> {
        let this = &mut *self;
        if let Bound::Leaving(leaving) = &mut this.bound
            && leaving.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(None);
        }
        let polled = Pin::new(&mut this.inner).poll_frame(cx).map_err(DownloadError::Region);
        let Bound::Idle { limit, timer, running } = &mut this.bound else {
            return polled;
        };
        if polled.is_ready() {
            *running = false;
            return polled;
        }
        let timer = timer.get_or_insert_with(|| Box::pin(sleep(*limit)));
        if !*running {
            // Between two polls the client was slow, not the region: that time does not count.
            timer.as_mut().reset(Instant::now() + *limit);
            *running = true;
        }
        timer.as_mut().poll(cx).map(|()| Some(Err(DownloadError::Idle)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

fn is_event_stream(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = value.and_then(|value| value.split(';').next()).map(str::trim);
    essence.is_some_and(|essence| essence.eq_ignore_ascii_case("text/event-stream"))
}
