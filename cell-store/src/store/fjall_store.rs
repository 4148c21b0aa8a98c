//! fjall 3.1, with what it does not promise put right.
//!
//! - Reads through a keyspace see a batch while it is applied; reads here go through a snapshot.
//! - A key that a batch names twice has one sequence number for both: only the last is handed over.
//! - Its folder is made under another name and renamed when complete, so what is missing in it later was lost: fjall
//!   itself takes a folder without `version`, or a keyspace without its manifest, for one that was never finished, and
//!   starts empty.
//! - When writes outrun merging it sleeps in steps of 100 ms, and for ever if its worker has died meanwhile. The wait here
//!   begins earlier, is fine-grained, and ends with an error where the worker is gone.
//! - Without lz4: disk is cheaper here than processor time, and a damaged length cannot reach a decompressor.
//! - It keeps a keyspace's settings from when it was made: another `write_buffer_bytes` counts for new folders only.
//! - A buffer that holds keys of all kinds becomes a table that spans them all, and is merged with every table of the next
//!   level. Kinds have keyspaces of their own ([`APART`]): what comes in the order of its keys is moved then, not merged. A
//!   batch is whole over all of them: they share the journal, which fjall syncs before it writes a buffer out. One that was
//!   filled in that moment may go with it; a power cut then leaves a journal that is behind, and that is named.
//! - It syncs its journal seldom, and much of it then: see [`write_back`].
//! - Its own lock file is named like ours, so it lives one folder deeper.
//!
//! Memory: the block cache, and write buffers, of which a keyspace has five at most (one filling, four being written).
//! Threads: four, one that writes buffers out and three that merge. `sync` syncs the journal; tables and manifests are synced
//! by fjall before what they replace goes.
//!
//! Damage. Detected at open, by fjall or by [`verify`]: missing or unreadable manifests, tables and journals, a journal
//! damaged anywhere but at its very end, one that ends before what was made of it, tables' tables of content. Detected
//! where it is read: every block of a table has a checksum. **Not** detected: a journal whose last batch is damaged, or
//! that ends early and behind every buffer that was written out, is one whose end was torn by a crash, and gives the store
//! of an earlier moment, never one with holes; the oldest of several journals missing with the batches that only it had; a
//! table exchanged for another. A write that wakes a damaged table in a merge fails with [`StoreError::Io`], as fjall keeps
//! the reason to itself. The applied position (an earlier moment) and the digests (single keys) are there for that.

mod verify;
mod write_back;

use std::cmp::Ordering;
use std::fmt;
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use fjall::compaction::Leveled;
use fjall::config::{BlockSizePolicy, BloomConstructionPolicy, FilterPolicy, FilterPolicyEntry};
use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use super::fence::{Fence, contained, file_error, let_go};
use super::folder::{Folder, home_of, unusable};
use super::{Batch, Engine, Scan, Store, StoreError};
use crate::lock::sync_folder;
use write_back::WriteBack;

const ENGINE: &str = "fjall";
/// First bytes of the keys that come with every order, in their order: each kind has a keyspace, all others share one.
const APART: &[u8] = b"dekmrux";
/// Has a key that every opening writes, so that no journal that was in use is empty.
const OPENED: &str = "opened";
/// Where the folder is made; what is found here was never finished.
const UNFINISHED: &str = "fjall.new";
/// The first only writes buffers out. What is to be merged it puts back and takes again, without a pause, for as long as all
/// others merge: with so many there is mostly one that does not.
const WORKERS: usize = 4;
/// Journals beyond this are cleared away by writing buffers out early. They are what is read again at open.
const JOURNALS_BYTES_MAX: u64 = 128 << 20;
const OPEN_FILES_MAX: usize = 256;
const BLOCK_BYTES: u32 = 4 << 10;
/// The first level that is merged into holds four of them.
const TABLE_BYTES: u64 = 16 << 20;
/// Full write buffers, and runs of the first level, at which writes wait; below the bounds at which fjall itself does.
const SEALED_MAX: usize = 3;
const RUNS_MAX: usize = 16;
const WAIT: Duration = Duration::from_millis(1);
/// How long a former owner in this process may take to let go of fjall's own lock.
const RELEASE_WAIT: Duration = Duration::from_secs(2);

/// Tuning.
#[derive(Clone, Debug)]
pub struct FjallConfig {
    /// Blocks of tables kept in memory.
    pub cache_bytes: u64,
    /// Of one write buffer; counts when the folder is made. While the disk takes one, syncs of others wait for it.
    pub write_buffer_bytes: u64,
}

impl Default for FjallConfig {
    fn default() -> Self {
        FjallConfig { cache_bytes: 256 << 20, write_buffer_bytes: 8 << 20 }
    }
}

/// A folder with a fjall database.
pub struct FjallStore {
    /// `None` only while it is dropped.
    open: Option<Open>,
    write_back: WriteBack,
    fence: Fence,
    /// Released last.
    folder: Folder,
}

