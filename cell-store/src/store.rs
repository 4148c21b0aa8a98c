//! The view's store: atomic batches, ordered keys, durable only after [`Store::sync`].
//!
//! What an engine does with a damaged folder is said in its module; none ever panics through the trait, and a store that
//! broke refuses everything afterwards.

mod fence;
mod fjall_store;
mod folder;
mod memory;
mod migrate;
mod sled_store;

use std::fmt;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::lock::FolderLock;
pub use fjall_store::{FjallConfig, FjallStore};
pub use folder::engine_of;
pub use memory::MemoryStore;
pub use migrate::{MigrateError, Migrated, Stage, may_migrate, migrate};
pub use sled_store::{SledConfig, SledStore};

/// Longest key.
pub const KEY_BYTES_MAX: usize = 1_024;
/// Largest value. A page of the engine holds some 16 of them, and must not outgrow the file that is synced.
pub const VALUE_BYTES_MAX: usize = 64 * 1024;

/// Why a store refused.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A key or value is larger than allowed; nothing of the batch was written. The caller's fault.
    #[error("store: a {what} of {bytes} bytes is above {bytes_max}")]
    TooLarge { what: &'static str, bytes: usize, bytes_max: usize },
    /// A key without a byte; nothing of the batch was written. The caller's fault.
    #[error("store: a key of no bytes")]
    EmptyKey,
    /// Another process holds the folder.
    #[error("folder {} is in use: another process holds its lock", folder.display())]
    Held { folder: PathBuf },
    /// The folder's view was made by another engine; nothing was touched.
    #[error("folder {} was made by {found}, not by {asked}", folder.display())]
    OtherEngine { folder: PathBuf, found: Engine, asked: Engine },
    /// The store fails verification. Never to be read as "not found": discard and rebuild it.
    #[error("store: damaged: {0}")]
    Damaged(String),
    /// The disk failed; whether the batch took effect is unknown, and the store answers nothing more.
    #[error("store: {0}")]
    Io(String),
}

/// Puts and deletes that take effect together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    pub(crate) entries: Vec<(Bytes, Option<Bytes>)>,
}

impl Batch {
    #[must_use]
    pub fn new() -> Batch {
        Batch::default()
    }
    pub fn put(&mut self, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.entries.push((key.into(), Some(value.into())));
    }
    pub fn delete(&mut self, key: impl Into<Bytes>) {
        self.entries.push((key.into(), None));
    }
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
    /// Everything of `other` behind what is here.
    pub fn append(&mut self, mut other: Batch) {
        self.entries.append(&mut other.entries);
    }

    pub(crate) fn check(&self) -> Result<(), StoreError> {
        for (key, value) in &self.entries {
            if key.is_empty() {
                return Err(StoreError::EmptyKey);
            }
            let value = value.as_ref().map_or(0, Bytes::len);
            for (what, bytes, bytes_max) in
                [("key", key.len(), KEY_BYTES_MAX), ("value", value, VALUE_BYTES_MAX)]
            {
                if bytes > bytes_max {
                    return Err(StoreError::TooLarge { what, bytes, bytes_max });
                }
            }
        }
        Ok(())
    }
}

/// An ordered range of keys.
#[derive(Clone, Debug)]
pub struct Scan {
    pub start: Bound<Bytes>,
    pub end: Bound<Bytes>,
    /// From the end backwards.
    pub reverse: bool,
    /// Pairs at most.
    pub limit: usize,
}

