//! One deployment whose north is harmed again and again.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use cell_core::id::{EntityId, OrderId};
use cell_proto::v1;
use serde_json::json;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::harm::{self, Files};
use super::kind::{Kind, Target};
use super::report::{HARMLESS, Row};
use crate::harness::{Api, ClusterError, ProcessError, Role};
use crate::real::book::{Book, placing};
use crate::real::checks;
use crate::real::deployment::{Deployment, LOOK_AGAIN, NODE, REGIONS, copy_folder, nothing, until};

/// The region that is harmed, and the one it heals from.
const HARMED: &str = REGIONS[0];
const OTHER: &str = REGIONS[1];
const WITHIN: Duration = Duration::from_secs(30);
/// Starts of a node whose first ones end with it saying what is damaged.
const STARTS_MAX: usize = 4;
/// Orders of a new deployment, so that its log has several files.
const FIRST_ORDERS: usize = 60;
/// Files of the log that are harmed in turn; a kind before may have left none.
const SEGMENTS: usize = 3;
/// What a node says at every start of a log that was damaged once.
const LASTING: [&str; 3] =
    ["damage in the log", "the log is damaged here", "damaged records are passed over"];
/// Readings of the whole view that find nothing.
const FREE_PASSES: f64 = 2.0;
/// What is not found within this is silent.
const FOUND_WITHIN: Duration = Duration::from_secs(10);

/// What a node counts of damage.
const COUNTED: [&str; 2] = ["cell_healed_keys_total", "cell_damaged_entities_total"];

#[derive(Debug)]
pub(super) struct Stage {
    it: Deployment,
    book: Book,
    target: Target,
    folder: TempDir,
    /// The harmed node's folder as of the trade before the last, whole.
    older: PathBuf,
    keys: u64,
    cells: u32,
    /// What it said before: damage that stays is said at every start.
    heard: BTreeSet<String>,
}

impl Stage {
    pub(super) async fn open(engine: &str, target: Target, seed: u64) -> Result<Stage> {
        let folder = TempDir::with_prefix("homecell-damage-")?;
        let it = Deployment::start(folder.path().join("cluster"), engine, &NODE).await?;
        let older = folder.path().join("older-0");
        let mut stage = Stage {
            it,
            book: Book::default(),
            target,
            folder,
            older,
            keys: seed * 1_000_000,
            cells: 0,
            heard: BTreeSet::new(),
        };
        stage.trade(FIRST_ORDERS).await?;
        stage.whole().await?;
        stage.it.cluster.end(Role::Node, HARMED).await?;
        copy_folder(&stage.it.node_folder(HARMED), &stage.older)?;
        stage.it.cluster.restart(Role::Node, HARMED).await?;
        stage.whole().await?;
        Ok(stage)
    }

    pub(super) async fn end(self) -> Result<()> {
        self.it.stop().await
    }

    /// Leaves everything on disk, and says where.
    pub(super) fn keep(self) -> Option<PathBuf> {
        let Stage { it, folder, .. } = self;
        drop(it);
        Some(folder.keep())
    }

