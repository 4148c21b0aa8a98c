//! Reads the log through: what nobody has read since it was written may be damaged long before somebody needs it.

use std::collections::BTreeSet;
use std::time::Duration;

use cell_store::{LogError, Position};

use super::rounds::Found;
use crate::node::Node;

/// Read while nobody else uses the thread.
const CHUNK_BYTES: usize = 1 << 20;

/// Stretches of records that were named, so that each is named once.
#[derive(Debug, Default)]
pub(super) struct Named(BTreeSet<(u64, u64)>);

/// From the log's beginning to where it ended when this was called.
pub(super) async fn pass(node: &Node, named: &mut Named, per_s: u32, found: &mut Found) {
    let log = node.log().clone();
    let (mut at, end) = (log.first(), log.durable());
    let (mut lost, mut unreadable, mut records) = (BTreeSet::new(), Vec::new(), 0);
    while at < end {
        let log = node.log().clone();
        let Ok(read) = tokio::task::spawn_blocking(move || log.read_stored(at, CHUNK_BYTES)).await else {
            return;
        };
        let count = match read {
            Ok(read) => match read.last() {
                Some((last, _)) => {
                    at = Position(last.0 + 1);
                    read.len()
                }
                None => break,
            },
            Err(LogError::Damaged { lost: stretch }) => {
                at = Position(stretch.end);
                lost.insert((stretch.start, stretch.end));
                0
            }
            // It was trimmed meanwhile.
            Err(LogError::Deleted { first }) => {
                at = first;
                0
            }
            // The disk may give it back the next time; a file that is gone it will not.
            Err(error) => {
                let end = node.log().segment_end(at).min(end);
                tracing::error!(%error, at = at.0, end = end.0, "a part of the log cannot be read");
                unreadable.push(format!("records {at}..{end} of the log cannot be read: {error}"));
                lost.insert((at.0, end.0));
                at = end;
                0
            }
        };
        records += count as u64;
        if per_s != u32::MAX {
            tokio::time::sleep(Duration::from_secs_f64(count as f64 / f64::from(per_s.max(1)))).await;
        }
    }
    for (start, end) in lost.difference(&named.0) {
        tracing::error!(
            lost = ?start..end,
            "records of the log cannot be read any more. What the view does not have of them comes from the peers; a peer that \
             lacks them takes over state"
        );
    }
    let damaged = lost.iter().map(|(start, end)| end - start).sum::<u64>();
    metrics::gauge!("cell_log_damaged_records").set(damaged as f64);
    found.records = records;
    found.lost = lost.iter().map(|(start, end)| format!("{start}..{end}")).collect();
    found.unreadable = unreadable;
    named.0 = lost;
}
