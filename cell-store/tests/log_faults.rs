//! The log on a medium that loses power, tears writes, fails, and flips bits.

mod support;

use std::io::ErrorKind;
use std::sync::Arc;

use cell_store::{DamageReason, FaultMedium, Log, LogConfig, LogError, Medium, Position};
use proptest::prelude::*;
use support::{log_of, read_all, record, reopen, segments, small_segments, sole_segment};

fn group(next: u64, records: &[usize]) -> Vec<Vec<u8>> {
    (next..).zip(records).map(|(n, bytes)| record(n, *bytes)).collect()
}

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<usize>),
    Sync,
    PowerCut,
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::collection::vec(8..1_500usize, 1..6).prop_map(Step::Append),
        4 => Just(Step::Sync),
        2 => Just(Step::PowerCut),
        1 => Just(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn after_any_power_cut_every_synced_record_is_there_and_what_is_there_is_a_prefix_of_what_was_written(
        seed: u64,
        segment_bytes_max in 600..20_000u64,
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let config = LogConfig { segment_bytes_max, recent_bytes_max: 500, ..LogConfig::default() };
        let medium = FaultMedium::new(seed);
        let (mut log, _) = reopen(&medium, config);
        for step in steps {
            match step {
                Step::Append(sizes) => drop(log.append_group(&group(log.next().0, &sizes)).unwrap()),
                Step::Sync => drop(log.sync().unwrap()),
                Step::PowerCut | Step::Restart => {
                    let (durable, written) = (log.durable(), log.next());
                    drop(log);
                    if matches!(step, Step::PowerCut) {
                        medium.power_cut();
                    }
                    let (again, recovery) = reopen(&medium, config);
                    prop_assert_eq!(&recovery.damage, &[]);
                    prop_assert!(durable <= recovery.next && recovery.next <= written);
                    prop_assert_eq!(recovery.records, recovery.next.0);
                    prop_assert_eq!(read_all(&again), (0..recovery.next.0).collect::<Vec<_>>());
                    // What was called durable at the opening must itself survive the next power cut.
                    medium.power_cut();
                    let (twice, _) = reopen(&medium, config);
                    prop_assert_eq!(twice.next(), again.next());
                    log = twice;
                }
            }
        }
    }
}

#[test]
fn a_torn_last_frame_is_cut_wherever_it_tears() {
    let medium = FaultMedium::new(1);
    let mut log = log_of(&medium, LogConfig::default(), 10);
    let name = sole_segment(&medium);
    let whole = medium.len(&name).unwrap();
    log.append_group(&group(10, &[700, 900, 1_100])).unwrap();
    let torn = medium.len(&name).unwrap();
    let every_sector = (whole..torn).filter(|cut| cut % 512 == 0);
    for cut in every_sector.chain(whole..whole + 60).chain(torn - 60..torn) {
        let broken = medium.fork(cut);
        broken.truncate(&name, cut).unwrap();
        let (mut log, recovery) = reopen(&broken, LogConfig::default());
        assert_eq!((recovery.next, recovery.cut_bytes), (Position(10), cut - whole), "torn at {cut}");
        assert_eq!(recovery.damage, []);
        log.append_group(&group(10, &[50, 50])).unwrap();
        log.sync().unwrap();
        assert_eq!(read_all(&log), (0..12).collect::<Vec<_>>());
    }
}

#[test]
fn a_torn_end_whose_length_got_through_but_not_its_bytes_is_cut() {
    let medium = FaultMedium::new(1);
    let mut log = log_of(&medium, LogConfig::default(), 10);
    let name = sole_segment(&medium);
    let whole = medium.len(&name).unwrap();
    for next in 10..14 {
        log.append_group(&group(next, &[2_000])).unwrap();
    }
    // Of four unsynced frames the first is lost and the others are whole: still nobody was promised any of them.
    medium.zero(&name, whole..whole + 512).unwrap();
    let (log, recovery) = reopen(&medium, LogConfig::default());
    assert_eq!((recovery.next, recovery.damage.len()), (Position(10), 0));
    assert_eq!(read_all(&log), (0..10).collect::<Vec<_>>());
}