    /// Plays one kind of harm to its end.
    pub(super) async fn play(&mut self, kind: Kind, seed: u64, row: &mut Row) -> Result<()> {
        let fresh = self.trade(3).await?;
        while self.target.is_log() && harm::segments(&self.it.node_folder(HARMED))? < SEGMENTS {
            self.trade(FIRST_ORDERS).await?;
        }
        until(WITHIN, async || self.agrees().await).await.context("before the harm")?;
        let log = self.it.node_log(HARMED);
        let repaired = self.repaired().await?;
        let (said_before, begun, denials) = if kind.by_engine() {
            let said_before = length(&log);
            let denials = Denials::watch(&self.it, &self.book)?;
            let begun = Instant::now();
            row.harmed = self.through_engine(kind, &fresh).await?;
            let found = until(FOUND_WITHIN, async || {
                ensure!(!said(&log, said_before)?.is_empty(), "nothing was found: silent");
                Ok(())
            });
            // Both regions' nodes beat every second, and each beat writes how far its actor is: perhaps before anybody looks.
            if let Err(silent) = found.await
                && (self.target, kind) != (Target::Frontier, Kind::StaleKeys)
            {
                return Err(silent);
            }
            (said_before, begun, denials)
        } else {
            let needles = self.needles(&fresh).await?;
            self.it.cluster.end(Role::Node, HARMED).await?;
            let whole = self.folder.path().join(format!("older-{}", self.cells + 1));
            copy_folder(&self.it.node_folder(HARMED), &whole)?;
            let files = Files {
                node: &self.it.node_folder(HARMED),
                older: &self.older,
                other: &self.it.node_folder(OTHER),
                needles: &needles,
                seed,
            };
            row.harmed = harm::inflict(kind, self.target, &files)?;
            let changed = differ(&whole, files.node)?;
            ensure!(changed != (kind == Kind::Control), "the harm did not take place");
            std::fs::remove_dir_all(&self.older)?;
            self.older = whole;
            let said_before = length(&log);
            let denials = Denials::watch(&self.it, &self.book)?;
            let begun = Instant::now();
            self.start(row).await?;
            (said_before, begun, denials)
        };
        self.cells += 1;
        let mut restarts = 0;
        until(WITHIN, async || {
            if let Some(status) = self.it.cluster.ended(Role::Node, HARMED) {
                restarts += 1;
                ensure!(restarts < STARTS_MAX, "it ends again and again: {status}");
                row.healed.push(format!("started again after it ended ({status})"));
                self.it.cluster.restart(Role::Node, HARMED).await?;
            }
            self.agrees().await
        })
        .await?;
        row.heal_s = begun.elapsed().as_secs_f64();
        self.whole().await?;
        self.nothing_more().await?;
        let (denied, unavailable) = denials.end().await;
        row.unavailable = unavailable;
        if let Some(denied) = denied {
            bail!("{denied} was acknowledged and answered 404");
        }
        let counted = self.counted().await?;
        for line in said(&log, said_before)? {
            let stays = LASTING.iter().any(|lasting| line.starts_with(lasting));
            if self.heard.insert(line.clone()) || !stays {
                row.said.push(line);
            }
        }
        row.healed.extend(how(&row.said));
        if let Some(replayed) = replayed(&log, said_before)? {
            // After an end in order the view is as far as the log: what is behind has lost something.
            ensure!(!row.said.is_empty(), "{replayed} records were replayed, and nobody said why: silent");
            row.healed.push(format!("{replayed} records replayed"));
        }
        let repaired = self.repaired().await? - repaired;
        for (count, what) in
            [(repaired, "entities merged from the peer"), (counted, "keys or entities found damaged")]
        {
            if count > 0.0 {
                row.healed.push(format!("{count} {what}"));
            }
        }
        match (kind, row.said.is_empty()) {
            (Kind::Control, false) => bail!("nothing was harmed, and it says: {}", row.said.join("; ")),
            (Kind::Control, true) => Ok(()),
            (_, true) => {
                // What no engine reads any more can be anything: nothing was lost, as everything was compared.
                row.said.push(HARMLESS.to_owned());
                Ok(())
            }
            (_, false) => {
                if row.healed.is_empty() {
                    row.healed.push("nothing was lost: the view has what it held".to_owned());
                }
                Ok(())
            }
        }
    }

    // === trade ===

    fn key(&mut self) -> String {
        self.keys += 1;
        format!("harm-{:012}", self.keys)
    }

