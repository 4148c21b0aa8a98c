//! What is durable in the log, as it becomes so.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cell_core::canon::Message as _;
use cell_core::cell::Hole;
use cell_core::version::Dot;
use cell_proto::v1;
use cell_store::{LogError, Position};
use service_kit::Shutdown;
use tokio::sync::mpsc;
use tonic::Status;

use super::wire_hole;
use crate::node::Node;
use crate::record::Record;

/// Bytes of one batch, about.
const BATCH_BYTES: usize = 256 << 10;
/// Longest rest between two batches.
const REST_MAX_MS: u32 = 10;
/// Batches that a client gets in a second before the node rests: each wakes some five processes on its way.
const BATCHES_PER_S: f64 = 2_000.0;
/// As many in a row go at once after a quiet time.
const IN_A_ROW_MAX: f64 = 4.0;

/// Sends what the log has from there on, until the client is gone or the node ends.
pub(super) async fn serve(
    node: Node,
    request: v1::TailRequest,
    batches: mpsc::Sender<Result<v1::TailBatch, Status>>,
    shutdown: Shutdown,
) {
    let (mut at, rest_ms) = (Position(request.from_position), request.rest_ms.min(REST_MAX_MS));
    let (mut durable, mut pace) = (node.durable_watch(), Pace::new(Instant::now()));
    loop {
        // Right behind the writer it is in memory: another thread for that would be woken for every group.
        let read = match node.log().read_recent(at, BATCH_BYTES) {
            Some(records) => Ok(Ok(records)),
            None => {
                let log = node.log().clone();
                tokio::task::spawn_blocking(move || log.read(at, BATCH_BYTES)).await
            }
        };
        let records = match read {
            Ok(Ok(records)) => records,
            Ok(Err(LogError::Damaged { lost })) => {
                at = Position(lost.end);
                continue;
            }
            Ok(Err(LogError::Deleted { first })) => {
                at = first;
                continue;
            }
            // Its file is gone, or the device does not give what is in it.
            Ok(Err(error)) if error.is_loss() => {
                tracing::error!(%error, position = at.0, "a segment of the log is passed over; a peer that lacks it takes over state");
                at = node.log().segment_end(at);
                continue;
            }
            Ok(Err(error)) => {
                let _ = batches.send(Err(Status::unavailable(error.to_string()))).await;
                return;
            }
            Err(error) => {
                let _ = batches.send(Err(Status::internal(error.to_string()))).await;
                return;
            }
        };
        let Some((last, _)) = records.last() else {
            tokio::select! {
                () = shutdown.begun() => return,
                () = batches.closed() => return,
                changed = durable.changed() => if changed.is_err() { return },
            }
            continue;
        };
        at = Position(last.0 + 1);
        let items = records.iter().map(|(position, record)| item(*position, record)).collect();
        let durable_position = node.durable_position();
        let lacking = !node.working().may_found();
        let unheard = unheard(&node);
        let batch = v1::TailBatch { items, next_position: at.0, durable_position, lacking, unheard };
        tokio::select! {
            // A client that reads nothing holds up no end.
            () = shutdown.begun() => return,
            sent = batches.send(Ok(batch)) => if sent.is_err() { return },
        }
        let rests = pace.is_fast(Instant::now());
        if rests && at.0 >= durable_position && rest_ms > 0 {
            tokio::time::sleep(Duration::from_millis(rest_ms.into())).await;
        }
    }
}

/// Regions that the node has to hear before it denies what they wrote.
pub(super) fn unheard(node: &Node) -> Vec<String> {
    node.working().distrusted().iter().map(ToString::to_string).collect()
}

fn item(position: Position, record: &Bytes) -> v1::TailItem {
    let mut item = v1::TailItem { position: position.0, ..v1::TailItem::default() };
    match Record::from_bytes(record) {
        Ok(Record::Entry(entry)) => item.entry = Some(entry.into()),
        Ok(Record::Quarantined(kept)) => {
            item.hole = Some(wire_hole(kept.entry.dot, &Hole::from(&kept)));
            item.entry = Some(kept.entry.into());
        }
        Ok(Record::Adopted(baseline)) => item.adopted = baseline.to_canon().into(),
        Ok(Record::Merged(entity)) => {
            let origins = entity.items().flat_map(|(_, item)| &item.origins);
            let dots: BTreeSet<Dot> = origins.map(|origin| origin.dot).collect();
            item.present = dots.into_iter().map(v1::Dot::from).collect();
        }
        Err(error) => {
            tracing::error!(%error, %position, "a log record cannot be read; it is passed over");
        }
    }
    item
}

/// Tells whether batches come faster than [`BATCHES_PER_S`]: each takes one of what time has earned.
#[derive(Debug)]
struct Pace {
    earned: f64,
    at: Instant,
}

impl Pace {
    fn new(now: Instant) -> Pace {
        Pace { earned: IN_A_ROW_MAX, at: now }
    }

    /// One more was sent now.
    fn is_fast(&mut self, now: Instant) -> bool {
        let since = now.saturating_duration_since(self.at).as_secs_f64();
        // Whoever is behind does not rest, and owes nothing for it.
        self.earned = ((self.earned + since * BATCHES_PER_S).min(IN_A_ROW_MAX) - 1.0).max(-1.0);
        self.at = now;
        self.earned < 0.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_gets_what_is_new_at_once_unless_that_is_too_often() {
        let begun = Instant::now();
        let sent = |count: u32, every: Duration| {
            let mut pace = Pace::new(begun);
            (0..count).filter(|nth| pace.is_fast(begun + every * *nth)).count()
        };
        assert_eq!(sent(1_000, Duration::from_millis(1)), 0);
        assert_eq!(sent(4, Duration::ZERO), 0, "a few in a row");
        assert!(sent(1_000, Duration::from_micros(100)) > 900);
        // Nobody pays later for what was sent while they were behind.
        let mut pace = Pace::new(begun);
        assert!((0..1_000).filter(|_| pace.is_fast(begun)).count() > 900);
        assert!(!pace.is_fast(begun + Duration::from_millis(2)));
        // A rest earns what the next ones take.
        let mut pace = Pace::new(begun);
        let (mut now, mut batches, mut rests) = (begun, 0, 0);
        while now < begun + Duration::from_secs(1) {
            batches += 1;
            let fast = pace.is_fast(now);
            rests += usize::from(fast);
            now += if fast { Duration::from_micros(1_500) } else { Duration::from_micros(100) };
        }
        assert!((1_900..2_100).contains(&batches) && rests > 400, "{batches} {rests}");
    }
}
