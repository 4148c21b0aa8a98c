//! Deleting beside the writer: while a file goes, a file system may keep whoever asked for it waiting for long.

use std::io;
use std::sync::{Arc, PoisonError};

use super::reader::Shared;
use super::{LogError, Position};

/// Deletes what nobody needs of a log, from any thread. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogTrimmer {
    shared: Arc<Shared>,
}

// === impl LogTrimmer ===

impl LogTrimmer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Deletes segments that hold only durable records before `before`, oldest first, never the one being written.
    /// Returns the first position that is left. It waits for the disk, and for another call that is under way.
    ///
    /// # Errors
    /// [`LogError::Poisoned`]; [`LogError::Io`]: what was deleted so far is gone for readers, what could not be is there; call
    /// again.
    pub fn delete_before(&self, before: Position) -> Result<Position, LogError> {
        let _alone = self.shared.deleting.lock().unwrap_or_else(PoisonError::into_inner);
        self.shared.refuse_if_poisoned()?;
        let (medium, before) = (&self.shared.medium, before.0.min(self.shared.durable()));
        // Forgotten first, so that nobody looks for a file that is gone.
        while let Some(segment) = self.shared.forget_first_segment(before) {
            let name = Arc::clone(&segment.name);
            match medium.delete(&name) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    // The ones behind it wait for it: else it would be there at the next start, and they missing.
                    self.shared.remember_first_segment(segment);
                    return Err(LogError::io("delete", &name)(source));
                }
                _ => {}
            }
            // Each name on its own: were a later one to go before an earlier one, a power cut would leave a hole.
            medium.sync_dir().map_err(LogError::io("sync the folder of", &name))?;
            tracing::debug!(segment = %name, "deleted a segment");
        }
        Ok(Position(self.shared.first()))
    }
}
