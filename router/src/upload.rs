//! A request body that can be sent again as long as little of it has passed.
//!
//! The client's body streams through; its first 64 KiB are kept beside it. While nothing beyond them was read, a further
//! attempt sends what is kept and goes on with the rest, whichever part the attempt before it got to. That serves
//! connections that failed and regions that answered "moved", never a request that may have taken effect.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use tokio::time::Instant;

/// What is kept of a body in order to send it again.
const KEPT_BYTES_MAX: usize = 64 * 1024;

/// The body of one client request, over all attempts to deliver it.
#[derive(Debug)]
pub(crate) struct Upload(Arc<Mutex<State>>);

/// The body as one attempt sends it.
#[derive(Debug)]
pub(crate) struct Attempt {
    state: Arc<Mutex<State>>,
    generation: u32,
    /// Pieces of `State::kept` sent by this attempt.
    pieces: usize,
    sent_bytes: u64,
}

/// Why an attempt cannot go on sending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UploadError {
    #[error("the request body is longer than allowed")]
    TooLarge,
    #[error("the client's body ended early or is malformed")]
    Broken,
    /// A later attempt has taken over; nobody reads this one's result.
    #[error("another attempt took over")]
    Superseded,
}

#[derive(Debug)]
struct State {
    /// `None` once it has ended or failed.
    live: Option<Incoming>,
    declared_bytes: Option<u64>,
    limit_bytes: u64,
    received_bytes: u64,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    /// More was received than is kept.
    beyond_kept: bool,
    generation: u32,
    fault: Option<UploadError>,
    waits_for_client: bool,
    progress_at: Instant,
    waker: Option<Waker>,
}

impl Upload {
    pub(crate) fn new(body: Incoming, limit_bytes: u64) -> Self {
        Self(Arc::new(Mutex::new(State {
            declared_bytes: body.size_hint().exact(),
            live: (!body.is_end_stream()).then_some(body),
            limit_bytes,
            received_bytes: 0,
            kept: Vec::new(),
            kept_bytes: 0,
            beyond_kept: false,
            generation: 0,
            fault: None,
            waits_for_client: false,
            progress_at: Instant::now(),
            waker: None,
        })))
    }

    /// The body from its start, or `None` if that cannot be sent any more. Ends the attempt before it.
    pub(crate) fn attempt(&self) -> Option<Attempt> {
        let mut state = lock(&self.0);
        if state.beyond_kept || state.fault.is_some() {
            return None;
        }
        state.generation += 1;
        state.waits_for_client = false;
        state.progress_at = Instant::now();
        // The connection of the attempt before would wait for more body as long as the client pleases.
        if let Some(waker) = state.waker.take() {
            waker.wake();
        }
        Some(Attempt { state: Arc::clone(&self.0), generation: state.generation, pieces: 0, sent_bytes: 0 })
    }

    /// Whether [`Upload::attempt`] would begin another one.
    pub(crate) fn can_restart(&self) -> bool {
        let state = lock(&self.0);
        !state.beyond_kept && state.fault.is_none()
    }

    /// What the client did wrong, if that ended the attempt.
    pub(crate) fn fault(&self) -> Option<UploadError> {
        lock(&self.0).fault
    }

    /// When the last piece was handed on, or the last attempt begun.
    pub(crate) fn progress_at(&self) -> Instant {
        lock(&self.0).progress_at
    }

    /// The attempt cannot go on because the client does not send.
    pub(crate) fn waits_for_client(&self) -> bool {
        lock(&self.0).waits_for_client
    }
}

impl State {
    fn poll_live(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, UploadError>>> {
        loop {
            let Some(live) = &mut self.live else {
                return Poll::Ready(None);
            };
            let Poll::Ready(polled) = Pin::new(live).poll_frame(cx) else {
                self.waits_for_client = true;
                self.waker = Some(cx.waker().clone());
                return Poll::Pending;
            };
            self.waits_for_client = false;
            self.progress_at = Instant::now();
            match polled {
                None => self.live = None,
                Some(Err(_)) => return Poll::Ready(Some(Err(self.fail(UploadError::Broken)))),
                Some(Ok(frame)) => {
                    // Trailers concern this hop unless a region asked for them, and none does.
                    if let Ok(data) = frame.into_data() {
                        return Poll::Ready(Some(self.receive(data)));
                    }
                }
            }
        }
    }

    fn receive(&mut self, data: Bytes) -> Result<Bytes, UploadError> {
        self.received_bytes += data.len() as u64;
        if self.received_bytes > self.limit_bytes {
            return Err(self.fail(UploadError::TooLarge));
        }
        if self.live.as_ref().is_some_and(Body::is_end_stream) {
            self.live = None;
        }
        if !self.beyond_kept && self.kept_bytes + data.len() <= KEPT_BYTES_MAX {
            self.kept_bytes += data.len();
            self.kept.push(data.clone());
        } else {
            self.beyond_kept = true;
            self.kept = Vec::new();
        }
        Ok(data)
    }

    fn fail(&mut self, fault: UploadError) -> UploadError {
        self.live = None;
        self.fault = Some(fault);
        fault
    }
}

impl Body for Attempt {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        let this = self.get_mut();
        let mut state = lock(&this.state);
        if state.generation != this.generation {
            return Poll::Ready(Some(Err(UploadError::Superseded)));
        }
        if let Some(fault) = state.fault {
            return Poll::Ready(Some(Err(fault)));
        }
        let polled = match state.kept.get(this.pieces).cloned() {
            Some(piece) => {
                state.progress_at = Instant::now();
                Poll::Ready(Some(Ok(piece)))
            }
            None => state.poll_live(cx),
        };
        if let Poll::Ready(Some(Ok(data))) = &polled {
            this.pieces += 1;
            this.sent_bytes += data.len() as u64;
        }
        polled.map_ok(Frame::data)
    }

    fn is_end_stream(&self) -> bool {
        let state = lock(&self.state);
        state.live.is_none() && state.fault.is_none() && self.pieces >= state.kept.len()
    }

    fn size_hint(&self) -> SizeHint {
        match lock(&self.state).declared_bytes {
            Some(bytes) => SizeHint::with_exact(bytes.saturating_sub(self.sent_bytes)),
            None => SizeHint::default(),
        }
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    // A panic under the lock can only come from the body's own poll; the attempt then fails like a broken one.
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
