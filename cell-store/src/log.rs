//! The durable log: append a group, sync it once, and it is committed.
//!
//! ```text
//! append_group ──► one frame, one write ──► sync: one fdatasync ──► durable position ──► readers
//! ```
//! Files are segments named by the ordinal of their first record; see `frame` for what is in them and `recovery` for
//! what is cut and what is reported when they are opened again.

mod error;
mod frame;
mod reader;
mod recovery;
mod segment;
mod tail;
mod trimmer;

pub use error::LogError;
pub use frame::FRAME_BODY_BYTES_MAX;
pub use reader::LogReader;
pub use recovery::{Damage, DamageReason, Recovery};
pub use trimmer::LogTrimmer;

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::medium::Medium;
use crate::space::is_full;
use reader::Shared;
use segment::Segment;

/// Payload of one frame, about; a larger record has a frame of its own.
const FRAME_BYTES: usize = 4 << 20;
/// More unsynced bytes than this are synced before the next append, so that whatever a power cut can tear is bounded,
/// and a longer stretch of nonsense at the end of the log is known to be damage.
pub(crate) const UNSYNCED_BYTES_MAX: u64 = 32 << 20;

/// Ordinal of a record in this log: 0, 1, 2… without a gap. As a `next` it is also the count of records ever appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Position(pub u64);

impl Position {
    /// The position `records` further on.
    #[must_use]
    pub fn plus(self, records: u64) -> Self {
        Self(self.0.saturating_add(records))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Sizes of a log. They may change from one start to the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogConfig {
    /// A segment that would grow beyond this ends, and the next begins. One larger frame may still have a segment alone.
    /// The larger it is, the longer a file system may keep syncs waiting while it is deleted.
    pub segment_bytes_max: u64,
    /// How much of the newest records is kept in memory for readers that follow right behind the writer.
    pub recent_bytes_max: usize,
    /// Every position before this one was given out already, whatever the log says: a log that lost its end, or all of
    /// it, goes on here, and what is missing is damage.
    pub least: Position,
}

impl Default for LogConfig {
    fn default() -> Self {
        Self { segment_bytes_max: 16 << 20, recent_bytes_max: 8 << 20, least: Position(0) }
    }
}

/// The single writer of a log.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    config: LogConfig,
    /// The frame being written; kept for its capacity.
    frame: Vec<u8>,
    active: ActiveSegment,
    next: u64,
    unsynced_bytes: u64,
}

#[derive(Debug)]
struct ActiveSegment {
    name: Arc<str>,
    salt: u64,
    bytes: u64,
}

// === impl Log ===

impl Log {
    /// Reads and verifies every segment, cuts a torn end, syncs what is left, and only then calls it durable.
    ///
    /// The last segment is read past the page cache, because after a failed sync the cache may show what the disk never
    /// got. Damage does not fail the opening: it is in [`Recovery`], and reads across it answer [`LogError::Damaged`].
    ///
    /// # Errors
    /// [`LogError::Version`], [`LogError::Foreign`] and [`LogError::Unreadable`] before anything was changed;
    /// [`LogError::Io`] with at most the torn end cut.
    pub fn open(medium: Arc<dyn Medium>, config: LogConfig) -> Result<(Self, Recovery), LogError> {
        let (mut segments, mut recovery) = recovery::recover(&*medium)?;
        let end = segments.last().map_or(0, |last| last.end);
        if segments.is_empty() || end < config.least.0 {
            if end < config.least.0 {
                recovery.lose_end(segments.last_mut(), config.least.0);
            }
            segments.push(new_segment(&*medium, config.least.0)?);
        }
        let Some(last) = segments.last() else { unreachable!("a segment was just added") };
        let (name, next) = (Arc::clone(&last.name), last.end);
        medium.sync(&name).map_err(LogError::io("sync", &name))?;
        medium.sync_dir().map_err(LogError::io("sync the folder of", &name))?;

        recovery.first = Position(segments[0].first);
        recovery.next = Position(next);
        let active = ActiveSegment { name, salt: last.salt, bytes: last.bytes };
        let shared = Arc::new(Shared::new(medium, segments, next, config.recent_bytes_max));
        let log = Self { shared, config, frame: Vec::new(), active, next, unsynced_bytes: 0 };
        Ok((log, recovery))
    }

    /// Writes the records as frames of bounded size, in order; [`Log::sync`] makes all of them durable together. A power
    /// cut before that may leave the first of them.
    ///
    /// # Errors
    /// As [`Log::append_group`]. After [`LogError::Full`] the first of them may be written: [`Log::next`] says how many.
    pub fn append<R: AsRef<[u8]>>(&mut self, mut records: &[R]) -> Result<(), LogError> {
        while !records.is_empty() {
            let mut bytes = 0;
            let fits = |record: &&R| {
                bytes += record.as_ref().len();
                bytes <= FRAME_BYTES
            };
            let count = records.iter().take_while(fits).count().max(1);
            let (group, rest) = records.split_at(count);
            self.append_group(group)?;
            records = rest;
        }
        Ok(())
    }

