//! `kills`: SIGKILL on nodes and agents of two regions under load, as often as wanted; nothing acknowledged is lost, and
//! nothing happens twice.
//!
//! A process is killed a random while after it serves, most often a short one, or while it starts, before it has replayed
//! what the one before it left. Clients do what clients do: the same request with the same key until it is answered. All the
//! while acknowledged orders are read at their homes; at the end everything is compared: both regions, the lists, the repeats,
//! the gateway's books, the digests.

mod clients;
mod report;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tempfile::TempDir;
use tokio::time::Instant;

use super::checks;
use super::damage::{EngineName, Format};
use super::deployment::{Deployment, REGIONS, until};
use crate::harness::Role;
use crate::sim::Rng;
use clients::Clients;
use report::Outcome;

/// From readiness to the kill, milliseconds; as likely in 20 to 40 as in 400 to 800.
const LOAD_MS: (f64, f64) = (20.0, 800.0);
/// From the start to a kill that does not wait for readiness, milliseconds.
const STARTING_MS: (u64, u64) = (1, 150);
/// Of a thousand: kills of agents, starts that are killed, kills that wait until the node decides.
const AGENTS: u64 = 150;
const STARTING: u64 = 250;
const DECIDING: u64 = 250;
/// At the end everything has to agree within this.
const SETTLES_WITHIN: Duration = Duration::from_secs(120);
/// The views are read through often enough for what kills leave in them to be found.
const NODE: [&str; 1] = ["scrub_every_ms = 2000"];
/// Orders whose repeat is tried at the end.
const REPEATED: usize = 200;

/// What is killed, and how often.
#[derive(Clone, Debug, Args)]
pub struct KillsArgs {
    /// What keeps the view.
    #[arg(long, default_value = "sled")]
    engine: EngineName,
    /// Kills.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    count: u64,
    /// Chooses whom, when, and what clients do.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(short, long, default_value = "table")]
    output: Format,
}

/// Kills, looks, prints.
///
/// # Errors
/// Something acknowledged is lost, something happened twice, or the regions do not agree; logs and data are kept.
pub async fn run(args: &KillsArgs) -> Result<()> {
    let folder = TempDir::with_prefix("homecell-kills-")?;
    let bar = ProgressBar::new(args.count);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} kills, {elapsed}, {msg}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let it = Deployment::start(folder.path().join("cluster"), args.engine.as_str(), &NODE).await?;
    let played = play(it, args, &bar).await;
    bar.finish_and_clear();
    match played {
        Ok(outcome) => outcome.print(args.output),
        Err(error) => {
            let kept = folder.keep();
            Err(error.context(format!("seed {}; logs and data are kept in {}", args.seed, kept.display())))
        }
    }
}

async fn play(it: Deployment, args: &KillsArgs, bar: &ProgressBar) -> Result<Outcome> {
    let mut outcome = Outcome { engine: args.engine.as_str(), seed: args.seed, ..Outcome::default() };
    let (mut it, mut rng) = (it, Rng::new(args.seed));
    let clients = Arc::new(Clients::of(&it)?);
    let tasks = clients.start(&it, args.seed)?;
    let begun = Instant::now();
    let killed = async {
        while outcome.kills() < args.count {
            strike(&mut it, &mut rng, &mut outcome, args.count).await?;
            clients.killed();
            bar.set_position(outcome.kills());
            bar.set_message(format!("{} orders", clients.placed()));
            clients.sound()?;
        }
        Ok::<_, anyhow::Error>(())
    };
    let killed = killed.await;
    outcome.kill_s = begun.elapsed().as_secs_f64();
    clients.stop();
    for task in tasks {
        task.await.context("a client")?;
    }
    killed?;
    clients.sound()?;
    let book = clients.book();
    (outcome.orders, outcome.paid, outcome.unanswered) = (
        book.orders.len() as u64,
        book.orders.values().filter(|order| order.paid).count() as u64,
        clients.unanswered(),
    );
    ensure!(outcome.orders >= args.count / 10, "only {} orders: that is no load", outcome.orders);
    bar.set_message("looking whether all of it is there");
    let settles = Instant::now();
    until(SETTLES_WITHIN, async || {
        checks::digests(&it).await?;
        let bodies = checks::agree(&it, book.orders.values()).await?;
        checks::books(&book.orders, &bodies, &it.ledger().await?)
    })
    .await?;
    until(SETTLES_WITHIN, async || checks::lists(&it, &book, 3).await).await?;
    let step = (book.orders.len() / REPEATED).max(1);
    until(SETTLES_WITHIN, async || checks::repeats(&it, book.orders.values().step_by(step)).await).await?;
    checks::digests(&it).await?;
    until(SETTLES_WITHIN, async || checks::sound_views(&it).await).await?;
    outcome.settle_s = settles.elapsed().as_secs_f64();
    it.stop().await?;
    Ok(outcome)
}

/// One process is killed while it works, and perhaps again while it starts.
async fn strike(it: &mut Deployment, rng: &mut Rng, outcome: &mut Outcome, count: u64) -> Result<()> {
    let region = *rng.pick(&REGIONS);
    let role = if rng.chance(AGENTS) { Role::Agent } else { Role::Node };
    if rng.chance(DECIDING) {
        it.cluster.ready(role, region).await?;
        outcome.decided += 1;
    }
    tokio::time::sleep(load(rng)).await;
    if let Some(status) = it.cluster.ended(role, region) {
        bail!("{region} {role:?} has ended by itself: {status}");
    }
    it.cluster.kill(role, region).await?;
    match role {
        Role::Node => outcome.nodes += 1,
        _ => outcome.agents += 1,
    }
    while rng.chance(STARTING) && outcome.kills() < count {
        let after = Duration::from_millis(rng.between(STARTING_MS.0, STARTING_MS.1));
        it.cluster.start_and_kill(role, region, after).await?;
        outcome.starting += 1;
    }
    it.cluster.restart(role, region).await?;
    Ok(())
}

fn load(rng: &mut Rng) -> Duration {
    let share = rng.below(1_000_000) as f64 / 1e6;
    let (low, high) = LOAD_MS;
    Duration::from_secs_f64(low * (high / low).powf(share) / 1e3)
}
