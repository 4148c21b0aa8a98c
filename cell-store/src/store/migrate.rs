//! A view moved to another engine: copied beside the old one, read back, and exchanged in one step.

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rustix::fs::{CWD, RenameFlags, renameat_with};
use xxhash_rust::xxh3::Xxh3;

use super::folder::engine_of;
use super::{Batch, Engine, Scan, Store, StoreError, discard, open};
use crate::lock::sync_folder;

/// Pairs read and written at a time; at most 32 MiB.
const PAIRS: usize = 512;

/// Why a view was not moved. The one in place is as it was.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("there is no view in {}", folder.display())]
    NoView { folder: PathBuf },
    #[error("{} is {engine}'s already", folder.display())]
    Already { folder: PathBuf, engine: Engine },
    #[error("{0} keeps nothing on disk")]
    KeepsNothing(Engine),
    /// The old view or the new one failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What was read back is not what was written.
    #[error("the copy differs: {copied} keys were written, {read} read back")]
    Differs { copied: u64, read: u64 },
    /// The folders could not be exchanged, or the one beside it not be removed.
    #[error("folder {}: {source}", folder.display())]
    Folder { folder: PathBuf, source: io::Error },
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Keys copied.
    Copied(u64),
    /// Keys read back, of all.
    Verified(u64, u64),
}

/// What was moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Migrated {
    pub from: Engine,
    pub keys: u64,
    /// Of keys and values.
    pub bytes: u64,
    /// XXH3 over all pairs in order, the same on both sides.
    pub checksum: u128,
}

/// The engine that has the view in `dir`, if it can be moved to another one.
///
/// # Errors
/// [`MigrateError`]; nothing was touched.
pub fn may_migrate(dir: &Path, to: Engine) -> Result<Engine, MigrateError> {
    let from = engine_of(dir)?.ok_or_else(|| MigrateError::NoView { folder: dir.to_path_buf() })?;
    match to {
        to if to == from => Err(MigrateError::Already { folder: dir.to_path_buf(), engine: from }),
        Engine::Memory => Err(MigrateError::KeepsNothing(to)),
        _ => Ok(from),
    }
}

/// Moves the view in `dir` to another engine. The copy grows in `beside`, on the same file system, where only the leftovers
/// of an earlier try may be. A crash leaves the old view or the whole new one in `dir`. The caller sees to it that nobody
/// opens `dir` meanwhile.
///
/// # Errors
/// [`MigrateError`].
pub fn migrate(
    dir: &Path,
    beside: &Path,
    to: Engine,
    mut tell: impl FnMut(Stage),
) -> Result<Migrated, MigrateError> {
    let failed = |folder: &Path| {
        let folder = folder.to_path_buf();
        move |source| MigrateError::Folder { folder, source }
    };
    let allowed = may_migrate(dir, to);
    // Also where the move was made and the old view is left; never where it is not known which is which.
    if matches!(allowed, Ok(_) | Err(MigrateError::Already { .. } | MigrateError::KeepsNothing(_))) {
        discard(beside).map_err(failed(beside))?;
    }
    let from = allowed?;
    let old = open(from, dir)?;
    let new = open(to, beside)?;
    let mut copied = Sum::default();
    walk(&*old, |pairs| {
        let mut batch = Batch::new();
        for (key, value) in pairs {
            copied.add(key, value);
            batch.put(key.clone(), value.clone());
        }
        new.write(batch)?;
        tell(Stage::Copied(copied.keys));
        Ok(())
    })?;
    new.sync()?;
    // Read from what a start would find, not from what is still in memory.
    drop((old, new));
    let new = open(to, beside)?;
    let mut read = Sum::default();
    walk(&*new, |pairs| {
        pairs.iter().for_each(|(key, value)| read.add(key, value));
        tell(Stage::Verified(read.keys, copied.keys));
        Ok(())
    })?;
    drop(new);
    if (read.keys, read.bytes, read.hash.digest128()) != (copied.keys, copied.bytes, copied.hash.digest128())
    {
        return Err(MigrateError::Differs { copied: copied.keys, read: read.keys });
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    renameat_with(CWD, beside, CWD, dir, RenameFlags::EXCHANGE)
        .map_err(io::Error::from)
        .and_then(|()| sync_folder(parent))
        .map_err(failed(dir))?;
    // Now the old one.
    discard(beside).map_err(failed(beside))?;
    Ok(Migrated { from, keys: copied.keys, bytes: copied.bytes, checksum: copied.hash.digest128() })
}

/// Every pair, in order, some at a time.
fn walk(
    store: &dyn Store,
    mut each: impl FnMut(&[(Bytes, Bytes)]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let mut scan = Scan::prefix("", PAIRS);
    loop {
        let pairs = store.scan(&scan)?;
        each(&pairs)?;
        match pairs.last() {
            Some((key, _)) if pairs.len() == PAIRS => scan = scan.after(key.clone()),
            _ => return Ok(()),
        }
    }
}

#[derive(Default)]
struct Sum {
    keys: u64,
    bytes: u64,
    hash: Xxh3,
}

// === impl Sum ===

impl Sum {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.keys += 1;
        self.bytes += (key.len() + value.len()) as u64;
        for part in [key, value] {
            self.hash.update(&(part.len() as u64).to_le_bytes());
            self.hash.update(part);
        }
    }
}
