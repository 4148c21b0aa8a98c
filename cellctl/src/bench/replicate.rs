//! `bench replicate`: from a commit in one region to its durable copy in another, by real nodes and agents.
//!
//! One region places, the other follows. Lag is measured per order, by one clock: from the moment its client has the
//! answer until the other node's log shows it durable, at half the rate that both sustain unless told otherwise. Then the
//! link is cut, orders pile up, and the time to catch up is taken, with the origin idle and with it placing.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos_tests::harness::{Latency, Link, LinkState};
use hdrhistogram::Histogram;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::ReplicateArgs;
use super::arrivals::Arrivals;
use super::figure::{Aim, Figure, quantiles};
use super::hops::{hops, per_item};
use super::load::{self, Acked, Load};
use super::served::{FAR, ORIGIN, Served, each_run, folder_in};

const WARM_UP: Duration = Duration::from_secs(1);
const ECHOES: usize = 2_000;

pub(super) async fn run(args: &ReplicateArgs) -> Result<Vec<Figure>> {
    let apart = args.peer_data.as_deref().map(|data| folder_in(Some(data))).transpose()?;
    let start = async |folder: &Path| {
        if let Some(apart) = &apart {
            let data = std::path::absolute(apart.path())?.join(FAR);
            let named = || data.display().to_string();
            // What the run before left there is not looked at any more.
            if data.try_exists().with_context(named)? {
                std::fs::remove_dir_all(&data).with_context(named)?;
            }
            std::fs::create_dir(&data).with_context(named)?;
            std::os::unix::fs::symlink(&data, folder.join(FAR))?;
        }
        Served::start(args.runs.engine, &[ORIGIN, FAR], folder).await
    };
    each_run(&args.runs, start, async |served| measure(args, served).await).await
}

async fn measure(args: &ReplicateArgs, served: &Served) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    if args.idle_seconds > 0 {
        figures.extend(idle(args, served).await?);
    }
    let (sustained, of_sustained) = sustained(args, served).await?;
    figures.extend(of_sustained);
    let half = (sustained / 2.0) as u64;
    ensure!(half > 0, "nothing is sustained");
    figures.extend(lag(args, served, args.rate.unwrap_or(half)).await?);
    if args.orders == 0 {
        return Ok(figures);
    }
    figures.extend(catch_up_idle(args, served).await?);
    figures.extend(catch_up_placing(args, served, half, "").await?);
    served.cluster.give_way(FAR).await?;
    figures.extend(catch_up_placing(args, served, half, ", the peer giving way").await?);
    Ok(figures)
}

// === idle ===

/// What a peer costs that has nothing to say.
async fn idle(args: &ReplicateArgs, served: &Served) -> Result<Vec<Figure>> {
    tokio::time::sleep(WARM_UP).await;
    let (cpu, bytes, begun) = (hops(served), served.wire_bytes(ORIGIN, FAR)?, Instant::now());
    tokio::time::sleep(Duration::from_secs(args.idle_seconds)).await;
    let minutes = begun.elapsed().as_secs_f64() / 60.0;
    let (cpu_after, bytes_after) = (hops(served), served.wire_bytes(ORIGIN, FAR)?);
    // Of the agents alone: a node beats and looks for what is due whether or not it has peers.
    let agents = (cpu_after[1] - cpu[1] + cpu_after[2] - cpu[2]) / 2.0;
    let nodes = (cpu_after[0] - cpu[0] + cpu_after[3] - cpu[3]) / 2.0;
    Ok(vec![
        Figure::new("idle, one peer: CPU of an agent", agents / minutes * 1e3, "ms/min"),
        Figure::new("idle, one peer: CPU of a node", nodes / minutes * 1e3, "ms/min"),
        Figure::new(
            "idle: bytes between two regions",
            (bytes_after - bytes) as f64 / minutes / 1e3,
            "kB/min",
        ),
    ])
}

// === sustained, and lag ===

