//! What fjall does not verify when it opens, verified before it does: it would cut, skip or delete what it cannot read.
//!
//! - Manifests have a checksum beside them that fjall writes and does not compare.
//! - A journal is read up to the first batch that cannot be decoded, and cut there. At the end of the last journal that is
//!   a torn write; anywhere else it is damage, and what comes behind it would be applied over a hole. A batch's sequence
//!   number is outside its checksum: it has to be above those before it.
//!
//! The formats are fjall 3.1's. A journal is a file of batches and zeros behind them; a batch, little-endian:
//!
//! | part | bytes |
//! |---|---|
//! | start | 1 · count 4 · sequence number 8 |
//! | each item | 2 · kind 1 · compression 1 · keyspace 8 · key bytes 2 · value bytes 4 · the same again 4 · key · value |
//! | end | 3 · xxh3 of all items 8 · `FJL` 3 |

use std::fs::File;
use std::io;
use std::path::Path;

use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use crate::store::StoreError;
use crate::store::fence::file_error;

const END_MAGIC: [u8; 4] = *b"FJL\x03";
const ITEM_HEAD_BYTES: usize = 21;
const PAGE_BYTES: usize = 4096;
const ZEROS: [u8; PAGE_BYTES] = [0; PAGE_BYTES];

/// Everything that has to be in a complete folder is, and says what fjall wrote. Returns the last sequence number in the
/// journals.
pub(super) fn verify(home: &Path) -> Result<Option<u64>, StoreError> {
    let at = |name: &Path, error: &io::Error| match file_error(error) {
        StoreError::Damaged(what) => StoreError::Damaged(format!("'{}': {what}", name.display())),
        other => other,
    };
    let version = home.join("version");
    std::fs::metadata(&version).map_err(|error| at(&version, &error))?;
    let keyspaces = home.join("keyspaces");
    for entry in std::fs::read_dir(&keyspaces).map_err(|error| at(&keyspaces, &error))? {
        let path = entry.map_err(|error| at(&keyspaces, &error))?.path();
        if path.is_dir() {
            manifest(&path).map_err(|error| at(&path, &error))?;
        }
    }
    journals(home).map_err(|error| at(home, &error))
}

