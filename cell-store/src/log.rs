//! The durable log: segments of checksummed frames, one frame per group.
//!
//! The commit point is [`Log::sync`]: what it covered is read again by every later open, or named as damaged. A torn
//! last frame was never acknowledged and is cut; any other damage is reported with the positions it cost.

mod frame;
mod recover;

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

pub use frame::FRAME_BODY_BYTES_MAX;

use crate::medium::Medium;

/// Ordinal of a record in this log: 0, 1, 2…
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// Sizes.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// A segment is closed before it grows beyond this.
    pub segment_bytes_max: u64,
    /// Bytes of recent records kept in memory for tailers that follow right behind.
    pub recent_bytes_max: usize,
}

impl Default for LogConfig {
    fn default() -> Self {
        LogConfig { segment_bytes_max: 64 << 20, recent_bytes_max: 8 << 20 }
    }
}

/// Why a stretch of the log cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DamageReason {
    /// A frame does not verify.
    Checksum,
    /// Frames or a segment are not there.
    Missing,
}

/// Positions that were lost, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    pub segment: String,
    pub offset: u64,
    /// Ordinals of the lost records.
    pub lost: Range<u64>,
    pub reason: DamageReason,
}

/// What an open found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Records that can be read.
    pub records: u64,
    /// Bytes of a torn last frame that were cut.
    pub cut_bytes: u64,
    pub damage: Vec<Damage>,
}

/// What a log can refuse with.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The medium failed. Nothing of the call took effect unless the log says [`LogError::Poisoned`] from then on.
    #[error("log: {what}: {source}")]
    Io { what: &'static str, source: io::Error },
    /// A sync, or the clean-up after a failed append, failed before: nobody knows what is on disk. Restart.
    #[error("log: poisoned by an earlier error; restart and re-read")]
    Poisoned,
    /// These records are damaged or missing; those behind them can be read.
    #[error("log: records {} to {} are damaged", lost.start, lost.end)]
    Damaged { lost: Range<u64> },
    /// Older segments were deleted.
    #[error("log: begins at {first}")]
    Deleted { first: Position },
    /// A group is empty or larger than a frame may be.
    #[error("log: a group has 1 record or more and at most {FRAME_BODY_BYTES_MAX} bytes")]
    Group,
}

fn io_error(what: &'static str) -> impl Fn(io::Error) -> LogError {
    move |source| LogError::Io { what, source }
}

#[derive(Clone, Copy, Debug)]
struct FrameRef {
    first: u64,
    count: u32,
    offset: u64,
}

#[derive(Clone, Debug)]
struct Segment {
    name: String,
    first: u64,
    frames: Vec<FrameRef>,
    bytes: u64,
}

#[derive(Debug)]
struct Shared {
    medium: Arc<dyn Medium>,
    segments: RwLock<Vec<Segment>>,
    damage: RwLock<Vec<Damage>>,
    recent: Mutex<Recent>,
    durable: AtomicU64,
}

#[derive(Debug, Default)]
struct Recent {
    records: VecDeque<(u64, Bytes)>,
    bytes: usize,
}

fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}
fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

// === Log ===

/// The one writer of a log.
#[derive(Debug)]
pub struct Log {
    shared: Arc<Shared>,
    config: LogConfig,
    nonce: u64,
    next: u64,
    buffer: Vec<u8>,
    poisoned: bool,
}

fn segment_name(first: u64) -> String {
    format!("log-{first:020}.seg")
}

fn segment_first(name: &str) -> Option<u64> {
    name.strip_prefix("log-")?.strip_suffix(".seg")?.parse().ok()
}

impl Log {
    /// Reads every segment, cuts a torn end, and names all other damage.
    ///
    /// # Errors
    /// The medium cannot be read; nothing but a torn end was changed.
    pub fn open(medium: Arc<dyn Medium>, config: LogConfig) -> Result<(Log, Recovery), LogError> {
        let names = medium.list().map_err(io_error("list"))?;
        let mut firsts: Vec<u64> = names.iter().filter_map(|name| segment_first(name)).collect();
        firsts.sort_unstable();
        let (mut recovery, mut segments, mut nonce) = (Recovery::default(), Vec::new(), None);
        let mut next = firsts.first().copied().unwrap_or(0);
        for (i, first) in firsts.iter().enumerate() {
            let name = segment_name(*first);
            if *first > next {
                let known = recovery.damage.last_mut().filter(|damage: &&mut Damage| damage.lost.end == next);
                match known {
                    Some(damage) => damage.lost.end = *first,
                    None => recovery.damage.push(Damage {
                        segment: name.clone(),
                        offset: 0,
                        lost: next..*first,
                        reason: DamageReason::Missing,
                    }),
                }
            }
            let last = i + 1 == firsts.len();
            let scanned = recover::scan(&*medium, &name, *first, nonce, last).map_err(io_error("scan"))?;
            nonce = scanned.nonce;
            next = scanned.next;
            recovery.cut_bytes += scanned.cut_bytes;
            recovery.damage.extend(scanned.damage);
            segments.push(scanned.segment);
        }
        recovery.damage.retain(|damage| !damage.lost.is_empty());
        let read = segments.iter().flat_map(|segment: &Segment| &segment.frames);
        recovery.records = read.map(|frame| u64::from(frame.count)).sum();
        let nonce = nonce.unwrap_or_else(|| medium.entropy());
        let shared = Arc::new(Shared {
            medium,
            segments: RwLock::new(segments),
            damage: RwLock::new(recovery.damage.clone()),
            recent: Mutex::default(),
            durable: AtomicU64::new(next),
        });
        Ok((Log { shared, config, nonce, next, buffer: Vec::new(), poisoned: false }, recovery))
    }