/// Orders per second that the origin places and the other region has, both at once.
async fn sustained(args: &ReplicateArgs, served: &Served) -> Result<(f64, Vec<Figure>)> {
    let (actor, _) = served.written().await?;
    let mut arrivals = Arrivals::follow(served.node(FAR).await?, actor, false).await?;
    let (load, phase) = served.load()?;
    let load = tokio::spawn(load.closed(usize::from(args.clients)));
    tokio::time::sleep(WARM_UP).await;
    let (before, begun, cpu) = (arrivals.now(), Instant::now(), hops(served));
    let bytes = served.wire_bytes(ORIGIN, FAR)?;
    phase.count();
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    phase.end();
    let (after, seconds) = (arrivals.now(), begun.elapsed().as_secs_f64());
    let (latency, _) = load.await??;
    let (_, last) = served.written().await?;
    let caught_up = arrivals.until(last).await?;
    let behind = caught_up.at.duration_since(begun).as_secs_f64() - seconds;
    let (cpu_after, bytes_after) = (hops(served), served.wire_bytes(ORIGIN, FAR)?);
    arrivals.end().await?;
    let (placed, applied) = (latency.len() as f64 / seconds, (after.seq - before.seq) as f64 / seconds);
    let changes = (last - before.seq) as f64;
    let mut figures = vec![
        Figure::new(format!("placed, {} clients, the peer following", args.clients), placed, "orders/s"),
        Figure::new("durable at the peer meanwhile", applied, "orders/s"),
        Figure::new("the peer was behind in the end by", behind.max(0.0) * 1e3, "ms"),
        Figure::new("bytes on the wire per order", (bytes_after - bytes) as f64 / changes, "B"),
    ];
    figures.extend(per_item(cpu, cpu_after, changes, "change", "following"));
    Ok((placed.min(applied), figures))
}

/// From the answer to the client until it is durable at the peer.
async fn lag(args: &ReplicateArgs, served: &Served, rate: u64) -> Result<Vec<Figure>> {
    let link = link_delay().await?;
    let (actor, _) = served.written().await?;
    let mut arrivals = Arrivals::follow(served.node(FAR).await?, actor, true).await?;
    let (load, phase) = served.load()?;
    let load = tokio::spawn(Load { notes: true, ..load }.open(rate));
    tokio::time::sleep(WARM_UP).await;
    phase.count();
    let bytes = served.wire_bytes(ORIGIN, FAR)?;
    let (before, begun) = (arrivals.now(), Instant::now());
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    let bytes_after = served.wire_bytes(ORIGIN, FAR)?;
    let placed = arrivals.now().seq - before.seq;
    let seconds = begun.elapsed().as_secs_f64();
    phase.end();
    let (latency, acked) = load.await??;
    let (_, last) = served.written().await?;
    arrivals.until(last).await?;
    let (lag, earlier) = between(&acked, &arrivals.end().await?, link)?;
    let mut figures = vec![Figure::new("lag is measured at", placed as f64 / seconds, "orders/s")];
    figures.extend(quantiles(
        "lag, answer to durable at the peer,",
        &lag,
        [Some(1.0), Some(4.0), Some(10.0)],
    ));
    figures.push(Figure::new("there before the client had its answer", earlier * 100.0, "%"));
    figures.push(Figure::new("the link's own delay, taken off", link.as_secs_f64() * 1e6, "µs"));
    figures.extend(quantiles("placement meanwhile,", &latency, [None; 3]));
    let per_order = (bytes_after - bytes) as f64 / placed.max(1) as f64;
    figures.push(Figure::new("bytes on the wire per order, at that rate", per_order, "B"));
    Ok(figures)
}

/// Microseconds from each answer to its arrival, less the link's delay; and the share that came no later than the answer.
fn between(acked: &Acked, arrived: &Acked, link: Duration) -> Result<(Histogram<u64>, f64)> {
    let first = arrived.first().context("nothing came")?.0;
    let mut lag = load::histogram()?;
    let mut earlier = 0u64;
    for (seq, acked) in acked {
        let Some(nth) = seq.checked_sub(first).and_then(|nth| usize::try_from(nth).ok()) else { continue };
        let Some((_, at)) = arrived.get(nth).filter(|(at, _)| at == seq) else { continue };
        let late = at.saturating_duration_since(*acked).saturating_sub(link);
        earlier += u64::from(late.is_zero());
        lag.record((late.as_micros() as u64).max(1))?;
    }
    ensure!(lag.len() >= acked.len() as u64 / 2, "most of what was placed was not seen to come");
    let share = earlier as f64 / lag.len() as f64;
    Ok((lag, share))
}

/// What a link like those between the regions takes one way while nothing else happens: the median of many.
async fn link_delay() -> Result<Duration> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let direct = listener.local_addr()?;
    let echo = tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    let link = Link::start(direct, Latency::NONE, 1).await?;
    let mut medians = [Duration::ZERO; 2];
    for (address, median) in [link.address(), direct].into_iter().zip(&mut medians) {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (mut times, mut buffer) = (Vec::with_capacity(ECHOES), [0; 64]);
        for _ in 0..ECHOES {
            let begun = Instant::now();
            stream.write_all(&buffer).await?;
            stream.read_exact(&mut buffer).await?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        *median = times[ECHOES / 2];
    }
    echo.abort();
    Ok(medians[0].saturating_sub(medians[1]) / 2)
}

