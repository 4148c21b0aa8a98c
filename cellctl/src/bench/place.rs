//! One node under load, or three regions of which one is loaded; the raw floor; and the node without HTTP.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use cell_core::cell::{Ability, Ask, Command};
use cell_core::id::UserId;
use cell_core::order::{Line, OrderContent, OrderRecord, uuid7_time_ms};
use cell_core::placement::Placement;
use cell_core::rules::{PAY_WINDOW_MS, Rules};
use chaos_tests::harness::Role;
use hdrhistogram::Histogram;
use region_node::{Identity, LogSettings, Node};
use service_kit::Shutdown;

use super::figure::{STEAL_MAX, TRIES_MAX};
use super::load::{self, Keys, Load, Phase, Taken};
use super::machine::{Ticks, cpu_seconds};
use super::postgres::Postgres;
use super::served::{ORIGIN, Served, folder_in};
use super::{Against, PlaceArgs};
use crate::output::remark;

const OVER_HTTP: &str = "http";
const AGAINST_POSTGRES: &str = "http, PostgreSQL";
const WARM_UP: Duration = Duration::from_secs(1);
/// A group of the floor begins with this, so that its syncs are real work for the file system.
const FLOOR_TIME: Duration = Duration::from_secs(2);

/// One line of the report.
#[derive(Clone, Debug, serde::Serialize)]
pub(super) struct Row {
    pub(super) what: String,
    pub(super) clients: usize,
    pub(super) orders_per_s: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) p999_ms: f64,
    /// The node's own processor time.
    pub(super) cpu_us_per_order: f64,
    /// Of every process of the deployment, the load's own excluded.
    pub(super) cpu_us_per_order_total: f64,
    pub(super) orders_per_fsync: f64,
    pub(super) log_bytes_per_order: f64,
    pub(super) floor_orders_per_s: f64,
    pub(super) floor_p50_ms: f64,
    pub(super) steal_percent: f64,
    /// It cannot be: durable orders that are faster than the bare syncs under them. Repeat it.
    pub(super) disturbed: bool,
}

impl Row {
    /// What part of the floor was reached, and how many of its medians one order took; `None` without a floor.
    pub(super) fn ratios(&self) -> Option<(f64, f64)> {
        let floor = self.floor_orders_per_s > 0.0 && self.floor_p50_ms > 0.0;
        floor.then(|| (self.orders_per_s / self.floor_orders_per_s, self.p50_ms / self.floor_p50_ms))
    }

    fn judged(self) -> Row {
        let disturbed = self.ratios().is_some_and(|(share, times)| share > 1.0 || times < 1.0);
        Row { disturbed, ..self }
    }
}

pub(super) async fn run(args: &PlaceArgs) -> Result<Vec<Row>> {
    let temporary = folder_in(args.data.as_deref())?;
    let mut rows = Vec::new();
    rows.extend(over_http(args, &[ORIGIN], OVER_HTTP, temporary.path()).await?);
    if args.against == Some(Against::Postgres) {
        rows.extend(over_postgres(args).await?);
    }
    if args.peers {
        rows.extend(over_http(args, &[ORIGIN, "east", "south"], "http, two peers", temporary.path()).await?);
    }
    if !args.no_in_process {
        rows.extend(in_process(args, temporary.path()).await?);
    }
    Ok(rows)
}

/// The middle one of several runs, by throughput, none of them with too much stolen.
async fn middle(args: &PlaceArgs, mut run: impl AsyncFnMut() -> Result<Row>) -> Result<Row> {
    let mut rows = Vec::new();
    for _ in 0..args.runs + TRIES_MAX {
        let row = run().await?;
        remark(format_args!(
            "  {} {:>4} clients: {:>6.0}/s, p99 {:.1} ms, steal {:.1} %",
            row.what, row.clients, row.orders_per_s, row.p99_ms, row.steal_percent
        ));
        if row.steal_percent <= STEAL_MAX {
            rows.push(row);
        }
        if rows.len() == args.runs {
            rows.sort_by(|a, b| a.orders_per_s.total_cmp(&b.orders_per_s));
            return Ok(rows.swap_remove(args.runs / 2));
        }
    }
    bail!("the host took more than {STEAL_MAX} % of the time in too many runs: nothing to report")
}

