//! One group on disk.
//!
//! ```text
//! byte  0  magic "HCL"          all numbers little-endian
//!       3  version 1
//!       4  crc32c of bytes 0..4 and 8..36, salted
//!       8  crc32c of the body, salted
//!      12  record count n
//!      16  body bytes
//!      20  ordinal of the first record
//!      28  durable position when this was written
//!      36  body: n lengths of 4 bytes, then n payloads
//! ```
//! A later format keeps the header's shape, so that an older reader recognises it and refuses instead of cutting it off.
//!
//! The *salt* comes from the segment's name. With it, a frame that somebody placed inside a payload does not verify when
//! damage makes recovery search for the next frame. The *durable position* is what lets recovery tell a torn end, which
//! nobody was promised, from damage to acknowledged records: a frame behind the damage says what was promised before it.

use std::ops::Range;

use super::LogError;

/// The most that one group may hold: payloads and 4 bytes per record.
pub const FRAME_BODY_BYTES_MAX: usize = 16 << 20;
pub(crate) const HEADER_BYTES: usize = 36;
const LENGTH_BYTES: usize = 4;
const MAGIC: [u8; 3] = *b"HCL";
const VERSION: u8 = 1;

/// A verified frame at the beginning of some bytes.
#[derive(Debug)]
pub(crate) struct Frame<'a> {
    pub(crate) first: u64,
    pub(crate) durable: u64,
    pub(crate) count: u64,
    body: &'a [u8],
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Defect {
    /// Not enough bytes, no magic, or a checksum that does not fit.
    Damaged,
    /// Intact, and of a format this code does not know.
    Version(u8),
}

/// Bytes of the frame that these records make.
pub(crate) fn size<R: AsRef<[u8]>>(records: &[R]) -> Result<u64, LogError> {
    let body: usize = records.iter().map(|record| LENGTH_BYTES + record.as_ref().len()).sum();
    if body > FRAME_BODY_BYTES_MAX {
        return Err(LogError::TooLarge { bytes: body, max: FRAME_BODY_BYTES_MAX });
    }
    Ok((body + HEADER_BYTES) as u64)
}

/// Replaces `out` by the frame. The caller has asked [`size`] before.
pub(crate) fn encode<R: AsRef<[u8]>>(out: &mut Vec<u8>, salt: u64, first: u64, durable: u64, records: &[R]) {
    out.clear();
    out.resize(HEADER_BYTES, 0);
    for record in records {
        out.extend_from_slice(&(record.as_ref().len() as u32).to_le_bytes());
    }
    for record in records {
        out.extend_from_slice(record.as_ref());
    }
    let body_bytes = out.len() - HEADER_BYTES;
    assert!(body_bytes <= FRAME_BODY_BYTES_MAX, "a frame beyond its size limit could not be read back");
    let body_crc = crc32c::crc32c_append(seed(salt), &out[HEADER_BYTES..]);
    out[0..3].copy_from_slice(&MAGIC);
    out[3] = VERSION;
    out[8..12].copy_from_slice(&body_crc.to_le_bytes());
    out[12..16].copy_from_slice(&(records.len() as u32).to_le_bytes());
    out[16..20].copy_from_slice(&(body_bytes as u32).to_le_bytes());
    out[20..28].copy_from_slice(&first.to_le_bytes());
    out[28..36].copy_from_slice(&durable.to_le_bytes());
    let header_crc = header_crc(&out[..HEADER_BYTES], salt);
    out[4..8].copy_from_slice(&header_crc.to_le_bytes());
}

/// The payloads of an encoded frame of `count` records, one after the other.
pub(crate) fn payload(frame: &[u8], count: usize) -> &[u8] {
    &frame[HEADER_BYTES + count * LENGTH_BYTES..]
}

/// Verifies the frame that begins at the first byte.
pub(crate) fn decode(bytes: &[u8], salt: u64) -> Result<Frame<'_>, Defect> {
    let header = bytes.get(..HEADER_BYTES).ok_or(Defect::Damaged)?;
    if header[0..3] != MAGIC || header_crc(header, salt) != u32_at(header, 4) {
        return Err(Defect::Damaged);
    }
    if header[3] != VERSION {
        return Err(Defect::Version(header[3]));
    }
    let body_end = HEADER_BYTES.saturating_add(u32_at(header, 16) as usize);
    let body = bytes.get(HEADER_BYTES..body_end).ok_or(Defect::Damaged)?;
    if crc32c::crc32c_append(seed(salt), body) != u32_at(header, 8) {
        return Err(Defect::Damaged);
    }
    let frame = Frame {
        first: u64_at(header, 20),
        durable: u64_at(header, 28),
        count: u64::from(u32_at(header, 12)),
        body,
    };
    if frame.is_consistent() { Ok(frame) } else { Err(Defect::Damaged) }
}

