//! What the writer tells the rest of the node.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cell_core::cell::{Alarm, Cell};
use cell_core::id::{ActorId, EntityId};
use service_kit::Shutdown;
use tokio::sync::broadcast;

use crate::desk::Tray;
use crate::session::Sessions;
use crate::writer::{Group, NodeError, Sheet, Told};

const ALARMED_MAX: usize = 10_000;
/// How often it is said of one actor that its clock is ahead.
const AHEAD_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Announce {
    pub(super) signals: broadcast::Sender<Arc<Vec<EntityId>>>,
    pub(super) shutdown: Shutdown,
    /// What was warned of; forgotten as a whole beyond [`ALARMED_MAX`], and then said again.
    pub(super) alarmed: Mutex<BTreeSet<EntityId>>,
    /// Whose clock was said to be ahead, and when.
    pub(super) ahead: Mutex<BTreeMap<ActorId, Instant>>,
    pub(super) tray: Tray,
    pub(super) sessions: Sessions,
}

impl Told for Announce {
    fn sheets(&self, sheets: &[Sheet]) {
        let open = sheets.iter().map(|sheet| sheet.duties.len()).sum::<usize>();
        metrics::counter!("cell_duties_computed_total").increment(open as u64);
        self.tray.put(sheets);
    }

    fn alarms(&self, alarms: &[Alarm]) {
        for alarm in alarms {
            metrics::counter!("cell_alarms_total", "kind" => kind(alarm)).increment(1);
            // An orphan is looked at again and again; it is said once.
            let said = match alarm {
                Alarm::Orphan(id) | Alarm::Forked(id) => {
                    let mut alarmed = self.alarmed.lock().unwrap_or_else(PoisonError::into_inner);
                    if alarmed.len() >= ALARMED_MAX {
                        alarmed.clear();
                    }
                    !alarmed.insert(*id)
                }
                // Every change of that region says it.
                Alarm::ClockAhead { actor, .. } => {
                    let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
                    ahead.retain(|_, said| said.elapsed() < AHEAD_EVERY);
                    ahead.contains_key(actor) || ahead.insert(*actor, Instant::now()).is_some()
                }
            };
            if !said {
                tracing::warn!(?alarm, "alarm");
            }
        }
    }

    fn published(&self, cell: &Cell, group: &Group) {
        self.sessions.published(cell, group);
        let payments: Vec<EntityId> =
            group.entities.keys().filter(|id| id.payment().is_some()).copied().collect();
        if !payments.is_empty() {
            // Nobody listens: nobody misses anything.
            let _ = self.signals.send(Arc::new(payments));
        }
    }

    fn failed(&self, error: &NodeError) {
        self.shutdown.fail(error.to_string());
    }
}

fn kind(alarm: &Alarm) -> &'static str {
    match alarm {
        Alarm::Orphan(_) => "orphan",
        Alarm::ClockAhead { .. } => "clock-ahead",
        Alarm::Forked(_) => "forked",
    }
}
