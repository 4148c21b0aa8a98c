//! The way to the writer: pieces of work, and how their callers hear of them.

use std::sync::mpsc::{SyncSender, TrySendError};

use cell_core::cell::{Cell, Step, Unavailable, View};
use tokio::sync::oneshot;

use super::NodeError;

/// Called when the group is durable, or with why it is not.
pub(super) type Finish = Box<dyn FnOnce(Result<(), NodeError>) + Send>;
type Run = Box<dyn FnOnce(&mut Cell, &dyn View, u64, &mut Vec<Step>) -> Finish + Send>;

/// The way in. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Submit {
    pub(super) work: SyncSender<Work>,
}

pub(super) struct Work(pub(super) Run);

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Work")
    }
}

impl Submit {
    /// Runs `work` in the next group and returns its result once that is durable. What it did to the cell it pushes, step
    /// by step as it does it: a step stands, and is durable, whatever becomes of the rest, since the cell knows of it.
    ///
    /// # Errors
    /// [`NodeError::Busy`] if too much waits, [`NodeError::Unavailable`] if the group did not become durable or the work
    /// ended so.
    ///
    /// What is given in one order is run in it, whether or not the futures are waited for.
    pub(crate) fn run<T, W>(&self, work: W) -> impl Future<Output = Result<T, NodeError>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&mut Cell, &dyn View, u64, &mut Vec<Step>) -> Result<T, Unavailable> + Send + 'static,
    {
        let (answer, answered) = oneshot::channel();
        let run = move |cell: &mut Cell, view: &dyn View, now_ms: u64, steps: &mut Vec<Step>| {
            let done = work(cell, view, now_ms, steps).map_err(NodeError::from);
            let finish = move |durable: Result<(), NodeError>| {
                // Nobody waits any more: the work stands all the same.
                let _ = answer.send(done.and_then(|value| durable.map(|()| value)));
            };
            Box::new(finish) as Finish
        };
        let taken = self.submit(Work(Box::new(run)));
        async move {
            taken?;
            let not_done = || NodeError::Unavailable("it was not carried out".to_owned());
            answered.await.unwrap_or_else(|_| Err(not_done()))
        }
    }

    fn submit(&self, work: Work) -> Result<(), NodeError> {
        self.work.try_send(work).map_err(|refused| match refused {
            TrySendError::Full(_) => NodeError::Busy,
            TrySendError::Disconnected(_) => NodeError::Unavailable("stopped".to_owned()),
        })
    }
}
