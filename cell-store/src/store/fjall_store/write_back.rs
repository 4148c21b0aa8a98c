//! fjall syncs its journal before it writes a buffer out: megabytes at once, and whoever syncs another file of the same disk
//! waits for them. Here the disk is given what the journal has as it comes, and nobody waits. So it is when fjall deletes a
//! journal: as long as the file is open here its room is kept, and it is given back in pieces.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::fs::{Advice, fadvise};

use super::verify;

/// About so much of the journal is in memory alone.
const BYTES: usize = 1 << 20;
/// So much of a deleted journal is given back for each such piece that is written: twice as much, so that none heap up.
const GIVEN_BACK_BYTES: u64 = 2 << 20;

/// What was written to the journal since the disk was given the last of it.
#[derive(Debug)]
pub(super) struct WriteBack {
    /// fjall's own folder.
    home: PathBuf,
    bytes: AtomicUsize,
    /// Journals, by number, the deleted ones too.
    open: Mutex<Vec<(u64, File)>>,
}

impl WriteBack {
    pub(super) fn new(home: PathBuf) -> WriteBack {
        WriteBack { home, bytes: AtomicUsize::new(0), open: Mutex::default() }
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
        // Whatever failed halfway, every file in it is a journal.
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        give_back(&mut open)?;
        if open.last().is_none_or(|(id, _)| *id != newest) {
            let path = self.home.join(verify::journal_name(newest));
            open.push((newest, File::options().read(true).write(true).open(path)?));
        }
        let Some((_, journal)) = open.last() else { return Ok(()) };
        Ok(fadvise(journal, 0, None, Advice::DontNeed)?)
    }
}

/// Gives back a piece of the first journal that fjall has deleted.
fn give_back(open: &mut Vec<(u64, File)>) -> io::Result<()> {
    for nth in 0..open.len() {
        let seen = open[nth].1.metadata()?;
        if seen.nlink() > 0 {
            continue;
        }
        match seen.len().checked_sub(GIVEN_BACK_BYTES) {
            Some(rest) if rest > 0 => open[nth].1.set_len(rest)?,
            _ => drop(open.remove(nth)),
        }
        break;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_that_was_deleted_is_given_back_in_pieces_and_no_other_is_touched() {
        let home = tempfile::tempdir().unwrap();
        let journal = |id| home.path().join(verify::journal_name(id));
        let write_back = WriteBack::new(home.path().to_path_buf());
        let lens = || -> Vec<(u64, u64)> {
            let open = write_back.open.lock().unwrap();
            open.iter().map(|(id, file)| (*id, file.metadata().unwrap().len())).collect()
        };
        for id in 0..2 {
            std::fs::write(journal(id), vec![1; 5 << 20]).unwrap();
            write_back.written(BYTES / 2);
            write_back.written(BYTES / 2);
        }
        assert_eq!(lens(), [(0, 5 << 20), (1, 5 << 20)]);
        std::fs::remove_file(journal(0)).unwrap();
        let mut seen = Vec::new();
        for _ in 0..3 {
            write_back.written(BYTES);
            seen.push(lens());
        }
        assert_eq!(
            seen,
            [vec![(0, 3 << 20), (1, 5 << 20)], vec![(0, 1 << 20), (1, 5 << 20)], vec![(1, 5 << 20)],]
        );
        assert_eq!(std::fs::read(journal(1)).unwrap(), vec![1; 5 << 20]);
    }
}
