//! sled 0.34.7, with what it does not promise put right.
//!
//! - `flush()` does not fsync (it calls `sync_file_range`), so its `db` file is synced here.
//! - Batches on several trees are not atomic together, so there is one tree. Readers would see a batch grow key by key,
//!   so a scan and a batch exclude each other.
//! - A *page* above a quarter of its segment size goes to a file of its own that is never synced. A page splits by its
//!   count of keys (16), not by its size, so with sled's default of 512 KiB small values are enough. Segments are 8 MiB
//!   here: the largest page that our limits allow, some 1.3 MiB, stays in the file that is synced.
//! - Only its flusher thread cleans the file; without one the file grows for ever. So there is one.
//! - On a damaged file it panics: that is caught and becomes [`StoreError::Damaged`]. It may also forget keys silently;
//!   the caller's frontier and digests are there for that.
//! - Its threads may hold its lock a moment longer than the last handle lives, so the folder has a lock of ours too,
//!   which says at once whether somebody else is there.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::{Batch, Scan, Store, StoreError};
use crate::lock::{FolderLock, create_folder};

const SEGMENT_BYTES: usize = 8 << 20;
/// How often the cleaner looks; what it syncs by the way is a bonus, the log is the truth.
const CLEAN_EVERY_MS: u64 = 1_000;
/// How long a former owner in this process may take to let go of sled's own lock.
const RELEASE_WAIT: Duration = Duration::from_secs(2);

/// Tuning.
#[derive(Clone, Debug)]
pub struct SledConfig {
    /// Page cache; sled takes up to half as much again.
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
    /// The file that sled writes, opened before any write, so that it hears of every write-back error.
    file: File,
    /// Held for writing while a batch is applied, so that a scan sees whole batches only.
    batches: RwLock<()>,
    broken: AtomicBool,
    /// Released last.
    _lock: FolderLock,
}

// === impl SledStore ===

impl SledStore {
    /// # Errors
    /// [`StoreError::Held`] if another process has it open, [`StoreError::Damaged`] if it cannot be read.
    pub fn open(dir: &Path, config: &SledConfig) -> Result<SledStore, StoreError> {
        let io = |error: io::Error| StoreError::Io(format!("folder {}: {error}", dir.display()));
        let held = || StoreError::Held { folder: dir.to_path_buf() };
        create_folder(dir).map_err(io)?;
        let lock = FolderLock::acquire(dir).map_err(io)?.ok_or_else(held)?;
        let sled = sled::Config::new()
            .path(dir)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(config.cache_bytes)
            .flush_every_ms(Some(CLEAN_EVERY_MS));
        let started = Instant::now();
        let db = loop {
            match contained(|| sled.open()) {
                Err(StoreError::Io(error)) if error.contains("could not acquire lock") => {
                    if started.elapsed() > RELEASE_WAIT {
                        return Err(held());
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                opened => break opened?,
            }
        };
        let file = File::open(dir.join("db")).map_err(io)?;
        // sled syncs neither its settings nor its names; without them the rest could not be opened.
        File::open(dir.join("conf")).and_then(|conf| conf.sync_all()).map_err(io)?;
        File::open(dir).and_then(|folder| folder.sync_all()).map_err(io)?;
        Ok(SledStore { db, file, batches: RwLock::default(), broken: AtomicBool::new(false), _lock: lock })
    }

    /// Nothing more is asked of a store that failed to write or panicked: what it answers cannot be trusted.
    fn guarded<T>(
        &self,
        changes: bool,
        work: impl FnOnce() -> Result<T, sled::Error>,
    ) -> Result<T, StoreError> {
        if self.broken.load(Ordering::Acquire) {
            return Err(StoreError::Io(
                "an earlier error left it in an unknown state: open it anew".to_owned(),
            ));
        }
        let done = contained(work);
        if matches!(&done, Err(error) if changes || matches!(error, StoreError::Damaged(_))) {
            self.broken.store(true, Ordering::Release);
        }
        done
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
        let _alone = self.batches.write().unwrap_or_else(PoisonError::into_inner);
        self.guarded(true, || self.db.apply_batch(writes))
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.guarded(false, || self.db.get(key))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, scan: &Scan) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if scan.is_empty() {
            return Ok(Vec::new());
        }
        let _no_batch = self.batches.read().unwrap_or_else(PoisonError::into_inner);
        self.guarded(false, || {
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
        self.guarded(true, || {
            self.db.flush()?;
            self.file.sync_data()?;
            Ok(())
        })
    }
}

/// Runs sled and turns its panics and its many errors into ours.
fn contained<T>(work: impl FnOnce() -> Result<T, sled::Error>) -> Result<T, StoreError> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(done)) => Ok(done),
        Ok(Err(sled::Error::Io(error))) => match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidData => {
                Err(StoreError::Damaged(error.to_string()))
            }
            _ => Err(StoreError::Io(error.to_string())),
        },
        Ok(Err(error)) => Err(StoreError::Damaged(error.to_string())),
        Err(_) => Err(StoreError::Damaged("sled panicked".to_owned())),
    }
}
