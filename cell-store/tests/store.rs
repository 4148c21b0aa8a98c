//! One conformance suite for every engine of the view's store.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use cell_store::{
    Batch, Engine, FjallConfig, FjallStore, KEY_BYTES_MAX, MemoryStore, Scan, Store, StoreError,
    VALUE_BYTES_MAX, discard, engine_of, open,
};
use proptest::prelude::*;

const ON_DISK: [Engine; 2] = [Engine::Sled, Engine::Fjall];

/// Runs the check on every engine; the second argument closes the store, if it lives on disk, and opens it again.
fn each(check: impl Fn(Arc<dyn Store>, &dyn Fn(Arc<dyn Store>) -> Arc<dyn Store>)) {
    for engine in ON_DISK {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("view");
        check(open(engine, &dir).unwrap(), &|store| {
            drop(store);
            open(engine, &dir).unwrap()
        });
    }
    check(open(Engine::Memory, Path::new("")).unwrap(), &|store| store);
}

fn put(store: &dyn Store, keys: &[&'static str]) {
    let mut batch = Batch::new();
    keys.iter().for_each(|key| batch.put(*key, format!("value of {key}")));
    store.write(batch).unwrap();
}

fn keys(store: &dyn Store, scan: &Scan) -> Vec<String> {
    let pairs = store.scan(scan).unwrap();
    pairs.iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
}

#[test]
fn keys_come_in_order_both_ways_within_bounds_and_limits() {
    each(|store, _| {
        put(&*store, &["b/2", "a/1", "b/1", "c/1", "b/3"]);
        let b = || Scan::prefix("b/", 10);
        assert_eq!(keys(&*store, &b()), ["b/1", "b/2", "b/3"]);
        assert_eq!(keys(&*store, &b().reversed()), ["b/3", "b/2", "b/1"]);
        assert_eq!(keys(&*store, &b().after("b/1")), ["b/2", "b/3"]);
        assert_eq!(keys(&*store, &b().before("b/3").reversed()), ["b/2", "b/1"]);
        assert_eq!(keys(&*store, &Scan::prefix("b/", 2)), ["b/1", "b/2"]);
        assert_eq!(keys(&*store, &Scan::prefix("", 9)), ["a/1", "b/1", "b/2", "b/3", "c/1"]);
        assert!(keys(&*store, &b().after("b/9").before("b/1")).is_empty());
        assert!(keys(&*store, &Scan::prefix(vec![0xff], 9)).is_empty());
        assert!(keys(&*store, &Scan::prefix("b/", 0)).is_empty());
    });
}

#[test]
fn a_refused_batch_changes_nothing_and_the_limits_themselves_are_allowed() {
    each(|store, reopen| {
        put(&*store, &["kept"]);
        for (key, value) in [(1, VALUE_BYTES_MAX + 1), (KEY_BYTES_MAX + 1, 1)] {
            let mut batch = Batch::new();
            batch.put("new", "1");
            batch.delete("kept");
            batch.put(vec![b'k'; key], vec![0; value]);
            assert!(matches!(store.write(batch), Err(StoreError::TooLarge { .. })));
        }
        let mut batch = Batch::new();
        batch.delete("kept");
        batch.put("", "1");
        assert!(matches!(store.write(batch), Err(StoreError::EmptyKey)));
        assert_eq!(store.get(b"").unwrap(), None);
        assert_eq!(keys(&*store, &Scan::prefix("", 9)), ["kept"]);
        let mut batch = Batch::new();
        batch.put(vec![b'e'; KEY_BYTES_MAX], vec![7; VALUE_BYTES_MAX]);
        batch.delete("kept");
        store.write(batch).unwrap();
        let store = reopen(store);
        assert_eq!(store.get(&[b'e'; KEY_BYTES_MAX]).unwrap().unwrap(), vec![7; VALUE_BYTES_MAX]);
        assert_eq!(store.get(b"kept").unwrap(), None);
    });
}

#[test]
fn within_a_batch_the_last_write_of_a_key_wins() {
    each(|store, _| {
        let mut batch = Batch::new();
        batch.put("k", "1");
        batch.delete("k");
        batch.put("k", "2");
        batch.put("gone", "1");
        batch.delete("gone");
        store.write(batch).unwrap();
        assert_eq!(store.get(b"k").unwrap(), Some(Bytes::from("2")));
        assert_eq!(store.get(b"gone").unwrap(), None);
    });
}

#[test]
fn a_scan_never_sees_half_a_batch() {
    each(|store, _| {
        let done = Arc::new(AtomicBool::new(false));
        let (writer, stop) = (Arc::clone(&store), Arc::clone(&done));
        let thread = std::thread::spawn(move || {
            for round in 0..300_u32 {
                let mut batch = Batch::new();
                (0..20_u32)
                    .for_each(|key| batch.put(key.to_be_bytes().to_vec(), round.to_be_bytes().to_vec()));
                writer.write(batch).unwrap();
            }
            stop.store(true, Ordering::Release);
        });
        while !done.load(Ordering::Acquire) {
            let pairs = store.scan(&Scan::prefix("", 100)).unwrap();
            assert!(pairs.is_empty() || pairs.len() == 20);
            assert!(pairs.windows(2).all(|pair| pair[0].1 == pair[1].1));
        }
        thread.join().unwrap();
    });
}

#[test]
fn what_was_synced_is_there_after_reopening() {
    each(|store, reopen| {
        put(&*store, &["a", "b"]);
        store.sync().unwrap();
        let store = reopen(store);
        assert_eq!(store.get(b"b").unwrap(), Some(Bytes::from("value of b")));
        put(&*store, &["c"]);
        let mut batch = Batch::new();
        batch.delete("a");
        store.write(batch).unwrap();
        store.sync().unwrap();
        assert_eq!(keys(&*reopen(store), &Scan::prefix("", 9)), ["b", "c"]);
    });
}

type Write = Vec<(Vec<u8>, Option<Vec<u8>>)>;

fn small_key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(prop_oneof![Just(0), Just(1), Just(0x61), Just(0xfe), Just(0xff)], 1..4)
}