    /// Writes the records as one checksummed frame with one write. They are neither durable nor readable before
    /// [`Log::sync`]. No records: nothing is written, the range is empty.
    ///
    /// # Errors
    /// [`LogError::TooLarge`] and [`LogError::Full`] leave the log as it was, and it may be used on. After any other
    /// error it is poisoned: what is on disk is decided by opening it again.
    pub fn append_group<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Range<Position>, LogError> {
        self.shared.refuse_if_poisoned()?;
        let start = self.next;
        if records.is_empty() {
            return Ok(Position(start)..Position(start));
        }
        let frame_bytes = frame::size(records)?;
        if self.active.bytes > 0 && self.active.bytes + frame_bytes > self.config.segment_bytes_max {
            self.roll()?;
        }
        if self.unsynced_bytes > 0 && self.unsynced_bytes + frame_bytes > UNSYNCED_BYTES_MAX {
            self.sync_active()?;
        }

        let durable = self.shared.durable();
        frame::encode(&mut self.frame, self.active.salt, start, durable, records);
        let medium = Arc::clone(&self.shared.medium);
        if let Err(source) = medium.append(&self.active.name, &self.frame) {
            return Err(self.undo_append(source));
        }
        let offset = self.active.bytes;
        self.active.bytes += frame_bytes;
        self.unsynced_bytes += frame_bytes;
        self.next = start + records.len() as u64;

        let body = Bytes::copy_from_slice(frame::payload(&self.frame, records.len()));
        let mut at = 0;
        let records = records.iter().map(|record| {
            let part = at..at + record.as_ref().len();
            at = part.end;
            body.slice(part)
        });
        self.shared.push_frame(start..self.next, offset, frame_bytes, records);
        Ok(Position(start)..Position(self.next))
    }

    /// One `fdatasync`; then everything appended is durable, and readers see it. Without anything new it does nothing.
    /// Returns the durable position.
    ///
    /// # Errors
    /// Any error poisons the log: after a failed sync nobody knows what is on disk, and a second sync that succeeds
    /// proves nothing. Stop serving, open anew, trust what the fresh read confirms.
    pub fn sync(&mut self) -> Result<Position, LogError> {
        self.shared.refuse_if_poisoned()?;
        if self.unsynced_bytes > 0 {
            self.sync_active()?;
        }
        self.shared.publish(self.next);
        Ok(Position(self.next))
    }

    /// Everything before this survives a power cut.
    pub fn durable(&self) -> Position {
        Position(self.shared.durable())
    }

    /// The position the next record gets.
    pub fn next(&self) -> Position {
        Position(self.next)
    }

    /// A cheap handle for other threads; it stays good while the writer goes on, and after the writer is gone.
    pub fn reader(&self) -> LogReader {
        LogReader::new(Arc::clone(&self.shared))
    }

    /// The same, for whoever deletes what is not needed.
    pub fn trimmer(&self) -> LogTrimmer {
        LogTrimmer::new(Arc::clone(&self.shared))
    }

    fn poison(&mut self, error: LogError) -> LogError {
        tracing::error!(%error, segment = %self.active.name, "the log is poisoned");
        self.shared.poison();
        error
    }

    fn sync_active(&mut self) -> Result<(), LogError> {
        match self.shared.medium.sync(&self.active.name) {
            Ok(()) => {
                self.unsynced_bytes = 0;
                Ok(())
            }
            Err(source) => {
                let segment = self.active.name.to_string();
                Err(self.poison(LogError::Sync { segment, source }))
            }
        }
    }

    /// A full disk is an ordinary day: the part of the frame that got through is cut off and the log goes on. Every
    /// other failure says that the disk is not to be trusted.
    fn undo_append(&mut self, source: io::Error) -> LogError {
        let segment = self.active.name.to_string();
        let full = is_full(&source);
        match self.shared.medium.truncate(&segment, self.active.bytes) {
            Ok(()) if full => LogError::Full { source },
            Ok(()) => self.poison(LogError::Append { segment, source }),
            Err(truncate) => {
                tracing::error!(%truncate, segment, "cannot cut off a half-written frame");
                self.poison(LogError::Append { segment, source })
            }
        }
    }

    /// Ends the active segment (synced, so that only the last segment can ever have a torn end) and begins the next.
    fn roll(&mut self) -> Result<(), LogError> {
        if self.unsynced_bytes > 0 {
            self.sync_active()?;
        }
        let segment = match new_segment(&*self.shared.medium, self.next) {
            Ok(segment) => segment,
            Err(LogError::Io { source, .. }) if is_full(&source) => return Err(LogError::Full { source }),
            Err(error) => return Err(self.poison(error)),
        };
        if let Err(source) = self.shared.medium.sync_dir() {
            let segment = segment.name.to_string();
            return Err(self.poison(LogError::Sync { segment, source }));
        }
        self.active = ActiveSegment { name: Arc::clone(&segment.name), salt: segment.salt, bytes: 0 };
        self.shared.push_segment(segment);
        Ok(())
    }
}

fn new_segment(medium: &dyn Medium, first: u64) -> Result<Segment, LogError> {
    let segment = Segment::empty(first, medium.entropy());
    medium.create(&segment.name).map_err(LogError::io("create", &segment.name))?;
    Ok(segment)
}
