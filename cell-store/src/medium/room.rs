//! Room on the disk, beside the writer: what the next file will need is laid in before it is needed, and what deleted files
//! had is given back.
//!
//! Both in pieces, with pauses: while much comes or goes at once, every sync of the same disk waits for all of it. A file
//! that has its room, written and synced, is written into without a change to the file system's own records, so a sync
//! waits for no commit of those and for nothing that others have in it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;

use super::{LAID_IN, LAID_IN_BYTES};
use crate::space::{free_bytes, is_full};

/// The file that is laid in, until it gets its name.
const FILE: &str = "room";
const PIECE: &[u8] = &[LAID_IN; 1 << 20];
const PIECE_BYTES: u64 = PIECE.len() as u64;
const PAUSE: Duration = Duration::from_millis(5);
/// Files that need less take it as they need it.
const LEAST_BYTES: u64 = 2 << 20;
/// So much is left to others of the disk.
const LEFT_BYTES: u64 = 64 << 20;
/// Deleted files at most whose room waits to be given back: each is a handle.
const WAITING_MAX: usize = 16;
/// How long a file to be deleted waits for a place among them.
const PLACE_WAIT: Duration = Duration::from_secs(1);

/// The room of one folder, and the thread that sees to it, which begins when there is something to do and is gone when
/// this is dropped.
#[derive(Debug)]
pub(super) struct Rooms {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    file: PathBuf,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// A file of this many bytes is to be laid in; 0 if none is.
    wanted: u64,
    laid_in: Option<File>,
    /// Nothing can be laid in here.
    unusable: bool,
    /// Files without a name.
    deleted: Vec<File>,
    /// There was no place among them for long; nobody waits until one of them is shorter.
    stalled: bool,
    ended: bool,
}

// === impl Rooms ===

impl Rooms {
    /// Of a folder that nobody else has. What was laid in before goes.
    pub(super) fn new(dir: &Path) -> Rooms {
        let shared = Shared { file: dir.join(FILE), state: Mutex::default(), changed: Condvar::new() };
        if let Err(error) = remove(&shared.file) {
            shared.lock().give_up(&shared.file, &error);
        }
        Rooms { shared: Arc::new(shared), thread: Mutex::default() }
    }

    /// The file that was laid in, under that name now; durable with the folder. `None` if there is none: nothing was
    /// changed then.
    pub(super) fn take(&self, path: &Path) -> Option<File> {
        // Held until it has its name: what is laid in next has the same one.
        let mut state = self.shared.lock();
        let file = state.laid_in.take()?;
        match rustix::fs::renameat_with(CWD, &self.shared.file, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => Some(file),
            Err(Errno::NOENT | Errno::EXIST) => None,
            Err(error) => {
                let _ = remove(&self.shared.file);
                state.failed(&self.shared.file, &error.into());
                None
            }
        }
    }

    /// About so much will be needed by the next file.
    pub(super) fn lay_in(&self, bytes: u64) {
        let mut state = self.shared.lock();
        if bytes >= LEAST_BYTES && !state.unusable {
            state.wanted = bytes.next_multiple_of(PIECE_BYTES).min(LAID_IN_BYTES);
            drop(state);
            self.wake();
        }
    }

    /// Gives the disk back what is laid in and not taken yet.
    pub(super) fn release(&self) {
        let mut state = self.shared.lock();
        state.wanted = 0;
        if state.laid_in.take().is_some() {
            let _ = remove(&self.shared.file);
        }
    }

    /// Gives back the room of files whose names are durably gone.
    pub(super) fn give_back(&self, deleted: Vec<File>) {
        if !deleted.is_empty() {
            self.shared.lock().deleted.extend(deleted);
            self.wake();
        }
    }