// === catching up ===

/// Cuts the peer off and places orders that it will lack; the last of them.
async fn pile_up(args: &ReplicateArgs, served: &Served) -> Result<u64> {
    served.cluster.data_into(FAR, LinkState::Cut);
    let (load, _) = served.load()?;
    let below = load.numbers.load(std::sync::atomic::Ordering::Relaxed) + args.orders;
    let ends_at = Load { below, ..load };
    ends_at.clone().closed(usize::from(args.clients)).await?;
    // The clients' last tries took numbers that nobody placed.
    ends_at.numbers.store(below, std::sync::atomic::Ordering::Relaxed);
    // The views are not part of what is measured next.
    tokio::time::sleep(WARM_UP).await;
    Ok(served.written().await?.1)
}

async fn catch_up_idle(args: &ReplicateArgs, served: &Served) -> Result<Vec<Figure>> {
    let last = pile_up(args, served).await?;
    let (actor, _) = served.written().await?;
    let mut arrivals = Arrivals::follow(served.node(FAR).await?, actor, false).await?;
    let (from, bytes, cpu) = (arrivals.now().seq, served.wire_bytes(ORIGIN, FAR)?, hops(served));
    served.cluster.data_into(FAR, LinkState::Open);
    // From the first that comes: to dial again is another thing than to be fast.
    let first = arrivals.until(from + 1).await?;
    let end = arrivals.until(last).await?;
    let seconds = end.at.duration_since(first.at).as_secs_f64();
    let changes = (last - from) as f64;
    tokio::time::sleep(WARM_UP).await;
    let (cpu_after, bytes_after) = (hops(served), served.wire_bytes(ORIGIN, FAR)?);
    arrivals.end().await?;
    let rate = (end.seq - first.seq) as f64 / seconds;
    let mut figures = vec![
        Figure::new(format!("catch-up of {changes:.0} changes, origin idle"), rate, "orders/s")
            .aim(Aim::AtLeast(50_000.0)),
        Figure::new("bytes on the wire per order, catching up", (bytes_after - bytes) as f64 / changes, "B"),
    ];
    figures.extend(per_item(cpu, cpu_after, changes, "change", "catching up"));
    Ok(figures)
}

/// What placing feels of it is the origin's own part where the peer's processes take only what is left of the cores that
/// both share here.
async fn catch_up_placing(
    args: &ReplicateArgs,
    served: &Served,
    rate: u64,
    how: &str,
) -> Result<Vec<Figure>> {
    pile_up(args, served).await?;
    let (load, phase) = served.load()?;
    let alone = tokio::spawn(load.open(rate));
    tokio::time::sleep(WARM_UP).await;
    phase.count();
    tokio::time::sleep(Duration::from_secs(args.seconds)).await;
    phase.end();
    let (before, _) = alone.await??;

    let (actor, _) = served.written().await?;
    let mut arrivals = Arrivals::follow(served.node(FAR).await?, actor, false).await?;
    let (load, phase) = served.load()?;
    let placing = tokio::spawn(load.open(rate));
    tokio::time::sleep(WARM_UP).await;
    let (from, (_, last)) = (arrivals.now().seq, served.written().await?);
    served.cluster.data_into(FAR, LinkState::Open);
    let first = arrivals.until(from + 1).await?;
    phase.count();
    let end = arrivals.until(last).await?;
    phase.end();
    let (during, _) = placing.await??;
    arrivals.end().await?;
    let caught_up = (end.seq - first.seq) as f64 / end.at.duration_since(first.at).as_secs_f64();
    let p99 = |of: &Histogram<u64>| of.value_at_quantile(0.99) as f64 / 1e3;
    Ok(vec![
        Figure::new(
            format!("catch-up of {} changes, origin placing {rate}/s{how}", last - from),
            caught_up,
            "orders/s",
        )
        .aim(Aim::AtLeast(25_000.0)),
        Figure::new(format!("placement p99 before{how}"), p99(&before), "ms"),
        Figure::new(format!("placement p99 while catching up{how}"), p99(&during), "ms"),
        Figure::new(format!("p99 during : before{how}"), p99(&during) / p99(&before), "")
            .aim(Aim::AtMost(2.0)),
    ])
}
