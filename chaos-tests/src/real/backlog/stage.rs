//! One case from its begin to its end: before, the fault, the return, the drain, everything looked at.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cell_proto::v1;
use serde_json::json;
use tokio::time::Instant;

use super::case::{Case, HOME, PEER, THIRD};
use super::load::{Load, people};
use super::report::{Beside, Row};
use super::watch::{Resident, Watch, folder_bytes, log_folder};
use crate::harness::Role;
use crate::real::deployment::{Deployment, until};

/// One segment of a log, and what of a file may be room taken in advance.
const SEGMENT_KIB: u64 = 1_024;
const ROOM_KIB: u64 = 1_024;
/// Segments of a log of which everybody has everything: the one that is written, the one before it, and one that is looked
/// at when the next word of the agent comes.
const SEGMENTS_AT_REST: u64 = 3;
/// Where retention is looked at: how often the agent says what may go. Beyond what is kept a log may be as much longer as
/// orders bring, at this size, while it was said and not yet done, and while the third region takes what nobody else has.
const TRIM_EVERY_MS: u64 = 100;
const BRINGING_MS: f64 = 3.0 * TRIM_EVERY_MS as f64;
const ORDER_BYTES: f64 = 512.0;
/// Orders before anything happens.
const FIRST_ORDERS: u64 = 500;
/// Orders a second beside everything, which are timed; and for how long that is looked at.
struct Pace {
    beside_per_s: u64,
    beside_for: Duration,
    /// A fault lasts at least so long.
    fault: Duration,
}

const TIMED: Pace = Pace { beside_per_s: 200, beside_for: Duration::from_secs(4), fault: SILENCE_IS_STALLED };
const UNTIMED: Pace =
    Pace { beside_per_s: 20, beside_for: Duration::from_millis(300), fault: Duration::from_millis(500) };
const SILENCE_IS_STALLED: Duration = Duration::from_secs(8);
/// What an agent may need beyond what it had: the feed of one peer (8 MiB), the news that streams share (32 batches of
/// 256 KiB), windows and batches in both directions (16 MiB), 2,048 messages on their way, and what an allocator keeps of all that
/// for the next time.
const AGENT_MORE_BYTES_MAX: u64 = 64 << 20;
/// Messages that wait in a gate, each.
const PARKED_BYTES: u64 = 500;
/// From the first of a backlog to what was asked for after the return: a message waits two seconds for its data before that is
/// fetched. Or before half of the backlog; on a link with little bandwidth before half of it in any case.
const FIRST_WITHIN_S: f64 = 5.0;
/// From the last fault to a lag below [`FRESH_MS`], beside what the backlog takes (O2).
const FRESH_WITHIN_S: f64 = 60.0;
const FRESH_MS: u64 = 1_000;
/// A lag is what is overdue: two heartbeats may be missing of what is known to have passed.
const LAG_SLACK_MS: u64 = 3_000;
/// Nothing takes so long that works.
const GUARD: Duration = Duration::from_secs(300);
const LOOK_EVERY: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(super) struct Stage {
    it: Deployment,
    case: Case,
    orders: u64,
    untimed: bool,
    /// Of the case that is about retention, MiB.
    keep_mib: Option<u64>,
}

/// How the backlog went.
#[derive(Debug, Default)]
struct Drain {
    /// Changes that were lacking at the return, and in between: seconds since then, changes.
    lacking: u64,
    came: Vec<(f64, u64)>,
    drained_s: f64,
}

/// How a request went that was made after the return, seconds since it was made.
#[derive(Debug)]
struct First {
    /// Since the return.
    asked_s: f64,
    seen_s: f64,
    paid_s: f64,
}

impl Drain {
    /// Changes a second in the middle of it: neither the time to find each other again nor the last of it counts.
    fn per_s(&self) -> f64 {
        let at = |share: u64| {
            let reached = self.came.iter().find(|(_, came)| came * 4 >= self.lacking * share);
            reached.map_or((self.drained_s, self.lacking), |at| *at)
        };
        let ((from_s, from), (to_s, to)) = (at(1), at(3));
        let overall = self.lacking as f64 / self.drained_s.max(0.001);
        if to_s > from_s && to > from { ((to - from) as f64 / (to_s - from_s)).max(overall) } else { overall }
    }