    /// Waits for as long as many are to be given back; `false` if that takes long, or took long since the last one became
    /// shorter.
    pub(super) fn wait_for_a_place(&self) -> bool {
        let full = |state: &mut State| state.deleted.len() >= WAITING_MAX && !state.stalled;
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), PLACE_WAIT, full);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.stalled = state.deleted.len() >= WAITING_MAX;
        !state.stalled
    }

    fn wake(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.as_ref().is_none_or(JoinHandle::is_finished) {
            let shared = Arc::clone(&self.shared);
            match std::thread::Builder::new().name("room".to_owned()).spawn(move || shared.tend()) {
                Ok(started) => *thread = Some(started),
                Err(error) => {
                    tracing::warn!(%error, "no thread for the log's room");
                    // Room is taken as it is needed then, and goes with the files.
                    let mut state = self.shared.lock();
                    state.wanted = 0;
                    drop(std::mem::take(&mut state.deleted));
                }
            }
        }
        self.shared.changed.notify_all();
    }
}

impl Drop for Rooms {
    fn drop(&mut self) {
        self.shared.lock().ended = true;
        self.shared.changed.notify_all();
        // Nobody writes into the folder once it is another's.
        if let Some(thread) = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
        let _ = remove(&self.shared.file);
    }
}

// === impl State ===

impl State {
    /// Of what may pass the next file sees again.
    fn failed(&mut self, file: &Path, error: &io::Error) {
        if is_full(error) {
            tracing::debug!(%error, "no room is laid in");
        } else {
            self.give_up(file, error);
        }
    }

    /// It goes on without: room is taken as it is needed.
    fn give_up(&mut self, file: &Path, error: &io::Error) {
        tracing::warn!(%error, file = %file.display(), "no room can be laid in here");
        (self.unusable, self.wanted) = (true, 0);
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tend(&self) {
        let mut state = self.lock();
        while !state.ended {
            if state.wanted > 0 {
                let wanted = std::mem::take(&mut state.wanted);
                if state.laid_in.is_none() {
                    drop(state);
                    let made = self.make(wanted);
                    state = self.lock();
                    match made {
                        Ok(made) => state.laid_in = made,
                        Err(error) => {
                            let _ = remove(&self.file);
                            state.failed(&self.file, &error);
                        }
                    }
                }
            } else if let Some(file) = state.deleted.pop() {
                drop(state);
                // What cannot be given back so, goes with the handle.
                let rest = without_a_piece(file).ok().flatten();
                state = if rest.is_some() { self.pause() } else { self.lock() };
                state.deleted.extend(rest);
                state.stalled = false;
                self.changed.notify_all();
            } else {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
        }
    }

    /// `None` if the end came meanwhile.
    fn make(&self, bytes: u64) -> io::Result<Option<File>> {
        remove(&self.file)?;
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&self.file)?;
        let mut len = 0;
        while len < bytes {
            if free_bytes(self.file.parent().unwrap_or(Path::new(".")))? < bytes - len + LEFT_BYTES {
                return Err(io::ErrorKind::StorageFull.into());
            }
            file.write_all_at(PIECE, len)?;
            file.sync_data()?;
            len += PIECE_BYTES;
            if self.pause().ended {
                return Ok(None);
            }
        }
        Ok(Some(file))
    }

    fn pause(&self) -> MutexGuard<'_, State> {
        let going_on = |state: &mut State| !state.ended;
        let waited = self.changed.wait_timeout_while(self.lock(), PAUSE, going_on);
        waited.unwrap_or_else(PoisonError::into_inner).0
    }
}

/// `None` if there was no more than a piece, or if it has another name: it goes with the handle, or stays.
fn without_a_piece(deleted: File) -> io::Result<Option<File>> {
    let seen = deleted.metadata()?;
    let rest = seen.len().saturating_sub(PIECE_BYTES);
    if rest == 0 || seen.nlink() > 0 {
        return Ok(None);
    }
    deleted.set_len(rest)?;
    Ok(Some(deleted))
}

