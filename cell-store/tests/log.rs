//! The log on a sound medium: groups, segments, readers.

mod support;

use std::collections::BTreeSet;
use std::io;
use std::sync::{Arc, Mutex};

use cell_store::{
    DiskMedium, FRAME_BODY_BYTES_MAX, FaultMedium, Log, LogConfig, LogError, LogTrimmer, Medium, MediumError,
    Position,
};
use proptest::prelude::*;
use support::{log_of, read_all, reopen, small_segments, sole_segment};

fn numbered(range: std::ops::Range<u64>, bytes: usize) -> Vec<Vec<u8>> {
    range.map(|n| support::record(n, bytes)).collect()
}

#[test]
fn a_group_is_one_write_and_one_sync_and_readable_only_behind_the_sync() {
    let medium = FaultMedium::new(1);
    let (mut log, _) = reopen(&medium, LogConfig::default());
    let (writes, syncs) = (medium.append_count(), medium.sync_count());
    let reader = log.reader();

    let positions = log.append_group(&numbered(0..64, 300)).unwrap();
    assert_eq!(positions, Position(0)..Position(64));
    assert_eq!((log.next(), log.durable()), (Position(64), Position(0)));
    assert_eq!(reader.read(Position(0), 1 << 20).unwrap(), []);
    assert_eq!(reader.get(Position(0)).unwrap(), None);

    assert_eq!(log.sync().unwrap(), Position(64));
    assert_eq!((medium.append_count() - writes, medium.sync_count() - syncs), (1, 1));
    assert_eq!(reader.durable(), Position(64));
    assert_eq!(reader.read(Position(0), 1 << 20).unwrap().len(), 64);
}

#[test]
fn a_sync_without_anything_new_costs_nothing_and_an_empty_group_writes_nothing() {
    let medium = FaultMedium::new(1);
    let mut log = log_of(&medium, LogConfig::default(), 3);
    let (writes, syncs) = (medium.append_count(), medium.sync_count());
    let nothing: [&[u8]; 0] = [];
    assert_eq!(log.append_group(&nothing).unwrap(), Position(3)..Position(3));
    assert_eq!(log.sync().unwrap(), Position(3));
    assert_eq!((medium.append_count(), medium.sync_count()), (writes, syncs));
}

#[test]
fn a_group_that_fits_no_frame_is_refused_and_leaves_the_log_as_it_was() {
    let medium = FaultMedium::new(1);
    let mut log = log_of(&medium, LogConfig::default(), 3);
    let refused = log.append_group(&[vec![0; FRAME_BODY_BYTES_MAX]]);
    assert!(matches!(refused, Err(LogError::TooLarge { .. })));
    log.append_group(&[support::record(3, 8)]).unwrap();
    log.sync().unwrap();
    assert_eq!(read_all(&log), (0..4).collect::<Vec<_>>());
}

#[test]
fn a_read_gives_at_least_one_record_and_no_more_bytes_than_asked_for() {
    for recent_bytes_max in [0, 1 << 20] {
        let medium = FaultMedium::new(1);
        let (mut log, _) = reopen(&medium, LogConfig { recent_bytes_max, ..LogConfig::default() });
        log.append_group(&numbered(0..10, 100)).unwrap();
        log.sync().unwrap();
        let reader = log.reader();
        let count = |from, bytes| reader.read(Position(from), bytes).unwrap().len();
        assert_eq!(
            (count(0, 0), count(0, 99), count(0, 299), count(0, 300), count(7, 1 << 20)),
            (1, 1, 2, 3, 3)
        );
        assert_eq!(reader.get(Position(9)).unwrap().unwrap(), support::record(9, 100));
    }
}

#[test]
fn nothing_follows_a_record_that_alone_is_more_than_asked_for_not_even_an_empty_one() {
    for recent_bytes_max in [0, 1 << 20] {
        let medium = FaultMedium::new(1);
        let (mut log, _) = reopen(&medium, LogConfig { recent_bytes_max, ..LogConfig::default() });
        log.append_group(&[vec![1; 149], vec![], vec![]]).unwrap();
        log.sync().unwrap();
        assert_eq!(log.reader().read(Position(0), 100).unwrap().len(), 1);
        assert_eq!(log.reader().read(Position(1), 0).unwrap().len(), 2);
    }
}

