//! A frame: one group of records, one checksum.
//!
//! `magic 4 | version 1 | zero 3 | nonce 8 | first 8 | count 4 | body bytes 4 | crc 4 | body`, all little endian, where the
//! body is per record `bytes 4 | record`. The checksum covers everything but itself. The nonce is the log's own, so that
//! bytes inside a payload are never taken for a frame when the log is searched after damage.

use bytes::Bytes;

pub(crate) const HEADER_BYTES: usize = 36;
const MAGIC: [u8; 4] = *b"HCLF";
const VERSION: u8 = 1;
/// Largest body of one frame.
pub const FRAME_BODY_BYTES_MAX: usize = 64 << 20;

/// A frame's header, its checksum not yet looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) nonce: u64,
    pub(crate) first: u64,
    pub(crate) count: u32,
    pub(crate) body_bytes: u32,
    crc: u32,
}

impl Header {
    pub(crate) fn read(bytes: &[u8]) -> Option<Header> {
        let bytes: &[u8; HEADER_BYTES] = bytes.get(..HEADER_BYTES)?.try_into().ok()?;
        let word = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let long = |at: usize| u64::from_le_bytes(std::array::from_fn(|i| bytes[at + i]));
        let sound = bytes[..4] == MAGIC && bytes[4] == VERSION && bytes[5..8] == [0; 3];
        let header =
            Header { nonce: long(8), first: long(16), count: word(24), body_bytes: word(28), crc: word(32) };
        (sound && header.count > 0 && header.body_bytes as usize <= FRAME_BODY_BYTES_MAX).then_some(header)
    }

    pub(crate) fn frame_bytes(&self) -> usize {
        HEADER_BYTES + self.body_bytes as usize
    }

    /// Whether `frame` is this header with an untouched body behind it.
    pub(crate) fn verifies(&self, frame: &[u8]) -> bool {
        frame.len() >= self.frame_bytes() && checksum(&frame[..self.frame_bytes()]) == self.crc
    }
}

fn checksum(frame: &[u8]) -> u32 {
    let head = crc32c::crc32c(&frame[..HEADER_BYTES - 4]);
    crc32c::crc32c_append(head, &frame[HEADER_BYTES..])
}

/// Writes a group as one frame into `out`, which is cleared first.
pub(crate) fn write<R: AsRef<[u8]>>(nonce: u64, first: u64, records: &[R], out: &mut Vec<u8>) -> bool {
    let body: usize = records.iter().map(|record| record.as_ref().len() + 4).sum();
    if records.is_empty() || body > FRAME_BODY_BYTES_MAX {
        return false;
    }
    out.clear();
    out.reserve(HEADER_BYTES + body);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&[VERSION, 0, 0, 0]);
    out.extend_from_slice(&nonce.to_le_bytes());
    out.extend_from_slice(&first.to_le_bytes());
    out.extend_from_slice(&(records.len() as u32).to_le_bytes());
    out.extend_from_slice(&(body as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for record in records {
        out.extend_from_slice(&(record.as_ref().len() as u32).to_le_bytes());
        out.extend_from_slice(record.as_ref());
    }
    let crc = checksum(out);
    out[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&crc.to_le_bytes());
    true
}

/// The records of a verified frame; `None` if the lengths inside do not add up.
pub(crate) fn records(header: &Header, frame: &Bytes) -> Option<Vec<Bytes>> {
    let mut records = Vec::with_capacity(header.count as usize);
    let (mut at, end) = (HEADER_BYTES, header.frame_bytes());
    while at < end {
        let len = u32::from_le_bytes(frame.get(at..at + 4)?.try_into().ok()?) as usize;
        let (from, to) = (at + 4, at + 4 + len);
        if to > end {
            return None;
        }
        records.push(frame.slice(from..to));
        at = to;
    }
    (records.len() == header.count as usize).then_some(records)
}
