//! Reading behind the writer, from any thread.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;

use super::frame;
use super::segment::{Block, Segment};
use super::tail::Tail;
use super::{LogError, Position};
use crate::medium::Medium;

/// At most this much is read from the disk in one call, whatever the caller allows (one larger frame excepted).
const READ_BYTES_MAX: u64 = 4 << 20;

/// What writer, trimmer and readers share. The first two change it; nobody holds the lock of the contents on disk.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) medium: Arc<dyn Medium>,
    /// Held by whoever deletes segments, so that they go in their order.
    pub(crate) deleting: Mutex<()>,
    durable: AtomicU64,
    poisoned: AtomicBool,
    contents: RwLock<Contents>,
}

#[derive(Debug)]
struct Contents {
    /// Never empty; the last one is being written.
    segments: VecDeque<Segment>,
    tail: Tail,
}

/// Reads what is durable, in order. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LogReader {
    shared: Arc<Shared>,
}

/// Where the records asked for are.
enum Place {
    Memory(Vec<(Position, Bytes)>),
    Disk(DiskPlan),
}

/// Neighbouring blocks of one segment, to be read in one go.
struct DiskPlan {
    name: Arc<str>,
    salt: u64,
    blocks: Vec<Block>,
}

// === impl LogReader ===

impl LogReader {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// Everything before this survives a power cut and can be read.
    pub fn durable(&self) -> Position {
        Position(self.shared.durable())
    }

    /// The oldest position that is left.
    pub fn first(&self) -> Position {
        Position(self.shared.first())
    }

    /// Behind the last position of the segment that `at` is in.
    pub fn segment_end(&self, at: Position) -> Position {
        let contents = self.shared.contents();
        let index = contents.segments.partition_point(|segment| segment.end <= at.0);
        Position(contents.segments.get(index).map_or(self.shared.durable(), |segment| segment.end))
    }

    /// The oldest position of as many of the newest segments as fit into `bytes_max`; at least the one being written.
    pub fn first_within(&self, bytes_max: u64) -> Position {
        let contents = self.shared.contents();
        let mut bytes = 0;
        let fits = |segment: &&Segment| {
            bytes += segment.bytes;
            bytes <= bytes_max
        };
        let newest = contents.segments.iter().rev().take_while(fits).last();
        Position(newest.or(contents.segments.back()).map_or(0, |segment| segment.first))
    }

    /// The oldest position that would be left if what ends before `before` was deleted.
    pub fn first_after_deleting(&self, before: Position) -> Position {
        let contents = self.shared.contents();
        let left = contents.segments.iter().find(|segment| segment.end > before.0);
        Position(left.or(contents.segments.back()).map_or(0, |segment| segment.first))
    }

    /// The records from `from` on, at least one if there is one, then as many as fit into `max_bytes` of payload; an
    /// answer may end earlier, so go on from the last position plus one. Empty exactly when nothing from `from` on is
    /// durable yet. Records read from disk share the memory of the read; copy what is kept for long.
    ///
    /// # Errors
    /// [`LogError::Damaged`] when `from` itself does not verify; the reader can go on from the end of the positions
    /// named. [`LogError::Deleted`], [`LogError::Ahead`] when `from` is outside of the log; [`LogError::Io`] may pass.
    pub fn read(&self, from: Position, max_bytes: usize) -> Result<Vec<(Position, Bytes)>, LogError> {
        let durable = self.shared.durable();
        if from.0 >= durable {
            let next = self.shared.next();
            let ahead = from.0 > next;
            return if ahead { Err(LogError::Ahead { next: Position(next) }) } else { Ok(Vec::new()) };
        }
        match self.shared.locate(from.0, durable, max_bytes)? {
            Place::Memory(records) => Ok(records),
            Place::Disk(plan) => self.read_disk(&plan, from.0..durable, max_bytes, false),
        }
    }

    /// As [`LogReader::read`], past all that is in memory, here and in the system: whether the disk has what was written.
    ///
    /// # Errors
    /// As for [`LogReader::read`].
    pub fn read_stored(&self, from: Position, max_bytes: usize) -> Result<Vec<(Position, Bytes)>, LogError> {
        let durable = self.shared.durable();
        if from.0 >= durable {
            return self.read(from, max_bytes);
        }
        let plan = self.shared.contents().stored(from.0, durable, max_bytes)?;
        self.read_disk(&plan, from.0..durable, max_bytes, true)
    }