struct Open {
    /// As [`APART`]; behind them that of all other keys, and [`OPENED`].
    keyspaces: Vec<Keyspace>,
    db: Database,
}

impl Open {
    fn of(&self, key: &[u8]) -> &Keyspace {
        let nth = APART.iter().position(|byte| key.first() == Some(byte));
        &self.keyspaces[nth.unwrap_or(APART.len())]
    }

    /// The parts of a range, in its direction, with the keyspace of each.
    fn parts(&self, scan: &Scan) -> Vec<(&Keyspace, Scan)> {
        let others = &self.keyspaces[APART.len()];
        let edge = |byte: u8| Bytes::from(vec![byte]);
        let mut from = Bound::Unbounded;
        let mut parts = Vec::new();
        for (byte, keyspace) in APART.iter().zip(&self.keyspaces) {
            let (these, behind) = (edge(*byte), edge(*byte + 1));
            parts.push((others, from, Bound::Excluded(these.clone())));
            parts.push((keyspace, Bound::Included(these), Bound::Excluded(behind.clone())));
            from = Bound::Included(behind);
        }
        parts.push((others, from, Bound::Unbounded));
        if scan.reverse {
            parts.reverse();
        }
        let within = |(keyspace, start, end)| Some((keyspace, scan.within(start, end)?));
        parts.into_iter().filter_map(within).collect()
    }
}

// === impl FjallStore ===

impl FjallStore {
    /// # Errors
    /// [`StoreError::Held`] if another process has it open, [`StoreError::OtherEngine`] if it is not fjall's,
    /// [`StoreError::Damaged`] if it cannot be read.
    pub fn open(dir: &Path, config: &FjallConfig) -> Result<FjallStore, StoreError> {
        let io = |error| unusable(dir, &error);
        let mut folder = Folder::claim(dir, Engine::Fjall)?;
        let home = dir.join(home_of(Engine::Fjall));
        if !home.try_exists().map_err(io)? {
            make(dir, &home, config)?;
        }
        let last = verify::verify(&home)?;
        let open = contained(ENGINE, || {
            let db = database(&home, config)?;
            if let Some(lost) = names().find(|name| !db.keyspace_exists(name)) {
                let what = format!("'{}' has lost its keyspace '{lost}'", home.display());
                return Err(StoreError::Damaged(what));
            }
            let keyspaces = keyspaces(&db, config)?;
            let made =
                keyspaces.iter().filter_map(|keyspace| keyspace.tree.get_highest_persisted_seqno()).max();
            if made > last {
                let what = format!("a journal of '{}' ends before what was made of it", home.display());
                return Err(StoreError::Damaged(what));
            }
            // A journal is empty only when it has just begun, with all before it written out.
            keyspaces[APART.len() + 1].insert(OPENED, "").map_err(error)?;
            Ok(Open { keyspaces, db })
        })?;
        folder.mark()?;
        Ok(FjallStore {
            open: Some(open),
            write_back: WriteBack::new(home),
            fence: Fence::new(ENGINE),
            folder,
        })
    }

    fn inner(&self) -> Result<&Open, StoreError> {
        self.open.as_ref().ok_or_else(|| StoreError::Io("closed".to_owned()))
    }
}

impl fmt::Debug for FjallStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FjallStore").field("dir", &self.folder.dir()).finish_non_exhaustive()
    }
}

impl Drop for FjallStore {
    fn drop(&mut self) {
        let open = self.open.take();
        // Nothing is left for fjall's own closing to write, which a thread of its may do after this returns.
        let synced = self.fence.change(|| match &open {
            Some(open) => open.db.persist(PersistMode::SyncAll).map_err(error),
            None => Ok(()),
        });
        if let Err(error) = synced {
            tracing::error!(%error, "while the store was closed");
        }
        let_go(ENGINE, open);
    }
}

