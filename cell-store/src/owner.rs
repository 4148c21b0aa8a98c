//! What is asked of a service's folder before anything but its lock is touched: whether there is room, and whose it is.

use std::io;
use std::path::{Path, PathBuf};

use crate::lock::write_whole;
use crate::space::free_bytes;

const NAME: &str = "owner";
/// What a start writes before it can say that there is no room.
const ROOM_BYTES: u64 = 4 << 20;

/// Why a service does not start on a folder.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    #[error("{} is the folder of {owner}, not of {asked}", dir.display())]
    Foreign { dir: PathBuf, owner: String, asked: String },
    /// An engine may damage what it opens there.
    #[error("{}: the disk is full, {free} bytes are left: {ROOM_BYTES} are needed for a start", dir.display())]
    NoRoom { dir: PathBuf, free: u64 },
    #[error("{}: {source}", dir.display())]
    Io { dir: PathBuf, source: io::Error },
}

fn unusable(dir: &Path) -> impl Fn(io::Error) -> FolderError + Copy {
    |source| FolderError::Io { dir: dir.to_path_buf(), source }
}

/// Whether `owner` could start on the folder, which need not be there yet. Looks, and changes nothing.
///
/// # Errors
/// [`FolderError::Foreign`], no folder, or not one to write in.
pub fn may_claim(dir: &Path, owner: &str) -> Result<(), FolderError> {
    let io = unusable(dir);
    // What is not there yet is made in the first folder above that is.
    let above = dir.ancestors().map(|above| if above == Path::new("") { Path::new(".") } else { above });
    for above in above {
        match std::fs::metadata(above) {
            Ok(found) if !found.is_dir() => return Err(io(io::ErrorKind::NotADirectory.into())),
            Ok(_) => {
                let writes = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
                rustix::fs::access(above, writes).map_err(|error| io(error.into()))?;
                break;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
    }
    match std::fs::read(dir.join(NAME)) {
        Ok(found) => is_mark_of(dir, &found, owner).map(|_| ()),
        // A start says what is wrong with it, and makes a new one.
        Err(_) => Ok(()),
    }
}

/// Whether the mark names `owner`; `false` if nobody can read it. One that ends with its line is whole; of one that does not
/// the end may be lost.
fn is_mark_of(dir: &Path, mark: &[u8], owner: &str) -> Result<bool, FolderError> {
    match std::str::from_utf8(mark).map(str::trim) {
        Ok(found) if found == owner => Ok(true),
        Ok(found) if owner.starts_with(found) && !mark.ends_with(b"\n") => Ok(false),
        Ok(found) if is_name(found) => {
            let (dir, owner, asked) = (dir.to_path_buf(), found.to_owned(), owner.to_owned());
            Err(FolderError::Foreign { dir, owner, asked })
        }
        Ok(_) | Err(_) => Ok(false),
    }
}

/// Puts aside what stands where a folder belongs, as `NAME.stray-N`, so that the folder can be made; says where it is.
///
/// # Errors
/// It cannot be renamed.
pub fn clear_for_folder(path: &Path) -> Result<Option<PathBuf>, FolderError> {
    let io = unusable(path);
    match std::fs::metadata(path) {
        Ok(found) if !found.is_dir() => {}
        _ => return Ok(None),
    }
    let numbered = |n: u32| path.with_extension(format!("stray-{n}"));
    let aside = (1..).map(numbered).find(|aside| !aside.exists());
    let aside = aside.ok_or(io::ErrorKind::AlreadyExists).map_err(|kind| io(kind.into()))?;
    std::fs::rename(path, &aside).map_err(io)?;
    tracing::error!(found = %path.display(), aside = %aside.display(), "no folder where one belongs: it is put aside");
    Ok(Some(aside))
}

/// Whether there is room for a start.
///
/// # Errors
/// [`FolderError::NoRoom`].
pub fn has_room(dir: &Path) -> Result<(), FolderError> {
    let free = free_bytes(dir).map_err(unusable(dir))?;
    if free < ROOM_BYTES { Err(FolderError::NoRoom { dir: dir.to_path_buf(), free }) } else { Ok(()) }
}

/// Marks the folder as `owner`'s, unless it is already. The caller holds a lock on it.
///
/// # Errors
/// [`FolderError::Foreign`], or it cannot be marked.
pub fn claim(dir: &Path, owner: &str) -> Result<(), FolderError> {
    let io = unusable(dir);
    match std::fs::read(dir.join(NAME)) {
        Ok(found) if is_mark_of(dir, &found, owner)? => return Ok(()),
        // Made in place once, and a crash came before it was written; or damaged. What lies beside it names its owner too.
        Ok(_) => tracing::error!(
            file = %dir.join(NAME).display(), owner,
            "the mark of whose folder this is cannot be read; it is written anew"
        ),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    write_whole(dir, NAME, owner).map_err(io)
}

/// Whether somebody may be called so.
fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_. ".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_claimed_once() {
        let folder = tempfile::tempdir().unwrap();
        claim(folder.path(), "north-0").unwrap();
        claim(folder.path(), "north-0").unwrap();
        let refused = claim(folder.path(), "south-0").unwrap_err().to_string();
        assert!(refused.ends_with("is the folder of north-0, not of south-0"), "{refused}");
        for damaged in [&b""[..], b"\0\0\0\0\0\0\0", b"north\xff0", b"south", b"south-"] {
            std::fs::write(folder.path().join(NAME), damaged).unwrap();
            claim(folder.path(), "south-0").unwrap();
            claim(folder.path(), "north-0").unwrap_err();
        }
    }

    #[test]
    fn what_stands_where_a_folder_belongs_is_put_aside() {
        let folder = tempfile::tempdir().unwrap();
        let [log, first, second] = ["log", "log.stray-1", "log.stray-2"].map(|name| folder.path().join(name));
        assert_eq!(clear_for_folder(&log).unwrap(), None, "nothing is there");
        for aside in [first, second] {
            std::fs::write(&log, "not a folder").unwrap();
            assert_eq!(clear_for_folder(&log).unwrap(), Some(aside.clone()));
            assert!(aside.is_file() && !log.exists());
        }
        std::fs::create_dir(&log).unwrap();
        assert_eq!(clear_for_folder(&log).unwrap(), None);
    }

    #[test]
    fn whether_a_folder_may_be_claimed_is_said_without_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let [deep, file] = ["not/yet/there", "file"].map(|name| folder.path().join(name));
        may_claim(&deep, "north-0").unwrap();
        assert!(!folder.path().join("not").exists());
        may_claim(Path::new("not-here-either"), "north-0").unwrap();
        claim(folder.path(), "north-0").unwrap();
        may_claim(folder.path(), "north-0").unwrap();
        assert!(matches!(may_claim(folder.path(), "south-0"), Err(FolderError::Foreign { .. })));
        std::fs::write(&file, "").unwrap();
        for none in [file.clone(), file.join("below")] {
            let refused = may_claim(&none, "north-0").unwrap_err().to_string();
            assert!(refused.to_lowercase().contains("not a directory"), "{refused}");
        }
    }
}
