//! `bench place --orders`: whether the ten-millionth order costs more than the first.

use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Context, Result};
use chaos_tests::harness::Role;

use super::PlaceArgs;
use super::figure::{Aim, Figure};
use super::load::Load;
use super::machine::{Ticks, resident_bytes};
use super::served::{ORIGIN, Served, folder_in};
use crate::output::remark;

const PARTS: u64 = 10;
const GIB: f64 = (1u64 << 30) as f64;

pub(super) async fn run(args: &PlaceArgs, orders: u64) -> Result<Vec<Figure>> {
    let folder = folder_in(args.data.as_deref())?;
    let served = Served::start(args.engine, &[ORIGIN], folder.path()).await?;
    let figures = measure(args, &served, orders, folder.path()).await;
    served.cluster.stop().await?;
    figures
}

async fn measure(args: &PlaceArgs, served: &Served, orders: u64, folder: &Path) -> Result<Vec<Figure>> {
    let clients = args.clients.last().copied().context("no clients")?;
    let pid = served.cluster.pid(Role::Node, ORIGIN).context("the node does not run")?;
    let (mut figures, mut rates, mut most) = (Vec::new(), Vec::new(), 0);
    let ticks = Ticks::now();
    for part in 1..=PARTS {
        let (load, phase) = served.load()?;
        phase.count();
        let (numbers, below) = (load.numbers.clone(), orders * part / PARTS);
        let (cpu, begun) = (served.cpu_of(Role::Node, ORIGIN), Instant::now());
        let (latency, _) = Load { below, ..load }.closed(clients).await?;
        // The clients' last tries took numbers that nobody placed.
        numbers.store(below, Ordering::Relaxed);
        let rate = latency.len() as f64 / begun.elapsed().as_secs_f64();
        let cpu_us = (served.cpu_of(Role::Node, ORIGIN) - cpu) / latency.len() as f64 * 1e6;
        let resident = resident_bytes(pid);
        most = most.max(resident);
        let upto = format!("up to {below}");
        let mib = resident >> 20;
        remark(format_args!("  {upto}: {rate:.0}/s, {cpu_us:.0} µs, {mib} MiB"));
        rates.push(rate);
        figures.push(Figure::new(format!("placed, {upto}"), rate, "orders/s"));
        figures.push(Figure::new(format!("node CPU, {upto}"), cpu_us, "µs/order"));
        figures.push(Figure::new(format!("resident, {upto}"), mib as f64, "MiB"));
        figures.push(Figure::new(format!("p99, {upto}"), latency.value_at_quantile(0.99) as f64 / 1e3, "ms"));
    }
    let (first, last) = (rates.first().copied().unwrap_or(0.0), rates.last().copied().unwrap_or(0.0));
    figures.push(Figure::new("last tenth : first tenth", last / first, "").aim(Aim::AtLeast(0.8)));
    figures.push(Figure::new("resident at most", most as f64 / GIB, "GiB").aim(Aim::AtMost(1.5)));
    for (name, what) in [("log", "log"), ("view", "view")] {
        let bytes = bytes_in(&folder.join(ORIGIN).join("node").join(name)) as f64;
        figures.push(Figure::new(format!("on the disk, {what}, per order"), bytes / orders as f64, "B"));
    }
    figures.push(Figure::new("taken by the host", Ticks::now().steal_since(&ticks), "%"));
    Ok(figures)
}

/// What the files in a folder take, those in folders of it too.
fn bytes_in(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let bytes = |entry: std::fs::DirEntry| match entry.metadata() {
        Ok(it) if it.is_dir() => bytes_in(&entry.path()),
        Ok(it) => it.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}
