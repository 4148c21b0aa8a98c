//! `bench bootstrap`: a region whose disk was lost takes over the state of a peer, since no log reaches back to it.
//!
//! One region places, the other follows, until the first one's log is trimmed. Then the node of the other is killed, its
//! folder removed, and the node started. Timed is from the first entity fetched until the peer's frontier is adopted,
//! and from then on until the digests of both agree. Beside it stands what everything on the way was busy with: what is
//! busy all the time is the limit.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cell_proto::v1;
use chaos_tests::harness::{Latency, Role};

use super::BootstrapArgs;
use super::figure::{Figure, quantiles};
use super::hops::{HOPS, hops, per_item};
use super::load::Load;
use super::machine::{Ticks, threads, written_bytes};
use super::served::{FAR, ORIGIN, Served, each_run};
use crate::output::remark;

const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Nothing new for this long is an error: what was waited for does not come.
const QUIET_MAX: Duration = Duration::from_secs(120);
/// The log has become as short as it will.
const TRIMMED_AFTER: Duration = Duration::from_secs(3);
const BEFORE: Duration = Duration::from_secs(5);

pub(super) async fn run(args: &BootstrapArgs) -> Result<Vec<Figure>> {
    let one_way = Duration::from_millis(args.latency_ms);
    let latency = Latency { min: one_way, max: one_way };
    let start =
        async |folder: &Path| Served::trimmed(args.runs.engine, &[ORIGIN, FAR], latency, folder).await;
    each_run(&args.runs, start, async |served| measure(args, served).await).await
}

async fn measure(args: &BootstrapArgs, served: &mut Served) -> Result<Vec<Figure>> {
    let (load, _) = served.load()?;
    Load { below: args.orders, ..load.clone() }.closed(usize::from(args.clients)).await?;
    // The clients' last tries took numbers that nobody placed.
    load.numbers.store(args.orders, std::sync::atomic::Ordering::Relaxed);
    trimmed(served).await?;

    let mut before = None;
    if args.rate > 0 {
        let (load, phase) = served.load()?;
        let alone = tokio::spawn(load.open(args.rate));
        phase.count();
        tokio::time::sleep(BEFORE).await;
        phase.end();
        before = Some(alone.await??.0);
    }
    served.cluster.kill(Role::Node, FAR).await?;
    std::fs::remove_dir_all(served.cluster.data_folder().join(FAR).join("node"))?;
    let (actor, last) = served.written().await?;
    let placing = before.map(|before| {
        let (load, phase) = served.load()?;
        Ok::<_, anyhow::Error>((before, tokio::spawn(load.open(args.rate)), phase))
    });
    let placing = placing.transpose()?;
    served.cluster.restart(Role::Node, FAR).await?;

    let started = Instant::now();
    until(served, fetched, |fetched| fetched > 0).await?;
    let first = Moment::now(served)?;
    if let Some((.., phase)) = &placing {
        phase.count();
    }
    let adopts =
        async |served: &Served| Ok((of(&status(served, FAR).await?, &actor), fetched(served).await?));
    until(served, adopts, |(seq, _)| seq >= last).await?;
    let adopted = Moment::now(served)?;
    let entities = fetched(served).await?;
    let doubted = async |served: &Served| {
        let metrics = served.api.metrics(served.cluster.node_admin(FAR)?).await?;
        metrics.get("cell_doubted_slots").copied().context("the node does not say what it doubts")
    };
    until(served, doubted, |slots| slots == 0.0).await?;
    let agreed = Instant::now();
    let mut figures = Vec::new();
    if let Some((before, placing, phase)) = placing {
        phase.end();
        let during = placing.await??.0;
        figures.extend(quantiles(&format!("placement at {}/s before,", args.rate), &before, [None; 3]));
        figures.extend(quantiles(&format!("placement at {}/s meanwhile,", args.rate), &during, [None; 3]));
    }
    ensure!(entities >= args.orders, "{entities} of {} orders came as state", args.orders);

    let seconds = adopted.at.duration_since(first.at).as_secs_f64();
    let per_s = entities as f64 / seconds;
    figures.extend([
        Figure::new("start until the first entity is fetched", millis(started, first.at), "ms"),
        Figure::new(format!("{entities} entities taken over"), per_s, "orders/s"),
        Figure::new("adopted until the digests agree", millis(adopted.at, agreed), "ms"),
        Figure::new("bytes on the wire per order", per(first.wire, adopted.wire, entities), "B"),
        Figure::new("written to disk per order, node in", per(first.disk, adopted.disk, entities), "B"),
    ]);
    figures.extend(per_item(first.cpu, adopted.cpu, entities as f64, "order", "taking over"));
    figures.extend(first.limits(&adopted, seconds));
    Ok(figures)
}

