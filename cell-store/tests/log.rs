//! The log on a medium that loses power, tears writes and flips bits.

use std::io;
use std::sync::Arc;

use cell_store::{
    DamageReason, DiskMedium, FaultMedium, Log, LogConfig, LogError, Medium, MediumError, Position,
};
use proptest::prelude::*;

fn record(n: u64, len: usize) -> Vec<u8> {
    let mut record = n.to_le_bytes().to_vec();
    record.resize(8 + len, n as u8);
    record
}

fn open(medium: &FaultMedium, segment_bytes_max: u64) -> (Log, cell_store::Recovery) {
    let config = LogConfig { segment_bytes_max, recent_bytes_max: 200 };
    Log::open(Arc::new(medium.clone()), config).unwrap()
}

fn all(log: &Log) -> Vec<u64> {
    let (reader, mut at, mut found) = (log.reader(), log.reader().first(), Vec::new());
    loop {
        let records = reader.read(at, 300).unwrap();
        let Some((last, _)) = records.last() else {
            return found;
        };
        at = Position(last.0 + 1);
        found.extend(records.iter().map(|(position, record)| {
            assert_eq!(record[..8], position.0.to_le_bytes(), "a record is where it was put");
            position.0
        }));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn what_a_sync_covered_survives_every_power_cut_and_nothing_is_invented(
        seed: u64,
        groups in proptest::collection::vec((1..5usize, 0..900usize, any::<bool>()), 1..30),
    ) {
        let medium = FaultMedium::new(seed);
        let (mut log, _) = open(&medium, 4_000);
        let mut acknowledged = 0;
        for (count, len, sync) in groups {
            let next = log.durable().0;
            let records: Vec<_> = (0..count as u64).map(|i| record(next + i, len)).collect();
            log.append_group(&records).unwrap();
            if sync {
                acknowledged = log.sync().unwrap().0;
                continue;
            }
            // The group is under way when the power goes: it survives whole or not at all.
            medium.power_cut();
            let (again, recovery) = open(&medium, 4_000);
            prop_assert_eq!(&recovery.damage, &[]);
            let found = again.durable().0;
            prop_assert!(found == acknowledged || found == acknowledged + count as u64);
            acknowledged = found;
            log = again;
        }
        prop_assert_eq!(all(&log), (0..acknowledged).collect::<Vec<_>>());
    }
}

#[test]
fn a_flipped_bit_in_the_middle_is_named_and_everything_around_it_stays_readable() {
    let medium = FaultMedium::new(1);
    let (mut log, _) = open(&medium, 1_000_000);
    for n in 0..9 {
        log.append_group(&[record(n, 100)]).unwrap();
        log.sync().unwrap();
    }
    let name = medium.list().unwrap().pop().unwrap();
    let frame = medium.len(&name).unwrap() / 9;
    medium.flip_bit(&name, frame * 4 + 60, 3).unwrap();
    let (log, recovery) = open(&medium, 1_000_000);
    assert_eq!(recovery.damage.len(), 1);
    assert_eq!((recovery.damage[0].lost.clone(), recovery.damage[0].reason), (4..5, DamageReason::Checksum));
    assert_eq!(recovery.records, 8);
    let reader = log.reader();
    assert_eq!(reader.read(Position(0), 10_000).unwrap().len(), 4);
    assert!(matches!(reader.read(Position(4), 100), Err(LogError::Damaged { lost }) if lost == (4..5)));
    assert_eq!(reader.read(Position(5), 10_000).unwrap().len(), 4);
    assert_eq!(log.durable(), Position(9));
}

#[test]
fn a_deleted_segment_is_missing_and_not_a_shorter_log() {
    let medium = FaultMedium::new(1);
    let (mut log, _) = open(&medium, 300);
    for n in 0..9 {
        log.append_group(&[record(n, 100)]).unwrap();
        log.sync().unwrap();
    }
    let mut names = medium.list().unwrap();
    names.sort();
    assert!(names.len() >= 4);
    medium.delete(&names[1]).unwrap();
    let (log, recovery) = open(&medium, 300);
    assert_eq!(recovery.damage[0].reason, DamageReason::Missing);
    assert!(log.reader().read(Position(recovery.damage[0].lost.start), 100).is_err());
    assert_eq!(log.durable(), Position(9));
}

#[test]
fn a_failed_sync_poisons_the_log() {
    let medium = FaultMedium::new(1);
    let (mut log, _) = open(&medium, 1_000);
    log.append_group(&[record(0, 1)]).unwrap();
    log.sync().unwrap();
    log.append_group(&[record(1, 1)]).unwrap();
    medium.fail_next_sync();
    assert!(matches!(log.sync(), Err(LogError::Io { what: "sync", .. })));
    assert!(matches!(log.sync(), Err(LogError::Poisoned)));
    assert!(matches!(log.append_group(&[record(2, 1)]), Err(LogError::Poisoned)));
    assert_eq!(
        log.reader().read(Position(0), 1_000).unwrap().len(),
        1,
        "nothing beyond the durable position"
    );
}

#[test]
fn a_full_disk_refuses_the_group_and_the_log_goes_on_when_there_is_room() {
    let medium = FaultMedium::new(1);
    let (mut log, _) = open(&medium, 1_000_000);
    log.append_group(&[record(0, 1)]).unwrap();
    medium.fail_next_append(io::ErrorKind::StorageFull);
    assert!(matches!(log.append_group(&[record(1, 1)]), Err(LogError::Io { what: "append", .. })));
    log.append_group(&[record(1, 1)]).unwrap();
    log.sync().unwrap();
    assert_eq!(all(&log), [0, 1]);
    let (log, recovery) = open(&medium, 1_000_000);
    assert_eq!((all(&log), recovery.damage.len(), recovery.cut_bytes), (vec![0, 1], 0, 0));
}

#[test]
fn old_segments_are_deleted_whole_and_reading_them_says_so() {
    let medium = FaultMedium::new(1);
    let (mut log, _) = open(&medium, 300);
    for n in 0..9 {
        log.append_group(&[record(n, 100)]).unwrap();
        log.sync().unwrap();
    }
    log.delete_before(Position(5)).unwrap();
    let first = log.reader().first();
    assert!(first.0 > 0 && first.0 <= 5);
    assert!(
        matches!(log.reader().read(Position(0), 10), Err(LogError::Deleted { first: at }) if at == first)
    );
    let (log, recovery) = open(&medium, 300);
    assert_eq!((log.reader().first(), recovery.damage.len()), (first, 0));
    assert_eq!(log.durable(), Position(9));
}

#[test]
fn a_reader_in_another_thread_sees_every_record_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let config = LogConfig { segment_bytes_max: 3_000, recent_bytes_max: 500 };
    let (mut log, _) = Log::open(Arc::new(DiskMedium::open(folder.path()).unwrap()), config).unwrap();
    let reader = log.reader();
    let tail = std::thread::spawn(move || {
        let mut next = 0;
        while next < 200 {
            for (position, record) in reader.read(Position(next), 700).unwrap() {
                assert_eq!((position.0, &record[..8]), (next, &next.to_le_bytes()[..]));
                next += 1;
            }
            std::thread::yield_now();
        }
    });
    for n in 0..100 {
        log.append_group(&[record(n * 2, 20), record(n * 2 + 1, 20)]).unwrap();
        log.sync().unwrap();
    }
    tail.join().unwrap();
}

#[test]
fn a_second_process_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let _held = DiskMedium::open(folder.path()).unwrap();
    let error = DiskMedium::open(folder.path()).unwrap_err();
    assert!(matches!(&error, MediumError::Held { folder: held } if held == folder.path()), "{error}");
}
