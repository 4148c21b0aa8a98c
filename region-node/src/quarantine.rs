//! Changes that could not be applied, as the view keeps them, and what is done with them.
//!
//! The log holds them as local records, whole; the view holds what an operator wants to see under one key and the bytes
//! under others. What the cell knows of them it reads back from here at a start.

use bytes::Bytes;
use cell_core::canon::Message;
use cell_core::cell::{Cell, Hole, Quarantined, Step, View};
use cell_core::event::Audit;
use cell_core::version::Dot;
use cell_store::{Batch, Scan, Store, StoreError};

use crate::keys;
use crate::node::Node;
use crate::writer::NodeError;

/// Heads read at once.
const PAGE: usize = 500;

/// What became of a quarantined change.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) kept: Quarantined,
    /// "applied", "kept", "given up".
    pub(crate) what: &'static str,
}

// === in the view ===

/// Keeps it, or its newest copy.
pub(crate) fn put(kept: &Quarantined, batch: &mut Batch) {
    let dot = kept.entry.dot;
    for (nth, part) in (0u16..).zip(kept.entry.bytes.chunks(keys::PART_BYTES_MAX)) {
        batch.put(keys::quarantined_part(&dot, nth), Bytes::copy_from_slice(part));
    }
    let mut head = kept.clone();
    head.entry.bytes = Bytes::new();
    batch.put(keys::quarantined(&dot), head.to_canon());
}

/// It is applied by now.
pub(crate) fn remove(store: &dyn Store, dot: &Dot, batch: &mut Batch) -> Result<(), StoreError> {
    for (key, _) in store.scan(&Scan::prefix(keys::quarantined_parts(dot), usize::from(u16::MAX)))? {
        batch.delete(key);
    }
    batch.delete(keys::quarantined(dot));
    Ok(())
}

/// All of them, without their bytes. What cannot be read is none: the scrub and the log know better.
pub(crate) fn heads(store: &dyn Store) -> Result<Vec<Quarantined>, StoreError> {
    let (mut heads, mut after) = (Vec::new(), None);
    loop {
        let mut scan = Scan::prefix(keys::QUARANTINED, PAGE);
        if let Some(after) = after.take() {
            scan = scan.after(after);
        }
        let page = store.scan(&scan)?;
        heads.extend(page.iter().filter_map(|(_, value)| Quarantined::decode(value).ok()));
        match page.last() {
            Some((last, _)) if page.len() == PAGE => after = Some(last.clone()),
            _ => return Ok(heads),
        }
    }
}

/// What the cell keeps of them.
pub(crate) fn holes(store: &dyn Store) -> Result<Vec<(Dot, Hole)>, StoreError> {
    Ok(heads(store)?.iter().map(|kept| (kept.entry.dot, Hole::from(kept))).collect())
}

/// One of them, with its bytes.
pub(crate) fn whole(store: &dyn Store, mut head: Quarantined) -> Result<Quarantined, StoreError> {
    let parts = store.scan(&Scan::prefix(keys::quarantined_parts(&head.entry.dot), usize::from(u16::MAX)))?;
    head.entry.bytes = parts.iter().flat_map(|(_, part)| part.iter().copied()).collect();
    Ok(head)
}

// === what is done ===

impl Node {
    /// The quarantined changes; with their bytes, if they are wanted.
    ///
    /// # Errors
    /// The view cannot be read.
    pub(crate) async fn quarantined(
        &self,
        dot: Option<Dot>,
        with_bytes: bool,
    ) -> Result<Vec<Quarantined>, NodeError> {
        let store = self.store().clone();
        let read = move || {
            let heads =
                heads(&*store)?.into_iter().filter(|kept| dot.is_none_or(|dot| dot == kept.entry.dot));
            let whole = |head| if with_bytes { whole(&*store, head) } else { Ok(head) };
            heads.map(whole).collect::<Result<Vec<_>, StoreError>>()
        };
        let unavailable = |error: &dyn std::fmt::Display| NodeError::Unavailable(error.to_string());
        let read = tokio::task::spawn_blocking(read).await.map_err(|error| unavailable(&error))?;
        read.map_err(|error| unavailable(&error))
    }

    /// Applies it, if this software can by now.
    ///
    /// # Errors
    /// [`NodeError`]; nothing was touched.
    pub(crate) async fn retry(&self, kept: Quarantined, audit: Option<Audit>) -> Result<Outcome, NodeError> {
        self.act(kept, audit, |cell, view, kept, now_ms| cell.retry(view, kept, now_ms)).await
    }

    /// Does without it.
    ///
    /// # Errors
    /// [`NodeError`]; nothing was touched.
    pub(crate) async fn give_up(&self, kept: Quarantined, audit: Audit) -> Result<Outcome, NodeError> {
        self.act(kept, Some(audit), |cell, view, kept, _| cell.give_up(view, kept)).await
    }

    async fn act(
        &self,
        kept: Quarantined,
        audit: Option<Audit>,
        act: impl FnOnce(&mut Cell, &dyn View, &Quarantined, u64) -> Result<Step, cell_core::cell::Unavailable>
        + Send
        + 'static,
    ) -> Result<Outcome, NodeError> {
        self.run_all(move |cell, view, now_ms| {
            let step = act(cell, view, &kept, now_ms)?;
            let what = if step.quarantined.iter().any(|kept| kept.given_up) {
                "given up"
            } else if step.quarantined.is_empty() {
                "applied"
            } else {
                "kept"
            };
            let kept = step.quarantined.first().cloned().unwrap_or(kept);
            let over = crate::working::Stacked::new(view);
            over.put(&step);
            let mut steps = vec![step];
            if let Some(audit) = audit {
                steps.push(cell.audit(&over, audit, now_ms)?);
            }
            Ok((steps, Outcome { kept, what }))
        })
        .await
    }

    /// After a start: what another software, or other limits, could not apply is tried once more.
    pub(crate) async fn retry_after_upgrade(&self) {
        let heads = match self.quarantined(None, false).await {
            Ok(heads) => heads,
            Err(error) => return tracing::error!(%error, "what is quarantined cannot be read"),
        };
        for head in heads.into_iter().filter(|head| !head.given_up && head.software != self.software()) {
            let dot = head.entry.dot;
            let whole = self.quarantined(Some(dot), true).await.map(|mut found| found.pop());
            let outcome = match whole {
                Ok(Some(kept)) => self.retry(kept, None).await,
                Ok(None) => continue,
                Err(error) => Err(error),
            };
            match outcome {
                Ok(Outcome { what, kept }) => {
                    tracing::info!(%dot, what, detail = kept.detail, "tried once more after an upgrade")
                }
                Err(error) => tracing::error!(%dot, %error, "could not be tried once more"),
            }
        }
    }
}
