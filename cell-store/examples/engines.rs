//! What the view costs on each engine:
//! `cargo run --release -p cell-store --example engines -- [ORDERS,…] [DIR] [sled|fjall|both] [no-sums]`.
//!
//! Pairs of runs in one process, sled and fjall by turns, each in a fresh folder: batches of a hundred orders with six keys
//! each, the sums of all slots and one key for all, as a node under load writes them, and a sync every two hundred batches.
//! Orders come with ids in order of time, as a node's do, or at random; users and their keys at random. Processor time is
//! that of every thread, and written is what the process gave the disk to write, until the store is closed. `no-sums` leaves the
//! sums of the slots out: what digests cost the store.

use std::error::Error;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use cell_store::{Batch, Engine, Scan, open};
use rustix::time::{ClockId, clock_gettime};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ORDERS_PER_BATCH: u64 = 100;
const SYNC_EVERY: u64 = 200;
const READS: u64 = 50_000;
const VALUE_BYTES: usize = 500;
/// Orders that came between one and its last change, at most.
const CHANGED_AGO_MAX: u64 = 200_000;

/// What one run showed.
struct Row {
    seconds: f64,
    cpu_seconds: f64,
    written_bytes: u64,
    latency: Vec<Duration>,
    /// Orders per second of the last tenth.
    at_the_end: f64,
    memory_mib: u64,
    disk_mib: u64,
    reopen: Duration,
    get: Duration,
    page: Duration,
}

/// Splitmix64: the same ids in every run.
fn random(n: u64) -> u64 {
    let mut z = n.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn id(n: u64, ordered: bool) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&if ordered { n } else { random(n) }.to_be_bytes());
    id[8..].copy_from_slice(&random(n ^ 0x5555).to_be_bytes());
    id
}

fn entity(id: &[u8; 16]) -> Vec<u8> {
    [b"e\x01", &id[..], &[0, 0]].concat()
}

/// An order as the node keeps it: itself, its command, its place in its user's list and under its number, and its deadline,
/// by time and by order.
fn put_order(batch: &mut Batch, n: u64, ordered: bool) {
    let id = id(n, ordered);
    let user = format!("user-{:08}", random(n) % 100_000);
    let key = format!("{:016x}-{:016x}", random(n ^ 0x7777), random(n ^ 0x8888));
    let created = (1_790_000_000_000 + n / 10).to_be_bytes();
    let mut value = vec![0; VALUE_BYTES];
    value
        .chunks_mut(8)
        .zip(n..)
        .for_each(|(part, n)| part.copy_from_slice(&random(n).to_le_bytes()[..part.len()]));
    batch.put(entity(&id), value);
    batch.put([b"k", key.as_bytes(), &[0], user.as_bytes()].concat(), id.to_vec());
    batch.put([b"u", user.as_bytes(), &[0], &created, &id].concat(), "");
    batch.put([b"d", &created[..], &[1], &id].concat(), "");
    batch.put([b"x\x01", &id[..]].concat(), created.to_vec());
    batch.put([b"r", format!("NO-{n:012}").as_bytes(), &[0], user.as_bytes(), &[0], &id].concat(), "");
}

/// The sums of all slots, 64 under each key.
fn put_sums(batch: &mut Batch, n: u64) {
    for key in 0..16_u8 {
        batch.put([b"mdigests/", &[key][..]].concat(), vec![n as u8; 2_048]);
    }
}

/// A number the system keeps of this process; 0 where it keeps none.
fn of_process(file: &str, name: &str) -> u64 {
    let text = fs::read_to_string(Path::new("/proc/self").join(file)).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// What the process has given the disk to write.
fn written_bytes() -> u64 {
    of_process("io", "write_bytes:")
}

fn cpu_seconds() -> f64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

fn resident_mib() -> u64 {
    of_process("status", "RssAnon:") / 1024
}

fn disk_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => disk_bytes(&entry.path()),
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}

