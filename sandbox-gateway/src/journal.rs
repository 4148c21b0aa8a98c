//! The ledger on disk: a snapshot per change, replaced whole, so that a restarted gateway remembers its money.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use crate::ledger::Ledger;

/// A sandbox has few intents; a snapshot of all of them is simpler than a log and cannot be half.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
}

impl Journal {
    /// Opens the ledger kept at `path`, or a new one.
    ///
    /// # Errors
    /// The file cannot be read, or is not a ledger; nothing was written.
    pub(crate) fn open(path: PathBuf) -> io::Result<(Journal, Ledger)> {
        let ledger = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ledger::default(),
            Err(error) => return Err(error),
        };
        Ok((Journal { path }, ledger))
    }

    pub(crate) fn save(&mut self, ledger: &Ledger) -> io::Result<()> {
        let next = self.path.with_extension("next");
        let mut file = File::create(&next)?;
        file.write_all(&serde_json::to_vec(ledger)?)?;
        file.sync_data()?;
        fs::rename(&next, &self.path)
    }
}
