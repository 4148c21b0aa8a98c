//! SIGKILL on a real process that appends to a real folder: what it acknowledged is there, and no view batch is half.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;

use cell_store::{Batch, DiskMedium, Engine, Log, LogConfig, Position, open};

const FOLDER: &str = "CELL_STORE_KILL_FOLDER";

fn view_key(n: u64, copy: u8) -> Vec<u8> {
    [&[b'v', copy][..], &n.to_be_bytes()].concat()
}

/// The child: groups of three records and a view batch of two keys each, acknowledged on stdout after the sync.
#[test]
fn child_appends_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else {
        return;
    };
    let folder = std::path::PathBuf::from(folder);
    let medium = Arc::new(DiskMedium::open(folder.join("log")).unwrap());
    let config = LogConfig { segment_bytes_max: 20_000, ..LogConfig::default() };
    let (mut log, recovery) = Log::open(medium, config).unwrap();
    assert_eq!(recovery.damage, []);
    let view = open(Engine::Sled, &folder.join("view")).unwrap();
    let mut out = std::io::stdout().lock();
    loop {
        let next = log.durable().0;
        let records: Vec<_> = (next..next + 3).map(|n| vec![n as u8; 200]).collect();
        log.append_group(&records).unwrap();
        let durable = log.sync().unwrap();
        let mut batch = Batch::new();
        batch.put(view_key(next, 0), vec![1]);
        batch.put(view_key(next, 1), vec![1]);
        view.write(batch).unwrap();
        writeln!(out, "\nacked {durable}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn what_was_acknowledged_survives_sigkill_and_no_view_batch_is_half() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = 0;
    for round in 0..8 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_appends_until_it_is_killed", "--nocapture"])
            .env(FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let wanted = 3 + round * 5;
        let acks =
            lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("acked ")?.parse::<u64>().ok());
        acknowledged = acks.take(wanted).last().unwrap_or(acknowledged);
        child.kill().unwrap();
        child.wait().unwrap();
        let (log, recovery) =
            Log::open(Arc::new(DiskMedium::open(folder.path().join("log")).unwrap()), LogConfig::default())
                .unwrap();
        assert_eq!(recovery.damage, []);
        assert!(log.durable() >= Position(acknowledged), "{} < {acknowledged}", log.durable());
        let view = open(Engine::Sled, &folder.path().join("view")).unwrap();
        for n in (0..log.durable().0).step_by(3) {
            let pair = [0, 1].map(|copy| view.get(&view_key(n, copy)).unwrap().is_some());
            assert_eq!(pair[0], pair[1], "half a batch at {n}");
        }
    }
    assert!(acknowledged > 0);
}