#[test]
fn asking_beyond_what_was_ever_appended_is_an_error_and_not_an_empty_answer_for_ever() {
    let medium = FaultMedium::new(1);
    let mut log = log_of(&medium, LogConfig::default(), 3);
    log.append_group(&numbered(3..5, 10)).unwrap();
    let reader = log.reader();
    assert_eq!(reader.read(Position(5), 100).unwrap(), []);
    assert!(matches!(reader.read(Position(6), 100), Err(LogError::Ahead { next: Position(5) })));
}

#[test]
fn segments_roll_over_without_a_seam() {
    let medium = FaultMedium::new(1);
    let log = log_of(&medium, small_segments(), 300);
    assert!(medium.list().unwrap().len() > 10);
    assert_eq!(read_all(&log), (0..300).collect::<Vec<_>>());
    drop(log);
    let (log, recovery) = reopen(&medium, small_segments());
    assert_eq!((recovery.records, recovery.cut_bytes, recovery.damage.len()), (300, 0, 0));
    assert_eq!((recovery.first, recovery.next), (Position(0), Position(300)));
    assert_eq!(read_all(&log), (0..300).collect::<Vec<_>>());
}

#[test]
fn whole_segments_before_a_position_are_deleted_and_reading_them_says_so() {
    let medium = FaultMedium::new(1);
    let log = log_of(&medium, small_segments(), 300);
    let reader = log.reader();
    let first = log.trimmer().delete_before(Position(150)).unwrap();
    assert!(first.0 > 100 && first.0 <= 150, "{first}");
    assert_eq!(reader.first(), first);
    assert!(
        matches!(reader.read(Position(0), 10), Err(LogError::Deleted { first: named }) if named == first)
    );
    assert_eq!(read_all(&log), (first.0..300).collect::<Vec<_>>());
    drop(log);

    medium.power_cut();
    let (mut log, recovery) = reopen(&medium, small_segments());
    assert_eq!((recovery.first, recovery.damage.len()), (first, 0));
    let last = log.trimmer().delete_before(Position(u64::MAX)).unwrap();
    assert!(last.0 <= 300, "the segment being written stays");
    log.append_group(&[support::record(300, 10)]).unwrap();
    assert_eq!(log.sync().unwrap(), Position(301));
}

#[test]
fn segments_go_in_their_order_whoever_deletes_them_while_the_writer_goes_on() {
    const RECORDS: u64 = 2_000;
    let medium = FaultMedium::new(1);
    let (mut log, _) = reopen(&medium, small_segments());
    let (reader, trimmer) = (log.reader(), log.trimmer());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let (reader, trimmer) = (reader.clone(), trimmer.clone());
            scope.spawn(move || {
                while reader.durable() < Position(RECORDS) {
                    let left = trimmer.delete_before(reader.durable()).unwrap();
                    assert!(left <= reader.durable());
                }
            });
        }
        for n in 0..RECORDS {
            log.append_group(&[support::record(n, 100)]).unwrap();
            log.sync().unwrap();
        }
    });
    let first = log.reader().first();
    assert!(first > Position(0), "nothing was deleted");
    drop(log);
    medium.power_cut();
    let (log, recovery) = reopen(&medium, small_segments());
    assert_eq!((recovery.first, recovery.next, recovery.damage.len()), (first, Position(RECORDS), 0));
    assert_eq!(read_all(&log), (first.0..RECORDS).collect::<Vec<_>>());
}

/// A medium on which a log is trimmed between the moment a reader knows where to read and its reading, and where nothing is
/// left of the file then.
#[derive(Debug)]
struct TrimmedMeanwhile {
    medium: FaultMedium,
    trimmer: Mutex<Option<LogTrimmer>>,
}