fn millis(from: Instant, to: Instant) -> f64 {
    to.duration_since(from).as_secs_f64() * 1e3
}

fn per(before: u64, after: u64, items: u64) -> f64 {
    after.saturating_sub(before) as f64 / items as f64
}

/// What was used up to a moment.
struct Moment {
    at: Instant,
    ticks: Ticks,
    cpu: [f64; 4],
    /// Of each hop, each thread's processor seconds.
    threads: [std::collections::BTreeMap<u32, (String, f64)>; 4],
    wire: u64,
    disk: u64,
}

impl Moment {
    fn now(served: &Served) -> Result<Moment> {
        let pid = |role, region| served.cluster.pid(role, region).unwrap_or_default();
        Ok(Moment {
            at: Instant::now(),
            ticks: Ticks::now(),
            cpu: hops(served),
            threads: HOPS.map(|(_, role, region)| threads(pid(role, region))),
            wire: served.wire_bytes(ORIGIN, FAR)?,
            disk: written_bytes(pid(Role::Node, FAR)),
        })
    }

    /// How much of the processors' time was used, and how much of one's by the thread that used most.
    fn limits(&self, end: &Moment, seconds: f64) -> Vec<Figure> {
        let mut busiest = (0.0, String::new());
        for ((hop, ..), (before, after)) in HOPS.iter().zip(self.threads.iter().zip(&end.threads)) {
            for (id, (name, used)) in after {
                let used = used - before.get(id).map_or(0.0, |(_, used)| *used);
                if used > busiest.0 {
                    busiest = (used, format!("{hop}, {name}"));
                }
            }
        }
        let (used, whose) = busiest;
        remark(format_args!("  busiest thread: {whose}"));
        vec![
            Figure::new("all processors, busy", end.ticks.busy_since(&self.ticks), "%"),
            Figure::new("busiest thread, of one processor", used / seconds * 100.0, "%"),
        ]
    }
}

/// Waits until the other region has everything and the log of the first is no longer than it has to be.
async fn trimmed(served: &Served) -> Result<()> {
    let (actor, last) = served.written().await?;
    let has = async |served: &Served| Ok(of(&status(served, FAR).await?, &actor));
    until(served, has, |seq| seq >= last).await?;
    let first = async |served: &Served| Ok(status(served, ORIGIN).await?.first_position);
    let (mut shortest, mut since) = (0, Instant::now());
    until(served, first, |first| {
        if first > shortest {
            (shortest, since) = (first, Instant::now());
        }
        shortest > 0 && since.elapsed() > TRIMMED_AFTER
    })
    .await
}

/// Waits until what is looked at is as it should be; as long as it changes, for ever.
async fn until<T: Copy + PartialEq>(
    served: &Served,
    look: impl AsyncFn(&Served) -> Result<T>,
    mut is: impl FnMut(T) -> bool,
) -> Result<()> {
    let (mut seen, mut changed) = (None, Instant::now());
    loop {
        let now = look(served).await?;
        if is(now) {
            return Ok(());
        }
        if seen != Some(now) {
            (seen, changed) = (Some(now), Instant::now());
        }
        ensure!(changed.elapsed() < QUIET_MAX, "nothing came of it within {QUIET_MAX:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn status(served: &Served, region: &str) -> Result<v1::StatusReply> {
    Ok(served.node(region).await?.status(v1::StatusRequest::default()).await?.into_inner())
}

fn of(status: &v1::StatusReply, actor: &v1::ActorId) -> u64 {
    status.frontier.iter().find(|front| front.actor.as_ref() == Some(actor)).map_or(0, |front| front.seq)
}

/// Entities that the region's agent has fetched where it took state over.
async fn fetched(served: &Served) -> Result<u64> {
    let metrics = served.api.metrics(served.cluster.agent_admin(FAR)?).await?;
    Ok(metrics.get("cell_exchanged_entities_total").copied().unwrap_or(0.0) as u64)
}
