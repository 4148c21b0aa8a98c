//! The ledger on disk: a snapshot per change, replaced whole, so that a restarted gateway remembers its money.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write};
use std::path::PathBuf;

use crate::ledger::Ledger;

/// A sandbox has few intents; a snapshot of all of them is simpler than a log and cannot be half.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    /// One process per ledger, for as long as this lives.
    _lock: File,
}

impl Journal {
    /// Opens the ledger kept at `path`, or a new one.
    ///
    /// # Errors
    /// The file cannot be read, or is not a ledger; nothing was written.
    pub(crate) fn open(path: PathBuf) -> io::Result<(Journal, Ledger)> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder)?;
        }
        let lock = File::create(path.with_extension("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("in use by another process"),
            TryLockError::Error(error) => error,
        })?;
        let ledger = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ledger::default(),
            Err(error) => return Err(error),
        };
        Ok((Journal { path, _lock: lock }, ledger))
    }

    pub(crate) fn save(&mut self, ledger: &Ledger) -> io::Result<()> {
        let next = self.path.with_extension("next");
        let mut file = File::create(&next)?;
        file.write_all(&serde_json::to_vec(ledger)?)?;
        file.sync_data()?;
        fs::rename(&next, &self.path)?;
        // The new name is to survive a power cut too.
        match self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            Some(folder) => File::open(folder)?.sync_all(),
            None => Ok(()),
        }
    }
}
