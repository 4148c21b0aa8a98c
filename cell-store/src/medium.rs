//! The seam to the disk: a flat folder of append-only files.

mod disk;
mod fault;
mod room;

pub use disk::{DiskMedium, MediumError};
pub use fault::FaultMedium;

use std::fmt;
use std::io;

/// The most room that is taken as it is needed, behind what was appended: zeroes. Whoever was not ended in order leaves it
/// behind; then it counts as a part of the file.
pub(crate) const ROOM_BYTES: u64 = 1 << 20;
/// The most that is laid in beforehand. It is made of [`LAID_IN`], so that a stretch that reads as zeroes since the disk
/// lost it is not taken for it. What a disk said to have written and did not looks like room; who knows that there was more
/// says so ([`crate::LogConfig::least`]).
pub(crate) const LAID_IN_BYTES: u64 = 16 << 20;
pub(crate) const LAID_IN: u8 = 0x5a;

/// A flat folder of files that grow at the end.
///
/// Two real implementations: [`DiskMedium`] and [`FaultMedium`]. Every call may be made from any thread; only one
/// thread at a time may change a given file. Errors are the operating system's own; the log decides what they mean.
pub trait Medium: Send + Sync + fmt::Debug + 'static {
    /// Names of all files, in no particular order.
    fn list(&self) -> io::Result<Vec<String>>;

    /// Length in bytes as readers see it now.
    fn len(&self, file: &str) -> io::Result<u64>;

    /// Makes an empty file; `AlreadyExists` if there is one. Its name is durable after [`Medium::sync_dir`].
    fn create(&self, file: &str) -> io::Result<()>;

    /// Adds `bytes` at the end in one write. After an error any part of them may be there: cut back with
    /// [`Medium::truncate`]. After a crash room may stand behind everything that was added: up to 1 MiB of zeroes, or
    /// 16 MiB of `0x5a`.
    fn append(&self, file: &str, bytes: &[u8]) -> io::Result<()>;

    /// Fills `buf` from `offset` on and returns how many bytes there were; fewer than asked only at the end of the file.
    fn read_at(&self, file: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Like [`Medium::read_at`], but from the device, past the page cache: after a failed sync the cache may show bytes
    /// that never reached the disk. Where the file system cannot do that, it reads as usual and says so in the log.
    fn read_fresh_at(&self, file: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize>;

    /// Cuts the file to `len` bytes; durable after [`Medium::sync`].
    fn truncate(&self, file: &str, len: u64) -> io::Result<()>;

    /// Removes the file; durable after [`Medium::sync_dir`].
    fn delete(&self, file: &str) -> io::Result<()>;

    /// Makes the file's bytes and length durable (`fdatasync`). After an error nobody knows which of them are.
    fn sync(&self, file: &str) -> io::Result<()>;

    /// Makes created and deleted names durable.
    fn sync_dir(&self) -> io::Result<()>;

    /// 64 unpredictable bits (repeatable ones from a seeded medium), with which the log tells its own frames from frames
    /// that somebody put into a payload.
    fn entropy(&self) -> u64;
}
