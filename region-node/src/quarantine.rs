//! Changes that could not be applied, as the view keeps them, and what is done with them.
//!
//! The log holds them as local records, whole; the view holds what an operator wants to see as the node's own state, and
//! their bytes beside it. What the cell knows of them it reads back from here at a start.

use std::collections::BTreeMap;

use bytes::Bytes;
use cell_core::canon::Message;
use cell_core::cell::{Cell, HOLES_MAX, Hole, Quarantined, Step, View};
use cell_core::event::Audit;
use cell_core::id::{ActorId, Hash};
use cell_core::version::Dot;
use cell_store::{Batch, Scan, Store, StoreError};

use crate::keys;
use crate::node::Node;
use crate::own::Own;
use crate::working::Working;
use crate::writer::NodeError;

/// Quarantined changes of which a reader's cursor is told whether they are shown.
const LOOKED_INTO_MAX: usize = 64;

/// What became of a quarantined change.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    pub(crate) kept: Quarantined,
    /// "applied", "kept", "given up".
    pub(crate) what: &'static str,
}

// === in the view ===

/// Keeps it, or its newest copy.
pub(crate) fn put(kept: &Quarantined, own: &mut Own, batch: &mut Batch) {
    let dot = kept.entry.dot;
    for (nth, part) in (0u16..).zip(kept.entry.bytes.chunks(keys::PART_BYTES_MAX)) {
        batch.put(keys::quarantined_part(&dot, nth), Bytes::copy_from_slice(part));
    }
    // The bytes as they came are known again by their hash.
    let hash = Hash::of(&kept.entry.bytes);
    let mut head = kept.clone();
    head.entry.bytes = Bytes::new();
    own.put(batch, keys::quarantined(&dot), [&hash.0[..], &head.to_canon()].concat());
}

/// It is applied by now.
pub(crate) fn remove(
    store: &dyn Store,
    dot: &Dot,
    own: &mut Own,
    batch: &mut Batch,
) -> Result<(), StoreError> {
    for (key, _) in store.scan(&Scan::prefix(keys::quarantined_parts(dot), usize::from(u16::MAX)))? {
        batch.delete(key);
    }
    own.remove(batch, keys::quarantined(dot));
    Ok(())
}

/// A quarantined change without its bytes, and their hash.
struct Head {
    bytes: Hash,
    kept: Quarantined,
}

/// All of them.
fn read(store: &dyn Store) -> Result<Vec<Head>, StoreError> {
    let head = |(_, value): &(Bytes, Bytes)| {
        let (hash, head) = value.split_first_chunk::<32>()?;
        Some(Head { bytes: Hash(*hash), kept: Quarantined::decode(head).ok()? })
    };
    // Not one of them is passed over: what it would have changed would be shown as if it were whole.
    let damaged = || StoreError::Damaged("a quarantined change cannot be read".to_owned());
    let found = store.scan(&Scan::prefix(keys::QUARANTINED, HOLES_MAX + 1))?;
    found.iter().map(|it| head(it).ok_or_else(damaged)).collect()
}

/// What the cell keeps of them.
pub(crate) fn holes(store: &dyn Store) -> Result<Vec<(Dot, Hole)>, StoreError> {
    Ok(read(store)?.iter().map(|head| (head.kept.entry.dot, Hole::from(&head.kept))).collect())
}

/// Of each actor the first change that the view does not show, nor what came otherwise in its place. More than so many are
/// not looked into: they count as not shown.
pub(crate) fn first_open(working: &Working) -> Result<BTreeMap<ActorId, u64>, StoreError> {
    let stored = |id| match working.stored_entity(id) {
        Err(StoreError::Damaged(_)) => Ok(None),
        found => found,
    };
    let mut first = BTreeMap::new();
    for (nth, (Dot { actor, seq }, hole)) in holes(&**working.store())?.into_iter().enumerate() {
        let known = first.get(&actor).copied().unwrap_or(u64::MAX);
        if seq < known && (nth >= LOOKED_INTO_MAX || !hole.is_made_good(&Dot { actor, seq }, stored)?) {
            first.insert(actor, seq);
        }
    }
    Ok(first)
}

/// One of them, with its bytes.
fn whole(store: &dyn Store, head: Head) -> Result<Quarantined, StoreError> {
    let Head { bytes, mut kept } = head;
    let parts = store.scan(&Scan::prefix(keys::quarantined_parts(&kept.entry.dot), usize::from(u16::MAX)))?;
    kept.entry.bytes = parts.iter().flat_map(|(_, part)| part.iter().copied()).collect();
    match Hash::of(&kept.entry.bytes) == bytes {
        true => Ok(kept),
        false => {
            Err(StoreError::Damaged(format!("the bytes of {} are not what was written", kept.entry.dot)))
        }
    }
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
        let look = move || {
            let wanted = |head: &Head| dot.is_none_or(|dot| dot == head.kept.entry.dot);
            let heads = read(&*store)?.into_iter().filter(wanted);
            let whole = |head: Head| if with_bytes { whole(&*store, head) } else { Ok(head.kept) };
            heads.map(whole).collect::<Result<Vec<_>, StoreError>>()
        };
        let unavailable = |error: &dyn std::fmt::Display| NodeError::Unavailable(error.to_string());
        let found = tokio::task::spawn_blocking(look).await.map_err(|error| unavailable(&error))?;
        found.map_err(|error| unavailable(&error))
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
        self.run_all(move |cell, view, now_ms, steps| {
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
            steps.push(step);
            if let Some(audit) = audit {
                steps.push(cell.audit(&over, audit, now_ms)?);
            }
            Ok(Outcome { kept, what })
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
                    tracing::info!(%dot, what, detail = kept.detail, "tried once more by another software, or under other bounds")
                }
                Err(error) => tracing::error!(%dot, %error, "could not be tried once more"),
            }
        }
    }
}
