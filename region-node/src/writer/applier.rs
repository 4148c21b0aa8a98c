//! The view is applied right behind the writer: batches of groups, and readers who cannot wait for a batch to fill.

use std::sync::mpsc::Receiver;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::Group;
use crate::working::Working;

/// The view waits this long for a batch to fill, unless somebody waits for it: a store that writes to the disk, or wakes
/// its threads, at every batch would else be in the way of the log's next sync. Everything but lists is served from the
/// working state meanwhile.
const VIEW_LINGER: Duration = Duration::from_millis(8);
/// Entities in one batch of the view, about.
const VIEW_BATCH_MAX: usize = 256;

/// Readers who wait for the view; as long as there are any, it does not wait for more groups. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hurry(Arc<Waits>);

#[derive(Debug, Default)]
struct Waits {
    count: Mutex<usize>,
    changed: Condvar,
}

/// One who waits, until it is dropped.
#[derive(Debug)]
pub(crate) struct Waiting(Hurry);

impl Hurry {
    fn count(&self) -> MutexGuard<'_, usize> {
        // Only assignments run under the lock.
        self.0.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn wait(&self) -> Waiting {
        *self.count() += 1;
        self.0.changed.notify_one();
        Waiting(self.clone())
    }

    /// Returns after `at_most`, or as soon as somebody waits.
    fn linger(&self, at_most: Duration) {
        let lingered = self.0.changed.wait_timeout_while(self.count(), at_most, |count| *count == 0);
        drop(lingered.unwrap_or_else(PoisonError::into_inner));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        *self.0.count() -= 1;
    }
}

/// Puts groups into the view, in order, until no more can come.
pub(super) fn apply_all(
    groups: &Receiver<Group>,
    working: &Working,
    hurry: &Hurry,
    mut apply: impl FnMut(Group) -> Result<(), String>,
) {
    while let Ok(mut group) = groups.recv() {
        fill(&mut group, groups);
        // Not listening to what comes: being woken for every group would cost a lone request more than the view itself.
        if group.entities.len() < VIEW_BATCH_MAX && !group.is_urgent() {
            hurry.linger(VIEW_LINGER);
            fill(&mut group, groups);
        }
        let (number, keys) = (group.number, std::mem::take(&mut group.command_keys));
        let entities = group.entities.keys().copied().collect();
        if let Err(error) = apply(group) {
            // The log is whole; the view is behind and is replayed at the next start.
            tracing::error!(error, "the view cannot be written; it stays behind the log");
            return;
        }
        working.applied(number, entities, keys);
    }
}

/// Takes the groups that wait behind this one, as far as they fit into a batch.
fn fill(group: &mut Group, groups: &Receiver<Group>) {
    while group.entities.len() < VIEW_BATCH_MAX
        && let Ok(next) = groups.try_recv()
    {
        group.absorb(next);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_view_waits_for_more_groups_only_while_nobody_waits_for_it() {
        const LONG: Duration = Duration::from_secs(3_600);
        let hurry = Hurry::default();
        let lingering = hurry.clone();
        let lingering = std::thread::spawn(move || lingering.linger(LONG));
        let (first, second) = (hurry.wait(), hurry.wait());
        lingering.join().unwrap();
        drop(first);
        hurry.linger(LONG);
        drop(second);
        assert_eq!(*hurry.count(), 0);
    }
}
