//! SIGKILL on a real process that commits to a real folder: everything it acknowledged is there, no batch is half.

#[path = "support/child.rs"]
mod child;

use std::ffi::OsStr;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use cell_store::{Batch, DiskMedium, Engine, Log, LogConfig, Position, Recovery, Scan, Store, open};

const FOLDER: &str = "CELL_STORE_KILL_FOLDER";
const ENGINE: &str = "CELL_STORE_KILL_ENGINE";
const APPLIED: &str = "position";

/// The content of a record follows from its position, so both processes know it.
fn record(n: u64) -> Vec<u8> {
    let mut record = n.to_le_bytes().to_vec();
    record.resize(40 + (n % 300) as usize, n as u8);
    record
}

fn open_both(folder: &Path, engine: Engine) -> (Log, Recovery, Arc<dyn Store>) {
    let medium = Arc::new(DiskMedium::open(folder.join("log")).unwrap());
    let config = LogConfig { segment_bytes_max: 50_000, ..LogConfig::default() };
    let (log, recovery) = Log::open(medium, config).unwrap();
    (log, recovery, open(engine, &folder.join("view")).unwrap())
}

fn applied(view: &dyn Store) -> u64 {
    let bytes = view.get(APPLIED.as_bytes()).unwrap();
    bytes.map_or(0, |bytes| u64::from_be_bytes(bytes[..].try_into().unwrap()))
}

/// Two keys for each record and the position behind the last, in one batch.
fn apply(view: &dyn Store, from: u64, to: u64) {
    let mut batch = Batch::new();
    for n in from..to {
        batch.put([b"a", &n.to_be_bytes()[..]].concat(), record(n));
        batch.put(
            [b"b", &n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes()[..]].concat(),
            n.to_be_bytes().to_vec(),
        );
    }
    batch.put(APPLIED, to.to_be_bytes().to_vec());
    view.write(batch).unwrap();
}

/// Run by the test below in a process of its own; alone it has nothing to do.
#[test]
fn the_child_commits_and_acknowledges_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let fjall = std::env::var_os(ENGINE).is_some_and(|engine| engine == "fjall");
    let engine = if fjall { Engine::Fjall } else { Engine::Sled };
    let (mut log, recovery, view) = open_both(Path::new(&folder), engine);
    assert!(recovery.is_clean(), "{recovery:?}");
    let next = log.next().0;
    (applied(&*view)..next).for_each(|n| apply(&*view, n, n + 1));

    let mut out = std::io::stdout().lock();
    for round in 0_u64.. {
        let from = log.next().0;
        let to = from + 1 + round % 7;
        log.append_group(&(from..to).map(record).collect::<Vec<_>>()).unwrap();
        assert_eq!(log.sync().unwrap(), Position(to));
        // Its own line even where the test harness left one open.
        writeln!(out, "\nacked {to}").unwrap();
        out.flush().unwrap();
        apply(&*view, from, to);
        if round % 16 == 15 {
            view.sync().unwrap();
            writeln!(out, "\nview {to}").unwrap();
            out.flush().unwrap();
        }
    }
}

/// One test, as a process that is just being started holds the locks of whoever starts it for a moment.
#[test]
fn after_sigkill_every_acknowledged_record_is_there_and_no_view_batch_is_half_on_every_engine() {
    kill_and_look(Engine::Sled);
    kill_and_look(Engine::Fjall);
}

fn kill_and_look(engine: Engine) {
    let folder = tempfile::tempdir().unwrap();
    let (mut acked, mut synced_view) = (0, 0);
    for round in 0..10_u64 {
        let variables = [(FOLDER, folder.path().as_os_str()), (ENGINE, OsStr::new(engine.as_str()))];
        let (mut child, mut lines) =
            child::start("the_child_commits_and_acknowledges_until_it_is_killed", &variables);
        let before = acked;
        let mut note = |line: &str| -> u64 {
            let number = |word: &str| line.strip_prefix(word).and_then(|number| number.parse::<u64>().ok());
            acked = number("acked ").unwrap_or(acked);
            synced_view = number("view ").unwrap_or(synced_view);
            acked
        };
        // Killed after a number of records that differs from round to round, at whatever instruction it then is.
        let enough = before + 20 + round * 83 % 400;
        while lines.next().is_some_and(|line| note(&line) < enough) {}
        child.kill().unwrap();
        // What it still said before it died counts too.
        for line in lines {
            note(&line);
        }
        child.wait().unwrap();
        assert!(acked >= enough, "the child ended by itself");

        let (log, recovery, view) = open_both(folder.path(), engine);
        assert!(recovery.is_clean(), "{recovery:?}");
        assert!(recovery.next.0 >= acked, "acknowledged {acked}, found {}", recovery.next);
        let (reader, mut at) = (log.reader(), 0);
        while at < recovery.next.0 {
            for (position, bytes) in reader.read(Position(at), 10_000).unwrap() {
                assert_eq!((position.0, &bytes[..]), (at, &record(at)[..]));
                at += 1;
            }
        }

        let applied = applied(&*view);
        assert!(
            synced_view <= applied && applied <= recovery.next.0,
            "{synced_view} {applied} {}",
            recovery.next
        );
        let first = view.scan(&Scan::prefix("a", usize::MAX)).unwrap();
        let expected: Vec<_> = (0..applied).map(record).collect();
        assert!(first.iter().map(|(_, value)| &value[..]).eq(expected.iter().map(|record| &record[..])));
        let second = view.scan(&Scan::prefix("b", usize::MAX)).unwrap();
        assert_eq!(second.len() as u64, applied, "half a batch");
    }
    assert!(synced_view > 0);
}