    /// When the first of it came: the regions have found each other again.
    fn reached_s(&self) -> f64 {
        self.came.iter().find(|(_, came)| *came > 0).map_or(self.drained_s, |(since_s, _)| *since_s)
    }

    /// The share of it that had come at a moment.
    fn share_at(&self, at_s: f64) -> f64 {
        let came = self.came.iter().take_while(|(since_s, _)| *since_s <= at_s).last();
        came.map_or(0.0, |(_, came)| *came as f64 / self.lacking.max(1) as f64)
    }
}

impl Stage {
    pub(super) async fn open(
        folder: PathBuf,
        engine: &str,
        case: Case,
        orders: u64,
        untimed: bool,
    ) -> Result<Stage> {
        let mut plan = Deployment::plan(folder, engine, &[]);
        plan.regions = case.regions().iter().map(|region| (*region).to_owned()).collect();
        let upkeep_every_ms = if case == Case::Retention { TRIM_EVERY_MS } else { 500 };
        plan.limits.push(format!("upkeep_every_ms = {upkeep_every_ms}"));
        if untimed {
            // What piles up is too little to wait long for anything.
            plan.gate.push("fetch_after_ms = 200".to_owned());
        }
        // A quarter of what piles up, about.
        let keep_mib = (case == Case::Retention).then_some((orders * 400 / 4) >> 20);
        let segment_kib = if keep_mib == Some(0) { 16 } else { SEGMENT_KIB };
        let keep = keep_mib.map_or(String::new(), |mib| format!(", keep_mib = {mib}"));
        plan.node.push(format!("log = {{ segment_kib = {segment_kib}{keep} }}"));
        plan.levels = "info,sync_agent::gate=warn".to_owned();
        let it = Deployment::of(plan).await?;
        let stage = Stage { it, case, orders, untimed, keep_mib };
        stage.others_give_way().await?;
        Ok(stage)
    }

    /// The home is timed as if the other regions had processors of their own. Where its log's length is looked at, only the
    /// peer gives way: what the third region has not taken yet, for want of a processor, is not to be deleted.
    async fn others_give_way(&self) -> Result<()> {
        let gives_way = |region: &str| region == PEER || region != HOME && self.case != Case::Retention;
        for region in self.case.regions().iter().filter(|region| !self.untimed && gives_way(region)) {
            self.it.cluster.give_way(region).await?;
        }
        Ok(())
    }

    async fn end_fault(&mut self) -> Result<()> {
        self.case.end(&mut self.it).await?;
        // Who was started again is to give way again.
        self.others_give_way().await
    }

