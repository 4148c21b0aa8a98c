//! What is known in memory about one segment file.

use std::ops::Range;
use std::sync::Arc;

/// Frames are indexed in blocks of at least this many bytes: a lone record costs one read of about that size, and a full
/// 16 MiB segment some 1,000 entries of 32 bytes.
const BLOCK_BYTES: u64 = 16 << 10;

/// A run of verified frames, one right behind the other. Records in no block are damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) first: u64,
    pub(crate) end: u64,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
}

#[derive(Debug)]
pub(crate) struct Segment {
    /// `log-<first ordinal>-<salt>.seg`. Both numbers live in the name, so no damaged block of the file can hide them.
    pub(crate) name: Arc<str>,
    pub(crate) salt: u64,
    pub(crate) first: u64,
    /// Ordinal behind the last record, readable or not.
    pub(crate) end: u64,
    pub(crate) bytes: u64,
    pub(crate) blocks: Vec<Block>,
}

impl Segment {
    pub(crate) fn empty(first: u64, salt: u64) -> Self {
        let name = format!("log-{first:020}-{salt:016x}.seg").into();
        Self { name, salt, first, end: first, bytes: 0, blocks: Vec::new() }
    }

    /// `None` for a file that is no segment.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let (first, salt) = name.strip_prefix("log-")?.strip_suffix(".seg")?.split_once('-')?;
        let segment = Self::empty(first.parse().ok()?, u64::from_str_radix(salt, 16).ok()?);
        (*segment.name == *name).then_some(segment)
    }

    /// Adds a verified frame behind everything known.
    pub(crate) fn push_frame(&mut self, records: Range<u64>, offset: u64, bytes: u64) {
        self.end = records.end;
        self.bytes = offset + bytes;
        match self.blocks.last_mut() {
            Some(block)
                if block.end == records.start
                    && block.offset + block.bytes == offset
                    && block.bytes < BLOCK_BYTES =>
            {
                block.end = records.end;
                block.bytes += bytes;
            }
            _ => self.blocks.push(Block { first: records.start, end: records.end, offset, bytes }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segments_name_says_its_first_ordinal_and_salt_and_nothing_else_is_a_segment() {
        let segment = Segment::empty(42, 0xfeed);
        assert_eq!(&*segment.name, "log-00000000000000000042-000000000000feed.seg");
        let parsed = Segment::from_name(&segment.name).expect("its own name");
        assert_eq!((parsed.first, parsed.salt), (42, 0xfeed));
        for other in
            ["lock", "log-42-feed.seg", "log-00000000000000000042-000000000000feed.seg.tmp", "log-.seg"]
        {
            assert!(Segment::from_name(other).is_none(), "{other}");
        }
    }
}
