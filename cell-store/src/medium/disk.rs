//! A folder of a real file system.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError};

use super::Medium;
use super::room::Rooms;
use crate::lock::{FolderLock, create_folder};
use crate::space::is_full;

/// Read handles kept open; beyond it all are dropped and opened again when needed.
const READ_HANDLES_MAX: usize = 64;
/// Offset, length and memory of a direct read are multiples of this (the largest logical block in common use).
const DIRECT_ALIGN_BYTES: usize = 4096;
const DIRECT_CHUNK_BYTES: usize = 1 << 20;
/// Where no room was laid in, it is taken in pieces of this.
const ROOM: &[u8] = &[0; 128 << 10];

/// Why a folder could not be taken. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum MediumError {
    /// Two writers on one log would destroy it, so the second is refused.
    #[error("folder {} is in use: another process holds its lock", folder.display())]
    Held { folder: PathBuf },
    /// The folder cannot be made, opened or locked.
    #[error("folder {}: {source}", folder.display())]
    Io { folder: PathBuf, source: io::Error },
}

/// A folder on disk, locked for this process for as long as the value lives.
#[derive(Debug)]
pub struct DiskMedium {
    dir: PathBuf,
    dir_handle: File,
    writer: Mutex<Option<Writer>>,
    readers: Mutex<HashMap<String, Arc<File>>>,
    rooms: Rooms,
    /// Files whose names are gone, but perhaps not durably.
    deleted: Mutex<Vec<File>>,
    /// That reads go through the page cache all the same, where the file system has no others.
    said_cached: Once,
    _lock: FolderLock,
}

/// The file that is being written.
///
/// Where no room was laid in, zeroes are written ahead of it, [`ROOM`] at a time: a sync that also has to make a new length
/// durable, or that room which was only set aside holds something now, waits for the file system's own records of that.
#[derive(Debug)]
struct Writer {
    name: String,
    /// The handle that wrote is the one that syncs: a write-back error is reported only to handles that were open.
    handle: Arc<File>,
    /// Behind the last byte appended.
    end: u64,
    /// The file's length; never less than `end` while nothing failed.
    len: u64,
}

// === impl Writer ===

impl Writer {
    fn of_new(name: &str, handle: File) -> io::Result<Self> {
        let len = handle.metadata()?.len();
        Ok(Self { name: name.to_owned(), handle: Arc::new(handle), end: 0, len })
    }

    fn of_old(name: &str, handle: File) -> io::Result<Self> {
        let mut writer = Self::of_new(name, handle)?;
        writer.end = writer.len;
        Ok(writer)
    }

    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let (begin, end) = (self.end, self.end + bytes.len() as u64);
        let takes_room = end > self.len;
        // Whatever comes of it, that many bytes may be there.
        (self.end, self.len) = (end, self.len.max(end));
        self.handle.write_all_at(bytes, begin)?;
        if takes_room {
            self.len = match self.handle.write_all_at(ROOM, end) {
                Ok(()) => end + ROOM.len() as u64,
                // What was asked for is written; that there is no room for more is for the next one to say.
                Err(_) => self.handle.metadata()?.len(),
            };
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.handle.set_len(len)?;
        (self.end, self.len) = (len, len);
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Where that fails, zeroes stay behind the end, as after a crash.
        if self.len > self.end {
            let _ = self.handle.set_len(self.end);
        }
    }
}

// === impl DiskMedium ===

impl DiskMedium {
    /// Makes the folder where it is missing and takes its lock.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self, MediumError> {
        let dir = dir.as_ref().to_path_buf();
        let io = |source| MediumError::Io { folder: dir.clone(), source };
        create_folder(&dir).map_err(io)?;
        let lock = FolderLock::acquire(&dir)
            .map_err(io)?
            .ok_or_else(|| MediumError::Held { folder: dir.clone() })?;
        let dir_handle = File::open(&dir).map_err(io)?;
        let rooms = Rooms::new(&dir);
        let (writer, readers, deleted) = Default::default();
        let said_cached = Once::new();
        Ok(Self { dir, dir_handle, writer, readers, rooms, deleted, said_cached, _lock: lock })
    }

    fn deleted(&self) -> MutexGuard<'_, Vec<File>> {
        self.deleted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn writers(&self) -> MutexGuard<'_, Option<Writer>> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with_writer<T>(&self, file: &str, work: impl FnOnce(&mut Writer) -> io::Result<T>) -> io::Result<T> {
        let mut writer = self.writers();
        if writer.as_ref().is_none_or(|writer| writer.name != file) {
            let handle = OpenOptions::new().read(true).write(true).open(self.dir.join(file))?;
            *writer = Some(Writer::of_old(file, handle)?);
        }
        writer.as_mut().map_or_else(|| Err(io::ErrorKind::NotFound.into()), work)
    }

    fn reader(&self, file: &str) -> io::Result<Arc<File>> {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = readers.get(file) {
            return Ok(Arc::clone(handle));
        }
        let handle = Arc::new(File::open(self.dir.join(file))?);
        if readers.len() >= READ_HANDLES_MAX {
            readers.clear();
        }
        readers.insert(file.to_owned(), Arc::clone(&handle));
        Ok(handle)
    }

    /// `InvalidInput` where the file system knows no direct reads.
    fn read_direct(&self, file: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        let handle = OpenOptions::new().read(true).custom_flags(libc::O_DIRECT).open(self.dir.join(file))?;
        let mut memory = vec![0_u8; DIRECT_CHUNK_BYTES + DIRECT_ALIGN_BYTES];
        let pad = memory.as_ptr().align_offset(DIRECT_ALIGN_BYTES);
        let aligned =
            memory.get_mut(pad..pad.saturating_add(DIRECT_CHUNK_BYTES)).ok_or(io::ErrorKind::InvalidInput)?;
        let mut filled = 0;
        while filled < buf.len() {
            let at = offset + filled as u64;
            let skip = (at % DIRECT_ALIGN_BYTES as u64) as usize;
            let wanted =
                (skip + buf.len() - filled).next_multiple_of(DIRECT_ALIGN_BYTES).min(DIRECT_CHUNK_BYTES);
            let got = match handle.read_at(&mut aligned[..wanted], at - skip as u64) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                other => other?,
            };
            let usable = got.saturating_sub(skip).min(buf.len() - filled);
            buf[filled..filled + usable].copy_from_slice(&aligned[skip..skip + usable]);
            filled += usable;
            if got < wanted {
                break;
            }
        }
        Ok(filled)
    }
}

