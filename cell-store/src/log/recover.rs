//! Reading the segments at open: what is sound, what is torn, what is damaged.

use std::io;

use super::frame::{self, HEADER_BYTES, Header};
use super::{Damage, DamageReason, FrameRef, Segment};
use crate::medium::Medium;

pub(super) struct Scanned {
    pub(super) segment: Segment,
    pub(super) damage: Vec<Damage>,
    pub(super) nonce: Option<u64>,
    /// Bytes cut off the end.
    pub(super) cut_bytes: u64,
    /// The ordinal behind the last sound frame.
    pub(super) next: u64,
}

pub(super) fn read_whole(medium: &dyn Medium, name: &str) -> io::Result<Vec<u8>> {
    let len = usize::try_from(medium.len(name)?).map_err(io::Error::other)?;
    let mut bytes = vec![0; len];
    let mut filled = 0;
    while filled < len {
        let got = medium.read_at(name, filled as u64, &mut bytes[filled..])?;
        if got == 0 {
            break;
        }
        filled += got;
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Walks one segment. `expected` is the ordinal its first record must have; `last` whether a torn end may be cut.
pub(super) fn scan(
    medium: &dyn Medium,
    name: &str,
    expected: u64,
    nonce: Option<u64>,
    last: bool,
) -> io::Result<Scanned> {
    let bytes = read_whole(medium, name)?;
    let mut scanned = Scanned {
        segment: Segment {
            name: name.to_owned(),
            first: expected,
            frames: Vec::new(),
            bytes: bytes.len() as u64,
        },
        damage: Vec::new(),
        nonce,
        cut_bytes: 0,
        next: expected,
    };
    let mut at = 0;
    while at < bytes.len() {
        if let Some(header) = sound_frame(&bytes, at, scanned.nonce, scanned.next) {
            if header.first > scanned.next {
                let reason = DamageReason::Missing;
                let lost = scanned.next..header.first;
                scanned.damage.push(Damage { segment: name.to_owned(), offset: at as u64, lost, reason });
            }
            scanned.nonce = Some(header.nonce);
            let (first, count) = (header.first, header.count);
            scanned.segment.frames.push(FrameRef { first, count, offset: at as u64 });
            scanned.next = first + u64::from(count);
            at += header.frame_bytes();
            continue;
        }
        match next_frame(&bytes, at + 1, scanned.nonce, scanned.next) {
            Some((found, header)) => {
                let lost = scanned.next..header.first;
                let reason = DamageReason::Checksum;
                scanned.damage.push(Damage { segment: name.to_owned(), offset: at as u64, lost, reason });
                scanned.next = header.first;
                at = found;
            }
            None if last => {
                scanned.cut_bytes = (bytes.len() - at) as u64;
                medium.truncate(name, at as u64)?;
                medium.sync(name)?;
                scanned.segment.bytes = at as u64;
                break;
            }
            None => {
                // How much is lost shows from where the next segment begins.
                let (lost, reason) = (scanned.next..scanned.next, DamageReason::Checksum);
                scanned.damage.push(Damage { segment: name.to_owned(), offset: at as u64, lost, reason });
                break;
            }
        }
    }
    Ok(scanned)
}

fn sound_frame(bytes: &[u8], at: usize, nonce: Option<u64>, next: u64) -> Option<Header> {
    let header = Header::read(&bytes[at..])?;
    let ours = nonce.is_none_or(|nonce| nonce == header.nonce) && header.first >= next;
    (ours && header.verifies(&bytes[at..])).then_some(header)
}

fn next_frame(bytes: &[u8], from: usize, nonce: Option<u64>, next: u64) -> Option<(usize, Header)> {
    let end = bytes.len().checked_sub(HEADER_BYTES)?;
    (from..=end).find_map(|at| sound_frame(bytes, at, nonce, next).map(|header| (at, header)))
}

/// Reads and verifies one frame again, as a reader does.
pub(super) fn read_frame(
    medium: &dyn Medium,
    name: &str,
    frame: &FrameRef,
) -> io::Result<Option<Vec<bytes::Bytes>>> {
    let mut head = [0; HEADER_BYTES];
    if medium.read_at(name, frame.offset, &mut head)? < HEADER_BYTES {
        return Ok(None);
    }
    let Some(header) = Header::read(&head) else {
        return Ok(None);
    };
    let mut bytes = vec![0; header.frame_bytes()];
    let got = medium.read_at(name, frame.offset, &mut bytes)?;
    if got < bytes.len() || !header.verifies(&bytes) || header.first != frame.first {
        return Ok(None);
    }
    Ok(frame::records(&header, &bytes::Bytes::from(bytes)))
}
