//! The newest records, in memory, for readers right behind the writer.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

/// What a record costs beside its payload.
const RECORD_OVERHEAD_BYTES: usize = size_of::<Bytes>() + 8;

/// A bounded run of records that ends where the log ends.
#[derive(Debug)]
pub(crate) struct Tail {
    first: u64,
    records: VecDeque<Bytes>,
    bytes: usize,
    bytes_max: usize,
}

impl Tail {
    pub(crate) fn new(first: u64, bytes_max: usize) -> Self {
        Self { first, records: VecDeque::new(), bytes: 0, bytes_max }
    }

    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    pub(crate) fn push(&mut self, record: Bytes) {
        self.bytes += record.len() + RECORD_OVERHEAD_BYTES;
        self.records.push_back(record);
        while self.bytes > self.bytes_max
            && let Some(oldest) = self.records.pop_front()
        {
            self.bytes -= oldest.len() + RECORD_OVERHEAD_BYTES;
            self.first += 1;
        }
    }

    /// The records of `range`, which begins at or behind [`Tail::first`].
    pub(crate) fn range(&self, range: Range<u64>) -> impl Iterator<Item = (u64, &Bytes)> {
        let skip = (range.start - self.first) as usize;
        let take = (range.end.saturating_sub(range.start)) as usize;
        (range.start..).zip(self.records.iter().skip(skip).take(take))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_keeps_the_newest_records_within_its_bytes() {
        let mut tail = Tail::new(10, 3 * (RECORD_OVERHEAD_BYTES + 1));
        for byte in 0..5_u8 {
            tail.push(Bytes::from(vec![byte]));
        }
        assert_eq!(tail.first(), 12);
        let kept: Vec<(u64, u8)> = tail.range(13..15).map(|(at, record)| (at, record[0])).collect();
        assert_eq!(kept, [(13, 3), (14, 4)]);
    }

    #[test]
    fn a_record_larger_than_the_tail_passes_through() {
        let mut tail = Tail::new(0, 8);
        tail.push(Bytes::from(vec![0; 100]));
        assert_eq!((tail.first(), tail.range(1..1).count()), (1, 0));
    }
}