impl Medium for DiskMedium {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            if entry.file_type()?.is_file()
                && let Ok(name) = entry.file_name().into_string()
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn len(&self, file: &str) -> io::Result<u64> {
        match &*self.writers() {
            Some(writer) if writer.name == file => Ok(writer.end),
            _ => Ok(std::fs::metadata(self.dir.join(file))?.len()),
        }
    }

    fn create(&self, file: &str) -> io::Result<()> {
        let path = self.dir.join(file);
        let handle = match self.rooms.take(&path) {
            Some(laid_in) => laid_in,
            None => OpenOptions::new().read(true).write(true).create_new(true).open(path)?,
        };
        let before = self.writers().replace(Writer::of_new(file, handle)?);
        if let Some(before) = before {
            self.rooms.lay_in(before.end);
        }
        Ok(())
    }

    fn append(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        let appended = self.with_writer(file, |writer| writer.append(bytes));
        if appended.as_ref().is_err_and(is_full) {
            // The next try may need it.
            self.rooms.release();
        }
        appended
    }

    fn read_at(&self, file: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        read_full(&*self.reader(file)?, offset, buf)
    }

    fn read_fresh_at(&self, file: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self.read_direct(file, offset, buf) {
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.said_cached.call_once(|| {
                    let folder = self.dir.display();
                    tracing::warn!(%folder, file, "no direct reads here, reading through the page cache");
                });
                self.read_at(file, offset, buf)
            }
            other => other,
        }
    }

    fn truncate(&self, file: &str, len: u64) -> io::Result<()> {
        self.with_writer(file, |writer| writer.truncate(len))
    }

    fn delete(&self, file: &str) -> io::Result<()> {
        let path = self.dir.join(file);
        // Where many go and the disk is slow, the rest go as any file does.
        let handle = self.rooms.wait_for_a_place().then(|| OpenOptions::new().write(true).open(&path));
        std::fs::remove_file(&path)?;
        // Only now nobody can open it any more.
        self.readers.lock().unwrap_or_else(PoisonError::into_inner).remove(file);
        self.deleted().extend(handle.and_then(Result::ok));
        Ok(())
    }

    fn sync(&self, file: &str) -> io::Result<()> {
        let handle = self.with_writer(file, |writer| Ok(Arc::clone(&writer.handle)))?;
        handle.sync_data()
    }

    fn sync_dir(&self) -> io::Result<()> {
        // Those before the sync: a file that lost its end, but not its name, would be damage after a power cut.
        let deleted = std::mem::take(&mut *self.deleted());
        match self.dir_handle.sync_all() {
            Ok(()) => self.rooms.give_back(deleted),
            Err(error) => {
                self.deleted().extend(deleted);
                return Err(error);
            }
        }
        Ok(())
    }

    fn entropy(&self) -> u64 {
        RandomState::new().build_hasher().finish()
    }
}

fn read_full(handle: &File, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buf.len() {
        match handle.read_at(&mut buf[filled..], offset + filled as u64) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use super::*;

    const LONG: u64 = 3 << 20;

    fn written(folder: &Path, name: &str) -> File {
        let file = File::options().create_new(true).read(true).write(true).open(folder.join(name)).unwrap();
        file.set_len(LONG).unwrap();
        file
    }

    #[test]
    fn what_is_deleted_keeps_its_length_until_its_name_is_durably_gone() {
        let folder = tempfile::tempdir().unwrap();
        let medium = DiskMedium::open(folder.path()).unwrap();
        let first = written(folder.path(), "first");
        medium.delete("first").unwrap();
        // Whose name is gone durably is cut meanwhile.
        let other = written(folder.path(), "other");
        std::fs::remove_file(folder.path().join("other")).unwrap();
        medium.rooms.give_back(vec![other.try_clone().unwrap()]);
        until(|| other.metadata().unwrap().len() < LONG);
        assert_eq!(first.metadata().unwrap().len(), LONG);
        medium.sync_dir().unwrap();
        until(|| first.metadata().unwrap().len() < LONG);
    }

    #[test]
    fn nobody_keeps_a_deleted_file_open() {
        let folder = tempfile::tempdir().unwrap();
        let medium = DiskMedium::open(folder.path()).unwrap();
        written(folder.path(), "file");
        let gone = AtomicBool::new(false);
        // So much is to be given back that whoever deletes waits.
        let many = (0..50).map(|nth: u64| {
            let name = nth.to_string();
            let file = written(folder.path(), &name);
            file.set_len(1 << 30).unwrap();
            std::fs::remove_file(folder.path().join(name)).unwrap();
            file
        });
        medium.rooms.give_back(many.collect());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !gone.load(Ordering::Relaxed) {
                    let _ = medium.read_at("file", 0, &mut [0; 8]);
                }
            });
            medium.delete("file").unwrap();
            gone.store(true, Ordering::Relaxed);
        });
        assert!(medium.readers.lock().unwrap().is_empty());
    }

    fn until(what: impl Fn() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
