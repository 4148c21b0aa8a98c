//! Opening: what is on the medium, what is cut, what is damaged.
//!
//! Three rules. (1) Only the last segment can have a torn end, since a segment is synced before the next begins.
//! (2) There, the first bytes that are no frame are a torn end if no frame behind them says that records from there on
//! were durable; then they and all behind them are cut, for nobody was promised them. So is room that the medium took in
//! advance. (3) Everything else that does not verify is damage: its positions are reported and quarantined, the records
//! behind it stay.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::frame::{self, Defect};
use super::segment::Segment;
use super::{LogError, Position, UNSYNCED_BYTES_MAX};
use crate::medium::{LAID_IN, LAID_IN_BYTES, Medium, ROOM_BYTES};

/// The smallest unit that is tried alone when a larger read fails.
const READ_RETRY_BYTES: usize = 4096;

/// What opening a log found.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Recovery {
    /// The oldest position that is left.
    pub first: Position,
    /// The position the next record gets; everything before it is durable.
    pub next: Position,
    /// Readable records in between.
    pub records: u64,
    /// A torn end of this many bytes was cut: writes that no sync ever covered. Room that was taken in advance is cut, too,
    /// and not counted where nothing is torn in front of it.
    pub cut_bytes: u64,
    /// What does not verify, in the order of the log.
    pub damage: Vec<Damage>,
}

impl Recovery {
    /// The log was longer once: its last segment, if there is one, ended at `end`.
    pub(crate) fn lose_end(&mut self, last: Option<&mut Segment>, end: u64) {
        let damage = match last {
            Some(last) => {
                let lost = std::mem::replace(&mut last.end, end)..end;
                let segment = last.name.to_string();
                Damage { segment, offset: last.bytes, lost, reason: DamageReason::Missing }
            }
            None => {
                let segment = "(none is left)".to_owned();
                Damage { segment, offset: 0, lost: 0..end, reason: DamageReason::Missing }
            }
        };
        tracing::error!(?damage, "the end of the log is missing");
        self.damage.push(damage);
    }

    /// Whether the log is known to have been longer. What is named as lost may be less than that was.
    pub fn lost_its_end(&self) -> bool {
        self.damage.iter().any(|damage| damage.lost.end >= self.next.0)
    }

    /// Whether every record ever acknowledged and not deleted can be read.
    pub fn is_clean(&self) -> bool {
        self.damage.is_empty()
    }
}

/// Records that were in the log and cannot be read any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub segment: String,
    /// Where in the file the damage begins, in bytes.
    pub offset: u64,
    /// The records that are lost here; for [`DamageReason::EndLost`] empty, at the place where an unknown number is gone.
    pub lost: Range<u64>,
    /// What is wrong.
    pub reason: DamageReason,
}

/// What is wrong with a stretch of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DamageReason {
    /// The bytes are there and do not verify.
    Checksum,
    /// The device does not give the bytes out.
    Unreadable,
    /// The file ends too early, or is gone.
    Missing,
    /// The end of the log is nonsense, and more of it than a power cut could have torn: records are lost, how many is
    /// unknown.
    EndLost,
}

/// A verified frame found in a segment.
struct Found {
    records: Range<u64>,
    durable: u64,
    offset: u64,
    bytes: u64,
}

struct Contents {
    bytes: Vec<u8>,
    unreadable: Vec<Range<u64>>,
}

/// The segments in order, indexed, with the torn end of the last one cut off (not yet synced).
pub(crate) fn recover(medium: &dyn Medium) -> Result<(Vec<Segment>, Recovery), LogError> {
    let names = medium.list().map_err(LogError::io("list", "folder"))?;
    let mut segments: Vec<Segment> = names.iter().filter_map(|name| Segment::from_name(name)).collect();
    segments.sort_by_key(|segment| segment.first);
    if let Some(pair) = segments.windows(2).find(|pair| pair[0].first == pair[1].first) {
        let (segment, other) = (pair[0].name.to_string(), pair[1].name.to_string());
        return Err(LogError::Foreign { segment, other });
    }

    let mut recovery = Recovery::default();
    let ends: Vec<(u64, Arc<str>)> =
        segments.iter().skip(1).map(|segment| (segment.first, Arc::clone(&segment.name))).collect();
    for (index, segment) in segments.iter_mut().enumerate() {
        let end = ends.get(index);
        let contents = read_segment(medium, &segment.name, end.is_none())?;
        let found = find_frames(segment, &contents.bytes)?;
        match end {
            Some((end, behind)) => index_sealed(segment, *end, behind, &found, &contents, &mut recovery)?,
            None => index_last(medium, segment, &found, &contents, &mut recovery)?,
        }
        let readable: u64 = segment.blocks.iter().map(|block| block.end - block.first).sum();
        recovery.records += readable;
    }
    for damage in &recovery.damage {
        let Damage { segment, offset, lost, reason } = damage;
        tracing::error!(segment, offset, from = lost.start, to = lost.end, ?reason, "damage in the log");
    }
    if recovery.cut_bytes > 0 {
        tracing::warn!(bytes = recovery.cut_bytes, "cut a torn end off the log");
    }
    Ok((segments, recovery))
}

