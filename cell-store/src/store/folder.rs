//! The folder of a view: whose it is, and which engine made it.
//!
//! A file named `engine` says so. It is written once the engine's own files are complete, and replaced only together with
//! them, so a folder whose marker names files that are missing has lost them, and is not a new one.

use std::io;
use std::path::{Path, PathBuf};

use super::{Engine, StoreError};
use crate::lock::{FolderLock, create_folder, write_whole};

const MARKER: &str = "engine";

/// A view's folder, locked for this process.
#[derive(Debug)]
pub(super) struct Folder {
    dir: PathBuf,
    engine: Engine,
    marked: bool,
    _lock: FolderLock,
}

// === impl Folder ===

impl Folder {
    /// Makes the folder where it is missing, locks it, and sees to it that it is this engine's.
    pub(super) fn claim(dir: &Path, engine: Engine) -> Result<Folder, StoreError> {
        let io = |error| unusable(dir, &error);
        create_folder(dir).map_err(io)?;
        let held = || StoreError::Held { folder: dir.to_path_buf() };
        let lock = FolderLock::acquire(dir).map_err(io)?.ok_or_else(held)?;
        match engine_of(dir)? {
            Some(found) if found != engine => {
                return Err(StoreError::OtherEngine { folder: dir.to_path_buf(), found, asked: engine });
            }
            Some(_) | None => {}
        }
        let marked = dir.join(MARKER).try_exists().map_err(io)?;
        Ok(Folder { dir: dir.to_path_buf(), engine, marked, _lock: lock })
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// From now on the engine's files have to be there. Call it when they are on disk.
    pub(super) fn mark(&mut self) -> Result<(), StoreError> {
        if self.marked {
            return Ok(());
        }
        let written = write_whole(&self.dir, MARKER, &self.engine.to_string());
        written.map_err(|error| unusable(&self.dir, &error))?;
        self.marked = true;
        Ok(())
    }
}

/// Which engine made the view in `dir`; `None` if there is none yet. Takes no lock.
///
/// # Errors
/// [`StoreError::Damaged`] if the folder contradicts itself, [`StoreError::Io`] if it cannot be looked at.
pub fn engine_of(dir: &Path) -> Result<Option<Engine>, StoreError> {
    let io = |error| unusable(dir, &error);
    let damaged = |what: String| Err(StoreError::Damaged(format!("folder {}: {what}", dir.display())));
    let mut found = Vec::new();
    for engine in [Engine::Sled, Engine::Fjall] {
        if dir.join(home_of(engine)).try_exists().map_err(io)? {
            found.push(engine);
        }
    }
    let marker = match std::fs::read(dir.join(MARKER)) {
        Ok(bytes) => bytes,
        // A folder older than its marker, or one whose making was cut short: its files tell.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match found[..] {
                [] => Ok(None),
                [engine] => Ok(Some(engine)),
                _ => damaged("it has files of two engines, and nothing says which counts".to_owned()),
            };
        }
        Err(error) => return Err(io(error)),
    };
    let named = [Engine::Sled, Engine::Fjall]
        .into_iter()
        .find(|engine| marker.trim_ascii() == engine.as_str().as_bytes());
    match named {
        None => damaged(format!("its file '{MARKER}' names no engine")),
        Some(engine) if !found.contains(&engine) => {
            damaged(format!("'{}', made by {engine}, is missing", home_of(engine)))
        }
        Some(engine) => Ok(Some(engine)),
    }
}

/// What every store of this engine has in its folder.
pub(super) fn home_of(engine: Engine) -> &'static str {
    match engine {
        Engine::Sled => "db",
        Engine::Fjall => "fjall",
        Engine::Memory => "",
    }
}

pub(super) fn unusable(dir: &Path, error: &io::Error) -> StoreError {
    StoreError::Io(format!("folder {}: {error}", dir.display()))
}
