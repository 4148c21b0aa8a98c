//! One conformance suite for every engine.

use std::sync::Arc;

use bytes::Bytes;
use cell_store::{Batch, Engine, MemoryStore, Scan, Store, StoreError, VALUE_BYTES_MAX, open};

fn each(check: impl Fn(Arc<dyn Store>)) {
    for engine in [Engine::Sled, Engine::Memory] {
        let folder = tempfile::tempdir().unwrap();
        check(open(engine, &folder.path().join("view")).unwrap());
    }
}

fn put(store: &dyn Store, keys: &[&str]) {
    let mut batch = Batch::new();
    keys.iter().for_each(|key| batch.put(key.as_bytes().to_vec(), format!("value of {key}").into_bytes()));
    store.write(batch).unwrap();
}

fn keys(store: &dyn Store, scan: &Scan) -> Vec<String> {
    let pairs = store.scan(scan).unwrap();
    pairs.iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
}

#[test]
fn keys_come_in_order_both_ways_within_bounds_and_limits() {
    each(|store| {
        put(&*store, &["b/2", "a/1", "b/1", "c/1", "b/3"]);
        let b = || Scan::prefix("b/".as_bytes(), 10);
        assert_eq!(keys(&*store, &b()), ["b/1", "b/2", "b/3"]);
        assert_eq!(keys(&*store, &b().reversed()), ["b/3", "b/2", "b/1"]);
        assert_eq!(keys(&*store, &b().after("b/1".as_bytes())), ["b/2", "b/3"]);
        assert_eq!(keys(&*store, &b().before("b/3".as_bytes()).reversed()), ["b/2", "b/1"]);
        assert_eq!(keys(&*store, &Scan::prefix("b/".as_bytes(), 2)), ["b/1", "b/2"]);
        assert_eq!(
            keys(&*store, &b().after("b/9".as_bytes()).before("b/1".as_bytes())),
            Vec::<String>::new()
        );
        assert_eq!(keys(&*store, &Scan::prefix(vec![0xff], 9)), Vec::<String>::new());
    });
}

#[test]
fn a_batch_takes_effect_whole_or_not_at_all() {
    each(|store| {
        put(&*store, &["kept"]);
        let mut batch = Batch::new();
        batch.put("new".as_bytes(), "1".as_bytes());
        batch.delete("kept".as_bytes());
        batch.put("large".as_bytes(), vec![0; VALUE_BYTES_MAX + 1]);
        assert!(matches!(store.write(batch), Err(StoreError::TooLarge { what: "value", .. })));
        assert_eq!(store.get(b"new").unwrap(), None);
        assert_eq!(store.get(b"kept").unwrap(), Some(Bytes::from("value of kept")));
        let mut batch = Batch::new();
        batch.put("edge".as_bytes(), vec![7; VALUE_BYTES_MAX]);
        batch.delete("kept".as_bytes());
        store.write(batch).unwrap();
        assert_eq!(store.get(b"edge").unwrap().unwrap().len(), VALUE_BYTES_MAX);
        assert_eq!(store.get(b"kept").unwrap(), None);
    });
}

#[test]
fn within_a_batch_the_last_write_of_a_key_wins() {
    each(|store| {
        let mut batch = Batch::new();
        batch.put("k".as_bytes(), "1".as_bytes());
        batch.delete("k".as_bytes());
        batch.put("k".as_bytes(), "2".as_bytes());
        store.write(batch).unwrap();
        assert_eq!(store.get(b"k").unwrap(), Some(Bytes::from("2")));
    });
}

#[test]
fn what_was_synced_is_there_after_reopening_and_a_second_opener_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("view");
    let store = open(Engine::Sled, &dir).unwrap();
    put(&*store, &["a", "b"]);
    store.sync().unwrap();
    assert!(matches!(open(Engine::Sled, &dir), Err(StoreError::Held { folder }) if folder == dir));
    drop(store);
    let store = open(Engine::Sled, &dir).unwrap();
    assert_eq!(store.get(b"b").unwrap(), Some(Bytes::from("value of b")));
}

#[test]
fn a_power_cut_takes_what_was_not_synced() {
    let store = MemoryStore::with_power_cuts();
    put(&store, &["a"]);
    store.sync().unwrap();
    put(&store, &["b"]);
    store.lose_unsynced();
    assert_eq!((store.get(b"a").unwrap().is_some(), store.get(b"b").unwrap()), (true, None));
}