fn write() -> impl Strategy<Value = Write> {
    let value = proptest::option::weighted(0.7, proptest::collection::vec(any::<u8>(), 0..40));
    proptest::collection::vec((small_key(), value), 1..12)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn every_engine_answers_like_a_sorted_map(
        writes in proptest::collection::vec(write(), 1..25),
        scans in proptest::collection::vec((small_key(), small_key(), small_key(), any::<bool>(), 0..30usize), 1..25),
    ) {
        let mut model = BTreeMap::new();
        for (key, value) in writes.iter().flatten() {
            match value {
                Some(value) => drop(model.insert(key.clone(), value.clone())),
                None => drop(model.remove(key)),
            }
        }
        each(|store, reopen| {
            for write in &writes {
                let mut batch = Batch::new();
                for (key, value) in write {
                    match value {
                        Some(value) => batch.put(key.clone(), value.clone()),
                        None => batch.delete(key.clone()),
                    }
                }
                store.write(batch).unwrap();
            }
            let store = reopen(store);
            for (prefix, after, before, reverse, limit) in &scans {
                let whole = Scan { reverse: *reverse, ..Scan::prefix(prefix[..1].to_vec(), *limit) };
                let within = |key: &[u8]| key.starts_with(&prefix[..1]);
                assert_eq!(store.scan(&whole).unwrap(), expected(&model, &within, *reverse, *limit));
                let between = Scan { limit: *limit, reverse: *reverse, ..Scan::prefix("", 0) };
                let between = between.after(after.clone()).before(before.clone());
                let within = |key: &[u8]| &after[..] < key && key < &before[..];
                assert_eq!(store.scan(&between).unwrap(), expected(&model, &within, *reverse, *limit));
                assert_eq!(store.get(prefix).unwrap(), model.get(prefix).cloned().map(Bytes::from));
            }
        });
    }
}

fn expected(
    model: &BTreeMap<Vec<u8>, Vec<u8>>,
    within: &dyn Fn(&[u8]) -> bool,
    reverse: bool,
    limit: usize,
) -> Vec<(Bytes, Bytes)> {
    let mut pairs: Vec<_> = model
        .iter()
        .filter(|(key, _)| within(key))
        .map(|(key, value)| (Bytes::from(key.clone()), Bytes::from(value.clone())))
        .collect();
    if reverse {
        pairs.reverse();
    }
    pairs.truncate(limit);
    pairs
}

// === on disk ===

