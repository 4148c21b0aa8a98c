//! A folder in memory that keeps apart what was written and what was synced, and breaks on request.
//!
//! The model, per file: the *cache* is what reads see, the *platter* is what survives. A sync copies the dirty end from
//! the one to the other. A power cut lets any part of the dirty end through, in sectors of 512 bytes. A failed sync does
//! what Linux does: the pages count as clean from then on, reads still show them, and no later sync writes them again
//! (Rebello et al., "Can Applications Recover from fsync Failures?", USENIX ATC 2020). Names behave likewise, with
//! `sync_dir` as their sync.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{LAID_IN, Medium};

/// The unit in which a device writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// Of the room behind a file after a power cut: enough to tell what is made of it.
const ROOM_SECTORS: usize = 9;

/// A seeded in-memory medium with faults. Clones are handles to the same folder.
#[derive(Debug, Clone)]
pub struct FaultMedium {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    random: SplitMix64,
    inodes: BTreeMap<u64, Inode>,
    inode_next: u64,
    names: BTreeMap<String, u64>,
    names_synced: BTreeMap<String, u64>,
    fail_append: Option<io::ErrorKind>,
    full: bool,
    fail_create: Option<i32>,
    fail_sync: bool,
    fail_delete: bool,
    unreadable: Vec<(String, Range<u64>)>,
    append_count: u64,
    sync_count: u64,
}

#[derive(Debug, Default)]
struct Inode {
    cache: Vec<u8>,
    platter: Vec<u8>,
    /// The cache from here on has not been handed to the platter yet.
    dirty_from: usize,
}

// === impl FaultMedium ===