    pub(super) async fn play(mut self, row: &mut Row, sums: &mut Beside) -> Result<()> {
        let (case, load) = (self.case, Load::of(&self.it)?);
        let Pace { beside_per_s, beside_for, fault } = if self.untimed { UNTIMED } else { TIMED };
        load.pile_up(FIRST_ORDERS.min(self.orders)).await?;
        until(GUARD, async || self.fresh().await).await.context("before the fault")?;
        let watch = Watch::start(&self.it);
        let beside = load.go_on(beside_per_s);
        let begun = Instant::now();
        tokio::time::sleep(beside_for).await;
        let (had, faulty) = (self.known_at(PEER).await?, Instant::now());
        let resident = watch.most();

        let ends = if case == Case::Retention { self.log_ends().await? } else { Vec::new() };
        case.begin(&mut self.it, self.orders, beside_per_s).await?;
        case.lasting(&self.it, async {
            let piling = Instant::now();
            load.pile_up(self.orders).await?;
            let piled = Instant::now();
            row.piled_per_s = self.orders as f64 / piled.duration_since(piling).as_secs_f64();
            tokio::time::sleep_until((piled + beside_for).max(faulty + fault)).await;
            // What the peer lacks is nowhere any more as changes.
            until(GUARD, async || self.begins_behind(&ends).await).await?;
            row.before_ms = load.timed(begun, faulty);
            row.during_ms = load.timed(piled, Instant::now());
            if case.is_silence() {
                self.told(faulty, row).await?;
            }
            Ok(())
        })
        .await?;
        let returned = Instant::now();
        if !case.lasts() {
            self.end_fault().await?;
        }
        watch.look_at(&self.it);
        let pids = self.it.cluster.pids();
        let target = self.known_at(HOME).await?;

        let back = async {
            let (drain, first) =
                tokio::try_join!(self.drain(returned, had, target), self.first(returned, &load))?;
            until(GUARD, async || self.fresh().await).await.context("after the return")?;
            Ok((drain, first))
        };
        let (drain, first) = if case.lasts() { case.lasting(&self.it, back).await? } else { back.await? };
        row.fresh_s = returned.elapsed().as_secs_f64();
        let drained = returned + Duration::from_secs_f64(drain.drained_s);
        row.drain_ms = load.timed(returned, drained.max(returned + beside_for.min(Duration::from_secs(1))));
        load.stop(beside).await?;
        if case.lasts() {
            self.end_fault().await?;
        }
        (row.behind, row.drained_s, row.per_s) = (drain.lacking, drain.drained_s, drain.per_s());
        (row.first_s, row.paid_s) = (first.seen_s, first.paid_s);
        let parked = self.parked().await?;
        self.memory(&resident, &watch.most(), parked, row)?;
        self.whole(&load, row).await?;
        row.log_most = watch.longest_log(HOME);
        self.at_rest(row).await?;
        ensure!(self.it.cluster.pids() == pids, "a process was started again");
        let dead = self.it.cluster.dead();
        ensure!(dead.is_empty(), "ended by themselves: {dead:?}");
        sums.add(row);
        let (seen_s, reached_s) = (first.asked_s + first.seen_s, drain.reached_s().max(first.asked_s));
        // Seconds are the clock's to judge; what the narrow link lets through first is a matter of order.
        let at_once = case != Case::SlowLink && (self.untimed || seen_s <= reached_s + FIRST_WITHIN_S);
        ensure!(
            at_once || drain.share_at(seen_s) < 0.5,
            "a request made after the return was seen {:.1} s after the first of the backlog, and {:.0} % of that were first",
            seen_s - reached_s,
            drain.share_at(seen_s) * 100.0
        );
        if !self.untimed {
            // What flaps may have let everything through by the last return.
            let takes_s = if drain.lacking == 0 { 0.0 } else { drain.lacking as f64 / drain.per_s() };
            let allowed_s = FRESH_WITHIN_S + takes_s;
            ensure!(
                row.fresh_s <= allowed_s,
                "the lag was below a second after {:.1} s, {allowed_s:.1} are allowed",
                row.fresh_s
            );
        }
        self.it.stop().await
    }

    // === while it lasts ===

    async fn status(&self, region: &str) -> Result<v1::StatusReply> {
        Ok(self.it.node(region).await?.status(v1::StatusRequest::default()).await?.into_inner())
    }

    /// Where the logs end of those who stay.
    async fn log_ends(&self) -> Result<Vec<(&'static str, u64)>> {
        let mut ends = Vec::new();
        for region in [HOME, THIRD] {
            ends.push((region, self.status(region).await?.durable_position));
        }
        Ok(ends)
    }