/// A segment with a successor: all of it was synced once, so whatever is missing up to `end` is damage.
fn index_sealed(
    segment: &mut Segment,
    end: u64,
    behind: &str,
    found: &[Found],
    contents: &Contents,
    recovery: &mut Recovery,
) -> Result<(), LogError> {
    if found.last().is_some_and(|last| last.records.end > end) {
        let (segment, other) = (segment.name.to_string(), behind.to_owned());
        return Err(LogError::Foreign { segment, other });
    }
    for frame in found {
        index_frame(segment, frame, contents, recovery);
    }
    if segment.end < end {
        let hole = segment.bytes..contents.bytes.len() as u64;
        recovery.damage.push(damage(segment, end, &hole, contents));
        segment.end = end;
    }
    segment.bytes = contents.bytes.len() as u64;
    Ok(())
}

/// The segment that was being written.
fn index_last(
    medium: &dyn Medium,
    segment: &mut Segment,
    found: &[Found],
    contents: &Contents,
    recovery: &mut Recovery,
) -> Result<(), LogError> {
    let promised = found.iter().map(|frame| frame.durable).max().unwrap_or(0);
    for frame in found {
        let torn_here = frame.offset > segment.bytes && segment.end >= promised;
        if torn_here {
            break;
        }
        index_frame(segment, frame, contents, recovery);
    }

    let (kept, len) = (segment.bytes, contents.bytes.len() as u64);
    if let Some(lost) = contents.unreadable.iter().find(|lost| lost.end > kept) {
        return Err(LogError::Unreadable { segment: segment.name.to_string(), offset: lost.start });
    }
    if len > kept {
        medium.truncate(&segment.name, kept).map_err(LogError::io("cut", &segment.name))?;
    }
    let torn = without_room(&contents.bytes[kept as usize..]).len() as u64;
    recovery.cut_bytes = torn;
    if torn > UNSYNCED_BYTES_MAX + ROOM_BYTES {
        let lost = segment.end..segment.end;
        let segment = segment.name.to_string();
        recovery.damage.push(Damage { segment, offset: kept, lost, reason: DamageReason::EndLost });
    }
    Ok(())
}

/// What is left of the bytes behind the last frame without the room that the medium took in advance.
fn without_room(behind: &[u8]) -> &[u8] {
    let laid_in =
        behind.iter().rev().take(LAID_IN_BYTES as usize).take_while(|byte| **byte == LAID_IN).count();
    let rest = &behind[..behind.len() - laid_in];
    // Zeroes are never taken in front of what was laid in.
    let taken = laid_in == 0 && rest.len() as u64 <= ROOM_BYTES && rest.iter().all(|byte| *byte == 0);
    if taken { &[] } else { rest }
}

fn index_frame(segment: &mut Segment, frame: &Found, contents: &Contents, recovery: &mut Recovery) {
    if frame.records.start > segment.end {
        recovery.damage.push(damage(segment, frame.records.start, &(segment.bytes..frame.offset), contents));
    }
    segment.push_frame(frame.records.clone(), frame.offset, frame.bytes);
}

/// The records from the segment's end so far up to `end` are lost in the bytes of `hole`.
fn damage(segment: &Segment, end: u64, hole: &Range<u64>, contents: &Contents) -> Damage {
    let unreadable = contents.unreadable.iter().any(|lost| lost.start < hole.end && hole.start < lost.end);
    let reason = match () {
        () if unreadable => DamageReason::Unreadable,
        () if hole.is_empty() => DamageReason::Missing,
        () => DamageReason::Checksum,
    };
    Damage { segment: segment.name.to_string(), offset: hole.start, lost: segment.end..end, reason }
}

/// All frames that verify and continue the ordinals, wherever they are; in between them is damage.
fn find_frames(segment: &Segment, bytes: &[u8]) -> Result<Vec<Found>, LogError> {
    let mut found = Vec::new();
    let mut expected = segment.first;
    let mut at = 0;
    while at < bytes.len() {
        match frame::decode(&bytes[at..], segment.salt) {
            Ok(frame) if frame.first >= expected => {
                expected = frame.end();
                found.push(Found {
                    records: frame.first..frame.end(),
                    durable: frame.durable,
                    offset: at as u64,
                    bytes: frame.bytes() as u64,
                });
                at += frame.bytes();
            }
            Err(Defect::Version(version)) => {
                let segment = segment.name.to_string();
                return Err(LogError::Version { segment, offset: at as u64, version });
            }
            Ok(_) | Err(Defect::Damaged) => match frame::find_magic(bytes, at + 1) {
                Some(next) => at = next,
                None => break,
            },
        }
    }
    Ok(found)
}

/// The whole file. Blocks that the device does not give out read as zeroes and are named.
fn read_segment(medium: &dyn Medium, name: &str, fresh: bool) -> Result<Contents, LogError> {
    let read = |offset: u64, buf: &mut [u8]| {
        if fresh { medium.read_fresh_at(name, offset, buf) } else { medium.read_at(name, offset, buf) }
    };
    let len = medium.len(name).map_err(LogError::io("measure", name))?;
    let mut bytes = vec![0; len as usize];
    let mut unreadable = Vec::new();
    match read(0, &mut bytes) {
        Ok(got) if got == bytes.len() => {}
        // Shorter on the device than in the cache: the rest never got there, and zeroes are no frame.
        Ok(got) => bytes[got..].fill(0),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(LogError::io("read", name)(error));
        }
        Err(error) => {
            tracing::error!(%error, segment = name, "cannot read a segment at once, trying piece by piece");
            for (index, piece) in bytes.chunks_mut(READ_RETRY_BYTES).enumerate() {
                let offset = (index * READ_RETRY_BYTES) as u64;
                let piece_len = piece.len() as u64;
                if read(offset, piece).is_err() {
                    piece.fill(0);
                    unreadable.push(offset..offset + piece_len);
                }
            }
        }
    }
    Ok(Contents { bytes, unreadable })
}