fn run(engine: Engine, orders: u64, ordered: bool, sums: bool, dir: &Path) -> Result<Row, Box<dyn Error>> {
    let store = open(engine, dir)?;
    let batches = orders / ORDERS_PER_BATCH;
    let mut latency = Vec::with_capacity(batches as usize);
    let (begun, cpu, written) = (Instant::now(), cpu_seconds(), written_bytes());
    let mut last_tenth = begun;
    for group in 0..batches {
        if group == batches - batches / 10 {
            last_tenth = Instant::now();
        }
        let mut batch = Batch::new();
        (group * ORDERS_PER_BATCH..)
            .take(ORDERS_PER_BATCH as usize)
            .for_each(|n| put_order(&mut batch, n, ordered));
        // One in five is changed once more, some later than others.
        for n in (group * ORDERS_PER_BATCH..).step_by(5).take(ORDERS_PER_BATCH as usize / 5) {
            let id = id(n - n.min(random(n) % CHANGED_AGO_MAX), ordered);
            batch.put(entity(&id), vec![7; VALUE_BYTES]);
        }
        if sums {
            put_sums(&mut batch, group);
        }
        batch.put("mposition", group.to_be_bytes().to_vec());
        let one = Instant::now();
        store.write(batch)?;
        latency.push(one.elapsed());
        if group % SYNC_EVERY == SYNC_EVERY - 1 {
            store.sync()?;
        }
    }
    store.sync()?;
    let seconds = begun.elapsed().as_secs_f64();
    let at_the_end = (batches / 10 * ORDERS_PER_BATCH) as f64 / last_tenth.elapsed().as_secs_f64();
    let memory_mib = resident_mib();
    drop(store);
    let cpu_seconds = cpu_seconds() - cpu;
    let written_bytes = written_bytes() - written;
    latency.sort_unstable();

    let reopened = Instant::now();
    let store = open(engine, dir)?;
    let reopen = reopened.elapsed();
    let begun = Instant::now();
    for n in 0..READS {
        let found = store.get(&entity(&id(random(n ^ 0xabcd) % orders, ordered)))?;
        assert!(found.is_some_and(|value| value.len() == VALUE_BYTES), "what was written is there");
    }
    let get = begun.elapsed() / READS as u32;
    let begun = Instant::now();
    for n in 0..READS / 50 {
        let from = entity(&id(random(n) % orders, ordered));
        store.scan(&Scan::prefix("e", 20).after(from))?;
    }
    let page = begun.elapsed() / (READS / 50) as u32;
    drop(store);
    let disk_mib = disk_bytes(dir) >> 20;
    Ok(Row {
        seconds,
        cpu_seconds,
        written_bytes,
        latency,
        at_the_end,
        memory_mib,
        disk_mib,
        reopen,
        get,
        page,
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    // As every service does.
    rustix::thread::disable_transparent_huge_pages(true)?;
    let mut arguments = std::env::args().skip(1);
    let counts = arguments.next().unwrap_or_else(|| "200000,1000000".to_owned());
    let parent = arguments.next().map_or_else(std::env::temp_dir, Into::into);
    let only = arguments.next().filter(|engine| engine != "both");
    let sums = arguments.next().as_deref() != Some("no-sums");
    println!(
        "{:>9} {:8} {:6} {:>9} {:>9} {:>7} {:>8} {:>7} {:>7} {:>7} {:>6} {:>6} {:>8} {:>7} {:>7}",
        "orders",
        "ids",
        "engine",
        "orders/s",
        "at end/s",
        "cpu µs",
        "B/order",
        "p50 ms",
        "p99 ms",
        "max ms",
        "MiB",
        "disk",
        "reopen s",
        "get µs",
        "page µs"
    );
    for orders in counts.split(',') {
        let orders: u64 = orders.parse()?;
        for ordered in [true, false] {
            let engines = [Engine::Sled, Engine::Fjall].into_iter();
            for engine in engines.filter(|engine| only.as_ref().is_none_or(|only| only == engine.as_str())) {
                let folder = tempfile::tempdir_in(&parent)?;
                let row = run(engine, orders, ordered, sums, folder.path())?;
                let ms = |quantile: f64| {
                    let at = ((row.latency.len() - 1) as f64 * quantile) as usize;
                    row.latency[at].as_secs_f64() * 1e3
                };
                println!(
                    "{:>9} {:8} {:6} {:>9.0} {:>9.0} {:>7.1} {:>8} {:>7.2} {:>7.2} {:>7.1} {:>6} {:>6} {:>8.2} {:>7.1} {:>7.1}",
                    orders,
                    if ordered { "ordered" } else { "random" },
                    engine.as_str(),
                    orders as f64 / row.seconds,
                    row.at_the_end,
                    row.cpu_seconds / orders as f64 * 1e6,
                    row.written_bytes / orders,
                    ms(0.5),
                    ms(0.99),
                    ms(1.0),
                    row.memory_mib,
                    row.disk_mib,
                    row.reopen.as_secs_f64(),
                    row.get.as_secs_f64() * 1e6,
                    row.page.as_secs_f64() * 1e6
                );
            }
        }
    }
    Ok(())
}
