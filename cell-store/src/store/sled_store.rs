//! sled 0.34.7, with what it does not promise put right.
//!
//! `flush()` does not fsync (it calls `sync_file_range`), so its `db` file is synced here. Batches on several trees are
//! not atomic together, so there is one tree. Values above 64 KiB are refused, because sled keeps large ones in files
//! that it never syncs. On a damaged file it panics; panics are caught and become [`StoreError::Damaged`].

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bytes::Bytes;

use super::{Batch, Scan, Store, StoreError};
use crate::lock::create_folder;

/// Tuning.
#[derive(Clone, Debug)]
pub struct SledConfig {
    /// Page cache.
    pub cache_bytes: u64,
}

impl Default for SledConfig {
    fn default() -> Self {
        SledConfig { cache_bytes: 256 << 20 }
    }
}

/// A folder with a sled database.
#[derive(Debug)]
pub struct SledStore {
    db: sled::Db,
    file: File,
}

fn contained<T>(work: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(sled::Error::Corruption { .. })) => {
            Err(StoreError::Damaged("sled reports corruption".to_owned()))
        }
        Ok(Err(error)) => Err(StoreError::Io(error.to_string())),
        Err(_) => Err(StoreError::Damaged("sled panicked".to_owned())),
    }
}

impl SledStore {
    /// # Errors
    /// [`StoreError::Held`] if another process has it open, [`StoreError::Damaged`] if it cannot be read.
    pub fn open(dir: &Path, config: &SledConfig) -> Result<SledStore, StoreError> {
        create_folder(dir).map_err(|error| StoreError::Io(format!("{}: {error}", dir.display())))?;
        let open =
            || sled::Config::new().path(dir).cache_capacity(config.cache_bytes).flush_every_ms(None).open();
        let db = match contained(open) {
            Err(StoreError::Io(error)) if error.contains("could not acquire lock") => {
                return Err(StoreError::Held { folder: dir.to_path_buf() });
            }
            opened => opened?,
        };
        let file = File::open(dir.join("db")).map_err(|error| StoreError::Io(error.to_string()))?;
        Ok(SledStore { db, file })
    }
}

impl Store for SledStore {
    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        batch.check()?;
        let mut writes = sled::Batch::default();
        for (key, value) in batch.entries {
            match value {
                Some(value) => writes.insert(key.as_ref(), value.as_ref()),
                None => writes.remove(key.as_ref()),
            }
        }
        contained(|| self.db.apply_batch(writes))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = contained(|| self.db.get(key))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, scan: &Scan) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if scan.is_empty() {
            return Ok(Vec::new());
        }
        contained(|| {
            let range = self.db.range((scan.start.clone(), scan.end.clone()));
            let pair = |pair: Result<(sled::IVec, sled::IVec), sled::Error>| {
                pair.map(|(key, value)| (Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
            };
            if scan.reverse {
                range.rev().take(scan.limit).map(pair).collect()
            } else {
                range.take(scan.limit).map(pair).collect()
            }
        })
    }

    fn sync(&self) -> Result<(), StoreError> {
        contained(|| self.db.flush())?;
        self.file.sync_data().map_err(|error| StoreError::Io(error.to_string()))
    }
}