    async fn begins_behind(&self, ends: &[(&'static str, u64)]) -> Result<()> {
        for (region, end) in ends {
            let first = self.status(region).await?.first_position;
            ensure!(
                first > *end,
                "the log of {region} begins at {first} and has what the peer lacks from {end} on"
            );
        }
        Ok(())
    }

    /// How much of what the home's node writes in this life a region has.
    async fn known_at(&self, region: &str) -> Result<u64> {
        let actor = self.it.status(HOME).await?.actor;
        let known = self.it.status(region).await?.frontier;
        Ok(known.iter().find(|front| front.actor == actor).map_or(0, |front| front.seq))
    }

    /// Operators hear of a silence: somebody who goes on calls it by its length, and not idle.
    async fn told(&self, since: Instant, row: &mut Row) -> Result<()> {
        let least_ms = (since.elapsed().as_millis() as u64).saturating_sub(LAG_SLACK_MS);
        let mut heard = Vec::new();
        for here in self.case.regions() {
            let Ok(agent) = self.it.agent(here).await else { continue };
            let silent = agent.peers.iter().filter(|_| *here == HOME || *here == PEER);
            for peer in silent.filter(|peer| peer.region == HOME || peer.region == PEER) {
                let lag_ms = peer.change_lag_ms.unwrap_or(0);
                heard.push((lag_ms, format!("{here} of {}: {}", peer.region, peer.changes)));
            }
        }
        let Some((lag_ms, said)) = heard.into_iter().max() else { bail!("no agent answers") };
        row.lag_s = lag_ms as f64 / 1e3;
        row.said.clone_from(&said);
        ensure!(lag_ms >= least_ms, "nothing came for {least_ms} ms, and the lag is {lag_ms} ms ({said})");
        if least_ms + LAG_SLACK_MS > SILENCE_IS_STALLED.as_millis() as u64 {
            ensure!(!said.ends_with("idle") && !said.ends_with("flowing"), "{said}, and nothing comes");
        }
        Ok(())
    }

    // === after the return ===

    async fn drain(&self, returned: Instant, had: u64, target: u64) -> Result<Drain> {
        let mut drain = Drain::default();
        let mut from = None;
        loop {
            let known = self.known_at(PEER).await.unwrap_or(had);
            let from = *from.get_or_insert(known.min(target));
            drain.lacking = target - from;
            let taken = if self.keep_mib.is_some() { self.taken_over().await.unwrap_or(0) } else { 0 };
            let since_s = returned.elapsed().as_secs_f64();
            // What is taken over as state counts for the frontier when it is complete.
            let came = (known.min(target) - from).max(taken.min(drain.lacking));
            drain.came.push((since_s, came));
            if known >= target {
                drain.drained_s = since_s;
                return Ok(drain);
            }
            if returned.elapsed() > GUARD {
                bail!("{} of {} changes came within {GUARD:?}", known - from, drain.lacking);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Entities that the peer took over as state.
    async fn taken_over(&self) -> Result<u64> {
        let metrics = self.it.metrics(Role::Agent, PEER).await?;
        Ok(metrics.get("cell_exchanged_entities_total").map_or(0, |taken| *taken as u64))
    }

    /// Somebody places an order and asks somebody in the peer to pay it, who sees that and does.
    async fn first(&self, returned: Instant, load: &Load) -> Result<First> {
        let payer = people(&self.it, PEER, "fresh-payer", 1).swap_remove(0);
        let (_, buyer, order) = load.place().await?;
        let payment = load.ask(&buyer, &order, &payer).await?;
        let (asked, path) = (Instant::now(), format!("/v1/pay-requests/{payment}"));
        // Not by the list: while state is taken over it may lack something, and says so.
        until(GUARD, async || {
            let seen = self.it.get(PEER, &path, &payer).await?;
            ensure!(seen.status == 200, "{path}: {} {}", seen.status, seen.body);
            Ok(())
        })
        .await
        .context("the request of somebody new")?;
        let seen_s = asked.elapsed().as_secs_f64();
        let (path, at) = (format!("/v1/pay-requests/{payment}/accept"), self.it.cluster.node_http(PEER)?);
        load.post(at, &payer, &path, &format!("accept-{payment}"), &json!({ "card_token": "visa" })).await?;
        until(GUARD, async || {
            let seen = self.it.get(HOME, &format!("/v1/orders/{order}"), &buyer).await?;
            ensure!(seen.body["status"] == "Paid", "{}", seen.body["status"]);
            Ok(())
        })
        .await
        .context("the result")?;
        load.told().paid.push((order, buyer));
        let asked_s = asked.duration_since(returned).as_secs_f64();
        Ok(First { asked_s, seen_s, paid_s: asked.elapsed().as_secs_f64() })
    }

    /// Every agent says of every peer, for changes and for messages, that they are less than a second old.
    async fn fresh(&self) -> Result<()> {
        for here in self.case.regions() {
            let agent = self.it.agent(here).await?;
            for peer in agent.peers {
                let lags = [("changes", peer.change_lag_ms), ("messages", peer.message_lag_ms)];
                for (what, lag_ms) in lags {
                    let lag_ms = lag_ms.unwrap_or(u64::MAX);
                    ensure!(lag_ms < FRESH_MS, "{here} lacks {what} of {} for {lag_ms} ms", peer.region);
                }
            }
        }
        Ok(())
    }

    async fn parked(&self) -> Result<u64> {
        let mut most = 0;
        for region in self.case.regions() {
            most = self.it.agent(region).await?.parked.max(most);
        }
        Ok(most)
    }

    // === in the end ===

    /// Agents hold what their queues hold, however much there is to be sent.
    fn memory(&self, before: &Resident, most: &Resident, parked: u64, row: &mut Row) -> Result<()> {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        let of = |resident: &Resident, role, region: &str| {
            resident.get(&(role, region.to_owned())).copied().unwrap_or(0)
        };
        row.node_mib = [mib(of(before, Role::Node, HOME)), mib(of(most, Role::Node, HOME))];
        row.agent_mib = [mib(of(before, Role::Agent, HOME)), mib(of(most, Role::Agent, HOME))];
        row.peer_mib = [mib(of(most, Role::Node, PEER)), mib(of(most, Role::Agent, PEER))];
        for region in self.case.regions() {
            let more = of(most, Role::Agent, region).saturating_sub(of(before, Role::Agent, region));
            let bound = AGENT_MORE_BYTES_MAX + parked * PARKED_BYTES;
            ensure!(
                more <= bound,
                "{region}'s agent has {:.0} MiB more than before, its queues {:.0}",
                mib(more),
                mib(bound)
            );
        }
        Ok(())
    }

    /// Everything that was acknowledged is everywhere, once, and the digests agree.
    async fn whole(&self, load: &Load, row: &mut Row) -> Result<()> {
        let regions = self.case.regions();
        until(GUARD, async || {
            for here in regions {
                for there in regions.iter().filter(|there| *there != here) {
                    let differing = self.it.diff(here, there).await?;
                    ensure!(differing.is_empty(), "{here} and {there} differ in {differing:?}");
                }
            }
            Ok(())
        })
        .await?;
        let told = std::mem::take(&mut *load.told());
        for region in regions {
            for (buyer, orders) in &told.orders {
                // Lists are of the view, which is right behind what the digests are of.
                until(GUARD, async || {
                    let listed = self.it.list(region, "/v1/orders", buyer).await?;
                    let found: BTreeSet<&str> =
                        listed.iter().filter_map(|order| order["id"].as_str()).collect();
                    ensure!(found.len() == listed.len(), "{region} lists an order of {buyer} twice");
                    let missing = orders.iter().filter(|id| !found.contains(id.as_str())).count();
                    ensure!(missing == 0, "{region} does not list {missing} orders of {buyer}");
                    Ok(())
                })
                .await?;
            }
            for (order, buyer) in &told.paid {
                let seen = self.it.get(region, &format!("/v1/orders/{order}"), buyer).await?;
                ensure!(seen.body["status"] == "Paid", "{region} {order}: {}", seen.body["status"]);
            }
        }
        row.acknowledged = told.orders.values().map(|orders| orders.len() as u64).sum();
        row.paid = told.paid.len() as u64;
        Ok(())
    }

    /// The log was as long as retention says, and goes once every region has what is in it.
    async fn at_rest(&self, row: &mut Row) -> Result<()> {
        let at_rest = (SEGMENTS_AT_REST * SEGMENT_KIB + ROOM_KIB) << 10;
        until(GUARD, async || {
            let log = folder_bytes(&log_folder(&self.it, HOME));
            row.log_end = log;
            ensure!(log <= at_rest, "all have everything, and the log has {} KiB", log >> 10);
            Ok(())
        })
        .await?;
        if let Some(keep_mib) = self.keep_mib {
            let brought = (row.piled_per_s * BRINGING_MS / 1e3 * ORDER_BYTES) as u64;
            let bound = (keep_mib << 20) + at_rest + brought;
            let most = row.log_most;
            ensure!(
                most <= bound,
                "the log had {} KiB, {} are to be kept of it, and {:.0} orders came a second",
                most >> 10,
                keep_mib << 10,
                row.piled_per_s
            );
            let taken = self.taken_over().await?;
            ensure!(taken > 0, "no log reaches back, and no state was taken over");
            row.said = format!("{taken} entities as state");
        }
        Ok(())
    }
}