/// Offset of the next place from `from` on where a frame might begin.
pub(crate) fn find_magic(bytes: &[u8], from: usize) -> Option<usize> {
    let rest = bytes.get(from..)?;
    rest.windows(MAGIC.len()).position(|window| window == MAGIC).map(|at| from + at)
}

/// Offset and first ordinal of the next frame from `from` on that verifies and does not begin before `expected`.
pub(crate) fn find(bytes: &[u8], from: usize, salt: u64, expected: u64) -> Option<(usize, u64)> {
    let mut at = find_magic(bytes, from)?;
    loop {
        match decode(&bytes[at..], salt) {
            Ok(frame) if frame.first >= expected => return Some((at, frame.first)),
            _ => at = find_magic(bytes, at + 1)?,
        }
    }
}

// === impl Frame ===

impl Frame<'_> {
    pub(crate) fn bytes(&self) -> usize {
        HEADER_BYTES + self.body.len()
    }

    pub(crate) fn end(&self) -> u64 {
        self.first + self.count
    }

    /// Where the payloads are, counted from the beginning of the frame.
    pub(crate) fn records(&self) -> impl Iterator<Item = Range<usize>> {
        let lengths = &self.body[..self.count as usize * LENGTH_BYTES];
        let mut at = HEADER_BYTES + lengths.len();
        lengths.chunks_exact(LENGTH_BYTES).map(move |length| {
            let part = at..at + u32_at(length, 0) as usize;
            at = part.end;
            part
        })
    }

    /// The checksums hold, so only a fault of the writer could break this; the reader asks all the same, because it
    /// slices by these numbers.
    fn is_consistent(&self) -> bool {
        let Some(lengths) = self.body.get(..(self.count as usize).saturating_mul(LENGTH_BYTES)) else {
            return false;
        };
        let total: u64 = lengths.chunks_exact(LENGTH_BYTES).map(|length| u64::from(u32_at(length, 0))).sum();
        self.count > 0
            && total == (self.body.len() - lengths.len()) as u64
            && self.first.checked_add(self.count).is_some()
    }
}

fn header_crc(header: &[u8], salt: u64) -> u32 {
    let crc = crc32c::crc32c_append(seed(salt), &header[0..4]);
    crc32c::crc32c_append(crc, &header[8..HEADER_BYTES])
}

fn seed(salt: u64) -> u32 {
    (salt ^ (salt >> 32)) as u32
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut number = [0; 4];
    number.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(number)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut number = [0; 8];
    number.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_version_1_are_these() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 0x0123_4567_89ab_cdef, 7, 5, &["ab", "", "c"]);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, GOLDEN);
        let frame = decode(&bytes, 0x0123_4567_89ab_cdef).expect("it is a frame");
        assert_eq!((frame.first, frame.durable, frame.count, frame.bytes()), (7, 5, 3, bytes.len()));
        let records: Vec<&[u8]> = frame.records().map(|part| &bytes[part]).collect();
        assert_eq!(records, [b"ab".as_slice(), b"", b"c"]);
    }

    const GOLDEN: &str = concat!(
        "48434c01906c41be1f6feb57030000000f00000007000000000000000500000000000000",
        "020000000000000001000000616263",
    );

    #[test]
    fn a_frame_does_not_verify_under_another_segments_salt() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 1, 0, 0, &["x"]);
        assert_eq!(decode(&bytes, 2).err(), Some(Defect::Damaged));
    }

    #[test]
    fn a_later_format_is_recognised_and_not_mistaken_for_damage() {
        let mut bytes = Vec::new();
        encode(&mut bytes, 1, 0, 0, &["x"]);
        bytes[3] = 2;
        let crc = header_crc(&bytes[..HEADER_BYTES], 1);
        bytes[4..8].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(decode(&bytes, 1).err(), Some(Defect::Version(2)));
    }
}