    /// As [`LogReader::read`], from memory alone, so that it never waits for the disk; `None` where the answer is not there.
    pub fn read_recent(&self, from: Position, max_bytes: usize) -> Option<Vec<(Position, Bytes)>> {
        let durable = self.shared.durable();
        if from.0 >= durable {
            return (from.0 <= self.shared.next()).then(Vec::new);
        }
        match self.shared.locate(from.0, durable, max_bytes) {
            Ok(Place::Memory(records)) => Some(records),
            Ok(Place::Disk(_)) | Err(_) => None,
        }
    }

    /// One record; `None` at or behind the durable position.
    ///
    /// # Errors
    /// As for [`LogReader::read`], [`LogError::Ahead`] excepted.
    pub fn get(&self, at: Position) -> Result<Option<Bytes>, LogError> {
        match self.read(at, 0) {
            Ok(mut records) => Ok(records.pop().map(|(_, record)| Bytes::copy_from_slice(&record))),
            Err(LogError::Ahead { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn read_disk(
        &self,
        plan: &DiskPlan,
        wanted: Range<u64>,
        max_bytes: usize,
        fresh: bool,
    ) -> Result<Vec<(Position, Bytes)>, LogError> {
        let (Some(head), Some(last)) = (plan.blocks.first(), plan.blocks.last()) else {
            return Ok(Vec::new());
        };
        let mut bytes = vec![0; (last.offset + last.bytes - head.offset) as usize];
        let medium = &self.shared.medium;
        let read = match fresh {
            true => medium.read_fresh_at(&plan.name, head.offset, &mut bytes),
            false => medium.read_at(&plan.name, head.offset, &mut bytes),
        };
        let got = match read {
            Ok(got) => got,
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.shared.first() > wanted.start => {
                return Err(LogError::Deleted { first: self.first() });
            }
            Err(error) => return Err(LogError::io("read", &plan.name)(error)),
        };
        bytes.truncate(got);
        let bytes = Bytes::from(bytes);

        let mut budget = Budget::new(max_bytes);
        let mut records = Vec::new();
        let (mut at, mut expected) = (0, head.first);
        while expected < last.end.min(wanted.end) {
            let rest = bytes.slice(at.min(bytes.len())..);
            let verified = frame::decode(&rest, plan.salt).ok().filter(|frame| frame.first == expected);
            let Some(frame) = verified else {
                // Damaged since it was opened. What was read before is good; the next call begins here and says so.
                if !records.is_empty() {
                    return Ok(records);
                }
                if self.shared.first() > wanted.start {
                    // Deleted while it was read.
                    return Err(LogError::Deleted { first: self.first() });
                }
                let found = frame::find(&bytes, at + 1, plan.salt, expected);
                let (behind, resumes) = found.unwrap_or((bytes.len(), last.end));
                if resumes > wanted.start {
                    return Err(LogError::Damaged { lost: expected.max(wanted.start)..resumes });
                }
                (at, expected) = (behind, resumes);
                continue;
            };
            for (ordinal, part) in (frame.first..).zip(frame.records()) {
                if ordinal >= wanted.end || (ordinal >= wanted.start && !budget.admits(part.len())) {
                    return Ok(records);
                }
                if ordinal >= wanted.start {
                    records.push((Position(ordinal), rest.slice(part)));
                }
            }
            (at, expected) = (at + frame.bytes(), frame.end());
        }
        Ok(records)
    }
}

// === impl Shared ===

impl Shared {
    /// `segments` is not empty, and everything in it is durable.
    pub(crate) fn new(
        medium: Arc<dyn Medium>,
        segments: Vec<Segment>,
        next: u64,
        tail_bytes_max: usize,
    ) -> Self {
        let contents = Contents { segments: segments.into(), tail: Tail::new(next, tail_bytes_max) };
        Self {
            medium,
            deleting: Mutex::default(),
            durable: AtomicU64::new(next),
            poisoned: AtomicBool::new(false),
            contents: RwLock::new(contents),
        }
    }

    /// Nobody knows what is on disk: nothing is written or deleted from now on.
    pub(crate) fn poison(&self) {
        self.poisoned.store(true, Ordering::Release);
    }

    pub(crate) fn refuse_if_poisoned(&self) -> Result<(), LogError> {
        if self.poisoned.load(Ordering::Acquire) { Err(LogError::Poisoned) } else { Ok(()) }
    }

    pub(crate) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    /// The sync that covers everything before `durable` has returned.
    pub(crate) fn publish(&self, durable: u64) {
        self.durable.store(durable, Ordering::Release);
    }

    pub(crate) fn first(&self) -> u64 {
        self.contents().segments.front().map_or(0, |segment| segment.first)
    }

    /// Behind the last record appended, durable or not.
    fn next(&self) -> u64 {
        self.contents().segments.back().map_or(0, |segment| segment.end)
    }

    pub(crate) fn push_segment(&self, segment: Segment) {
        self.contents_mut().segments.push_back(segment);
    }

    pub(crate) fn push_frame(
        &self,
        ordinals: Range<u64>,
        offset: u64,
        bytes: u64,
        records: impl Iterator<Item = Bytes>,
    ) {
        let mut contents = self.contents_mut();
        if let Some(active) = contents.segments.back_mut() {
            active.push_frame(ordinals, offset, bytes);
        }
        for record in records {
            contents.tail.push(record);
        }
    }

    /// Takes the oldest segment out of the readers' sight if all of it is before `before`; its file is the caller's.
    pub(crate) fn forget_first_segment(&self, before: u64) -> Option<Segment> {
        let mut contents = self.contents_mut();
        let deletable = contents.segments.len() > 1 && contents.segments[0].end <= before;
        if !deletable {
            return None;
        }
        contents.segments.pop_front()
    }

    /// It is still there.
    pub(crate) fn remember_first_segment(&self, segment: Segment) {
        self.contents_mut().segments.push_front(segment);
    }

    fn locate(&self, from: u64, durable: u64, max_bytes: usize) -> Result<Place, LogError> {
        let contents = self.contents();
        let first = contents.segments.front().map_or(0, |segment| segment.first);
        if from < first {
            return Err(LogError::Deleted { first: Position(first) });
        }
        if from >= contents.tail.first() {
            let mut budget = Budget::new(max_bytes);
            let newest = contents.tail.range(from..durable);
            let fitting = newest.take_while(|(_, record)| budget.admits(record.len()));
            return Ok(Place::Memory(fitting.map(|(at, record)| (Position(at), record.clone())).collect()));
        }
        contents.stored(from, durable, max_bytes).map(Place::Disk)
    }

    fn contents(&self) -> RwLockReadGuard<'_, Contents> {
        self.contents.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn contents_mut(&self) -> RwLockWriteGuard<'_, Contents> {
        self.contents.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    /// Where on disk the records from `from` on are.
    fn stored(&self, from: u64, durable: u64, max_bytes: usize) -> Result<DiskPlan, LogError> {
        let first = self.segments.front().map_or(0, |segment| segment.first);
        if from < first {
            return Err(LogError::Deleted { first: Position(first) });
        }
        let index = self.segments.partition_point(|segment| segment.end <= from);
        let Some(segment) = self.segments.get(index) else {
            return Err(LogError::Damaged { lost: from..durable });
        };
        let index = segment.blocks.partition_point(|block| block.end <= from);
        let quarantined = segment.blocks.get(index).is_none_or(|block| from < block.first);
        if quarantined {
            let end = segment.blocks.get(index).map_or(segment.end, |block| block.first);
            return Err(LogError::Damaged { lost: from..end });
        }
        Ok(DiskPlan {
            name: Arc::clone(&segment.name),
            salt: segment.salt,
            blocks: neighbours(&segment.blocks[index..], (max_bytes as u64).min(READ_BYTES_MAX)),
        })
    }
}

/// The first block and those right behind it, up to `max_bytes` in all or the first alone.
fn neighbours(blocks: &[Block], max_bytes: u64) -> Vec<Block> {
    let mut taken: Vec<Block> = Vec::new();
    let mut bytes = 0;
    for block in blocks {
        let adjoins = taken
            .last()
            .is_none_or(|last| last.end == block.first && last.offset + last.bytes == block.offset);
        bytes += block.bytes;
        if !adjoins || (bytes > max_bytes && !taken.is_empty()) {
            break;
        }
        taken.push(*block);
    }
    taken
}

/// Payload bytes of one answer: the first record always fits, and ends the answer if it is too large.
struct Budget {
    left: Option<usize>,
    spent: bool,
}

impl Budget {
    fn new(max_bytes: usize) -> Self {
        Self { left: Some(max_bytes), spent: false }
    }

    fn admits(&mut self, bytes: usize) -> bool {
        self.left = self.left.and_then(|left| left.checked_sub(bytes));
        let first = !std::mem::replace(&mut self.spent, true);
        self.left.is_some() || first
    }
}