impl Medium for TrimmedMeanwhile {
    fn read_at(&self, file: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        match self.trimmer.lock().unwrap().take() {
            Some(trimmer) => trimmer.delete_before(Position(u64::MAX)).map(|_| 0).map_err(io::Error::other),
            None => self.medium.read_at(file, offset, buf),
        }
    }
    fn list(&self) -> io::Result<Vec<String>> {
        self.medium.list()
    }
    fn len(&self, file: &str) -> io::Result<u64> {
        self.medium.len(file)
    }
    fn create(&self, file: &str) -> io::Result<()> {
        self.medium.create(file)
    }
    fn append(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
        self.medium.append(file, bytes)
    }
    fn read_fresh_at(&self, file: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
        self.medium.read_fresh_at(file, offset, buf)
    }
    fn truncate(&self, file: &str, len: u64) -> io::Result<()> {
        self.medium.truncate(file, len)
    }
    fn delete(&self, file: &str) -> io::Result<()> {
        self.medium.delete(file)
    }
    fn sync(&self, file: &str) -> io::Result<()> {
        self.medium.sync(file)
    }
    fn sync_dir(&self) -> io::Result<()> {
        self.medium.sync_dir()
    }
    fn entropy(&self) -> u64 {
        self.medium.entropy()
    }
}

#[test]
fn who_reads_a_segment_while_it_is_deleted_hears_that_it_is_and_not_of_damage() {
    let medium = Arc::new(TrimmedMeanwhile { medium: FaultMedium::new(1), trimmer: Mutex::default() });
    // Nothing in memory.
    let config = LogConfig { recent_bytes_max: 0, ..small_segments() };
    let (mut log, _) = Log::open(medium.clone(), config).unwrap();
    for n in 0..300 {
        log.append_group(&[support::record(n, 100)]).unwrap();
    }
    log.sync().unwrap();
    *medium.trimmer.lock().unwrap() = Some(log.trimmer());
    let reader = log.reader();
    let deleted = reader.read(Position(0), 1 << 20);
    assert!(matches!(deleted, Err(LogError::Deleted { first }) if first == reader.first()), "{deleted:?}");
}

#[test]
fn a_segment_that_cannot_be_deleted_stays_and_those_behind_it_wait() {
    let medium = FaultMedium::new(1);
    let log = log_of(&medium, small_segments(), 300);
    let (reader, trimmer) = (log.reader(), log.trimmer());
    let first = trimmer.delete_before(Position(100)).unwrap();
    medium.fail_next_delete();
    assert!(matches!(trimmer.delete_before(Position(250)), Err(LogError::Io { .. })));
    assert_eq!(reader.first(), first);
    assert_eq!(read_all(&log), (first.0..300).collect::<Vec<_>>());
    assert!(trimmer.delete_before(Position(250)).unwrap() > Position(200), "tried again");
    let first = reader.first();
    drop(log);
    let (_, recovery) = reopen(&medium, small_segments());
    assert_eq!((recovery.first, recovery.damage.len()), (first, 0));
}

#[test]
fn records_that_are_not_durable_are_never_deleted() {
    let medium = FaultMedium::new(1);
    let (mut log, _) = reopen(&medium, small_segments());
    for n in 0..50 {
        log.append_group(&[support::record(n, 100)]).unwrap();
    }
    assert_eq!(log.trimmer().delete_before(Position(50)).unwrap(), Position(0));
}

#[test]
fn a_second_log_on_one_folder_is_refused_and_the_folder_named() {
    let folder = tempfile::tempdir().unwrap();
    let held = DiskMedium::open(folder.path()).unwrap();
    let error = DiskMedium::open(folder.path()).unwrap_err();
    assert!(matches!(&error, MediumError::Held { folder: named } if named == folder.path()));
    assert!(error.to_string().contains(&*folder.path().to_string_lossy()));
    drop(held);
    DiskMedium::open(folder.path()).unwrap();
}