// === over HTTP ===

/// What the node says of its log.
#[derive(Clone, Copy, Debug)]
struct LogSeen {
    syncs: f64,
    bytes: f64,
}

async fn over_http(args: &PlaceArgs, regions: &[&str], what: &str, folder: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let closed = args.clients.iter().map(|clients| (*clients, None));
    for (clients, rate) in closed.chain(args.rate.map(|rate| (0, Some(rate)))) {
        let row = middle(args, async || {
            // A fresh folder each time: a run does not pay for what the one before it stored.
            let folder = tempfile::tempdir_in(folder)?;
            let served = Served::start(args.engine, regions, folder.path()).await?;
            let row = measure(args, &served, what, clients, rate, folder.path()).await;
            served.cluster.stop().await?;
            row
        });
        rows.push(row.await?);
    }
    Ok(rows)
}

async fn log_seen(served: &Served) -> Result<LogSeen> {
    let page = served.api.text(served.cluster.node_admin(ORIGIN)?, "/metrics").await?;
    let number = |name: &str| {
        let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse::<f64>().ok())
    };
    Ok(LogSeen {
        syncs: number("cell_log_syncs_total").context("the node does not count its syncs")?,
        bytes: number("cell_log_bytes_total").context("the node does not count its log's bytes")?,
    })
}

/// Processor seconds of the loaded node, and of every process.
fn cpu_of_all(served: &Served) -> (f64, f64) {
    (served.cpu_of(Role::Node, ORIGIN), served.cluster.pids().into_iter().map(cpu_seconds).sum())
}

async fn measure(
    args: &PlaceArgs,
    served: &Served,
    what: &str,
    clients: usize,
    rate: Option<u64>,
    folder: &Path,
) -> Result<Row> {
    let (load, phase) = served.load()?;
    let load = match rate {
        Some(rate) => tokio::spawn(load.open(rate)),
        None => tokio::spawn(load.closed(clients)),
    };
    tokio::time::sleep(WARM_UP).await;
    let (log, cpu, ticks, begun) =
        (log_seen(served).await?, cpu_of_all(served), Ticks::now(), Instant::now());
    phase.count();
    tokio::time::sleep(args.time()).await;
    phase.end();
    let (log_after, cpu_after, seconds) =
        (log_seen(served).await?, cpu_of_all(served), begun.elapsed().as_secs_f64());
    let steal_percent = Ticks::now().steal_since(&ticks);
    let taken = Taken { latency: load.await??.0, seconds };
    let syncs = (log_after.syncs - log.syncs).max(1.0);
    let orders = taken.latency.len() as f64;
    let bytes = (log_after.bytes - log.bytes) / orders;
    let group = (orders / syncs).round().max(1.0) as usize;
    let (floor_orders_per_s, floor_p50_ms) = floor(folder, bytes as usize, group)?;
    let what = rate.map_or_else(|| what.to_owned(), |rate| format!("{what}, open loop at {rate}/s"));
    let row = Row {
        cpu_us_per_order: (cpu_after.0 - cpu.0) / orders * 1e6,
        cpu_us_per_order_total: (cpu_after.1 - cpu.1) / orders * 1e6,
        orders_per_fsync: orders / syncs,
        log_bytes_per_order: bytes,
        floor_orders_per_s,
        floor_p50_ms,
        steal_percent,
        ..row(what, clients, &taken)
    };
    Ok(row.judged())
}

fn row(what: String, clients: usize, taken: &Taken) -> Row {
    let ms = |quantile| taken.latency.value_at_quantile(quantile) as f64 / 1e3;
    Row {
        what,
        clients,
        orders_per_s: taken.latency.len() as f64 / taken.seconds,
        p50_ms: ms(0.5),
        p99_ms: ms(0.99),
        p999_ms: ms(0.999),
        cpu_us_per_order: 0.0,
        cpu_us_per_order_total: 0.0,
        orders_per_fsync: 0.0,
        log_bytes_per_order: 0.0,
        floor_orders_per_s: 0.0,
        floor_p50_ms: 0.0,
        steal_percent: 0.0,
        disturbed: false,
    }
}

