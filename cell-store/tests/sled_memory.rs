//! What sled keeps in memory is bounded by its cache, not by what was ever written. Alone in its process: it is the process
//! that is measured.

use std::fs;

use cell_store::{Batch, SledConfig, SledStore, Store};

const BATCHES: u64 = 100;
const KEYS: u64 = 1_000;
const MIB: u64 = 1 << 20;

fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("the system says what this process takes");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("a line of it");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn what_was_replaced_is_freed_as_fast_as_batches_replace_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let store = SledStore::open(folder.path(), &SledConfig { cache_bytes: 8 * MIB }).expect("open");
    let before = resident_bytes();
    for of in 0..BATCHES {
        let mut batch = Batch::new();
        for key in 0..KEYS {
            // Spread over the whole tree, so that each key is in a page of its own.
            let key = (of * KEYS + key).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            batch.put(key.to_be_bytes().to_vec(), vec![7; 300]);
        }
        store.write(batch).expect("write");
    }
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 150 * MIB, "{BATCHES} batches of {KEYS} keys left {} MiB in memory", grown / MIB);
}