#[test]
fn a_folder_in_use_is_refused_by_name_and_not_discarded() {
    for engine in ON_DISK {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("view");
        let store = open(engine, &dir).unwrap();
        put(&*store, &["a"]);
        for other in ON_DISK {
            let error = open(other, &dir).unwrap_err();
            assert!(matches!(&error, StoreError::Held { folder } if *folder == dir));
            assert!(error.to_string().contains(&*dir.to_string_lossy()));
        }
        assert_eq!(discard(&dir).unwrap_err().kind(), ErrorKind::ResourceBusy);
        drop(store);
        assert_eq!(open(engine, &dir).unwrap().get(b"a").unwrap(), Some(Bytes::from("value of a")));
        discard(&dir).unwrap();
        discard(&dir).unwrap();
        assert_eq!(open(engine, &dir).unwrap().get(b"a").unwrap(), None);
    }
}

#[test]
fn a_folder_is_refused_to_another_engine_and_stays_as_it_is() {
    for (engine, other) in [(Engine::Sled, Engine::Fjall), (Engine::Fjall, Engine::Sled)] {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(engine_of(folder.path()).unwrap(), None);
        put(&*open(engine, folder.path()).unwrap(), &["a"]);
        let marker = folder.path().join("engine");
        for older_than_markers in [false, true] {
            if older_than_markers {
                std::fs::remove_file(&marker).unwrap();
            }
            assert_eq!(engine_of(folder.path()).unwrap(), Some(engine));
            let error = open(other, folder.path()).unwrap_err();
            assert!(
                matches!(error, StoreError::OtherEngine { found, asked, .. } if (found, asked) == (engine, other))
            );
        }
        assert!(open(engine, folder.path()).unwrap().get(b"a").unwrap().is_some());
        assert_eq!(std::fs::read_to_string(&marker).unwrap(), format!("{engine}\n"), "the marker is back");
    }
}

#[test]
fn a_marker_that_names_no_engine_or_one_whose_files_are_gone_is_damage() {
    for engine in ON_DISK {
        let folder = tempfile::tempdir().unwrap();
        drop(open(engine, folder.path()).unwrap());
        let marker = folder.path().join("engine");
        for other in ["", "nothing\n", if engine == Engine::Sled { "fjall\n" } else { "sled\n" }] {
            std::fs::write(&marker, other).unwrap();
            assert!(matches!(open(engine, folder.path()), Err(StoreError::Damaged(_))), "{other:?}");
        }
    }
}

#[test]
fn forty_thousand_pairs_survive_writing_out_merging_and_reopening() {
    // So small that the buffers are written out, and tables merged, many times over.
    let folder = tempfile::tempdir().unwrap();
    let config = FjallConfig { cache_bytes: 1 << 20, write_buffer_bytes: 128 << 10 };
    let key = |n: u32| (u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15)).to_be_bytes().to_vec();
    let store = FjallStore::open(folder.path(), &config).unwrap();
    for group in 0..1_000 {
        let mut batch = Batch::new();
        for n in group * 40..(group + 1) * 40 {
            batch.put(key(n), n.to_be_bytes().repeat(8));
            batch.delete(key(n.saturating_sub(20_000) / 2));
            batch.put(key(n), n.to_be_bytes().repeat(8));
        }
        store.write(batch).unwrap();
    }
    drop(store);
    let store = FjallStore::open(folder.path(), &config).unwrap();
    let deleted = 10_000;
    assert_eq!(store.scan(&Scan::prefix("", usize::MAX)).unwrap().len(), 40_000 - deleted);
    for n in 0..40_000 {
        let value = store.get(&key(n)).unwrap();
        assert_eq!(value.as_deref(), (n >= deleted as u32).then_some(&n.to_be_bytes().repeat(8)[..]), "{n}");
    }
}

// === sled alone ===

#[test]
fn pages_of_the_largest_values_stay_in_the_file_that_is_synced() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(Engine::Sled, folder.path()).unwrap();
    for round in 0..3_u8 {
        let mut batch = Batch::new();
        for key in 0..60_u32 {
            let mut key = key.to_be_bytes().to_vec();
            key.resize(KEY_BYTES_MAX, b'k');
            batch.put(key, vec![round; VALUE_BYTES_MAX]);
        }
        store.write(batch).unwrap();
        store.sync().unwrap();
    }
    let blobs = std::fs::read_dir(folder.path().join("blobs")).unwrap().count();
    assert_eq!(blobs, 0, "what lies there is never synced");
}

// === memory alone ===

#[test]
fn a_power_cut_takes_what_was_not_synced() {
    let store = MemoryStore::with_power_cuts();
    put(&store, &["a"]);
    store.sync().unwrap();
    put(&store, &["b"]);
    store.lose_unsynced();
    assert_eq!((store.get(b"a").unwrap().is_some(), store.get(b"b").unwrap()), (true, None));
}
