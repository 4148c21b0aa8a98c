//! Whether memory grows with what a peer lacks: the same orders with it following and with it away, and three times as many.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::case::{Case, HOME};
use super::load::Load;
use super::report::Row;
use super::watch::resident_bytes;
use crate::harness::Role;
use crate::real::deployment::Deployment;

/// What allocators, caches and write buffers are off by from one run to the next.
const NODE_SLACK_BYTES: u64 = 64 << 20;
const AGENT_SLACK_BYTES: u64 = 16 << 20;
/// Views are written behind the log.
const SETTLES: Duration = Duration::from_secs(2);

/// Bytes of the home's node and agent when all of it is placed.
struct Resident {
    node: u64,
    agent: u64,
}

pub(super) async fn play(folder: &Path, engine: &str, orders: u64, row: &mut Row) -> Result<()> {
    let more = orders * 3;
    let following = run(&folder.join("following"), engine, more, false).await?;
    let less = run(&folder.join("less"), engine, orders, true).await?;
    let away = run(&folder.join("away"), engine, more, true).await?;
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    row.behind = more;
    row.node_mib = [mib(following.node), mib(away.node)];
    row.agent_mib = [mib(less.agent), mib(away.agent)];
    row.said = format!(
        "{more} orders, peer following: node {:.0}, agent {:.0} MiB; away: {:.0}, {:.0}; {orders}, away: {:.0}, {:.0}",
        mib(following.node),
        mib(following.agent),
        mib(away.node),
        mib(away.agent),
        mib(less.node),
        mib(less.agent)
    );
    ensure!(
        away.node <= following.node + NODE_SLACK_BYTES,
        "the node has {:.0} MiB with its peer away, {:.0} with it following",
        mib(away.node),
        mib(following.node)
    );
    ensure!(
        away.agent <= less.agent + AGENT_SLACK_BYTES,
        "the agent has {:.0} MiB with {more} orders behind, {:.0} with {orders}",
        mib(away.agent),
        mib(less.agent)
    );
    Ok(())
}

async fn run(folder: &Path, engine: &str, orders: u64, away: bool) -> Result<Resident> {
    let mut it = Deployment::of(Deployment::plan(folder.to_owned(), engine, &[])).await?;
    let load = Load::of(&it)?;
    if away {
        Case::Away.begin(&mut it, orders, 0).await?;
    }
    load.pile_up(orders).await?;
    tokio::time::sleep(SETTLES).await;
    let of = |role| it.cluster.pid(role, HOME).map_or(0, resident_bytes);
    let resident = Resident { node: of(Role::Node), agent: of(Role::Agent) };
    it.stop().await?;
    std::fs::remove_dir_all(folder)?;
    Ok(resident)
}
