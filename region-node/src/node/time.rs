//! What happens because time passes: beats, what becomes due, the free space.

use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::Duration;

use service_kit::Shutdown;

use super::Node;
use crate::view;
use crate::writer::now_ms;

/// How often the node looks for what is due.
const DUE_EVERY: Duration = Duration::from_millis(100);
const DUE_MAX: usize = 500;
const BEAT_EVERY: Duration = Duration::from_secs(1);
const DISK_EVERY: Duration = Duration::from_secs(1);

impl Node {
    /// Timers: beats, and whatever becomes due; until the shutdown begins.
    pub async fn keep_time(self, shutdown: Shutdown) {
        let (mut due, mut beat) = (tokio::time::interval(DUE_EVERY), tokio::time::interval(BEAT_EVERY));
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut deciding = pin!(async {
            self.wait_for_peers().await;
            self.look_at_everything_open().await;
        });
        let (mut decides, mut twins_said) = (false, None);
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                () = &mut deciding, if !decides => decides = true,
                _ = beat.tick() => {
                    self.beat().await;
                    self.hear().await;
                    self.look_for_twins(&mut twins_said).await;
                }
                _ = due.tick(), if decides => self.wake_due().await,
            }
        }
    }

    /// Watches the free space under `dir`; until the shutdown begins.
    pub(crate) async fn watch_disk(self, dir: PathBuf, low_water_bytes: u64, shutdown: Shutdown) {
        let mut every = tokio::time::interval(DISK_EVERY);
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                _ = every.tick() => {}
            }
            let Ok(free) = cell_store::free_bytes(&dir) else { continue };
            metrics::gauge!("cell_disk_free_bytes").set(free as f64);
            let low = free < low_water_bytes;
            if self.low_on_disk.swap(low, Ordering::Relaxed) != low {
                tracing::warn!(free, low_water_bytes, low, "free disk crossed the low-water mark");
            }
        }
    }

    /// What was under way is looked at once: after a start, so that its duties are known again.
    pub(crate) async fn look_at_everything_open(&self) {
        let mut after = None;
        loop {
            let store = self.store().clone();
            let page = tokio::task::spawn_blocking(move || view::open_now(&store, after, DUE_MAX)).await;
            let Ok(Ok(page)) = page else { return tracing::error!("what is under way cannot be read") };
            let Some(last) = page.last().copied() else { return };
            for entity in page {
                if let Err(error) = self.wake(entity).await {
                    tracing::warn!(%error, %entity, "could not be looked at");
                }
            }
            after = Some(last);
        }
    }

    async fn wake_due(&self) {
        let store = self.store().clone();
        let found = tokio::task::spawn_blocking(move || view::due_by(&store, now_ms(), DUE_MAX)).await;
        let found = match found {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return tracing::error!(%error, "what is due cannot be read"),
            Err(error) => return tracing::error!(%error, "what is due cannot be read"),
        };
        for entity in found {
            if let Err(error) = self.wake(entity).await {
                tracing::warn!(%error, %entity, "could not be woken; tried again");
            }
        }
    }
}