fn damaged(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

/// `current`: number of the manifest 8, its xxh3 16, kind of checksum 1.
fn manifest(keyspace: &Path) -> io::Result<()> {
    let current = std::fs::read(keyspace.join("current"))?;
    let parts = current.split_first_chunk().and_then(|(id, rest)| Some((id, rest.split_first_chunk()?)));
    let Some((id, (checksum, [0]))) = parts else { return Err(damaged("its file 'current' is none")) };
    let name = format!("v{}", u64::from_le_bytes(*id));
    if xxh3_128(&std::fs::read(keyspace.join(&name))?) != u128::from_le_bytes(*checksum) {
        return Err(damaged(format!("the checksum of '{name}' is not the one in 'current'")));
    }
    Ok(())
}

pub(super) fn journal_name(id: u64) -> String {
    format!("{id}.jnl")
}

/// Of every journal, the one being written last.
pub(super) fn journal_ids(home: &Path) -> io::Result<Vec<u64>> {
    let mut ids = Vec::new();
    for entry in std::fs::read_dir(home)? {
        let name = entry?.file_name();
        if let Some(stem) = name.to_string_lossy().strip_suffix(".jnl") {
            let id = stem.parse::<u64>().map_err(|_| damaged(format!("'{stem}.jnl' is no journal")))?;
            ids.push(id);
        }
    }
    ids.sort_unstable();
    Ok(ids)
}

fn journals(home: &Path) -> io::Result<Option<u64>> {
    let ids = journal_ids(home)?;
    let Some(last) = ids.last().copied() else { return Err(damaged("its journal is missing")) };
    if ids.windows(2).any(|pair| pair[0] + 1 != pair[1]) {
        return Err(damaged("a journal between two others is missing"));
    }
    let mut before = None;
    for id in ids {
        let name = journal_name(id);
        let bytes = std::fs::read(home.join(&name))?;
        let end = journal(&bytes, &mut before).map_err(|at| damaged(format!("'{name}' at byte {at}")))?;
        let rest = without_zeros(&bytes[end..]);
        if rest.is_empty() {
            continue;
        }
        // In the last one a crash may have torn what was written last, and that alone.
        if id != last || holds_batch(rest, before) {
            return Err(damaged(format!("'{name}' at byte {end}")));
        }
        // fjall cuts only some kinds of tears, and refuses to open on the others.
        let file = File::options().write(true).open(home.join(&name))?;
        file.set_len(end as u64)?;
        file.sync_all()?;
    }
    Ok(before)
}

/// Where the batches end; `Err` where a sequence number does not come after the one before it.
fn journal(bytes: &[u8], before: &mut Option<u64>) -> Result<usize, usize> {
    let mut at = 0;
    while let Some((sequence, length)) = batch(&bytes[at..]) {
        if before.is_some_and(|before| sequence <= before) {
            return Err(at);
        }
        *before = Some(sequence);
        at += length;
    }
    Ok(at)
}

/// Without the zeros at the end, to the page. Journals are made 64 MiB long, so they are compared by the page.
fn without_zeros(bytes: &[u8]) -> &[u8] {
    let written = bytes.chunks(PAGE_BYTES).rposition(|page| page != &ZEROS[..page.len()]);
    &bytes[..written.map_or(0, |page| bytes.len().min((page + 1) * PAGE_BYTES))]
}

/// Whether a whole batch stands somewhere in `bytes` that belongs behind what was read.
fn holds_batch(bytes: &[u8], before: Option<u64>) -> bool {
    let starts = bytes.iter().enumerate().filter(|(_, byte)| **byte == 1);
    starts.into_iter().any(|(at, _)| batch(&bytes[at..]).is_some_and(|(sequence, _)| Some(sequence) > before))
}

/// Sequence number and length of the batch that begins here.
fn batch(bytes: &[u8]) -> Option<(u64, usize)> {
    let mut rest = bytes;
    let [1] = take(&mut rest)? else { return None };
    let count = u32::from_le_bytes(take(&mut rest)?);
    let sequence = u64::from_le_bytes(take(&mut rest)?);
    let items = rest;
    for _ in 0..count {
        let head: [u8; ITEM_HEAD_BYTES] = take(&mut rest)?;
        let [2, _, 0, ..] = head else { return None };
        let key = u16::from_le_bytes([head[11], head[12]]);
        let value = u32::from_le_bytes([head[13], head[14], head[15], head[16]]);
        let stored = u32::from_le_bytes([head[17], head[18], head[19], head[20]]);
        if value != stored {
            return None;
        }
        rest = rest.get(usize::from(key) + value as usize..)?;
    }
    let hash = xxh3_64(&items[..items.len() - rest.len()]);
    let [3] = take(&mut rest)? else { return None };
    let right = u64::from_le_bytes(take(&mut rest)?) == hash;
    let whole = right && take(&mut rest)? == END_MAGIC;
    whole.then_some((sequence, bytes.len() - rest.len()))
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk()?;
    *bytes = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(sequence: u64, value: &[u8]) -> Vec<u8> {
        let mut item = vec![2, 0, 0];
        item.extend(1_u64.to_le_bytes());
        item.extend(3_u16.to_le_bytes());
        item.extend((value.len() as u32).to_le_bytes());
        item.extend((value.len() as u32).to_le_bytes());
        item.extend(b"key");
        item.extend(value);
        let mut bytes = vec![1];
        bytes.extend(1_u32.to_le_bytes());
        bytes.extend(sequence.to_le_bytes());
        bytes.extend(&item);
        bytes.push(3);
        bytes.extend(xxh3_64(&item).to_le_bytes());
        bytes.extend(END_MAGIC);
        bytes
    }

    fn folder(journals: &[Vec<u8>]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (id, bytes) in journals.iter().enumerate() {
            std::fs::write(folder.path().join(format!("{id}.jnl")), bytes).unwrap();
        }
        folder
    }

    fn two() -> [Vec<u8>; 2] {
        let zeros = vec![0; 3 * PAGE_BYTES + 7];
        let first = [written(4, b"one"), written(5, b"two"), zeros.clone()].concat();
        [first, [written(9, b"three"), written(10, b"four"), zeros].concat()]
    }

    #[test]
    fn journals_of_batches_with_zeros_behind_them_pass_untouched() {
        let folder = folder(&two());
        assert_eq!(journals(folder.path()).unwrap(), Some(10));
        assert_eq!(std::fs::read(folder.path().join("1.jnl")).unwrap(), two()[1]);
    }

    #[test]
    fn the_torn_end_of_the_last_journal_is_cut_behind_the_last_whole_batch() {
        let [first, _] = two();
        let kept = written(9, b"three");
        for torn in 1..written(10, b"four").len() {
            let last = [&kept[..], &written(10, b"four")[..torn], &[0; 99]].concat();
            let folder = folder(&[first.clone(), last]);
            journals(folder.path()).unwrap();
            assert_eq!(std::fs::read(folder.path().join("1.jnl")).unwrap(), kept);
        }
    }

    #[test]
    fn every_flipped_bit_before_the_last_batch_is_damage() {
        let journal_ends = [written(4, b"one").len() * 2, written(9, b"three").len()];
        for (id, end) in journal_ends.into_iter().enumerate() {
            for bit in 0..end * 8 {
                let mut bytes = two();
                bytes[id][bit / 8] ^= 1 << (bit % 8);
                let flipped = folder(&bytes);
                let result = journals(flipped.path());
                // The kind of an item and its keyspace are under the checksum; so is everything but the sequence
                // number, and of that only what puts batches out of order can be seen.
                let sequence = bit / 8 % (end / (2 - id)) >= 5 && bit / 8 % (end / (2 - id)) < 13;
                assert!(result.is_err() || sequence, "journal {id}, bit {bit}");
            }
        }
    }

    #[test]
    fn a_missing_journal_is_damage_unless_it_is_the_oldest() {
        let [first, second] = two();
        let third = written(20, b"five");
        let missing = |name: &str| {
            let folder = folder(&[first.clone(), second.clone(), third.clone()]);
            std::fs::remove_file(folder.path().join(name)).unwrap();
            journals(folder.path())
        };
        missing("1.jnl").unwrap_err();
        missing("0.jnl").unwrap();
        journals(tempfile::tempdir().unwrap().path()).unwrap_err();
    }
}
