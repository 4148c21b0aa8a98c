//! Winding down: one token that everybody watches, tasks that are counted, and a deadline for them.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, WaitForCancellationFuture};
use tokio_util::task::TaskTracker;

/// A cheap handle on the end of a process or of one service inside it. Clones share it.
///
/// Every long-lived task is spawned through [`Shutdown::spawn`] and watches [`Shutdown::begun`]. A tracked task that
/// panics begins the shutdown itself: half a service is worse than none, since nobody restarts it.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
    register: Arc<Register>,
}

#[derive(Debug, Default)]
struct Register {
    next: AtomicU64,
    state: Mutex<RegisterState>,
}

#[derive(Debug, Default)]
struct RegisterState {
    running: BTreeMap<u64, &'static str>,
    panicked: Vec<&'static str>,
    failed: Option<String>,
}

/// The service did not end well. What was durable is durable; the rest of the listed tasks' work was cut off.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrainError {
    /// These tasks still ran at the deadline.
    #[error("not finished within {deadline_ms} ms: {}", tasks.join(", "))]
    Deadline { deadline_ms: u128, tasks: Vec<&'static str> },
    /// These tasks panicked.
    #[error("panicked: {}", tasks.join(", "))]
    Panicked { tasks: Vec<&'static str> },
    /// It could not go on, and why: the first such word.
    #[error("{why}")]
    Failed { why: String },
}

impl Shutdown {
    /// A shutdown nobody has begun.
    pub fn new() -> Self {
        Self::default()
    }

    /// Begins the shutdown; repeating it changes nothing.
    pub fn begin(&self) {
        self.token.cancel();
    }

    /// Begins the shutdown because the service cannot go on; [`Shutdown::drain`] says so, and the process fails.
    pub fn fail(&self, why: impl Into<String>) {
        self.register.lock().failed.get_or_insert_with(|| why.into());
        self.begin();
    }

    /// Whether it has begun.
    pub fn is_begun(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Completes when the shutdown begins. Cancel safe.
    pub fn begun(&self) -> WaitForCancellationFuture<'_> {
        self.token.cancelled()
    }

    /// The token itself, for code that takes one.
    pub fn token(&self) -> CancellationToken {
        self.token.clone()
    }

    /// A shutdown of its own for a part of the service: it begins with this one, or earlier by itself; its tasks are
    /// waited for by its own [`Shutdown::drain`].
    pub fn child(&self) -> Self {
        Self { token: self.token.child_token(), tasks: TaskTracker::new(), register: Arc::default() }
    }

    /// Spawns a task that [`Shutdown::drain`] waits for. `name` is what an operator reads when it does not end.
    pub fn spawn<F>(&self, name: &'static str, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let guard = Registered::new(self, name);
        self.tasks.spawn(async move {
            let _guard = guard;
            task.await
        })
    }

    /// Begins the shutdown if nobody has, and waits for the tracked tasks until `deadline`.
    ///
    /// # Errors
    /// Which tasks panicked before, or were still running at the deadline; those are left to the end of the process.
    pub async fn drain(&self, deadline: Duration) -> Result<(), DrainError> {
        self.begin();
        self.tasks.close();
        let waited = tokio::time::timeout(deadline, self.tasks.wait()).await;
        let state = self.register.lock();
        if !state.panicked.is_empty() {
            return Err(DrainError::Panicked { tasks: state.panicked.clone() });
        }
        if let Some(why) = &state.failed {
            return Err(DrainError::Failed { why: why.clone() });
        }
        waited.map_err(|_| DrainError::Deadline {
            deadline_ms: deadline.as_millis(),
            tasks: state.running.values().copied().collect(),
        })
    }
}

impl Register {
    fn lock(&self) -> MutexGuard<'_, RegisterState> {
        // Nothing that can panic runs under the lock, so its state is whole even if poisoned.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by a tracked task for as long as it exists.
struct Registered {
    id: u64,
    token: CancellationToken,
    register: Arc<Register>,
}

impl Registered {
    fn new(shutdown: &Shutdown, name: &'static str) -> Self {
        let id = shutdown.register.next.fetch_add(1, Ordering::Relaxed);
        shutdown.register.lock().running.insert(id, name);
        Self { id, token: shutdown.token.clone(), register: Arc::clone(&shutdown.register) }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut state = self.register.lock();
        if let Some(name) = state.running.remove(&self.id)
            && std::thread::panicking()
        {
            state.panicked.push(name);
            self.token.cancel();
        }
    }
}