fn remove(file: &Path) -> io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    const WANTED: u64 = 2 << 20;

    fn until(what: impl Fn() -> bool) {
        let begun = Instant::now();
        while !what() {
            assert!(begun.elapsed() < Duration::from_secs(60));
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn lay_in(rooms: &Rooms) {
        rooms.lay_in(WANTED);
        until(|| rooms.shared.lock().laid_in.is_some());
    }

    #[test]
    fn what_is_laid_in_is_whole_and_is_the_file_of_the_name_it_gets() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = Rooms::new(folder.path());
        assert!(rooms.take(&folder.path().join("none")).is_none());
        for nth in 0..20 {
            let path = folder.path().join(nth.to_string());
            lay_in(&rooms);
            // A wish while this one is there brings no other.
            rooms.lay_in(WANTED);
            let file = rooms.take(&path).unwrap();
            assert_eq!(file.metadata().unwrap().ino(), std::fs::metadata(&path).unwrap().ino());
            let bytes = std::fs::read(&path).unwrap();
            assert!(bytes.len() as u64 == WANTED && bytes.iter().all(|byte| *byte == LAID_IN));
        }
    }

    #[test]
    fn a_name_that_is_taken_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (rooms, path) = (Rooms::new(folder.path()), folder.path().join("taken"));
        std::fs::write(&path, "somebody's").unwrap();
        lay_in(&rooms);
        assert!(rooms.take(&path).is_none());
        assert_eq!(std::fs::read(&path).unwrap(), b"somebody's");
        lay_in(&rooms);
        assert!(rooms.take(&folder.path().join("free")).is_some());
    }

    #[test]
    fn where_nothing_can_be_laid_in_it_goes_without() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(FILE)).unwrap();
        let rooms = Rooms::new(folder.path());
        rooms.lay_in(WANTED);
        assert!(rooms.shared.lock().unusable && rooms.take(&folder.path().join("name")).is_none());
        drop(rooms);
        assert!(folder.path().join(FILE).is_dir());
    }

    #[test]
    fn nothing_is_left_of_what_was_being_laid_in_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = Rooms::new(folder.path());
        rooms.lay_in(LAID_IN_BYTES);
        until(|| folder.path().join(FILE).exists());
        drop(rooms);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_laid_in_goes_where_the_disk_is_full() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = Rooms::new(folder.path());
        rooms.release();
        lay_in(&rooms);
        rooms.release();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(rooms.take(&folder.path().join("name")).is_none());
        lay_in(&rooms);
        assert!(rooms.take(&folder.path().join("name")).is_some());
    }

    fn written(path: &Path) -> File {
        let file = File::options().create_new(true).read(true).write(true).open(path).unwrap();
        file.set_len(3 * PIECE_BYTES).unwrap();
        file
    }

    fn deleted(folder: &Path, many: usize) -> Vec<File> {
        let path = folder.join("deleted");
        let one = |_| {
            let file = written(&path);
            std::fs::remove_file(&path).unwrap();
            file
        };
        (0..many).map(one).collect()
    }

    #[test]
    fn a_file_that_has_another_name_keeps_what_it_has() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = Rooms::new(folder.path());
        let (name, other) = (folder.path().join("name"), folder.path().join("other"));
        let linked = written(&name);
        std::fs::hard_link(&name, &other).unwrap();
        std::fs::remove_file(&name).unwrap();
        // The last is taken first.
        let behind = deleted(folder.path(), 1).remove(0);
        rooms.give_back(vec![behind.try_clone().unwrap(), linked]);
        until(|| behind.metadata().unwrap().len() == PIECE_BYTES);
        assert_eq!(std::fs::metadata(&other).unwrap().len(), 3 * PIECE_BYTES);
    }

    #[test]
    fn nobody_waits_again_and_again_for_a_thread_that_stands() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = Rooms::new(folder.path());
        rooms.shared.lock().deleted = deleted(folder.path(), WAITING_MAX);
        let begun = Instant::now();
        let waited = (0..30).filter(|_| rooms.wait_for_a_place()).count();
        assert!(waited == 0 && begun.elapsed() < 15 * PLACE_WAIT, "{waited}");
        rooms.wake();
        until(|| rooms.wait_for_a_place());
    }

    #[test]
    fn room_is_given_back_in_pieces_and_whoever_deletes_waits_while_there_is_much_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let rooms = Rooms::new(folder.path());
        let files = deleted(folder.path(), WAITING_MAX + 1);
        rooms.give_back(files.iter().map(|file| file.try_clone().unwrap()).collect());
        assert!(rooms.wait_for_a_place());
        assert!(rooms.shared.lock().deleted.len() < WAITING_MAX);
        // The last piece goes with the handle.
        until(|| files.iter().all(|file| file.metadata().unwrap().len() == PIECE_BYTES));
    }
}
