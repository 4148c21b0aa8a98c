use std::io;
use std::ops::Range;

use super::Position;

/// What went wrong in the log, and what that says about its state.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// An earlier error made the state on disk unknown; nothing was done. Open the log anew.
    #[error("the log is poisoned by an earlier error: restart, and trust what a fresh read confirms")]
    Poisoned,
    /// The device refused to make bytes durable. The log is poisoned.
    #[error("cannot sync segment {segment}: {source}")]
    Sync { segment: String, source: io::Error },
    /// The device refused a write. The log is poisoned.
    #[error("cannot append to segment {segment}: {source}")]
    Append { segment: String, source: io::Error },
    /// No room on the device. The group is not in the log, which can be used on.
    #[error("no room for the log: {source}")]
    Full { source: io::Error },
    /// The caller's group does not fit into a frame. The log is untouched.
    #[error("a group of {bytes} bytes does not fit into a frame of {max}")]
    TooLarge { bytes: usize, max: usize },
    /// These records do not verify any more; those behind them can be read.
    #[error("records {}..{} are damaged", lost.start, lost.end)]
    Damaged { lost: Range<u64> },
    /// The caller asks for records that were deleted; the oldest one left is `first`.
    #[error("the log begins at {first}")]
    Deleted { first: Position },
    /// The caller has seen more than was ever appended here: this log lost its end, or is another log.
    #[error("the log ends at {next}")]
    Ahead { next: Position },
    /// A newer version of this software wrote here. Nothing was changed.
    #[error(
        "segment {segment} has a frame of format version {version} at byte {offset}: written by a newer version"
    )]
    Version { segment: String, offset: u64, version: u8 },
    /// The folder mixes segments that do not belong to one log. Nothing was changed.
    #[error(
        "segments {segment} and {other} overlap: the folder mixes two logs. Take the file away that does not belong here; \
         until then the node does not start"
    )]
    Foreign { segment: String, other: String },
    /// The end of the log cannot be read, so nobody can tell a torn write from records. Nothing was changed.
    #[error("the end of segment {segment} is unreadable at byte {offset}")]
    Unreadable { segment: String, offset: u64 },
    /// The device failed in some other call.
    #[error("cannot {what} segment {segment}: {source}")]
    Io { what: &'static str, segment: String, source: io::Error },
}

impl LogError {
    /// What stands there cannot be had any more, whoever asks again: its file is gone, or the device does not give it.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        let lost = |source: &io::Error| {
            source.kind() == io::ErrorKind::NotFound || source.raw_os_error() == Some(libc::EIO)
        };
        matches!(self, LogError::Io { source, .. } if lost(source))
    }

    pub(crate) fn io(what: &'static str, segment: &str) -> impl FnOnce(io::Error) -> Self {
        let segment = segment.to_owned();
        move |source| Self::Io { what, segment, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_gets_by_asking_again_is_lost() {
        let io = |source| LogError::io("read", "7.seg")(source);
        assert!(io(io::Error::from_raw_os_error(libc::EIO)).is_loss());
        assert!(io(io::ErrorKind::NotFound.into()).is_loss());
        for errno in [libc::EMFILE, libc::ENFILE, libc::EINTR, libc::ENOMEM] {
            assert!(
                !io(io::Error::from_raw_os_error(errno)).is_loss(),
                "a moment later it may be there: {errno}"
            );
        }
        assert!(!LogError::Poisoned.is_loss());
    }
}
