//! SIGKILL on a real process that fills segments whose room was laid in, and deletes old ones: everything it acknowledged is
//! there. In a file of its own, as a process that is just being started holds the locks of whoever starts it for a moment.

#[path = "support/child.rs"]
mod child;

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use cell_store::{DiskMedium, Log, LogConfig, Position};

const FOLDER: &str = "CELL_STORE_ROOM_KILL_FOLDER";
/// Large enough that room is laid in for them.
const LARGE: LogConfig = LogConfig { segment_bytes_max: 3 << 20, recent_bytes_max: 0, least: Position(0) };

/// The content of a record follows from its position, so both processes know it.
fn large(n: u64) -> Vec<u8> {
    let mut record = n.to_le_bytes().to_vec();
    // No record ends as room does.
    record.resize(100_000 + (n * 7_919 % 100_000) as usize, (n % 0x5a) as u8);
    record
}

/// Run by the test below in a process of its own; alone it has nothing to do.
#[test]
fn the_child_fills_segments_and_deletes_old_ones_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (mut log, recovery) = Log::open(Arc::new(DiskMedium::open(folder).unwrap()), LARGE).unwrap();
    assert!(recovery.is_clean(), "{recovery:?}");
    let trimmer = log.trimmer();
    let mut out = std::io::stdout().lock();
    loop {
        let n = log.next().0;
        log.append_group(&[large(n)]).unwrap();
        log.sync().unwrap();
        writeln!(out, "\nacked {}", n + 1).unwrap();
        out.flush().unwrap();
        if n % 64 == 63 {
            trimmer.delete_before(Position(n - 63)).unwrap();
        }
    }
}

/// Whether a killed process left room behind in the file that it wrote.
fn left_room(folder: &Path) -> bool {
    let names = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let newest = names.filter(|path| path.extension().is_some_and(|end| end == "seg")).max().unwrap();
    std::fs::read(newest).unwrap().ends_with(&[0x5a; 4096])
}

#[test]
fn a_log_whose_room_was_laid_in_has_everything_it_acknowledged_after_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let (mut acked, mut rooms, mut round) = (0, 0, 0_u64);
    // Some are killed before any room was laid in.
    while round < 12 || rooms == 0 {
        round += 1;
        assert!(round < 100, "no room was laid in: is the disk full?");
        let variables = [(FOLDER, folder.path().as_os_str())];
        let (mut child, mut lines) =
            child::start("the_child_fills_segments_and_deletes_old_ones_until_it_is_killed", &variables);
        let enough = acked + 30 + round * 67 % 300;
        let mut note = |line: &str| -> u64 {
            acked = line.strip_prefix("acked ").and_then(|number| number.parse().ok()).unwrap_or(acked);
            acked
        };
        while lines.next().is_some_and(|line| note(&line) < enough) {}
        child.kill().unwrap();
        for line in lines {
            note(&line);
        }
        child.wait().unwrap();
        assert!(acked >= enough, "the child ended by itself");

        rooms += u64::from(left_room(folder.path()));
        let medium = Arc::new(DiskMedium::open(folder.path()).unwrap());
        let (log, recovery) = Log::open(medium, LARGE).unwrap();
        assert!(recovery.is_clean() && recovery.next.0 >= acked, "acknowledged {acked}: {recovery:?}");
        assert!(recovery.first.0 < acked.saturating_sub(63).max(1));
        let (reader, mut at) = (log.reader(), recovery.first.0);
        while at < recovery.next.0 {
            for (position, bytes) in reader.read(Position(at), 10 << 20).unwrap() {
                assert!(position.0 == at && bytes[..] == large(at)[..], "{at}");
                at += 1;
            }
        }
    }
}
