//! sled 0.34.7, with what it does not promise put right.
//!
//! - `flush()` does not fsync (it calls `sync_file_range`), so its `db` file is synced here.
//! - Batches on several trees are not atomic together, so there is one tree. Readers would see a batch grow key by key,
//!   so a scan and a batch exclude each other.
//! - A *page* above a quarter of its segment size goes to a file of its own that is never synced. A page splits by its
//!   count of keys (16), not by its size, so with sled's default of 512 KiB small values are enough. Segments are 8 MiB
//!   here: the largest page that our limits allow, some 1.3 MiB, stays in the file that is synced.
//! - It frees what a batch replaced far more slowly than a large batch replaces it, so that memory grows without end however
//!   small its cache is: [`free_replaced`].
//! - Only its flusher thread cleans the file; without one the file grows for ever. So there is one.
//! - On a damaged file it panics: that is caught and becomes [`StoreError::Damaged`].
//! - Its threads may hold its lock a moment longer than the last handle lives, so the folder has a lock of ours too,
//!   which says at once whether somebody else is there.
//!
//! Damage. Detected: a missing `db` file, a header or a page whose checksum fails where it is read, settings that
//! contradict the file. **Not** detected: a damaged stretch of `db` may be taken for its torn end, and everything written
//! behind it is gone without a word; a segment that lost its header is a free segment, and the keys of its pages are gone
//! or have the values of an earlier moment. The applied position (an earlier moment) and the digests (single keys) are
//! there for that.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::{PoisonError, RwLock};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::fence::{Fence, contained, file_error, let_go};
use super::folder::{Folder, unusable};
use super::{Batch, Engine, Scan, Store, StoreError};
use crate::lock::sync_folder;

const ENGINE: &str = "sled";
const SEGMENT_BYTES: usize = 8 << 20;
/// How often the cleaner looks; what it syncs by the way is a bonus, the log is the truth.
const CLEAN_EVERY_MS: u64 = 1_000;
const KEYS_A_ROUND: usize = 64;
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
    /// `None` only while it is dropped.
    db: Option<sled::Db>,
    /// The file that sled writes, opened before any write, so that it hears of every write-back error.
    file: File,
    /// Held for writing while a batch is applied, so that a scan sees whole batches only.
    batches: RwLock<()>,
    fence: Fence,
    /// Released last.
    _folder: Folder,
}

// === impl SledStore ===

impl SledStore {
    /// # Errors
    /// [`StoreError::Held`] if another process has it open, [`StoreError::OtherEngine`] if it is not sled's,
    /// [`StoreError::Damaged`] if it cannot be read.
    pub fn open(dir: &Path, config: &SledConfig) -> Result<SledStore, StoreError> {
        let io = |error: io::Error| unusable(dir, &error);
        let mut folder = Folder::claim(dir, Engine::Sled)?;
        let sled = sled::Config::new()
            .path(dir)
            .segment_size(SEGMENT_BYTES)
            .cache_capacity(config.cache_bytes)
            .flush_every_ms(Some(CLEAN_EVERY_MS));
        let started = Instant::now();
        let db = loop {
            match contained(ENGINE, || sled.open().map_err(error)) {
                Err(StoreError::Io(error)) if error.contains("could not acquire lock") => {
                    if started.elapsed() > RELEASE_WAIT {
                        return Err(StoreError::Held { folder: dir.to_path_buf() });
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                opened => break opened?,
            }
        };
        let file = File::open(dir.join("db")).map_err(io)?;
        // sled syncs neither its settings nor its names; without them the rest could not be opened.
        file.sync_all().map_err(io)?;
        File::open(dir.join("conf")).and_then(|conf| conf.sync_all()).map_err(io)?;
        sync_folder(dir).map_err(io)?;
        folder.mark()?;
        let fence = Fence::new(ENGINE);
        Ok(SledStore { db: Some(db), file, batches: RwLock::default(), fence, _folder: folder })
    }

    fn db(&self) -> Result<&sled::Db, StoreError> {
        self.db.as_ref().ok_or_else(|| StoreError::Io("closed".to_owned()))
    }
}

impl Drop for SledStore {
    fn drop(&mut self) {
        let_go(ENGINE, self.db.take());
    }
}

impl Store for SledStore {
    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        batch.check()?;
        let (mut writes, keys) = (sled::Batch::default(), batch.entries.len());
        for (key, value) in batch.entries {
            match value {
                Some(value) => writes.insert(key.as_ref(), value.as_ref()),
                None => writes.remove(key.as_ref()),
            }
        }
        let _alone = self.batches.write().unwrap_or_else(PoisonError::into_inner);
        self.fence.change(|| {
            self.db()?.apply_batch(writes).map_err(error)?;
            free_replaced(keys);
            Ok(())
        })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        let value = self.fence.read(|| self.db()?.get(key).map_err(error))?;
        Ok(value.map(|value| Bytes::copy_from_slice(&value)))
    }

    fn scan(&self, scan: &Scan) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if scan.is_empty() {
            return Ok(Vec::new());
        }
        let _no_batch = self.batches.read().unwrap_or_else(PoisonError::into_inner);
        self.fence.read(|| {
            let range = self.db()?.range((scan.start.clone(), scan.end.clone()));
            let pair = |pair: Result<(sled::IVec, sled::IVec), sled::Error>| {
                let (key, value) = pair.map_err(error)?;
                Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
            };
            if scan.reverse {
                range.rev().take(scan.limit).map(pair).collect()
            } else {
                range.take(scan.limit).map(pair).collect()
            }
        })
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.fence.change(|| {
            self.db()?.flush().map_err(error)?;
            self.file.sync_data().map_err(|error| StoreError::Io(error.to_string()))
        })
    }
}

/// Frees what a batch of so many keys replaced: whole pages, for each key some three pieces.
///
/// crossbeam-epoch frees up to 512 pieces at every 128th operation of a thread, and to sled a batch is one operation. Each
/// round here frees as many again, more than 64 keys leave behind, and moves the epoch on so that the next one can.
fn free_replaced(keys: usize) {
    for _ in 0..=keys / KEYS_A_ROUND {
        sled::pin().flush();
    }
}

/// sled's many errors as ours.
fn error(error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) => file_error(&error),
        sled::Error::Corruption { at, .. } => {
            let place = at.map(|at| format!(" at {at:?}")).unwrap_or_default();
            StoreError::Damaged(format!("sled's files hold what sled did not write{place}"))
        }
        error => StoreError::Damaged(error.to_string()),
    }
}