impl FaultMedium {
    /// An empty folder; equal seeds and equal calls give equal outcomes.
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            random: SplitMix64(seed),
            inodes: BTreeMap::new(),
            inode_next: 0,
            names: BTreeMap::new(),
            names_synced: BTreeMap::new(),
            fail_append: None,
            full: false,
            fail_create: None,
            fail_sync: false,
            fail_delete: false,
            unreadable: Vec::new(),
            append_count: 0,
            sync_count: 0,
        };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// Everything synced stays; of every file's unsynced end any part survives, torn at sector boundaries, and room
    /// taken in advance may stand behind it. Unsynced names come and go. Pending faults are forgotten. Open the log anew afterwards.
    pub fn power_cut(&self) {
        let mut inner = self.lock();
        inner.settle_names();
        let Inner { inodes, random, .. } = &mut *inner;
        for inode in inodes.values_mut() {
            let before = if random.below(2) == 0 { 0 } else { LAID_IN };
            let mut survived = inode.survivors(before, random);
            let room = random.below(2) * random.below(ROOM_SECTORS) * SECTOR_BYTES;
            survived.resize(survived.len() + room, before);
            *inode = Inode { dirty_from: survived.len(), cache: survived.clone(), platter: survived };
        }
        inner.fail_append = None;
        inner.fail_create = None;
        inner.fail_sync = false;
        inner.fail_delete = false;
    }

    /// The next [`Medium::append`] writes a part of its bytes and fails: `StorageFull` as `ENOSPC`, anything else as `EIO`.
    pub fn fail_next_append(&self, kind: io::ErrorKind) {
        self.lock().fail_append = Some(kind);
    }

    /// Every [`Medium::append`] fails with `ENOSPC` as long as it is full.
    pub fn fill(&self, full: bool) {
        self.lock().full = full;
    }

    /// The next [`Medium::create`] fails with this error number and creates nothing.
    pub fn fail_next_create(&self, errno: i32) {
        self.lock().fail_create = Some(errno);
    }

    /// The next [`Medium::sync`] fails with `EIO` and leaves cache and platter apart.
    pub fn fail_next_sync(&self) {
        self.lock().fail_sync = true;
    }

    /// The next [`Medium::delete`] fails with `EIO` and deletes nothing.
    pub fn fail_next_delete(&self) {
        self.lock().fail_delete = true;
    }

    /// Reads that touch these bytes of the file fail with `EIO` until [`FaultMedium::heal_reads`].
    pub fn eio_on_read(&self, file: &str, bytes: Range<u64>) {
        self.lock().unreadable.push((file.to_owned(), bytes));
    }

    /// Ends every fault asked for with [`FaultMedium::eio_on_read`].
    pub fn heal_reads(&self) {
        self.lock().unreadable.clear();
    }

    /// Turns one bit over on cache and platter alike: silent damage. Beyond the end of the file it does nothing.
    pub fn flip_bit(&self, file: &str, offset: u64, bit: u8) -> io::Result<()> {
        let mut inner = self.lock();
        let inode = inner.inode(file)?;
        for bytes in [&mut inode.cache, &mut inode.platter] {
            if let Some(byte) = bytes.get_mut(offset as usize) {
                *byte ^= 1 << (bit % 8);
            }
        }
        Ok(())
    }

    /// Writes zeroes over these bytes of cache and platter: a lost extent.
    pub fn zero(&self, file: &str, range: Range<u64>) -> io::Result<()> {
        let mut inner = self.lock();
        let inode = inner.inode(file)?;
        for bytes in [&mut inode.cache, &mut inode.platter] {
            let end = bytes.len().min(range.end as usize);
            if let Some(part) = bytes.get_mut(range.start as usize..end) {
                part.fill(0);
            }
        }
        Ok(())
    }

    /// An independent copy of the folder as it is now, with its own seed: the same moment, broken in another way.
    pub fn fork(&self, seed: u64) -> Self {
        let inner = self.lock();
        let copy = Self::new(seed);
        {
            let mut other = copy.lock();
            for (id, inode) in &inner.inodes {
                let Inode { cache, platter, dirty_from } = inode;
                let inode = Inode { cache: cache.clone(), platter: platter.clone(), dirty_from: *dirty_from };
                other.inodes.insert(*id, inode);
            }
            other.inode_next = inner.inode_next;
            other.names = inner.names.clone();
            other.names_synced = inner.names_synced.clone();
        }
        copy
    }

    /// Appends asked for so far.
    pub fn append_count(&self) -> u64 {
        self.lock().append_count
    }

    /// File syncs asked for so far.
    pub fn sync_count(&self) -> u64 {
        self.lock().sync_count
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self, file: &str, offset: u64, buf: &mut [u8], fresh: bool) -> io::Result<usize> {
        let mut inner = self.lock();
        let wanted = offset..offset + buf.len() as u64;
        let hit = |bytes: &Range<u64>| bytes.start < wanted.end && wanted.start < bytes.end;
        if inner.unreadable.iter().any(|(name, bytes)| name == file && hit(bytes)) {
            return Err(eio());
        }
        let inode = inner.inode(file)?;
        let written_back;
        let bytes = if fresh {
            written_back = inode.written_back();
            &written_back
        } else {
            &inode.cache
        };
        let start = bytes.len().min(offset as usize);
        let end = bytes.len().min(wanted.end as usize);
        buf[..end - start].copy_from_slice(&bytes[start..end]);
        Ok(end - start)
    }
}

impl Medium for FaultMedium {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.lock().names.keys().cloned().collect())
    }

    fn len(&self, file: &str) -> io::Result<u64> {
        Ok(self.lock().inode(file)?.cache.len() as u64)
    }

    fn create(&self, file: &str) -> io::Result<()> {
        let mut inner = self.lock();
        if let Some(errno) = inner.fail_create.take() {
            return Err(io::Error::from_raw_os_error(errno));
        }
        if inner.names.contains_key(file) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = inner.inode_next;
        inner.inode_next += 1;
        inner.inodes.insert(id, Inode::default());
        inner.names.insert(file.to_owned(), id);
        Ok(())
    }

    fn append(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let mut inner = self.lock();
        inner.append_count += 1;
        let full = inner.full.then_some(io::ErrorKind::StorageFull);
        let fault = inner.fail_append.take().or(full);
        let written = if fault.is_some() { inner.random.below(bytes.len()) } else { bytes.len() };
        inner.inode(file)?.cache.extend_from_slice(&bytes[..written]);
        match fault {
            None => Ok(()),
            Some(io::ErrorKind::StorageFull) => Err(io::Error::from_raw_os_error(libc::ENOSPC)),
            Some(_) => Err(eio()),
        }
    }

    fn read_at(&self, file: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read(file, offset, buf, false)
    }

    fn read_fresh_at(&self, file: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.read(file, offset, buf, true)
    }

    fn truncate(&self, file: &str, len: u64) -> io::Result<()> {
        let mut inner = self.lock();
        let inode = inner.inode(file)?;
        inode.cache.resize(len as usize, 0);
        inode.dirty_from = inode.dirty_from.min(len as usize);
        Ok(())
    }

    fn delete(&self, file: &str) -> io::Result<()> {
        let mut inner = self.lock();
        if std::mem::take(&mut inner.fail_delete) {
            return Err(eio());
        }
        inner.names.remove(file).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        let mut inner = self.lock();
        inner.sync_count += 1;
        let fails = std::mem::take(&mut inner.fail_sync);
        let id = inner.id(file)?;
        let Inner { inodes, random, .. } = &mut *inner;
        let inode = inodes.get_mut(&id).ok_or(io::ErrorKind::NotFound)?;
        inode.platter = if fails { inode.survivors(0, random) } else { inode.written_back() };
        inode.dirty_from = inode.cache.len();
        if fails { Err(eio()) } else { Ok(()) }
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut inner = self.lock();
        inner.names_synced = inner.names.clone();
        inner.drop_unnamed();
        Ok(())
    }

    fn entropy(&self) -> u64 {
        self.lock().random.next()
    }
}