    /// Everybody places `count` orders; one is paid, one is asked for and paid by somebody in the other region, one is
    /// cancelled. Returns the ids of north's.
    async fn trade(&mut self, count: usize) -> Result<Vec<String>> {
        let mut of_north = Vec::new();
        for (nth, user) in self.it.users.clone().iter().enumerate() {
            let payer = self.it.users[1 - nth].clone();
            let mut placed = Vec::new();
            for _ in 0..count.max(4) {
                let (key, total_minor) = (self.key(), 500);
                let body = placing(total_minor, &key);
                let answer = self.it.post(user, "/v1/orders", &key, &body, WITHIN).await?;
                ensure!(answer.status == 201, "placing: {} {}", answer.status, answer.body);
                let id = answer.body["id"].as_str().context("an order without an id")?.to_owned();
                self.book.placed(id.clone(), user, &key, total_minor);
                placed.push(id);
            }
            let (card, path) =
                (json!({ "card_token": "visa" }), |id: &str, what| format!("/v1/orders/{id}/{what}"));
            let key = self.key();
            let paid = self.it.post(user, &path(&placed[0], "pay"), &key, &card, WITHIN).await?;
            ensure!(paid.status < 300, "paying: {} {}", paid.status, paid.body);
            let key = self.key();
            let cancelled = self.it.post(user, &path(&placed[1], "cancel"), &key, &nothing(), WITHIN).await?;
            ensure!(cancelled.status < 300, "cancelling: {} {}", cancelled.status, cancelled.body);
            let key = self.key();
            let ask = json!({ "payer": payer });
            let asked = self.it.post(user, &path(&placed[2], "pay-requests"), &key, &ask, WITHIN).await?;
            let payment = asked.body.pointer("/payment/id").or_else(|| asked.body.pointer("/open_payment"));
            let payment =
                payment.and_then(|it| it.as_str()).with_context(|| format!("asking: {}", asked.body))?;
            let accept = format!("/v1/pay-requests/{payment}/accept");
            let key = self.key();
            until(WITHIN, async || {
                let answer = self.it.post(&payer, &accept, &key, &card, WITHIN).await?;
                ensure!(answer.status < 300, "accepting: {} {}", answer.status, answer.body);
                Ok(())
            })
            .await?;
            for (id, what) in [(0, "paid"), (1, "cancelled"), (2, "paid")] {
                if let Some(order) = self.book.orders.get_mut(&placed[id]) {
                    order.payer = (id == 2).then(|| payer.clone());
                    order.paid |= what == "paid";
                    order.cancelled |= what == "cancelled";
                }
            }
            if nth == 0 {
                of_north = placed;
            }
        }
        Ok(of_north)
    }

    // === looking ===

    /// Both regions show everything, and the same; what clients were told holds; the digests agree.
    async fn agrees(&self) -> Result<()> {
        let bodies = checks::agree(&self.it, self.book.orders.values()).await?;
        checks::books(&self.book.orders, &bodies, &self.it.ledger().await?)?;
        checks::digests(&self.it).await
    }

    /// The same, and everything is found by every list, and known when it is repeated.
    async fn whole(&self) -> Result<()> {
        until(WITHIN, async || {
            self.agrees().await?;
            checks::lists(&self.it, &self.book, 4).await?;
            checks::repeats(&self.it, self.book.orders.values().rev().take(6)).await
        })
        .await
    }

    /// Two more readings of the whole view find nothing.
    async fn nothing_more(&self) -> Result<()> {
        let scrubs =
            async || Ok::<_, anyhow::Error>(self.it.metrics(Role::Node, HARMED).await?["cell_scrubs_total"]);
        let mut from = (scrubs().await?, self.counted().await?);
        until(WITHIN, async || {
            let now = (scrubs().await?, self.counted().await?);
            if now.1 != from.1 {
                from = now;
            }
            ensure!(now.0 >= from.0 + FREE_PASSES, "every reading of the view finds more");
            Ok(())
        })
        .await
    }

    async fn counted(&self) -> Result<f64> {
        let metrics = self.it.metrics(Role::Node, HARMED).await?;
        Ok(COUNTED.iter().filter_map(|name| metrics.get(*name)).sum())
    }

    async fn repaired(&self) -> Result<f64> {
        let metrics = self.it.metrics(Role::Agent, HARMED).await?;
        Ok(metrics.get("cell_repaired_entities_total").copied().unwrap_or(0.0))
    }

    // === harm ===

