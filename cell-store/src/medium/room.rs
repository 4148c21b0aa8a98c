//! Room on the disk, beside the writer: what the next file will need is laid in before it is needed, and what deleted files
//! had is given back.
//!
//! Both in pieces, with pauses: while much comes or goes at once, every sync of the same disk waits for all of it. A file
//! that has its room, written and synced, is written into without a change to the file system's own records, so a sync
//! waits for no commit of those and for nothing that others have in it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};

use super::ROOM_BYTES;

/// The file that is laid in, until it gets its name. It holds zeroes.
const FILE: &str = "room";
const PIECE: &[u8] = &[0; 1 << 20];
const PIECE_BYTES: u64 = PIECE.len() as u64;
const PAUSE: Duration = Duration::from_millis(5);

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
    /// Files without a name.
    deleted: Vec<File>,
    ended: bool,
}

// === impl Rooms ===

impl Rooms {
    /// Of a folder that nobody else has. What was laid in before goes.
    pub(super) fn new(dir: &Path) -> io::Result<Rooms> {
        let file = dir.join(FILE);
        remove(&file)?;
        let shared = Shared { file, state: Mutex::default(), changed: Condvar::new() };
        Ok(Rooms { shared: Arc::new(shared), thread: Mutex::default() })
    }

    /// The file that was laid in, under that name now; durable with the folder. `None` if there is none: nothing was
    /// changed then.
    pub(super) fn take(&self, path: &Path) -> Option<File> {
        let file = self.shared.lock().laid_in.take()?;
        match rustix::fs::renameat_with(CWD, &self.shared.file, CWD, path, RenameFlags::NOREPLACE) {
            Ok(()) => Some(file),
            Err(error) => {
                tracing::debug!(%error, "the room that was laid in cannot be used");
                None
            }
        }
    }

    /// About so much will be needed by the next file.
    pub(super) fn lay_in(&self, bytes: u64) {
        // Little is taken as it is needed.
        if bytes >= PIECE_BYTES {
            self.shared.lock().wanted = bytes.next_multiple_of(PIECE_BYTES).min(ROOM_BYTES);
            self.wake();
        }
    }

    /// Gives back the room of files whose names are durably gone.
    pub(super) fn give_back(&self, deleted: Vec<File>) {
        if !deleted.is_empty() {
            self.shared.lock().deleted.extend(deleted);
            self.wake();
        }
    }

    fn wake(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.is_none() {
            let shared = Arc::clone(&self.shared);
            // Without it, room is taken as it is needed and goes with the files.
            *thread = std::thread::Builder::new().name("room".to_owned()).spawn(move || shared.tend()).ok();
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
                    if let Err(error) = &made {
                        tracing::debug!(%error, "no room is laid in");
                        let _ = remove(&self.file);
                    }
                    state = self.lock();
                    state.laid_in = made.ok().flatten();
                }
            } else if let Some(file) = state.deleted.pop() {
                drop(state);
                // What cannot be given back so, goes with the handle.
                let rest = without_a_piece(file).ok().flatten();
                state = self.pause();
                state.deleted.extend(rest);
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

/// `None` if there was no more than a piece: it goes with the handle.
fn without_a_piece(deleted: File) -> io::Result<Option<File>> {
    let rest = deleted.metadata()?.len().saturating_sub(PIECE_BYTES);
    if rest == 0 {
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