    /// Appends one group as one frame in one write. Not durable before [`Log::sync`], and not seen by readers.
    ///
    /// # Errors
    /// [`LogError::Group`], [`LogError::Poisoned`], or the medium's own (a full disk): nothing was appended.
    pub fn append_group<R: AsRef<[u8]>>(&mut self, records: &[R]) -> Result<Range<Position>, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        let first = self.next;
        let mut buffer = std::mem::take(&mut self.buffer);
        let written = if frame::write(self.nonce, first, records, &mut buffer) {
            self.append_frame(&buffer, first, records.len() as u32)
        } else {
            Err(LogError::Group)
        };
        if written.is_ok() {
            self.next = first + records.len() as u64;
            self.remember(first, &buffer);
        }
        self.buffer = buffer;
        written.map(|()| Position(first)..Position(self.next))
    }

    fn append_frame(&mut self, frame: &[u8], first: u64, count: u32) -> Result<(), LogError> {
        let roll = match read(&self.shared.segments).last() {
            None => true,
            Some(last) => last.bytes > 0 && last.bytes + frame.len() as u64 > self.config.segment_bytes_max,
        };
        if roll {
            self.roll(first)?;
        }
        let mut segments = write(&self.shared.segments);
        let Some(segment) = segments.last_mut() else {
            return Err(LogError::Poisoned);
        };
        if let Err(source) = self.shared.medium.append(&segment.name, frame) {
            // Any part of it may be there: a later frame must not stand behind it.
            self.poisoned = self.shared.medium.truncate(&segment.name, segment.bytes).is_err();
            return Err(LogError::Io { what: "append", source });
        }
        segment.frames.push(FrameRef { first, count, offset: segment.bytes });
        segment.bytes += frame.len() as u64;
        Ok(())
    }

    /// Closes the segment, durably, and begins the next.
    fn roll(&mut self, first: u64) -> Result<(), LogError> {
        if read(&self.shared.segments).last().is_some() {
            self.sync()?;
        }
        let name = segment_name(first);
        self.shared.medium.create(&name).map_err(io_error("create segment"))?;
        self.shared.medium.sync_dir().map_err(io_error("sync folder"))?;
        write(&self.shared.segments).push(Segment { name, first, frames: Vec::new(), bytes: 0 });
        Ok(())
    }

    fn remember(&self, first: u64, frame: &[u8]) {
        let frame = Bytes::copy_from_slice(frame);
        let Some(records) = frame::Header::read(&frame).and_then(|header| frame::records(&header, &frame))
        else {
            return;
        };
        let mut recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        for (i, record) in records.into_iter().enumerate() {
            recent.bytes += record.len();
            recent.records.push_back((first + i as u64, record));
        }
        while recent.bytes > self.config.recent_bytes_max {
            let Some((_, record)) = recent.records.pop_front() else {
                break;
            };
            recent.bytes -= record.len();
        }
    }

    /// Makes everything appended durable: the commit point. Readers see it from now on.
    ///
    /// # Errors
    /// After any error the log is poisoned: which of the bytes are on disk is unknown.
    pub fn sync(&mut self) -> Result<Position, LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned);
        }
        let name = read(&self.shared.segments).last().map(|segment| segment.name.clone());
        if let Some(name) = name
            && let Err(source) = self.shared.medium.sync(&name)
        {
            self.poisoned = true;
            return Err(LogError::Io { what: "sync", source });
        }
        self.shared.durable.store(self.next, Ordering::Release);
        Ok(Position(self.next))
    }

    /// The position behind the last durable record.
    #[must_use]
    pub fn durable(&self) -> Position {
        Position(self.shared.durable.load(Ordering::Acquire))
    }

    #[must_use]
    pub fn reader(&self) -> LogReader {
        LogReader { shared: self.shared.clone() }
    }

    /// Deletes segments that hold only records before `position`. The newest segment stays.
    ///
    /// # Errors
    /// The medium's; segments already deleted stay deleted.
    pub fn delete_before(&mut self, position: Position) -> Result<(), LogError> {
        loop {
            let name = {
                let segments = read(&self.shared.segments);
                match segments.as_slice() {
                    [first, second, ..] if second.first <= position.0 => first.name.clone(),
                    _ => break,
                }
            };
            self.shared.medium.delete(&name).map_err(io_error("delete segment"))?;
            write(&self.shared.segments).remove(0);
        }
        self.shared.medium.sync_dir().map_err(io_error("sync folder"))
    }
}