impl Store for FjallStore {
    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        batch.check()?;
        let mut entries = batch.entries;
        // Of equal keys the last is kept: the sort is stable.
        entries.sort_by(|(a, _), (b, _)| a.cmp(b));
        self.fence.change(|| {
            let open = self.inner()?;
            let (mut writes, mut bytes) = (open.db.batch(), 0);
            let mut entries = entries.into_iter().peekable();
            while let Some((key, value)) = entries.next() {
                if entries.peek().is_some_and(|(next, _)| next.cmp(&key) == Ordering::Equal) {
                    continue;
                }
                let keyspace = open.of(&key);
                bytes += key.len() + value.as_ref().map_or(0, Bytes::len);
                match value {
                    Some(value) => writes.insert(keyspace, key.as_ref(), value.as_ref()),
                    None => writes.remove(keyspace, key.as_ref()),
                }
            }
            wait_for_merging(open)?;
            writes.commit().map_err(error)?;
            self.write_back.written(bytes);
            Ok(())
        })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.fence.read(|| {
            let open = self.inner()?;
            // fjall takes no key of no bytes, and nobody can have written one.
            if key.is_empty() {
                return Ok(None);
            }
            let value = open.db.snapshot().get(open.of(key), key).map_err(error)?;
            Ok(value.map(|value| Bytes::copy_from_slice(&value)))
        })
    }

    fn scan(&self, scan: &Scan) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if scan.is_empty() {
            return Ok(Vec::new());
        }
        self.fence.read(|| {
            let open = self.inner()?;
            let snapshot = open.db.snapshot();
            let pair = |guard: fjall::Guard| {
                let (key, value) = guard.into_inner().map_err(error)?;
                Ok((Bytes::copy_from_slice(&key), Bytes::copy_from_slice(&value)))
            };
            let mut found = Vec::new();
            for (keyspace, part) in open.parts(scan) {
                let range = snapshot.range(keyspace, (part.start, part.end));
                let left = scan.limit - found.len();
                let pairs: Result<Vec<_>, StoreError> = if scan.reverse {
                    range.rev().take(left).map(pair).collect()
                } else {
                    range.take(left).map(pair).collect()
                };
                found.extend(pairs?);
                if found.len() == scan.limit {
                    break;
                }
            }
            Ok(found)
        })
    }

    fn sync(&self) -> Result<(), StoreError> {
        self.fence.change(|| self.inner()?.db.persist(PersistMode::SyncAll).map_err(error))
    }
}

// === the database ===

/// Makes the folder complete, or not at all.
fn make(dir: &Path, home: &Path, config: &FjallConfig) -> Result<(), StoreError> {
    let io = |error| unusable(dir, &error);
    let unfinished = dir.join(UNFINISHED);
    match std::fs::remove_dir_all(&unfinished) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(io(error)),
        _ => {}
    }
    contained(ENGINE, || {
        let db = database(&unfinished, config)?;
        let keyspaces = keyspaces(&db, config)?;
        db.persist(PersistMode::SyncAll).map_err(error)?;
        drop((keyspaces, db));
        Ok(())
    })?;
    sync_folder(&unfinished).map_err(io)?;
    sync_folder(&unfinished.join("keyspaces")).map_err(io)?;
    std::fs::rename(&unfinished, home).map_err(io)?;
    sync_folder(dir).map_err(io)
}

fn database(home: &Path, config: &FjallConfig) -> Result<Database, StoreError> {
    let started = Instant::now();
    loop {
        let opened = Database::builder(home)
            .cache_size(config.cache_bytes)
            .worker_threads(WORKERS)
            .max_journaling_size(JOURNALS_BYTES_MAX)
            .max_cached_files(Some(OPEN_FILES_MAX))
            .open();
        match opened {
            Err(fjall::Error::Locked) if started.elapsed() < RELEASE_WAIT => std::thread::sleep(WAIT),
            Err(fjall::Error::Locked) => return Err(StoreError::Held { folder: home.to_path_buf() }),
            opened => return opened.map_err(error),
        }
    }
}

fn names() -> impl Iterator<Item = String> {
    APART.iter().map(|byte| format!("keys-{byte:02x}")).chain(["keys".to_owned(), OPENED.to_owned()])
}

fn keyspaces(db: &Database, config: &FjallConfig) -> Result<Vec<Keyspace>, StoreError> {
    names().map(|name| db.keyspace(&name, || options(config)).map_err(error)).collect()
}

fn options(config: &FjallConfig) -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default()
        .max_memtable_size(config.write_buffer_bytes)
        .compaction_strategy(Arc::new(Leveled::default().with_table_target_size(TABLE_BYTES)))
        .data_block_size_policy(BlockSizePolicy::all(BLOCK_BYTES))
        .filter_policy(FilterPolicy::all(FilterPolicyEntry::Bloom(BloomConstructionPolicy::BitsPerKey(10.0))))
}

/// Lets merging catch up, so that neither memory nor the count of tables grows.
fn wait_for_merging(open: &Open) -> Result<(), StoreError> {
    let is_behind = |keyspace: &Keyspace| {
        keyspace.sealed_memtable_count() >= SEALED_MAX || keyspace.tree.l0_run_count() >= RUNS_MAX
    };
    while open.keyspaces.iter().any(is_behind) {
        // Says whether somebody is still at work on it.
        open.db.persist(PersistMode::Buffer).map_err(error)?;
        std::thread::sleep(WAIT);
    }
    Ok(())
}

/// fjall's errors as ours.
fn error(error: fjall::Error) -> StoreError {
    match error {
        fjall::Error::Io(error) | fjall::Error::Storage(fjall::LsmError::Io(error)) => file_error(&error),
        fjall::Error::Poisoned => {
            StoreError::Io("fjall could not write a buffer out, or merge, in the background".to_owned())
        }
        error => StoreError::Damaged(error.to_string()),
    }
}