/// The raw floor: as many bytes as a group of orders takes in the log, appended and synced, again and again. Orders per
/// second that this alone would allow, and the median of one group.
fn floor(folder: &Path, bytes_per_order: usize, group: usize) -> Result<(f64, f64)> {
    let bytes = vec![0x5a; (bytes_per_order * group).max(1)];
    let mut file = File::options().create(true).append(true).open(folder.join("floor"))?;
    let mut latency: Histogram<u64> = load::histogram()?;
    let begun = Instant::now();
    while begun.elapsed() < FLOOR_TIME {
        let one = Instant::now();
        file.write_all(&bytes)?;
        file.sync_data()?;
        latency.record(one.elapsed().as_micros().max(1) as u64)?;
    }
    let groups = latency.len() as f64 / begun.elapsed().as_secs_f64();
    Ok((groups * group as f64, latency.value_at_quantile(0.5) as f64 / 1e3))
}

// === over HTTP into PostgreSQL ===

async fn over_postgres(args: &PlaceArgs) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for clients in args.clients.iter().copied() {
        let row = middle(args, async || {
            let postgres = Postgres::start(args.data.as_deref(), usize::from(args.pool).min(clients)).await?;
            let row = measure_postgres(args, &postgres, clients).await;
            postgres.stop().await?;
            row
        });
        rows.push(row.await?);
    }
    Ok(rows)
}

async fn measure_postgres(args: &PlaceArgs, postgres: &Postgres, clients: usize) -> Result<Row> {
    let phase = Phase::default();
    let load = Load {
        address: postgres.address()?,
        numbers: Arc::default(),
        keys: Arc::default(),
        users: load::users(),
        phase: phase.clone(),
        below: u64::MAX,
        notes: false,
    };
    let load = tokio::spawn(load.closed(clients));
    tokio::time::sleep(WARM_UP).await;
    let (cpu, ticks, begun) = (postgres.cpu(), Ticks::now(), Instant::now());
    phase.count();
    tokio::time::sleep(args.time()).await;
    phase.end();
    let (cpu_after, seconds) = (postgres.cpu(), begun.elapsed().as_secs_f64());
    let steal_percent = Ticks::now().steal_since(&ticks);
    let taken = Taken { latency: load.await??.0, seconds };
    let orders = taken.latency.len() as f64;
    Ok(Row {
        cpu_us_per_order: (cpu_after.0 - cpu.0) / orders * 1e6,
        cpu_us_per_order_total: (cpu_after.1 - cpu.1) / orders * 1e6,
        steal_percent,
        ..row(AGAINST_POSTGRES.to_owned(), clients, &taken)
    })
}

/// How many times as many orders as with PostgreSQL, by clients.
pub(super) fn times_postgres(rows: &[Row]) -> Vec<(usize, f64)> {
    let of = |what: &'static str| rows.iter().filter(move |row| row.what == what);
    let ratio = |theirs: &Row| {
        let ours = of(OVER_HTTP).find(|ours| ours.clients == theirs.clients)?;
        Some((theirs.clients, ours.orders_per_s / theirs.orders_per_s))
    };
    of(AGAINST_POSTGRES).filter_map(ratio).collect()
}

// === in process ===

async fn in_process(args: &PlaceArgs, folder: &Path) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for clients in args.clients.iter().copied() {
        let row = middle(args, async || {
            let folder = tempfile::tempdir_in(folder)?;
            measure_in_process(args, clients, folder.path()).await
        });
        rows.push(row.await?);
    }
    Ok(rows)
}