impl Scan {
    /// Every key that begins with `prefix`, forwards.
    #[must_use]
    pub fn prefix(prefix: impl Into<Bytes>, limit: usize) -> Scan {
        let start: Bytes = prefix.into();
        let mut end = start.to_vec();
        while end.last() == Some(&0xff) {
            end.pop();
        }
        let end = match end.last_mut() {
            Some(last) => {
                *last += 1;
                Bound::Excluded(Bytes::from(end))
            }
            None => Bound::Unbounded,
        };
        Scan { start: Bound::Included(start), end, reverse: false, limit }
    }
    /// The same, only behind `key`.
    #[must_use]
    pub fn after(mut self, key: impl Into<Bytes>) -> Scan {
        self.start = Bound::Excluded(key.into());
        self
    }
    /// The same, only before `key`.
    #[must_use]
    pub fn before(mut self, key: impl Into<Bytes>) -> Scan {
        self.end = Bound::Excluded(key.into());
        self
    }
    #[must_use]
    pub fn reversed(mut self) -> Scan {
        self.reverse = true;
        self
    }
    /// The part of it between these bounds, if there is one.
    pub(crate) fn within(&self, start: Bound<Bytes>, end: Bound<Bytes>) -> Option<Scan> {
        let mut part = self.clone();
        let begins_later = match (&start, &part.start) {
            (Bound::Unbounded, _) => false,
            (_, Bound::Unbounded) => true,
            (Bound::Included(new), Bound::Included(old) | Bound::Excluded(old)) => new > old,
            (Bound::Excluded(new), Bound::Included(old) | Bound::Excluded(old)) => new >= old,
        };
        let ends_sooner = match (&end, &part.end) {
            (Bound::Unbounded, _) => false,
            (_, Bound::Unbounded) => true,
            (Bound::Included(new), Bound::Included(old) | Bound::Excluded(old)) => new < old,
            (Bound::Excluded(new), Bound::Included(old) | Bound::Excluded(old)) => new <= old,
        };
        if begins_later {
            part.start = start;
        }
        if ends_sooner {
            part.end = end;
        }
        (!part.is_empty()).then_some(part)
    }
    /// Whether the bounds leave no key at all; engines panic on such ranges.
    pub(crate) fn is_empty(&self) -> bool {
        match (&self.start, &self.end) {
            (Bound::Included(start), Bound::Included(end)) => start > end,
            (Bound::Included(start) | Bound::Excluded(start), Bound::Excluded(end))
            | (Bound::Excluded(start), Bound::Included(end)) => start >= end,
            _ => false,
        }
    }
}

/// A key-value store for a view that can be rebuilt. Every engine passes one conformance suite.
pub trait Store: Send + Sync + fmt::Debug + 'static {
    /// Whole or not at all, also across a crash; durable after [`Store::sync`]. Batches survive in the order they were
    /// written: one is never there without those before it.
    ///
    /// # Errors
    /// [`StoreError::TooLarge`], [`StoreError::EmptyKey`]: nothing was written. Any other: open the store anew and replay.
    fn write(&self, batch: Batch) -> Result<(), StoreError>;
    /// One value. Two calls may have a batch in between; what must be seen together is asked for with one scan.
    ///
    /// # Errors
    /// [`StoreError`]; damage that the engine notices is never `Ok(None)`.
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
    /// Pairs in the order of their keys, of whole batches only.
    ///
    /// # Errors
    /// [`StoreError`].
    fn scan(&self, scan: &Scan) -> Result<Vec<(Bytes, Bytes)>, StoreError>;
    /// Everything written before is on disk after.
    ///
    /// # Errors
    /// [`StoreError`].
    fn sync(&self) -> Result<(), StoreError>;
}

/// Which engine keeps the view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    #[default]
    Sled,
    Fjall,
    /// Keeps nothing; it uses no folder and minds none.
    Memory,
}

impl Engine {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Engine::Sled => "sled",
            Engine::Fjall => "fjall",
            Engine::Memory => "memory",
        }
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Opens the view's store in `dir`.
///
/// # Errors
/// [`StoreError`]; [`StoreError::OtherEngine`] asks for [`migrate`], or for the engine that made it.
pub fn open(engine: Engine, dir: &Path) -> Result<Arc<dyn Store>, StoreError> {
    match engine {
        Engine::Sled => Ok(Arc::new(SledStore::open(dir, &SledConfig::default())?)),
        Engine::Fjall => Ok(Arc::new(FjallStore::open(dir, &FjallConfig::default())?)),
        Engine::Memory => Ok(Arc::new(MemoryStore::new())),
    }
}

/// Removes a store that is to be rebuilt. The log is somewhere else.
///
/// # Errors
/// `ResourceBusy` if a process has it open; otherwise the folder cannot be removed.
pub fn discard(dir: &Path) -> io::Result<()> {
    if !dir.exists() {
        return Ok(());
    }
    let Some(_lock) = FolderLock::acquire(dir)? else {
        let error = StoreError::Held { folder: dir.to_path_buf() };
        return Err(io::Error::new(io::ErrorKind::ResourceBusy, error));
    };
    std::fs::remove_dir_all(dir)
}