#[test]
fn room_taken_in_advance_is_given_back_at_the_end_and_cut_in_silence_behind_a_process_that_was_killed() {
    let folder = tempfile::tempdir().unwrap();
    let (killed, left) = (folder.path().join("killed"), folder.path().join("left"));
    let config = LogConfig { segment_bytes_max: 5_000, ..LogConfig::default() };
    let medium = Arc::new(DiskMedium::open(&killed).unwrap());
    let (mut log, _) = Log::open(medium.clone(), config).unwrap();
    for next in 0..40 {
        log.append_group(&numbered(next..next + 1, 400)).unwrap();
        log.sync().unwrap();
    }
    // What the killed process leaves is what stands there before anything is dropped.
    std::fs::create_dir(&left).unwrap();
    let on_disk = |name: &String| std::fs::metadata(killed.join(name)).unwrap().len();
    let written: Vec<(String, u64)> =
        medium.list().unwrap().into_iter().map(|name| (name.clone(), medium.len(&name).unwrap())).collect();
    for (name, bytes) in &written {
        assert!(on_disk(name) >= *bytes && on_disk(name) <= bytes + (1 << 20), "{name}");
        std::fs::copy(killed.join(name), left.join(name)).unwrap();
    }
    drop((log, medium));
    assert!(written.iter().all(|(name, bytes)| on_disk(name) == *bytes));

    let (mut log, recovery) = Log::open(Arc::new(DiskMedium::open(&left).unwrap()), config).unwrap();
    assert_eq!((recovery.next, recovery.cut_bytes, recovery.is_clean()), (Position(40), 0, true));
    log.append_group(&numbered(40..41, 400)).unwrap();
    log.sync().unwrap();
    assert_eq!(read_all(&log), (0..41).collect::<Vec<_>>());
}

const LAID_IN: u64 = 3 << 20;

#[test]
fn a_file_that_found_its_room_laid_in_is_as_long_as_it_is_written_whoever_ends_it() {
    let folder = tempfile::tempdir().unwrap();
    let (killed, left) = (folder.path().join("killed"), folder.path().join("left"));
    let config = LogConfig { segment_bytes_max: LAID_IN, ..LogConfig::default() };
    let medium = Arc::new(DiskMedium::open(&killed).unwrap());
    let (mut log, _) = Log::open(medium.clone(), config).unwrap();
    let on_disk = |name: &str| std::fs::metadata(killed.join(name)).map_or(0, |seen| seen.len());
    let newest = || {
        let segments = medium.list().unwrap().into_iter().filter(|name| name.ends_with(".seg"));
        let name = segments.max().unwrap();
        (medium.len(&name).unwrap(), on_disk(&name), name)
    };
    let append = |log: &mut Log, n| {
        log.append_group(&numbered(n..n + 1, 1_000_000)).unwrap();
        log.sync().unwrap();
    };
    // Three to a segment. The first two find nothing, and how soon one does is the disk's business.
    let mut n = 0;
    while !matches!(newest(), (1..1_100_000, LAID_IN, _)) {
        append(&mut log, n);
        n += 1;
        assert!(n < 1_000, "{:?}", newest());
    }
    assert!(n > 6);
    let (.., newest) = newest();

    std::fs::create_dir(&left).unwrap();
    for name in medium.list().unwrap() {
        std::fs::copy(killed.join(&name), left.join(&name)).unwrap();
    }
    std::fs::write(left.join("room"), [0; 4096]).unwrap();
    drop((log, medium));
    assert!((1..1_100_000).contains(&on_disk(&newest)));
    assert!(!killed.join("room").exists());

    let (mut log, recovery) = Log::open(Arc::new(DiskMedium::open(&left).unwrap()), config).unwrap();
    assert_eq!((recovery.next, recovery.cut_bytes, recovery.is_clean()), (Position(n), 0, true));
    assert!(!left.join("room").exists());
    append(&mut log, n);
    assert_eq!(read_all(&log), (0..=n).collect::<Vec<_>>());
}

#[test]
fn the_newest_durable_records_are_read_from_memory_and_what_would_take_the_disk_is_not_there() {
    let medium = FaultMedium::new(1);
    let mut log = log_of(&medium, small_segments(), 300);
    log.append_group(&numbered(300..301, 60)).unwrap();
    let reader = log.reader();
    let recent = reader.read_recent(Position(298), 1 << 20).unwrap();
    assert_eq!(recent, reader.read(Position(298), 1 << 20).unwrap());
    assert_eq!(recent.len(), 2, "only what is durable");
    assert_eq!(reader.read_recent(Position(300), 1 << 20), Some(Vec::new()));
    assert_eq!(reader.read_recent(Position(0), 1 << 20), None);
    assert_eq!(reader.read_recent(Position(302), 1 << 20), None, "never appended");
}