fn command(n: u64, users: &[String], keys: &Keys) -> Result<Command> {
    let key = keys.next();
    let user = UserId::new(&users[(n % users.len() as u64) as usize])?;
    let line =
        |sku: String, title: &str, unit_minor| Line { sku, title: title.to_owned(), quantity: 1, unit_minor };
    let record = OrderRecord {
        user: user.clone(),
        content: OrderContent {
            currency: "CNY".to_owned(),
            lines: vec![
                line(format!("tea-{:04}", n % 1_000), "Tieguanyin Oolong, spring, 250 g", 4_500),
                line(format!("pot-{:04}", n % 97), "Yixing clay teapot, 180 ml", 28_800),
                line(format!("cup-{:04}", n % 313), "Celadon cup, set of four", 15_900),
            ],
            promotions_minor: 0,
            coupon_minor: 1_000,
            points_minor: 0,
            foreign_shipping_minor: 3_500,
            forwarding_fee_minor: 0,
            service_fee_minor: 0,
            duty_minor: 420,
        }
        .into(),
        pay_window_ms: PAY_WINDOW_MS,
        external_ref: format!("SHOP-2026-{n:010}"),
        sealed: Default::default(),
        sealed_key: String::new(),
        attributes: r#"{"channel":"app","gift":false}"#.to_owned(),
        time_ms: uuid7_time_ms(&key).unwrap_or(0),
        key: key.clone(),
    };
    let ask = Ask::Place { record: Box::new(record) };
    Ok(Command { user, key, body: load::body(n).into_bytes(), trace: String::new(), ask })
}

async fn measure_in_process(args: &PlaceArgs, clients: usize, folder: &Path) -> Result<Row> {
    let region = "north".parse()?;
    let identity = Identity {
        region,
        index: 0,
        placement: Placement::initial(vec![region], |_| region),
        rules: Rules::default(),
        ability: Ability::default(),
        recovery_wait: Duration::ZERO,
        log: LogSettings::default(),
    };
    let (node, running) = Node::open(identity, folder, args.engine.name(), &Shutdown::new())?;
    let (numbers, keys, phase) = (Arc::new(AtomicU64::new(0)), Arc::new(Keys::default()), Phase::default());
    let users = load::users();
    let mut load = Vec::with_capacity(clients);
    for _ in 0..clients {
        let (node, numbers, keys, phase) = (node.clone(), numbers.clone(), keys.clone(), phase.clone());
        let users = users.clone();
        load.push(tokio::spawn(async move {
            let mut latency = load::histogram()?;
            while !phase.is_over() {
                let command = command(numbers.fetch_add(1, Ordering::Relaxed), &users, &keys)?;
                let begun = Instant::now();
                if let Err(refused) = node.command(command).await? {
                    bail!("not placed: {refused:?}");
                }
                if phase.counts() {
                    latency.record(begun.elapsed().as_micros().max(1) as u64)?;
                }
            }
            Ok(latency)
        }));
    }
    tokio::time::sleep(WARM_UP).await;
    let (cpu, ticks, begun) = (cpu_seconds(std::process::id()), Ticks::now(), Instant::now());
    phase.count();
    tokio::time::sleep(args.time()).await;
    phase.end();
    let (cpu_after, seconds) = (cpu_seconds(std::process::id()), begun.elapsed().as_secs_f64());
    let steal_percent = Ticks::now().steal_since(&ticks);
    let mut latency = load::histogram()?;
    for client in load {
        latency.add(client.await??)?;
    }
    let store = node.store().clone();
    drop(node);
    tokio::task::spawn_blocking(move || running.join(&store)).await?;
    let taken = Taken { latency, seconds };
    let cpu_us = (cpu_after - cpu) / taken.latency.len() as f64 * 1e6;
    Ok(Row {
        cpu_us_per_order: cpu_us,
        cpu_us_per_order_total: cpu_us,
        steal_percent,
        ..row("in process".to_owned(), clients, &taken)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_that_beats_its_floor_is_said_to_be_disturbed() {
        let taken = Taken { latency: load::histogram().unwrap(), seconds: 1.0 };
        let run = |orders_per_s, p50_ms| {
            let row = row("http".to_owned(), 1, &taken);
            Row { orders_per_s, p50_ms, floor_orders_per_s: 100.0, floor_p50_ms: 1.0, ..row }
                .judged()
                .disturbed
        };
        assert!(!run(99.0, 1.1));
        assert!(run(101.0, 1.1) && run(99.0, 0.9));
        assert!(!row("in process".to_owned(), 1, &taken).judged().disturbed, "there is no floor");
    }
}
