//! The ledger on disk: a snapshot per change, replaced whole, so that a restarted gateway remembers its money.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::ledger::Ledger;

/// A sandbox has few intents; a snapshot of all of them is simpler than a log and cannot be half.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// Held for as long as this lives: one process per ledger. A file of its own, since the ledger's is replaced.
    lock: File,
}

/// `ledger.json` → `ledger.json.lock`: beside it, and never the file itself.
fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Journal {
    /// Opens the ledger kept at `path`, or a new one.
    ///
    /// # Errors
    /// The file cannot be read, is not a ledger, or belongs to another process; it was not changed.
    pub(crate) fn open(path: PathBuf) -> io::Result<(Journal, Ledger)> {
        fs::create_dir_all(folder_of(&path))?;
        let lock = File::create(beside(&path, ".lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("in use by another process"),
            TryLockError::Error(error) => error,
        })?;
        let ledger = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ledger::default(),
            Err(error) => return Err(error),
        };
        Ok((Journal { path, lock }, ledger))
    }

    /// Replaces what is on disk, as a whole.
    ///
    /// # Errors
    /// It could not be written. What a restart would find is the ledger as it was, or at the very last step the new one.
    pub(crate) fn save(&mut self, ledger: &Ledger) -> io::Result<()> {
        let next = beside(&self.path, ".next");
        let mut file = File::create(&next)?;
        file.write_all(&serde_json::to_vec(ledger)?)?;
        file.sync_data()?;
        fs::rename(&next, &self.path)?;
        // The new name is to survive a power cut too.
        File::open(folder_of(&self.path))?.sync_all()
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Closing alone would not, as long as a process that is just being started has a copy. The end of this one will.
        let _ = self.lock.unlock();
    }
}