#[test]
fn damage_before_the_end_is_named_with_its_records_and_the_rest_stays_readable() {
    let medium = FaultMedium::new(1);
    let (mut log, _) = reopen(&medium, LogConfig::default());
    for next in 0..9 {
        log.append_group(&group(next, &[100])).unwrap();
        log.sync().unwrap();
    }
    let name = sole_segment(&medium);
    let frame = medium.len(&name).unwrap() / 9;
    medium.flip_bit(&name, frame * 4 + 60, 3).unwrap();
    let (mut log, recovery) = reopen(&medium, LogConfig::default());
    let [damage] = &recovery.damage[..] else { panic!("{recovery:?}") };
    assert_eq!(
        (damage.lost.clone(), damage.offset, damage.reason),
        (4..5, frame * 4, DamageReason::Checksum)
    );
    assert_eq!((damage.segment.as_str(), recovery.records, recovery.cut_bytes), (&*name, 8, 0));
    let reader = log.reader();
    assert_eq!(reader.read(Position(0), 10_000).unwrap().len(), 4);
    assert!(matches!(reader.read(Position(4), 100), Err(LogError::Damaged { lost }) if lost == (4..5)));
    assert!(matches!(reader.get(Position(4)), Err(LogError::Damaged { .. })), "damaged is not absent");
    log.append_group(&group(9, &[100])).unwrap();
    log.sync().unwrap();
    assert_eq!(read_all(&log), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
    let (_, again) = reopen(&medium, LogConfig::default());
    assert_eq!(again.damage, recovery.damage, "it stays known");
}

#[test]
fn whichever_bit_flips_no_record_is_served_changed_and_none_is_lost_unnamed() {
    let medium = FaultMedium::new(1);
    let total = 12;
    drop(log_of(
        &medium,
        LogConfig { segment_bytes_max: 400, recent_bytes_max: 0, ..LogConfig::default() },
        total,
    ));
    let names = segments(&medium);
    assert!(names.len() > 1);
    for (index, name) in names.iter().enumerate() {
        let last_segment = index + 1 == names.len();
        for offset in 0..medium.len(name).unwrap() {
            let broken = medium.fork(offset);
            broken.flip_bit(name, offset, offset as u8).unwrap();
            let (log, recovery) = reopen(
                &broken,
                LogConfig { segment_bytes_max: 400, recent_bytes_max: 0, ..LogConfig::default() },
            );
            let lost = |n: &u64| recovery.damage.iter().any(|damage| damage.lost.contains(n));
            let expected: Vec<u64> = (0..recovery.next.0).filter(|n| !lost(n)).collect();
            assert_eq!(read_all(&log), expected, "byte {offset} of {name}");
            // A flip in the very last frame looks like a torn write, and is reported as one.
            let cut = recovery.next.0 < total;
            assert!(!cut || (last_segment && recovery.cut_bytes > 0));
            assert!(cut || recovery.damage.len() == 1, "a flip is always noticed: byte {offset} of {name}");
        }
    }
}

#[test]
fn a_bit_that_flips_while_the_log_is_open_is_noticed_by_the_reader() {
    let config = LogConfig { recent_bytes_max: 0, ..LogConfig::default() };
    let medium = FaultMedium::new(1);
    let log = log_of(&medium, config, 30);
    let name = sole_segment(&medium);
    let len = medium.len(&name).unwrap();
    for offset in (0..len).step_by(7) {
        medium.flip_bit(&name, offset, 1).unwrap();
        let found = read_all(&log);
        assert!(
            (27..30).contains(&found.len()),
            "byte {offset} costs its own group of up to three: {found:?}"
        );
        medium.flip_bit(&name, offset, 1).unwrap();
    }
}

#[test]
fn a_missing_segment_is_a_hole_and_not_a_shorter_log() {
    let medium = FaultMedium::new(1);
    drop(log_of(&medium, small_segments(), 100));
    let names = segments(&medium);
    medium.delete(&names[1]).unwrap();
    let (log, recovery) = reopen(&medium, small_segments());
    let [damage] = &recovery.damage[..] else { panic!("{recovery:?}") };
    assert_eq!((damage.reason, recovery.next), (DamageReason::Missing, Position(100)));
    let expected: Vec<u64> = (0..100).filter(|n| !damage.lost.contains(n)).collect();
    assert_eq!(read_all(&log), expected);
}

#[test]
fn a_segment_cut_short_in_the_middle_of_the_log_is_damage_and_not_a_torn_end() {
    let medium = FaultMedium::new(1);
    drop(log_of(&medium, small_segments(), 100));
    let names = segments(&medium);
    medium.truncate(&names[1], 300).unwrap();
    let (_, recovery) = reopen(&medium, small_segments());
    assert_eq!((recovery.damage.len(), recovery.cut_bytes, recovery.next), (1, 0, Position(100)));
}

#[test]
fn blocks_that_the_device_does_not_give_out_are_damage_in_the_middle_and_refuse_the_opening_at_the_end() {
    let config = LogConfig { segment_bytes_max: 30_000, recent_bytes_max: 0, ..LogConfig::default() };
    let medium = FaultMedium::new(1);
    drop(log_of(&medium, config, 600));
    let names = segments(&medium);
    assert!(names.len() > 1);
    medium.eio_on_read(&names[0], 9_000..9_010);
    let (log, recovery) = reopen(&medium, config);
    let [damage] = &recovery.damage[..] else { panic!("{recovery:?}") };
    assert_eq!((damage.reason, recovery.next), (DamageReason::Unreadable, Position(600)));
    assert!(damage.lost.end - damage.lost.start < 120, "one block of 4 KiB: {damage:?}");
    medium.heal_reads();
    assert_eq!(read_all(&log).len() as u64, 600 - (damage.lost.end - damage.lost.start));

    let last = names.last().unwrap();
    let len = medium.len(last).unwrap();
    medium.eio_on_read(last, len - 10..len);
    let error = Log::open(Arc::new(medium.clone()), config).unwrap_err();
    assert!(matches!(error, LogError::Unreadable { .. }), "{error}");
    assert_eq!(medium.len(last).unwrap(), len, "nothing is cut that could not be looked at");
    medium.heal_reads();
    assert!(reopen(&medium, config).1.is_clean());
}

#[test]
fn a_failed_read_of_a_record_is_an_error_and_passes() {
    let medium = FaultMedium::new(1);
    let log = log_of(&medium, LogConfig { recent_bytes_max: 0, ..LogConfig::default() }, 30);
    medium.eio_on_read(&sole_segment(&medium), 0..10);
    assert!(matches!(log.reader().read(Position(0), 10), Err(LogError::Io { .. })));
    medium.heal_reads();
    assert_eq!(read_all(&log).len(), 30);
}

#[test]
fn a_failed_sync_poisons_the_log_and_only_what_a_fresh_read_confirms_comes_back() {
    for seed in 0..40 {
        let medium = FaultMedium::new(seed);
        let mut log = log_of(&medium, LogConfig::default(), 10);
        log.append_group(&group(10, &[3_000, 3_000])).unwrap();
        medium.fail_next_sync();
        assert!(matches!(log.sync(), Err(LogError::Sync { .. })));
        assert!(matches!(log.sync(), Err(LogError::Poisoned)), "a second sync proves nothing");
        assert!(matches!(log.append_group(&group(12, &[10])), Err(LogError::Poisoned)));
        assert!(matches!(log.trimmer().delete_before(Position(5)), Err(LogError::Poisoned)));
        assert_eq!(
            (log.durable(), read_all(&log).len()),
            (Position(10), 10),
            "what was durable is still served"
        );
        drop(log);

        // A restart without a power cut: the page cache still shows both records whole.
        let (log, recovery) = reopen(&medium, LogConfig::default());
        assert!(recovery.next == Position(10) || recovery.next == Position(12));
        medium.power_cut();
        let (again, _) = reopen(&medium, LogConfig::default());
        assert_eq!(again.next(), log.next(), "what was trusted after the restart is really there");
    }
}

#[test]
fn a_full_disk_refuses_the_group_and_the_log_goes_on_when_there_is_room() {
    for seed in 0..40 {
        let medium = FaultMedium::new(seed);
        let mut log = log_of(&medium, LogConfig::default(), 10);
        medium.fail_next_append(ErrorKind::StorageFull);
        assert!(matches!(log.append_group(&group(10, &[900])), Err(LogError::Full { .. })));
        assert_eq!(log.next(), Position(10));
        log.append_group(&group(10, &[800])).unwrap();
        log.sync().unwrap();
        assert_eq!(read_all(&log), (0..11).collect::<Vec<_>>());
        let (_, recovery) = reopen(&medium, LogConfig::default());
        assert_eq!((recovery.next, recovery.cut_bytes, recovery.damage.len()), (Position(11), 0, 0));
    }
}

#[test]
fn without_a_file_handle_the_group_is_refused_and_the_log_goes_on_when_there_is_one() {
    let medium = FaultMedium::new(1);
    let config = LogConfig { segment_bytes_max: 1, ..LogConfig::default() };
    let mut log = log_of(&medium, config, 10);
    for errno in [libc::EMFILE, libc::ENFILE] {
        medium.fail_next_create(errno);
        assert!(matches!(log.append_group(&group(10, &[900])), Err(LogError::Full { .. })));
        assert_eq!(log.next(), Position(10));
    }
    log.append_group(&group(10, &[900])).unwrap();
    log.sync().unwrap();
    assert_eq!(read_all(&log), (0..11).collect::<Vec<_>>());
}

#[test]
fn any_other_failed_write_poisons_the_log() {
    let medium = FaultMedium::new(1);
    let mut log = log_of(&medium, LogConfig::default(), 10);
    medium.fail_next_append(ErrorKind::Other);
    assert!(matches!(log.append_group(&group(10, &[900])), Err(LogError::Append { .. })));
    assert!(matches!(log.append_group(&group(10, &[900])), Err(LogError::Poisoned)));
    assert!(matches!(log.sync(), Err(LogError::Poisoned)));
    drop(log);
    medium.power_cut();
    assert_eq!(read_all(&reopen(&medium, LogConfig::default()).0), (0..10).collect::<Vec<_>>());
}

#[test]
fn a_frame_planted_in_a_payload_is_not_taken_for_a_record_when_damage_makes_recovery_search() {
    // The same bytes as a frame of this very log would have, but written under another segment's name.
    let other = FaultMedium::new(99);
    drop(log_of(&other, LogConfig::default(), 10));
    let name = sole_segment(&other);
    let mut planted = vec![0; other.len(&name).unwrap() as usize];
    other.read_at(&name, 0, &mut planted).unwrap();

    let medium = FaultMedium::new(1);
    let (mut log, _) = reopen(&medium, LogConfig::default());
    log.append_group(&[planted]).unwrap();
    log.sync().unwrap();
    log.append_group(&group(1, &[50])).unwrap();
    log.sync().unwrap();
    medium.flip_bit(&sole_segment(&medium), 2, 0).unwrap();
    let (log, recovery) = reopen(&medium, LogConfig::default());
    assert_eq!((recovery.damage[0].lost.clone(), recovery.records), (0..1, 1));
    assert_eq!(read_all(&log), [1]);
}

#[test]
fn more_nonsense_at_the_end_than_a_power_cut_can_tear_is_reported_as_loss() {
    let config = LogConfig { segment_bytes_max: 64 << 20, recent_bytes_max: 0, ..LogConfig::default() };
    let medium = FaultMedium::new(1);
    let (mut log, _) = reopen(&medium, config);
    for next in 0..6 {
        log.append_group(&[record(next, 8 << 20)]).unwrap();
        log.sync().unwrap();
    }
    let name = sole_segment(&medium);
    medium.zero(&name, (8 << 20) + 100..49 << 20).unwrap();
    let (_, recovery) = reopen(&medium, config);
    assert_eq!(recovery.next, Position(1));
    let [damage] = &recovery.damage[..] else { panic!("{recovery:?}") };
    assert_eq!((damage.reason, damage.lost.clone()), (DamageReason::EndLost, 1..1));
}

#[test]
fn a_stretch_that_the_disk_lost_at_the_end_is_not_taken_for_room() {
    let config = LogConfig { recent_bytes_max: 0, ..LogConfig::default() };
    // Whole frames are lost, so that nothing else of them is left.
    let cut = |byte: u8, record_bytes: usize, lost: u64, room: usize| {
        let medium = FaultMedium::new(1);
        let (mut log, _) = reopen(&medium, config);
        for next in 0..4 {
            log.append_group(&[record(next, record_bytes)]).unwrap();
            log.sync().unwrap();
        }
        drop(log);
        let name = sole_segment(&medium);
        let len = medium.len(&name).unwrap();
        let lost_bytes = len / 4 * lost;
        medium.append(&name, &vec![byte; room]).unwrap();
        medium.zero(&name, len - lost_bytes..len).unwrap();
        let (_, recovery) = reopen(&medium, config);
        (recovery.next, recovery.cut_bytes, lost_bytes)
    };
    let whole = (Position(4), 0, 0);
    assert_eq!(cut(0, 1 << 20, 0, 1 << 20), whole, "taken as it was needed");
    assert_eq!(cut(0x5a, 1 << 20, 0, 16 << 20), whole, "laid in");
    assert_ne!(cut(0, 1 << 20, 0, (1 << 20) + 1), whole, "more than is ever taken");
    assert_ne!(cut(0x5a, 1 << 20, 0, (16 << 20) + 1), whole, "more than is ever laid in");
    for room in [1, 1 << 20, 10 << 20] {
        for (record_bytes, lost) in [(100_000, 1), (100_000, 2), (1 << 20, 2)] {
            let (next, cut, lost_bytes) = cut(0x5a, record_bytes, lost, room);
            assert_eq!((next, cut), (Position(4 - lost), lost_bytes), "{room}");
        }
    }
    let (next, cut, lost_bytes) = cut(0, 1 << 20, 2, 0);
    assert_eq!((next, cut), (Position(2), lost_bytes));
}