// === impl Inner ===

impl Inner {
    fn id(&self, file: &str) -> io::Result<u64> {
        self.names.get(file).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn inode(&mut self, file: &str) -> io::Result<&mut Inode> {
        let id = self.id(file)?;
        self.inodes.get_mut(&id).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn settle_names(&mut self) {
        let both: Vec<String> = self.names.keys().chain(self.names_synced.keys()).cloned().collect();
        for name in both {
            let (now, synced) = (self.names.get(&name).copied(), self.names_synced.get(&name).copied());
            let survives = if now == synced || self.random.below(2) == 0 { now } else { synced };
            for names in [&mut self.names, &mut self.names_synced] {
                match survives {
                    Some(id) => names.insert(name.clone(), id),
                    None => names.remove(&name),
                };
            }
        }
        self.drop_unnamed();
    }

    fn drop_unnamed(&mut self) {
        let Self { inodes, names, names_synced, .. } = self;
        inodes.retain(|id, _| {
            names.values().any(|named| named == id) || names_synced.values().any(|named| named == id)
        });
    }
}

// === impl Inode ===

impl Inode {
    /// The platter after the dirty end was written to it. A stretch lost by a failed sync stays lost: it reads as zero.
    fn written_back(&self) -> Vec<u8> {
        let mut bytes = self.platter.clone();
        bytes.resize(self.dirty_from, 0);
        bytes.extend_from_slice(&self.cache[self.dirty_from..]);
        bytes
    }

    /// What a power cut, or a failing sync, lets through: nothing, all, a prefix of sectors, or single sectors among others
    /// of what was there before.
    fn survivors(&self, before: u8, random: &mut SplitMix64) -> Vec<u8> {
        let all = self.written_back();
        if all == self.platter {
            return all;
        }
        let first_sector = self.dirty_from / SECTOR_BYTES;
        let sectors = all.len().div_ceil(SECTOR_BYTES).saturating_sub(first_sector);
        let cut = (first_sector + random.below(sectors + 1)) * SECTOR_BYTES;
        let cut = cut.clamp(self.dirty_from, all.len());
        match random.below(4) {
            0 => self.platter.clone(),
            1 => all,
            2 => all[..cut].to_vec(),
            _ => {
                let mut bytes = all;
                for sector in first_sector..first_sector + sectors {
                    if random.below(3) > 0 {
                        continue;
                    }
                    let start = (sector * SECTOR_BYTES).max(self.dirty_from);
                    let end = ((sector + 1) * SECTOR_BYTES).min(bytes.len());
                    for (at, byte) in bytes.iter_mut().enumerate().take(end).skip(start) {
                        *byte = self.platter.get(at).copied().unwrap_or(before);
                    }
                }
                bytes
            }
        }
    }
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

/// Steele, Lea and Flood's SplitMix64: enough for faults, and the same everywhere.
#[derive(Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; 0 for 0.
    fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { (self.next() % bound as u64) as usize }
    }
}
