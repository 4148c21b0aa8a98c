//! How much room the disk has.

use std::io;
use std::path::Path;

use rustix::io::Errno;

/// Bytes that an ordinary user can still write under `dir`.
///
/// # Errors
/// The folder cannot be looked at.
pub fn free_bytes(dir: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Whether there was no room, and there may be some later: of the disk, of what this user may have of it, or of file handles.
pub(crate) fn is_full(error: &io::Error) -> bool {
    let errno = Errno::from_io_error(error);
    let no_handle = errno.is_some_and(|errno| matches!(errno, Errno::MFILE | Errno::NFILE));
    no_handle || matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_room_and_a_missing_one_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        assert!(free_bytes(folder.path()).unwrap() > 0);
        assert!(free_bytes(&folder.path().join("missing")).is_err());
    }
}
