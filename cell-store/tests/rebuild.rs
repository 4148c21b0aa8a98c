//! Log and view together: the view follows the log by its applied position, whatever was lost in between.

use std::sync::Arc;

use bytes::Bytes;
use cell_store::{
    Batch, Engine, FaultMedium, Log, LogConfig, LogReader, MemoryStore, Position, Scan, Store, StoreError,
    open,
};
use proptest::prelude::*;

const APPLIED: &str = "applied";

fn reopen(medium: &FaultMedium) -> Log {
    let config = LogConfig { segment_bytes_max: 1_500, recent_bytes_max: 400, ..LogConfig::default() };
    let (log, recovery) = Log::open(Arc::new(medium.clone()), config).unwrap();
    assert!(recovery.is_clean(), "{recovery:?}");
    log
}

/// Applies one record: it is found under its number, the last seven are indexed, and the position goes with it.
fn apply(batch: &mut Batch, position: Position, record: &Bytes) {
    batch.put([b"r", &position.0.to_be_bytes()[..]].concat(), record.clone());
    batch.put(vec![b'i', (position.0 % 7) as u8], position.0.to_be_bytes().to_vec());
    batch.put(APPLIED, position.plus(1).0.to_be_bytes().to_vec());
}

fn applied(store: &dyn Store) -> Result<Position, StoreError> {
    let bytes = store.get(APPLIED.as_bytes())?;
    Ok(Position(bytes.map_or(0, |bytes| u64::from_be_bytes(bytes[..].try_into().unwrap()))))
}

/// Brings the view up to the durable end of the log.
fn replay(log: &LogReader, store: &dyn Store) {
    loop {
        let records = log.read(applied(store).unwrap(), 700).unwrap();
        if records.is_empty() {
            return;
        }
        let mut batch = Batch::new();
        records.iter().for_each(|(position, record)| apply(&mut batch, *position, record));
        store.write(batch).unwrap();
    }
}

fn contents(store: &dyn Store) -> Vec<(Bytes, Bytes)> {
    store.scan(&Scan::prefix("", usize::MAX)).unwrap()
}

fn append(log: &mut Log, count: u64) {
    let next = log.next().0;
    let records: Vec<_> = (next..next + count).map(|n| n.to_be_bytes().repeat(10)).collect();
    log.append_group(&records).unwrap();
}

#[test]
fn a_view_rebuilt_from_the_log_alone_equals_the_one_kept_up_to_date_on_every_engine() {
    let medium = FaultMedium::new(1);
    let mut log = reopen(&medium);
    let folder = tempfile::tempdir().unwrap();
    let followers = [
        Arc::new(MemoryStore::new()),
        open(Engine::Sled, &folder.path().join("sled")).unwrap(),
        open(Engine::Fjall, &folder.path().join("fjall")).unwrap(),
    ];
    for group in 0..60 {
        append(&mut log, 1 + group % 5);
        log.sync().unwrap();
        followers.iter().for_each(|store| replay(&log.reader(), &**store));
    }
    for engine in [Engine::Sled, Engine::Fjall] {
        let rebuilt = open(engine, &folder.path().join(format!("{engine} rebuilt"))).unwrap();
        replay(&log.reader(), &*rebuilt);
        assert_eq!(applied(&*rebuilt).unwrap(), log.durable());
        for store in &followers {
            assert_eq!(contents(&**store), contents(&*rebuilt));
        }
    }
}

#[derive(Debug, Clone)]
enum Step {
    Commit(u64),
    AppendOnly(u64),
    Apply,
    SyncView,
    PowerCut,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        5 => (1..6u64).prop_map(Step::Commit),
        1 => (1..6u64).prop_map(Step::AppendOnly),
        4 => Just(Step::Apply),
        2 => Just(Step::SyncView),
        2 => Just(Step::PowerCut),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn after_power_cuts_a_replay_from_the_applied_position_gives_the_view_of_the_whole_log(
        seed: u64,
        steps in proptest::collection::vec(step(), 1..50),
    ) {
        let medium = FaultMedium::new(seed);
        let view = MemoryStore::with_power_cuts();
        let mut log = reopen(&medium);
        for step in steps {
            match step {
                Step::Commit(count) => {
                    append(&mut log, count);
                    log.sync().unwrap();
                }
                Step::AppendOnly(count) => append(&mut log, count),
                Step::Apply => replay(&log.reader(), &view),
                Step::SyncView => view.sync().unwrap(),
                Step::PowerCut => {
                    drop(log);
                    medium.power_cut();
                    view.lose_unsynced();
                    log = reopen(&medium);
                    prop_assert!(applied(&view).unwrap() <= log.durable(), "the view is never ahead of the log");
                }
            }
        }
        replay(&log.reader(), &view);
        let rebuilt = MemoryStore::new();
        replay(&log.reader(), &rebuilt);
        prop_assert_eq!(applied(&view).unwrap(), log.durable());
        prop_assert_eq!(contents(&view), contents(&rebuilt));
    }
}
