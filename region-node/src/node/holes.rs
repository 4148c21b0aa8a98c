//! Holes of a damaged log. What is missing comes from the peers; what stands behind it in this log need not: the peers may
//! never have had it.

use std::collections::BTreeMap;
use std::time::Duration;

use cell_core::cell::Incoming;
use cell_core::event::Entry;
use cell_core::id::ActorId;
use cell_store::{LogError, LogReader, Position};
use service_kit::Shutdown;

use super::Node;
use crate::record::Record;
use crate::writer::NodeError;

const LOOK_EVERY: Duration = Duration::from_secs(1);
const READ_BYTES: usize = 1 << 20;

/// An actor, how far it is known without a gap, and how far there is something.
type Hole = (ActorId, u64, u64);

impl Node {
    /// Where a hole closed, goes on with what this log holds behind it; until the shutdown begins.
    pub(crate) async fn close_holes(self, shutdown: Shutdown) {
        let mut looked: Vec<Hole> = Vec::new();
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            // As long as nothing came that was missing, the log holds nothing that goes on.
            let Some(holes) = self.holes().await.filter(|holes| *holes != looked) else { continue };
            let gone_on = tokio::select! {
                () = shutdown.begun() => return,
                gone_on = self.go_on_behind(&holes) => gone_on,
            };
            match gone_on {
                Ok(0) => looked = holes,
                Ok(count) => tracing::info!(count, "changes that the log held behind a hole count again"),
                Err(error) => tracing::warn!(%error, "the log cannot be read behind a hole; tried again"),
            }
        }
    }

    async fn holes(&self) -> Option<Vec<Hole>> {
        if !self.working.has_holes() {
            return Some(Vec::new());
        }
        self.read(|cell| cell.holes().collect()).await.ok()
    }

    /// How many changes of the log were taken, in one reading of it.
    async fn go_on_behind(&self, holes: &[Hole]) -> Result<usize, NodeError> {
        let failed = |error: &dyn std::fmt::Display| NodeError::Unavailable(error.to_string());
        let mut next: BTreeMap<ActorId, u64> =
            holes.iter().map(|(actor, known, _)| (*actor, known + 1)).collect();
        let (mut at, mut count) = (Some(self.log.first()), 0);
        while let Some(from) = at.filter(|_| !holes.is_empty()) {
            let (log, mut wanted) = (self.log.clone(), next);
            let read = tokio::task::spawn_blocking(move || {
                let read = read_on(&log, from, &mut wanted);
                (wanted, read)
            });
            let (left, read) = read.await.map_err(|error| failed(&error))?;
            let (behind, entries) = read.map_err(|error| failed(&error))?;
            (next, at) = (left, behind);
            if !entries.is_empty() {
                count += self.go_on_over(entries.into_iter().map(Incoming::read).collect()).await?;
            }
        }
        Ok(count)
    }
}

/// A part of the log: the changes in it that are the next of their actors, and where it goes on.
fn read_on(
    log: &LogReader,
    from: Position,
    next: &mut BTreeMap<ActorId, u64>,
) -> Result<(Option<Position>, Vec<Entry>), LogError> {
    let records = match log.read(from, READ_BYTES) {
        Err(LogError::Damaged { lost }) => return Ok((Some(Position(lost.end)), Vec::new())),
        records => records?,
    };
    let entry = |bytes| match Record::from_bytes(bytes) {
        Ok(Record::Entry(entry)) => Some(entry),
        Ok(Record::Quarantined(kept)) => Some(kept.entry),
        Ok(Record::Merged(_) | Record::Adopted(_)) | Err(_) => None,
    };
    let mut entries: Vec<Entry> = records.iter().filter_map(|(_, bytes)| entry(bytes)).collect();
    entries.retain(|entry| {
        let wanted = next.get_mut(&entry.dot.actor).filter(|seq| **seq == entry.dot.seq);
        wanted.map(|seq| *seq += 1).is_some()
    });
    Ok((records.last().map(|(last, _)| Position(last.0 + 1)), entries))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cell_core::event::{Beat, Body, Change, Event};
    use cell_core::id::{Hash, NodeId, RegionId};
    use cell_core::version::Dot;
    use cell_store::{FaultMedium, Log, LogConfig};

    use super::*;

    #[test]
    fn what_goes_on_behind_a_hole_is_read_and_nothing_behind_the_next_one() {
        let node = |region| NodeId { region: RegionId::new(region).unwrap(), index: 0 };
        let [a, b] = ["east", "south"].map(|region| ActorId { node: node(region), start: 1, nonce: 1 });
        let entry = |actor, seq| {
            let events = vec![Arc::new(Event::new(Vec::new(), Body::Beat(Beat { wall_ms: seq })))];
            let (dot, trace) = (Dot { actor, seq }, String::new());
            Change { dot, at: cell_core::clock::Hlc::default(), trace, events }.seal(&Hash::ZERO)
        };
        let (mut log, _) = Log::open(Arc::new(FaultMedium::new(1)), LogConfig::default()).unwrap();
        let held = [entry(a, 5), entry(b, 1), entry(a, 3), entry(a, 4), entry(b, 2), entry(a, 6)];
        let records: Vec<Vec<u8>> =
            held.iter().cloned().map(|entry| Record::Entry(entry).to_bytes()).collect();
        log.append(&records).unwrap();
        log.sync().unwrap();
        let mut next = BTreeMap::from([(a, 3)]);
        let (behind, found) = read_on(&log.reader(), Position(0), &mut next).unwrap();
        // 5 stands before what it builds on: the next reading finds it, and 6 behind it.
        assert_eq!((behind, &found[..], next[&a]), (Some(Position(6)), &held[2..4], 5));
        let (_, found) = read_on(&log.reader(), Position(0), &mut next).unwrap();
        assert_eq!((found, next[&a]), (vec![held[0].clone(), held[5].clone()], 7));
        let (behind, found) = read_on(&log.reader(), Position(6), &mut next).unwrap();
        assert_eq!((behind, found.len()), (None, 0));
    }
}
