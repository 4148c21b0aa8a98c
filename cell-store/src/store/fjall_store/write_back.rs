//! fjall syncs its journal before it writes a buffer out: megabytes at once, and whoever syncs another file of the same disk
//! waits for them. Here the disk is given what the journal has as it comes, and nobody waits.

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{Advice, fadvise};

use super::verify;

/// About so much of the journal is in memory alone.
const BYTES: usize = 1 << 20;

/// What was written to the journal since the disk was given the last of it.
#[derive(Debug)]
pub(super) struct WriteBack {
    /// fjall's own folder.
    home: PathBuf,
    bytes: AtomicUsize,
}

impl WriteBack {
    pub(super) fn new(home: PathBuf) -> WriteBack {
        WriteBack { home, bytes: AtomicUsize::new(0) }
    }

    /// So many bytes more were written to the journal.
    pub(super) fn written(&self, bytes: usize) {
        if self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes < BYTES {
            return;
        }
        self.bytes.store(0, Ordering::Relaxed);
        // What the disk refuses fjall hears of at its next sync.
        if let Err(error) = self.begin() {
            tracing::debug!(%error, "the journal is not written before it is synced");
        }
    }

    /// Advised that a file's pages are not needed, Linux begins to write those that it has to keep till then. Nobody reads
    /// a journal before the next start.
    fn begin(&self) -> io::Result<()> {
        let Some(newest) = verify::journal_ids(&self.home)?.pop() else { return Ok(()) };
        let journal = File::open(self.home.join(verify::journal_name(newest)))?;
        Ok(fadvise(&journal, 0, None, Advice::DontNeed)?)
    }
}