// === LogReader ===

/// Reads durable records, also while the writer goes on; cheap to clone.
#[derive(Clone, Debug)]
pub struct LogReader {
    shared: Arc<Shared>,
}

impl LogReader {
    /// The position behind the last durable record.
    #[must_use]
    pub fn durable(&self) -> Position {
        Position(self.shared.durable.load(Ordering::Acquire))
    }

    /// The oldest position kept.
    #[must_use]
    pub fn first(&self) -> Position {
        Position(read(&self.shared.segments).first().map_or(0, |segment| segment.first))
    }

    /// Records from `from` on, never past the durable position, until `bytes_max` is reached (at least one record if
    /// there is any).
    ///
    /// # Errors
    /// [`LogError::Damaged`] if `from` lies in a damaged stretch (go on at its end), [`LogError::Deleted`].
    pub fn read(&self, from: Position, bytes_max: usize) -> Result<Vec<(Position, Bytes)>, LogError> {
        let durable = self.durable().0;
        if from.0 >= durable {
            return Ok(Vec::new());
        }
        if let Some(found) = self.read_recent(from.0, durable, bytes_max) {
            return Ok(found);
        }
        if let Some(damage) = read(&self.shared.damage).iter().find(|damage| damage.lost.contains(&from.0)) {
            return Err(LogError::Damaged { lost: damage.lost.clone() });
        }
        let (mut found, mut bytes, mut at) = (Vec::new(), 0, from.0);
        while at < durable && (bytes < bytes_max || found.is_empty()) {
            let Some((name, frame)) = self.locate(at)? else {
                break;
            };
            if frame.first > at {
                // A hole is met as a hole, never read over.
                let lost = at..frame.first;
                return if found.is_empty() { Err(LogError::Damaged { lost }) } else { Ok(found) };
            }
            let records =
                recover::read_frame(&*self.shared.medium, &name, &frame).map_err(io_error("read"))?;
            let Some(records) = records else {
                let lost = frame.first..frame.first + u64::from(frame.count);
                // What was read before it is good; the next call meets the damage first.
                return if found.is_empty() { Err(LogError::Damaged { lost }) } else { Ok(found) };
            };
            for (i, record) in records.into_iter().enumerate() {
                let position = frame.first + i as u64;
                if position >= at && position < durable && (bytes < bytes_max || found.is_empty()) {
                    bytes += record.len();
                    found.push((Position(position), record));
                }
            }
            at = found.last().map_or(durable, |(position, _)| position.0 + 1);
        }
        Ok(found)
    }

    /// One record.
    ///
    /// # Errors
    /// As [`LogReader::read`].
    pub fn get(&self, position: Position) -> Result<Option<Bytes>, LogError> {
        let found = self.read(position, 1)?;
        Ok(found.into_iter().find(|(at, _)| *at == position).map(|(_, record)| record))
    }

    fn read_recent(&self, from: u64, durable: u64, bytes_max: usize) -> Option<Vec<(Position, Bytes)>> {
        let recent = self.shared.recent.lock().unwrap_or_else(PoisonError::into_inner);
        let oldest = recent.records.front()?.0;
        let skip = usize::try_from(from.checked_sub(oldest)?).ok()?;
        let mut bytes = 0;
        let wanted = recent.records.iter().skip(skip).take_while(|(position, record)| {
            let fits = bytes < bytes_max;
            bytes += record.len();
            fits && *position < durable
        });
        let found: Vec<_> = wanted.map(|(position, record)| (Position(*position), record.clone())).collect();
        (!found.is_empty()).then_some(found)
    }

    /// The frame that holds `at`, or the next one behind it.
    fn locate(&self, at: u64) -> Result<Option<(String, FrameRef)>, LogError> {
        let segments = read(&self.shared.segments);
        if let Some(first) = segments.first().filter(|first| at < first.first) {
            return Err(LogError::Deleted { first: Position(first.first) });
        }
        let after = segments.partition_point(|segment| segment.first <= at);
        for segment in &segments[after.saturating_sub(1)..] {
            let frame = segment.frames.partition_point(|frame| frame.first + u64::from(frame.count) <= at);
            if let Some(frame) = segment.frames.get(frame) {
                return Ok(Some((segment.name.clone(), *frame)));
            }
        }
        Ok(None)
    }
}
