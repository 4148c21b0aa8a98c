//! SIGKILL while buffers of all kinds are written out: no batch is half over the keyspaces, and no start is refused.

#[path = "support/child.rs"]
mod child;

use std::io::Write;
use std::path::Path;

use cell_store::{Batch, FjallConfig, FjallStore, Scan, Store};

const FOLDER: &str = "CELL_STORE_KINDS_FOLDER";
const KINDS: &[u8] = b"adekmruxz";

fn config() -> FjallConfig {
    FjallConfig { cache_bytes: 1 << 20, write_buffer_bytes: 16 << 10 }
}

/// How much of each kind differs from batch to batch, so that buffers are full at different times.
fn batch(n: u64) -> Batch {
    let mut batch = Batch::new();
    for (nth, kind) in KINDS.iter().enumerate() {
        let bytes = 8 + (n.wrapping_mul(2_654_435_761) >> nth) as usize % 200 * (nth % 3);
        let mut value = n.to_be_bytes().to_vec();
        value.resize(bytes.max(8), *kind);
        batch.put([&[*kind, b'/'][..], &n.to_be_bytes()].concat(), value);
        if n.is_multiple_of(3) && n > 30 {
            batch.delete([&[*kind, b'/'][..], &(n - 30).to_be_bytes()].concat());
        }
    }
    batch.put("m.applied", (n + 1).to_be_bytes().to_vec());
    batch
}

fn applied(store: &FjallStore) -> u64 {
    let bytes = store.get(b"m.applied").unwrap();
    bytes.map_or(0, |bytes| u64::from_be_bytes(bytes[..].try_into().unwrap()))
}

fn check(store: &FjallStore) {
    let applied = applied(store);
    let expected: Vec<u64> =
        (0..applied).filter(|n| !(n.is_multiple_of(3) && n + 30 < applied && *n > 0)).collect();
    for kind in KINDS {
        let found = store.scan(&Scan::prefix(vec![*kind, b'/'], usize::MAX)).unwrap();
        let found: Vec<u64> =
            found.iter().map(|(key, _)| u64::from_be_bytes(key[2..].try_into().unwrap())).collect();
        assert_eq!(found.len(), expected.len(), "kind {}, applied {applied}", *kind as char);
        assert_eq!(found, expected, "kind {}", *kind as char);
    }
}

#[test]
fn the_child_writes_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let store = FjallStore::open(Path::new(&folder), &config()).unwrap();
    let mut out = std::io::stdout().lock();
    for n in applied(&store).. {
        store.write(batch(n)).unwrap();
        if n.is_multiple_of(64) {
            writeln!(out, "\nat {n}").unwrap();
            out.flush().unwrap();
        }
    }
}

#[test]
fn after_sigkill_no_batch_is_half_over_the_keyspaces() {
    let folder = tempfile::tempdir().unwrap();
    for round in 0..8_u64 {
        let variables = [(FOLDER, folder.path().as_os_str())];
        let (mut child, mut lines) = child::start("the_child_writes_until_it_is_killed", &variables);
        let (mut seen, enough) = (0, 3 + round * 7 % 11);
        while seen < enough {
            match lines.next() {
                Some(line) if line.starts_with("at ") => seen += 1,
                Some(_) => {}
                None => break,
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        check(&FjallStore::open(folder.path(), &config()).unwrap());
    }
}