    /// Bytes by which the keys are found in the view's files.
    async fn needles(&self, fresh: &[String]) -> Result<Vec<Vec<u8>>> {
        let order = fresh.first().context("no order")?;
        Ok(match self.target {
            Target::Log | Target::LogAndView => Vec::new(),
            Target::Entities => vec![entity(order)?.to_bytes().to_vec()],
            Target::Indexes => {
                let order = self.book.orders.get(order).context("no such order")?;
                let key = [order.key.as_bytes(), &[0], order.user.as_bytes()].concat();
                // An engine may leave out what a key has in common with the one before it.
                (0..order.key.len()).map(|from| key[from..].to_vec()).collect()
            }
            Target::Frontier => {
                let status =
                    self.it.node(HARMED).await?.status(v1::StatusRequest::default()).await?.into_inner();
                let actor = status.actor.context("a node without an actor")?;
                let nonce = format!("{:016x}", actor.nonce);
                vec![format!("frontier/{HARMED}-0.{}.{nonce}", actor.start).into_bytes(), nonce.into_bytes()]
            }
        })
    }

    async fn through_engine(&mut self, kind: Kind, fresh: &[String]) -> Result<String> {
        let parts: &[&str] = match self.target {
            Target::Log | Target::LogAndView => bail!("the log has no engine"),
            Target::Entities => &["entity"],
            Target::Indexes if kind == Kind::StaleKeys => &["due"],
            Target::Indexes => &["list", "command", "notice", "due"],
            Target::Frontier => &["frontier"],
        };
        let how = match kind {
            Kind::ForgetKeys => "forget",
            Kind::AlterKeys => "flip",
            _ => "stale",
        };
        // One that was cancelled, so that somebody was told; one that is open, so that something is due.
        let (told, open) = (entity(&fresh[1])?, entity(&fresh[3])?);
        let id_of = |part: &str| if part == "notice" { told } else { open };
        for part in parts {
            let id = id_of(part).to_bytes();
            if how == "stale" {
                until(WITHIN, async || self.it.damage(HARMED, &id, part, "remember").await).await?;
                let (user, payer) = (self.it.users[0].clone(), self.it.users[1].clone());
                let (key, path) = (self.key(), format!("/v1/orders/{}/pay-requests", fresh[3]));
                let asked = self.it.post(&user, &path, &key, &json!({ "payer": payer }), WITHIN).await?;
                ensure!(asked.status < 300, "asking: {} {}", asked.status, asked.body);
                // The view is behind the log by some milliseconds, and the peer's answer comes back.
                until(WITHIN, async || self.agrees().await).await?;
                tokio::time::sleep(SETTLED).await;
            }
            until(WITHIN, async || self.it.damage(HARMED, &id, part, how).await).await?;
        }
        Ok(format!("{how} {} by the engine", parts.join(", ")))
    }

    /// Starts the harmed node; if it says that it cannot, does what it says.
    async fn start(&mut self, row: &mut Row) -> Result<()> {
        for _ in 0..STARTS_MAX {
            match self.it.cluster.restart(Role::Node, HARMED).await {
                Ok(()) => return Ok(()),
                Err(ClusterError::Process(ProcessError::Ended { tail, .. })) => {
                    row.said.push(format!("ends: {tail}"));
                    let named = named_in(&tail, &self.it.node_folder(HARMED));
                    let named = named.with_context(|| format!("it names nothing to do: {tail}"))?;
                    let aside = named.with_extension("moved-by-operator");
                    std::fs::rename(&named, &aside)?;
                    row.healed.push(format!("the operator moves {} away", named.display()));
                }
                Err(error) => return Err(error.into()),
            }
        }
        bail!("it does not start")
    }
}

/// A moment in which what is in the log gets into the view.
const SETTLED: Duration = Duration::from_millis(200);

fn entity(order: &str) -> Result<EntityId> {
    Ok(EntityId::from(order.parse::<OrderId>().map_err(|error| anyhow::anyhow!("{order}: {error}"))?))
}

/// The path below `folder` that a message tells to move away.
fn named_in(message: &str, folder: &Path) -> Option<PathBuf> {
    let (_, behind) = message.rsplit_once("move ")?;
    let path = PathBuf::from(behind.split(" away").next()?.trim_matches(['\'', '"', '`']));
    (path.starts_with(folder) && path.exists()).then_some(path)
}

