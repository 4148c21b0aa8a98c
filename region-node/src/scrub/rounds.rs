//! What readings of view and log came to, for whoever asked for one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::{Notify, watch};

use super::indexes::Healed;

/// What one reading of everything found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// Keys of the view that were read.
    pub(crate) keys: u64,
    /// Records of the log that were read.
    pub(crate) records: u64,
    /// Entities that are not what was written.
    pub(super) damaged: u64,
    /// Slots that lack what was written to them, or have what was not.
    pub(super) slots: u64,
    pub(super) healed: Healed,
    /// Records of the log that cannot be read any more, each stretch as `9..12`.
    pub(super) lost: Vec<String>,
    /// Which of them the disk did not give back, and why.
    pub(super) unreadable: Vec<String>,
}

impl Found {
    /// What was wrong, a line each.
    pub(crate) fn lines(&self) -> Vec<String> {
        let of_entities = [
            (self.damaged, "entities are not what was written; put aside, and asked of the peers"),
            (self.slots, "slots lack what was written to them"),
        ];
        let of_entities = of_entities.into_iter().filter(|(count, _)| *count > 0);
        let of_entities = of_entities.map(|(count, what)| format!("{count} {what}"));
        let of_keys = self.healed.counts().map(|(kind, found, count)| {
            format!("{count} keys of kind '{kind}' were {found}; they are put right")
        });
        let of_log = self.lost.iter().map(|lost| {
            format!("records {lost} of the log cannot be read any more; what the view does not have of them comes from the peers, and a peer that lacks them takes over state")
        });
        of_entities.chain(of_keys).chain(of_log).chain(self.unreadable.iter().cloned()).collect()
    }
}

/// Readings that end, by number; clones share them.
#[derive(Clone, Debug)]
pub(super) struct Rounds(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    begun: AtomicU64,
    wanted: Notify,
    /// The number of the last one that ended, and what it came to.
    ended: watch::Sender<(u64, Result<Found, String>)>,
}

impl Default for Rounds {
    fn default() -> Rounds {
        let ended = watch::Sender::new((0, Ok(Found::default())));
        Rounds(Arc::new(Inner { begun: AtomicU64::new(0), wanted: Notify::new(), ended }))
    }
}

impl Rounds {
    /// A reading begins now.
    pub(super) fn begin(&self) {
        self.0.begun.fetch_add(1, Ordering::AcqRel);
    }

    /// The one begun last ended.
    pub(super) fn end(&self, found: Result<Found, String>) {
        let _before = self.0.ended.send_replace((self.0.begun.load(Ordering::Acquire), found));
    }

    /// Until somebody wants one at once. Cancel safe.
    pub(super) async fn wanted(&self) {
        self.0.wanted.notified().await;
    }

    /// What a reading finds that begins after this call. `None`: there will be none any more.
    pub(super) async fn next(&self) -> Option<Result<Found, String>> {
        let mut ended = self.0.ended.subscribe();
        let before = self.0.begun.load(Ordering::Acquire);
        self.0.wanted.notify_one();
        let round = ended.wait_for(|(number, _)| *number > before).await.ok()?;
        Some(round.1.clone())
    }
}
