//! What goes on on the connections of a port.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use http_body::{Body, Frame, SizeHint};
use tokio::sync::Notify;

/// How often a connection is looked at within the time it may be silent.
const LOOKS: u32 = 4;
/// Who was silent for less has a call to make, maybe, and does not make way.
const MAKES_WAY_AFTER: Duration = Duration::from_secs(1);

/// What goes on on a connection: without it a client could hold one by sending nothing, half a head or preface, a byte now
/// and then, or one request in its life.
#[derive(Debug)]
pub(super) struct Traffic {
    open: AtomicUsize,
    ended: AtomicU64,
    began: Instant,
    /// Milliseconds from then to the end of the last request.
    ended_ms: AtomicU64,
    is_asked: AtomicBool,
    asked: Notify,
}

impl Traffic {
    pub(super) fn new() -> Arc<Traffic> {
        Arc::new(Traffic {
            open: AtomicUsize::new(0),
            ended: AtomicU64::new(0),
            began: Instant::now(),
            ended_ms: AtomicU64::new(0),
            is_asked: AtomicBool::new(false),
            asked: Notify::new(),
        })
    }

    pub(super) fn begin(self: &Arc<Self>) -> Open {
        self.open.fetch_add(1, Ordering::Relaxed);
        Open(Arc::clone(self))
    }

    /// Completes once nothing was asked, nor answered, for as long as `first` before the first request ends, and as long
    /// as `between` afterwards, or a look longer.
    pub(super) async fn silent(&self, [first, between]: [Duration; 2]) {
        let (mut ended, mut quiet) = (0, 0);
        while quiet < LOOKS {
            let limit = if ended == 0 { first } else { between };
            tokio::time::sleep(limit / LOOKS).await;
            let now = self.ended.load(Ordering::Relaxed);
            quiet = if self.open.load(Ordering::Relaxed) == 0 && now == ended { quiet + 1 } else { 0 };
            ended = now;
        }
    }

    /// Completes once somebody else needs this connection's place, and nothing is under way on it.
    pub(super) async fn makes_way(&self) {
        loop {
            self.asked.notified().await;
            if self.quiet().is_some() {
                return;
            }
            self.is_asked.store(false, Ordering::Relaxed);
        }
    }

    /// For how long nothing has been under way.
    fn quiet(&self) -> Option<Duration> {
        let ended = Duration::from_millis(self.ended_ms.load(Ordering::Relaxed));
        (self.open.load(Ordering::Relaxed) == 0).then(|| self.began.elapsed().saturating_sub(ended))
    }
}

/// The connections of a port where who is idle makes way.
#[derive(Debug, Default)]
pub(super) struct Connections(Vec<Weak<Traffic>>);

impl Connections {
    pub(super) fn add(&mut self, traffic: &Arc<Traffic>) {
        if self.0.len() == self.0.capacity() {
            self.0.retain(|traffic| traffic.strong_count() > 0);
        }
        self.0.push(Arc::downgrade(traffic));
    }

    /// Asks the one that has been idle longest for its place, if there is one that was not asked yet.
    pub(super) fn make_way(&self) {
        let open = self.0.iter().filter_map(Weak::upgrade);
        let idle = open.filter(|traffic| !traffic.is_asked.load(Ordering::Relaxed)).filter_map(|traffic| {
            let quiet = traffic.quiet().filter(|quiet| *quiet >= MAKES_WAY_AFTER)?;
            Some((quiet, traffic))
        });
        if let Some((_, traffic)) = idle.max_by_key(|(quiet, _)| *quiet) {
            traffic.is_asked.store(true, Ordering::Relaxed);
            traffic.asked.notify_one();
        }
    }
}

/// A request under way, its answer's body included.
#[derive(Debug)]
pub(super) struct Open(Arc<Traffic>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
        self.0.ended_ms.store(self.0.began.elapsed().as_millis() as u64, Ordering::Relaxed);
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

pin_project_lite::pin_project! {
    /// A body that ends what it answers.
    pub(super) struct Watched<B> {
        #[pin]
        pub(super) body: B,
        pub(super) open: Open,
    }
}

impl<B: Body> Body for Watched<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        self.project().body.poll_frame(context)
    }
    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }
    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
