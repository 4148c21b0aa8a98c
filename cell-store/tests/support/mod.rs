//! Records that know their own position, so that a test sees at once when one is where it does not belong.

use std::sync::Arc;

use cell_store::{FaultMedium, Log, LogConfig, LogError, Medium, Position, Recovery};

/// `bytes` long (8 at least), telling its number and filled with a pattern of it.
pub(crate) fn record(n: u64, bytes: usize) -> Vec<u8> {
    let mut record = n.to_le_bytes().to_vec();
    record.extend((8..bytes).map(|at| (n as usize * 31 + at) as u8));
    record
}

pub(crate) fn small_segments() -> LogConfig {
    LogConfig { segment_bytes_max: 1_500, recent_bytes_max: 400, ..LogConfig::default() }
}

pub(crate) fn reopen(medium: &FaultMedium, config: LogConfig) -> (Log, Recovery) {
    Log::open(Arc::new(medium.clone()), config).unwrap()
}

/// A log of `count` synced records, one to three in a group.
pub(crate) fn log_of(medium: &FaultMedium, config: LogConfig, count: u64) -> Log {
    let (mut log, _) = reopen(medium, config);
    while log.next().0 < count {
        let (next, left) = (log.next().0, count - log.next().0);
        let group: Vec<_> = (next..next + left.min(1 + next % 3)).map(|n| record(n, 60)).collect();
        log.append_group(&group).unwrap();
        log.sync().unwrap();
    }
    log
}

/// The numbers of all records that can be read, each compared byte by byte; damaged stretches are stepped over.
pub(crate) fn read_all(log: &Log) -> Vec<u64> {
    let reader = log.reader();
    let (mut at, mut found) = (reader.first(), Vec::new());
    loop {
        match reader.read(at, 500) {
            Ok(records) => {
                let Some((last, _)) = records.last() else { return found };
                at = last.plus(1);
                for (position, bytes) in records {
                    assert_eq!(bytes, record(position.0, bytes.len()), "what stands at {position}");
                    found.push(position.0);
                }
            }
            Err(LogError::Damaged { lost }) => {
                assert!(lost.contains(&at.0), "{lost:?} is named where {at} was asked for");
                at = Position(lost.end);
            }
            Err(error) => panic!("{error}"),
        }
    }
}

pub(crate) fn segments(medium: &FaultMedium) -> Vec<String> {
    let mut names = medium.list().unwrap();
    names.retain(|name| name.ends_with(".seg"));
    names.sort();
    names
}

pub(crate) fn sole_segment(medium: &FaultMedium) -> String {
    let mut names = segments(medium);
    assert_eq!(names.len(), 1);
    names.remove(0)
}