/// Whether two folders differ in any file.
fn differ(one: &Path, other: &Path) -> Result<bool> {
    let read = |folder: &Path| -> Result<BTreeMap<std::ffi::OsString, bool>> {
        let entries = std::fs::read_dir(folder)?.map(|entry| {
            let entry = entry?;
            Ok((entry.file_name(), entry.file_type()?.is_dir()))
        });
        entries.collect()
    };
    let (mine, theirs) = (read(one)?, read(other)?);
    if mine != theirs {
        return Ok(true);
    }
    for (name, is_folder) in mine {
        let (mine, theirs) = (one.join(&name), other.join(&name));
        let differs =
            if is_folder { differ(&mine, &theirs)? } else { std::fs::read(mine)? != std::fs::read(theirs)? };
        if differs {
            return Ok(true);
        }
    }
    Ok(false)
}

// === what the node says ===

fn length(log: &Path) -> u64 {
    std::fs::metadata(log).map_or(0, |metadata| metadata.len())
}

fn lines_behind(log: &Path, from: u64) -> Result<Vec<String>> {
    let bytes = std::fs::read(log)?;
    let from = usize::try_from(from)?.min(bytes.len());
    Ok(String::from_utf8_lossy(&bytes[from..]).lines().map(str::to_owned).collect())
}

/// What it warned of since, without times and places in the code.
fn said(log: &Path, from: u64) -> Result<Vec<String>> {
    let mut said: Vec<String> = Vec::new();
    for line in lines_behind(log, from)? {
        let Some((_, line)) = line.split_once("ERROR ").or_else(|| line.split_once("WARN ")) else {
            continue;
        };
        let line = line.split_once(": ").map_or(line, |(_, message)| message).to_owned();
        if !said.contains(&line) {
            said.push(line);
        }
    }
    Ok(said)
}

/// How many records of the log its starts since had to apply to the view again.
fn replayed(log: &Path, from: u64) -> Result<Option<u64>> {
    let of_line = |line: &String| {
        let (_, rest) = line.split_once("opened actor=")?.1.split_once("replayed=")?;
        rest.split(' ').next()?.parse::<u64>().ok()
    };
    Ok(lines_behind(log, from)?.iter().filter_map(of_line).filter(|replayed| *replayed > 0).max())
}

/// How it healed, as far as what it says shows.
fn how(said: &[String]) -> Vec<String> {
    let signs = [
        ("it is made anew from the log", "a new view from the log"),
        ("damaged records are passed over", "changes streamed again"),
        ("came back from a peer", "own changes from the peer"),
    ];
    let shown = signs.into_iter().filter(|(sign, _)| said.iter().any(|line| line.contains(sign)));
    shown.map(|(_, how)| how.to_owned()).collect()
}

// === what is denied meanwhile ===

/// Asks for every acknowledged order all the while.
#[derive(Debug)]
struct Denials {
    task: JoinHandle<Option<String>>,
    stop: Arc<std::sync::atomic::AtomicBool>,
    unavailable: Arc<AtomicU64>,
}

impl Denials {
    fn watch(it: &Deployment, book: &Book) -> Result<Denials> {
        let (stop, unavailable) = (Arc::default(), Arc::default());
        let at = it.cluster.node_http(HARMED)?;
        let orders: Vec<(String, String)> =
            book.orders.values().map(|order| (order.id.clone(), order.user.clone())).collect();
        let (stopped, count): (Arc<std::sync::atomic::AtomicBool>, Arc<AtomicU64>) =
            (Arc::clone(&stop), Arc::clone(&unavailable));
        let task = tokio::spawn(async move {
            let api = Api::default();
            while !stopped.load(Ordering::Relaxed) {
                for (order, user) in &orders {
                    match api.get(at, &format!("/v1/orders/{order}"), user).await {
                        Ok(answer) if answer.status == 404 => return Some(order.clone()),
                        Ok(answer) if answer.status == 503 => _ = count.fetch_add(1, Ordering::Relaxed),
                        Ok(_) => {}
                        Err(_) => break,
                    }
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            None
        });
        Ok(Denials { task, stop, unavailable })
    }

    /// An order that was denied, and how often one was not available.
    async fn end(self) -> (Option<String>, u64) {
        self.stop.store(true, Ordering::Relaxed);
        let denied = self.task.await.unwrap_or_default();
        (denied, self.unavailable.load(Ordering::Relaxed))
    }
}