#[test]
fn whether_the_disk_has_what_was_written_is_not_asked_of_memory() {
    let medium = FaultMedium::new(1);
    let log = log_of(&medium, LogConfig::default(), 300);
    let reader = log.reader();
    let stored = |from| reader.read_stored(Position(from), 1 << 20);
    assert_eq!(stored(200).unwrap(), reader.read(Position(200), 1 << 20).unwrap());
    assert!(stored(300).unwrap().is_empty());
    assert!(matches!(stored(302), Err(LogError::Ahead { .. })));
    let (segment, read) = (sole_segment(&medium), reader.read(Position(0), 1 << 20).unwrap());
    medium.flip_bit(&segment, medium.len(&segment).unwrap() / 2, 3).unwrap();
    assert_eq!(reader.read(Position(0), 1 << 20).unwrap(), read, "who follows the writer is not held up");
    let mut next = 0;
    let lost = loop {
        match stored(next) {
            Ok(records) => next = records.last().expect("what is damaged stands before the end").0.0 + 1,
            Err(LogError::Damaged { lost }) => break lost,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(lost.start == next && lost.end < 300, "{lost:?}");
    assert_eq!(stored(lost.end).unwrap().first().unwrap().0, Position(lost.end));
}

#[test]
fn a_real_folder_gives_back_what_was_put_in_also_past_the_page_cache() {
    let folder = tempfile::tempdir().unwrap();
    let config = LogConfig { segment_bytes_max: 20_000, recent_bytes_max: 1_000, ..LogConfig::default() };
    let mut next = 0;
    for _ in 0..4 {
        let medium = DiskMedium::open(folder.path().join("deep/log")).unwrap();
        let (mut log, recovery) = Log::open(Arc::new(medium), config).unwrap();
        assert_eq!((recovery.next, recovery.cut_bytes, recovery.is_clean()), (Position(next), 0, true));
        for _ in 0..40 {
            log.append_group(&numbered(next..next + 5, 90)).unwrap();
            log.sync().unwrap();
            next += 5;
        }
        assert_eq!(read_all(&log), (0..next).collect::<Vec<_>>());
    }
    let medium = DiskMedium::open(folder.path().join("deep/log")).unwrap();
    let name = medium.list().unwrap().into_iter().filter(|name| name.ends_with(".seg")).min().unwrap();
    let len = medium.len(&name).unwrap() as usize;
    let (mut cached, mut fresh) = (vec![0; len + 10], vec![0; len + 10]);
    for offset in [0, 1, 511, 4096, 5000] {
        let got = medium.read_at(&name, offset, &mut cached).unwrap();
        assert_eq!(got, medium.read_fresh_at(&name, offset, &mut fresh).unwrap());
        assert_eq!((got, &cached[..got]), (len - offset as usize, &fresh[..got]));
    }
}

#[test]
fn a_reader_in_another_thread_sees_every_record_once_in_order_and_none_beyond_durable() {
    let folder = tempfile::tempdir().unwrap();
    let config = LogConfig { segment_bytes_max: 5_000, recent_bytes_max: 700, ..LogConfig::default() };
    let (mut log, _) = Log::open(Arc::new(DiskMedium::open(folder.path()).unwrap()), config).unwrap();
    let last = 1_200;
    let tails: Vec<_> = [400, 4_000, 40_000]
        .into_iter()
        .map(|max_bytes| {
            let reader = log.reader();
            std::thread::spawn(move || {
                let mut next = 0;
                while next < last {
                    for (position, record) in reader.read(Position(next), max_bytes).unwrap() {
                        assert_eq!((position.0, &*record), (next, &support::record(next, 60)[..]));
                        assert!(position < reader.durable());
                        next += 1;
                    }
                    std::thread::yield_now();
                }
            })
        })
        .collect();
    for next in (0..last).step_by(4) {
        log.append_group(&numbered(next..next + 4, 60)).unwrap();
        log.sync().unwrap();
    }
    for tail in tails {
        tail.join().unwrap();
    }
}

#[test]
fn other_files_in_the_folder_are_left_alone() {
    let medium = FaultMedium::new(1);
    medium.create("notes.txt").unwrap();
    medium.append("notes.txt", b"not a segment").unwrap();
    drop(log_of(&medium, small_segments(), 100));
    let (_, recovery) = reopen(&medium, small_segments());
    assert!(recovery.is_clean());
    assert_eq!(medium.len("notes.txt").unwrap(), 13);
}

#[test]
fn segments_of_two_logs_in_one_folder_are_refused_and_nothing_is_changed() {
    let medium = FaultMedium::new(1);
    drop(log_of(&medium, LogConfig::default(), 10));
    let before = sole_segment(&medium);
    medium.create("log-00000000000000000004-0000000000000001.seg").unwrap();
    let names: BTreeSet<String> = medium.list().unwrap().into_iter().collect();
    let error = Log::open(Arc::new(medium.clone()), LogConfig::default()).unwrap_err();
    assert!(matches!(error, LogError::Foreign { .. }), "{error}");
    assert_eq!(medium.list().unwrap().into_iter().collect::<BTreeSet<_>>(), names);
    assert!(names.contains(&before));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_read_agrees_with_what_was_appended_wherever_it_begins(
        groups in proptest::collection::vec(proptest::collection::vec(0..900usize, 1..9), 1..40),
        reads in proptest::collection::vec((any::<prop::sample::Index>(), 0..6_000usize), 1..40),
        recent_bytes_max in 0..20_000usize,
        segment_bytes_max in 100..30_000u64,
    ) {
        let medium = FaultMedium::new(7);
        let (mut log, _) = reopen(&medium, LogConfig { segment_bytes_max, recent_bytes_max, ..LogConfig::default() });
        let mut written: Vec<Vec<u8>> = Vec::new();
        for group in &groups {
            let records: Vec<Vec<u8>> = group.iter().map(|len| vec![written.len() as u8; *len]).collect();
            log.append_group(&records).unwrap();
            written.extend(records);
        }
        log.sync().unwrap();
        for again in [false, true] {
            if again {
                drop(log);
                log = reopen(&medium, LogConfig { segment_bytes_max, recent_bytes_max, ..LogConfig::default() }).0;
            }
            for (from, max_bytes) in &reads {
                let from = from.index(written.len());
                let got = log.reader().read(Position(from as u64), *max_bytes).unwrap();
                prop_assert!(!got.is_empty());
                for (at, (position, record)) in (from..).zip(&got) {
                    prop_assert_eq!((position.0, &record[..]), (at as u64, &written[at][..]));
                }
                let bytes: usize = got.iter().map(|(_, record)| record.len()).sum();
                prop_assert!(got.len() == 1 || bytes <= *max_bytes);
            }
        }
    }
}

#[test]
fn a_sync_reaches_the_device_behind_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let medium = DiskMedium::open(folder.path().join("log")).unwrap();
    // A device that takes every write and cannot sync says so only to somebody who asks it.
    std::os::unix::fs::symlink("/dev/null", folder.path().join("log/nowhere")).unwrap();
    medium.append("nowhere", b"bytes").unwrap();
    assert!(medium.sync("nowhere").is_err(), "it was not asked");
}

#[test]
fn records_of_many_bytes_become_frames_that_one_sync_makes_durable() {
    let medium = FaultMedium::new(1);
    let config = LogConfig { segment_bytes_max: 64 << 20, ..LogConfig::default() };
    let (mut log, _) = reopen(&medium, config);
    let syncs = medium.sync_count();
    log.append(&numbered(0..40, 1 << 20)).unwrap();
    assert_eq!(log.next(), Position(40));
    log.sync().unwrap();
    assert!(medium.sync_count() - syncs <= 3, "not one for each frame");
    assert_eq!(read_all(&log), (0..40).collect::<Vec<_>>());
    assert!(matches!(log.append(&[vec![0; FRAME_BODY_BYTES_MAX]]), Err(LogError::TooLarge { .. })));
}
