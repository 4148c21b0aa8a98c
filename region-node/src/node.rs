//! The node: everything that may change an order or a payment here goes through [`Node`], and through it into the one
//! writer.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cell_core::cell::{
    Ability, Alarm, Answer, Cell, Command, Delivery, Front, Hole, NotComparable, Overseer, Problem, Reached,
    Refusal, Refused, Reply, Resolve, Step, View,
};
use cell_core::digest::Digest;
use cell_core::duty::every_permit;
use cell_core::entity::{Entity, Reading};
use cell_core::event::{Audit, Entry, Fact};
use cell_core::fronts::{Fronts, Said};
use cell_core::gate::{Envelope, MessageKind, Requirement};
use cell_core::id::{ActorId, EntityId, NodeId, PaymentId, RegionId, Slot, UserId};
use cell_core::lives::ActorLife;
use cell_core::order::Order;
use cell_core::payment::{Payment, PaymentPhase};
use cell_core::placement::Placement;
use cell_core::rules::Rules;
use cell_core::version::{Dot, VersionVector};
use cell_proto::v1;
use cell_store::{DiskMedium, Log, LogConfig, LogReader, Medium, Position, Store, StoreError};
use service_kit::{Shutdown, TraceParent};
use tokio::sync::{broadcast, watch};

use crate::config::{EngineName, LogSettings};
use crate::conflict;
use crate::contain::contained;
use crate::desk::Tray;
use crate::explain;
use crate::grpc::Members;
use crate::scrub::{Off, Scrub};
use crate::session::Sessions;
use crate::stopped;
use crate::traces::Traces;
use crate::upkeep::Retention;
use crate::view::{self, StartError};
use crate::working::{Whole, Working};
use crate::writer::{Group, Hurry, NodeError, Sheet, Submit, Told, Writer, now_ms};

/// How often the node looks for what is due.
const DUE_EVERY: Duration = Duration::from_millis(100);
const DUE_MAX: usize = 500;
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// Change signals a slow listener may miss before it has to look for itself.
const SIGNALS_MAX: usize = 1_024;
const DISK_EVERY: Duration = Duration::from_secs(1);
const ALARMED_MAX: usize = 10_000;
/// A larger state of an entity, with its origins, may not fit into one frame of the log.
const STATE_BYTES_MAX: usize = 10 << 20;
/// By how much another region's clock may be ahead.
const SKEW_MS_MAX: u64 = 500;

/// What the node is and where it keeps its data.
#[derive(Clone, Debug)]
pub struct Identity {
    pub region: RegionId,
    pub index: u64,
    pub placement: Placement,
    pub rules: Rules,
    /// What this software can take.
    pub ability: Ability,
    /// How long it waits for what its peers hold of it; zero: it decides at once. It never waits where it has no peer.
    pub recovery_wait: Duration,
    pub log: LogSettings,
}

/// Why a node cannot start; nothing was served.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the folder, or it cannot be used.
    #[error("{0}")]
    Folder(String),
    /// The view in the folder was made by another engine.
    #[error("{0}")]
    Engine(String),
    /// What is on the disk cannot be used.
    #[error("{0}")]
    Damaged(String),
    /// The view is damaged; it can be made anew from the log.
    #[error("{0}")]
    View(String),
}

/// Asked inside the writer, right before a command takes effect.
pub(crate) type Condition = Box<dyn Fn(&Entity) -> bool + Send>;

/// The handle of a running node; cheap to clone.
#[derive(Clone, Debug)]
pub struct Node {
    submit: Submit,
    working: Working,
    durable: watch::Receiver<u64>,
    signals: broadcast::Sender<Arc<Vec<EntityId>>>,
    shown: broadcast::Sender<Arc<Vec<UserId>>>,
    low_on_disk: Arc<AtomicBool>,
    tray: Tray,
    sessions: Sessions,
    hurry: Hurry,
    log: LogReader,
    members: Members,
    me: Arc<Mutex<ActorId>>,
    view_id: u64,
    scrub: Scrub,
    recovery_wait: Duration,
    ability: Arc<Ability>,
    /// When the agent last said that more is coming.
    more: Arc<watch::Sender<Instant>>,
    /// Neither log nor view have all that was here once: nothing is decided before a peer was heard.
    must_hear: bool,
    retention: Retention,
    started_ms: u64,
}

/// What a node has of a version.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) at: Said,
    /// The digest of each slot.
    pub(crate) slots: Vec<Digest>,
    /// Which doubt there was at that moment; 0: none.
    pub(crate) doubt: u64,
    /// So much of it could not be applied, and nobody gave it up.
    pub(crate) quarantined: u64,
}

/// How far a node is.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) fronts: Fronts,
    /// Changes that it went over.
    pub(crate) holes: Vec<(Dot, Hole)>,
    pub(crate) lives: Vec<ActorLife>,
    /// Up to when everything of each region is here, wall milliseconds at its origin.
    pub(crate) heard: Vec<(RegionId, u64)>,
}

/// The part of a running node that has to be ended.
#[derive(Debug)]
pub struct Running {
    writer: Writer,
}

#[derive(Debug)]
struct Announce {
    signals: broadcast::Sender<Arc<Vec<EntityId>>>,
    shutdown: Shutdown,
    /// What was warned of; forgotten as a whole beyond [`ALARMED_MAX`], and then said again.
    alarmed: Mutex<BTreeSet<EntityId>>,
    tray: Tray,
    sessions: Sessions,
}

impl Told for Announce {
    fn sheets(&self, sheets: &[Sheet]) {
        let open = sheets.iter().map(|sheet| sheet.duties.len()).sum::<usize>();
        metrics::counter!("cell_duties_computed_total").increment(open as u64);
        self.tray.put(sheets);
    }

    fn alarms(&self, alarms: &[Alarm]) {
        for alarm in alarms {
            metrics::counter!("cell_alarms_total", "kind" => kind(alarm)).increment(1);
            // An orphan is looked at again and again; it is said once.
            let said = match alarm {
                Alarm::Orphan(id) | Alarm::Forked(id) => {
                    let mut alarmed = self.alarmed.lock().unwrap_or_else(PoisonError::into_inner);
                    if alarmed.len() >= ALARMED_MAX {
                        alarmed.clear();
                    }
                    !alarmed.insert(*id)
                }
                Alarm::ClockAhead { .. } => false,
            };
            if !said {
                tracing::warn!(?alarm, "alarm");
            }
        }
    }

    fn published(&self, cell: &Cell, group: &Group) {
        self.sessions.published(cell, group);
        let payments: Vec<EntityId> =
            group.entities.keys().filter(|id| id.payment().is_some()).copied().collect();
        if !payments.is_empty() {
            // Nobody listens: nobody misses anything.
            let _ = self.signals.send(Arc::new(payments));
        }
    }

    fn failed(&self, error: &NodeError) {
        self.shutdown.fail(error.to_string());
    }
}

fn kind(alarm: &Alarm) -> &'static str {
    match alarm {
        Alarm::Orphan(_) => "orphan",
        Alarm::ClockAhead { .. } => "clock-ahead",
        Alarm::Forked(_) => "forked",
    }
}

fn random64() -> u64 {
    let mut bytes = [0; 8];
    // Without entropy two starts could be one actor: better no start at all.
    getrandom::fill(&mut bytes).expect("the system's entropy source answers");
    u64::from_le_bytes(bytes)
}

/// Log and view, the one brought up to the other.
struct Opened {
    log: Log,
    records: u64,
    working: Working,
    traces: Traces,
    cell: Cell,
    replayed: u64,
    /// Records are gone that the view does not have either.
    gap: bool,
    /// Something of what the log or the view held may be gone, or the node is new.
    lacking: bool,
}

impl Opened {
    fn open(
        dir: &Path,
        engine: EngineName,
        medium: Arc<dyn Medium>,
        settings: LogSettings,
        mut cell: Cell,
    ) -> Result<Opened, OpenError> {
        let folder = |error: &dyn std::fmt::Display| OpenError::Folder(error.to_string());
        let view_dir = dir.join(stopped::VIEW);
        let of_view = |error: StoreError| match error {
            StoreError::Damaged(_) => OpenError::View(format!("{}: {error}", view_dir.display())),
            error => OpenError::Folder(format!("{}: {error}", view_dir.display())),
        };
        let store = cell_store::open(engine.into(), &view_dir).map_err(|error| match error {
            StoreError::OtherEngine { found, asked, .. } => OpenError::Engine(format!(
                "{error}; set it to \"{found}\", or run `cellctl store migrate --data {} --to {asked}` first",
                dir.display()
            )),
            error @ StoreError::Damaged(_) => OpenError::View(error.to_string()),
            error => folder(&error),
        })?;
        let (working, traces) = (Working::open(store).map_err(of_view)?, Traces::default());
        view::check_owner(&working, cell.me().node).map_err(of_view)?;
        // What is in the view was in the log: its positions are not given out again.
        let position = view::position(working.store()).map_err(of_view)?;
        let least = position.unwrap_or(Position(0));
        let segment_bytes_max = settings.segment_kib.saturating_mul(1 << 10);
        let config = LogConfig { least, segment_bytes_max, ..LogConfig::default() };
        let (log, recovery) = Log::open(medium, config).map_err(|error| folder(&error))?;
        for damage in &recovery.damage {
            tracing::error!(?damage, "the log is damaged here");
        }
        let (gap, trimmed) = view::gap(working.store(), recovery.first).map_err(of_view)?;
        if gap {
            tracing::error!(
                first = recovery.first.0,
                "the view lacks what the log has no more: it is asked of the peers"
            );
        } else if !trimmed {
            tracing::error!(
                first = recovery.first.0,
                "the log's beginning is gone; the view has what was in it"
            );
        }
        let replayed = view::restore(&mut cell, &working, &traces, &log.reader(), random64());
        let replayed = replayed.map_err(|error| match error {
            StartError::Store(error) => of_view(error),
            // All that it shows is in the log. Else the peers are needed, and an operator says when.
            error @ StartError::OtherFormat if log.reader().first() == Position(0) => {
                OpenError::View(error.to_string())
            }
            error => OpenError::Damaged(error.to_string()),
        })?;
        let lacking = position.is_none() || recovery.cut_bytes > 0 || !recovery.is_clean();
        if gap {
            working.doubt_slots(Slot::all());
            view::put_doubts(&working).map_err(of_view)?;
        }
        Ok(Opened { log, records: recovery.records, working, traces, cell, replayed, gap, lacking })
    }
}

impl Node {
    /// Opens the folder, brings the view up to the log, and starts as a new actor.
    ///
    /// # Errors
    /// [`OpenError`]; nothing is left running.
    pub fn open(
        identity: Identity,
        dir: &Path,
        engine: EngineName,
        shutdown: &Shutdown,
    ) -> Result<(Node, Running), OpenError> {
        let folder = |error: &dyn std::fmt::Display| OpenError::Folder(error.to_string());
        let medium = DiskMedium::open(dir.join(stopped::LOG)).map_err(|error| folder(&error))?;
        let medium: Arc<dyn Medium> = Arc::new(medium);
        stopped::clear(dir);
        let node = NodeId { region: identity.region, index: identity.index };
        let members = identity.placement.members().to_vec();
        let cell = || {
            let placeholder = ActorId { node, start: 0, nonce: 0 };
            let mut cell = Cell::new(placeholder, identity.placement.clone(), identity.rules.clone());
            cell.ability = identity.ability.clone();
            cell
        };
        let aside = |why: &dyn std::fmt::Display| {
            let aside = stopped::put_aside(dir).map_err(|error| folder(&error))?;
            tracing::error!(%why, aside = %aside.display(), "the view is damaged; it is made anew from the log");
            Ok::<_, OpenError>(())
        };
        if stopped::is_condemned(dir) {
            aside(&"found by the last start")?;
        }
        let opened = match Opened::open(dir, engine, medium.clone(), identity.log, cell()) {
            Err(OpenError::View(why)) => {
                aside(&why)?;
                Opened::open(dir, engine, medium, identity.log, cell())?
            }
            opened => opened?,
        };
        let Opened { log, records, working, traces, cell: restored, replayed, gap, lacking } = opened;
        let reader = log.reader();
        let view_id = view::identity(working.store()).map_err(|error| folder(&error))?;
        conflict::count_open(working.store()).map_err(|error| folder(&error))?;
        let old = restored.fronts().actors().filter(|actor| actor.node == node).max().copied();
        let me = ActorId { node, start: old.map_or(0, |old| old.start) + 1, nonce: random64() };
        let mut cell = restored.succeeded_by(me);
        let recovering = !identity.recovery_wait.is_zero() && members.len() > 1;
        let in_doubt = working.doubt_generation() > 0;
        if recovering {
            cell.hold_back();
        }
        working.recovering().send_replace(recovering);
        if lacking && recovering {
            let homes = Slot::all().map(|slot| (slot, identity.placement.home(slot).node.region));
            working.distrust(homes.filter(|(_, home)| *home != identity.region));
        }
        tracing::info!(actor = %me, replayed, records, "opened");
        let (signals, _) = broadcast::channel(SIGNALS_MAX);
        let tray = Tray::default();
        let sessions = Sessions::new(&cell, log.durable().0);
        let told = Announce {
            signals: signals.clone(),
            shutdown: shutdown.clone(),
            alarmed: Mutex::default(),
            tray: tray.clone(),
            sessions: sessions.clone(),
        };
        let (apply_to, apply_traces, apply_dir) = (working.clone(), traces.clone(), dir.to_owned());
        let scrub = Scrub::default();
        let applied_scrub = scrub.clone();
        let (shown, _) = broadcast::channel(SIGNALS_MAX);
        let show = shown.clone();
        let applied_sessions = sessions.clone();
        let mut groups = 0u64;
        let apply = move |group: Group| {
            let mut pass = applied_scrub.pass();
            pass.grow(&group.grown);
            let users = view::apply(&apply_to, &apply_traces, &group).map_err(|error| {
                if matches!(error, StoreError::Damaged(_)) {
                    stopped::condemn(&apply_dir);
                }
                error.to_string()
            })?;
            drop(pass);
            applied_sessions.shown(group.end.0);
            if !users.is_empty() {
                // Nobody listens: nobody misses anything.
                let _ = show.send(Arc::new(users.into_iter().collect()));
            }
            groups += 1;
            if groups.is_multiple_of(1_000) {
                apply_to.store().sync().map_err(|error| error.to_string())?;
            }
            Ok(())
        };
        let writer =
            Writer::start(cell, log, working.clone(), traces, told, apply).map_err(|error| folder(&error))?;
        let node = Node {
            submit: writer.submit.clone(),
            working,
            durable: writer.durable.clone(),
            signals,
            shown,
            low_on_disk: Arc::default(),
            tray,
            sessions,
            hurry: writer.hurry.clone(),
            log: reader,
            members,
            me: Arc::new(Mutex::new(me)),
            view_id,
            scrub,
            recovery_wait: identity.recovery_wait,
            ability: Arc::new(identity.ability),
            more: Arc::new(watch::Sender::new(Instant::now())),
            // Also if an earlier start found that, and it is not made good yet.
            must_hear: gap || in_doubt,
            retention: Retention::new(identity.log),
            started_ms: now_ms(),
        };
        Ok((node.with_start(old), Running { writer }))
    }

    /// The first work of the new actor: to say whom it follows.
    fn with_start(self, old: Option<ActorId>) -> Node {
        let first = self.clone();
        tokio::spawn(async move {
            let started = first.run(move |cell, view, now_ms| Ok((cell.start(view, old, now_ms)?, ()))).await;
            if let Err(error) = started {
                tracing::error!(%error, "the first change could not be written");
            }
            first.retry_after_upgrade().await;
        });
        self
    }

    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Cell, &dyn View, u64) -> Result<(Step, T), cell_core::cell::Unavailable>
        + Send
        + 'static,
    ) -> Result<T, NodeError> {
        let work = |cell: &mut Cell, view: &dyn View, now_ms: u64| {
            work(cell, view, now_ms).map(|(step, value)| (vec![step], value))
        };
        self.submit.run(work).await
    }

    /// The same with several steps.
    pub(crate) async fn run_all<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Cell, &dyn View, u64) -> Result<(Vec<Step>, T), cell_core::cell::Unavailable>
        + Send
        + 'static,
    ) -> Result<T, NodeError> {
        self.submit.run(work).await
    }

    /// Which software this is, for what it could not apply.
    pub(crate) fn software(&self) -> &str {
        &self.ability.software
    }

    /// The same for what decides: of an entity that was lost here it has no answer.
    async fn decide<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Cell, &dyn View, u64) -> Result<(Step, T), cell_core::cell::Unavailable>
        + Send
        + 'static,
    ) -> Result<T, NodeError> {
        let working = self.working.clone();
        self.run(move |cell, view, now_ms| work(cell, &Whole::new(view, &working), now_ms)).await
    }

    #[must_use]
    pub fn actor(&self) -> ActorId {
        *self.me.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has just started and decides nothing yet.
    #[must_use]
    pub fn is_recovering(&self) -> bool {
        *self.working.recovering().borrow()
    }

    /// From now on it decides: what its peers hold of its predecessors is here, or was waited for long enough.
    pub(crate) async fn recovered(&self) -> Result<(), NodeError> {
        if !self.is_recovering() {
            return Ok(());
        }
        let node = self.actor().node;
        let me = self
            .run(move |cell, view, now_ms| {
                let fresh = |start| ActorId { node, start, nonce: random64() };
                let step = cell.recovered(view, fresh, now_ms)?;
                Ok((step, cell.me()))
            })
            .await?;
        *self.me.lock().unwrap_or_else(PoisonError::into_inner) = me;
        self.working.recovering().send_replace(false);
        tracing::info!(actor = %me, "decides from now on");
        Ok(())
    }

    /// Waits until it decides.
    pub(crate) async fn decides(&self) {
        // It holds the sender: there is an end.
        let _ = self.working.recovering().subscribe().wait_for(|recovering| !recovering).await;
    }

    /// Waits until it decides; at most as long as it was told, unless a part of its log is missing.
    async fn wait_for_peers(&self) {
        let mut recovering = self.working.recovering().subscribe();
        let mut waited = Duration::ZERO;
        while let Some(left) = self.recovery_wait.checked_sub(waited).filter(|left| !left.is_zero()) {
            let heard = tokio::time::timeout(left, recovering.wait_for(|recovering| !recovering));
            if heard.await.is_ok() {
                return;
            }
            // Longer if more was on its way meanwhile.
            waited = self.more.borrow().elapsed();
        }
        if self.must_hear || self.working.has_holes() {
            tracing::error!(
                "a part of the log is missing and no peer was heard: nothing is decided before one is"
            );
            let _ = recovering.wait_for(|recovering| !recovering).await;
        } else if let Err(error) = self.recovered().await {
            tracing::error!(%error, "nothing is decided");
        } else {
            tracing::warn!("no peer was heard of in time");
        }
    }

    /// In which view places are meant.
    pub(crate) fn view_id(&self) -> u64 {
        self.view_id
    }

    /// The position behind the last durable record.
    #[must_use]
    pub fn durable_position(&self) -> u64 {
        *self.durable.borrow()
    }

    /// Payments as they change, after they are durable.
    #[must_use]
    pub fn signals(&self) -> broadcast::Receiver<Arc<Vec<EntityId>>> {
        self.signals.subscribe()
    }

    /// Users with new notices, after the view shows them.
    #[must_use]
    pub fn shown(&self) -> broadcast::Receiver<Arc<Vec<UserId>>> {
        self.shown.subscribe()
    }

    /// Carries out a user's command; the reply is given when it is durable.
    ///
    /// # Errors
    /// [`NodeError`]; a refusal by rule is the inner `Err`.
    pub async fn command(&self, command: Command) -> Result<Result<Reply, Refusal>, NodeError> {
        Ok(self.command_if(command, None).await?.0)
    }

    /// The same, if `condition` holds at that moment of what it is about; with the change that was written, if one was.
    pub(crate) async fn command_if(
        &self,
        command: Command,
        condition: Option<Condition>,
    ) -> Result<(Result<Reply, Refusal>, Option<Dot>), NodeError> {
        let about = command.ask.entity();
        let (reply, written) = self
            .decide(move |cell, view, now_ms| {
                let condition = condition.as_ref().map(|holds| &**holds as _);
                let (step, reply) = cell.command_if(view, &command, condition, now_ms)?;
                let written = step.entries.last().map(|entry| entry.dot);
                Ok((step, (reply, written)))
            })
            .await?;
        if let (Err(Refusal { problem: Problem::NotFound, .. }), Some(about)) = (&reply, about) {
            // Not denied where it may be lost, or its record.
            if let Some(entity) = self.working.entity_or_lost(about)? {
                self.working.recorded_or_lost(&entity)?;
            }
        }
        Ok((reply, written))
    }

    /// A person decides about a human case; done when it is durable.
    pub(crate) async fn resolve(&self, resolve: Resolve) -> Result<Result<(), Refusal>, NodeError> {
        self.decide(move |cell, view, now_ms| cell.resolve(view, &resolve, now_ms)).await
    }

    pub(crate) fn sessions(&self) -> &Sessions {
        &self.sessions
    }

    pub(crate) fn hurry(&self) -> &Hurry {
        &self.hurry
    }

    /// How far the node is with each of these versions, for somebody who reads `about`.
    pub(crate) async fn reached(
        &self,
        dots: Vec<Dot>,
        about: Option<EntityId>,
    ) -> Result<Vec<(Dot, Reached)>, NodeError> {
        self.run(move |cell, view, _| {
            let reached = |dot: Dot| Ok((dot, cell.reached(view, about, &dot)?));
            Ok((Step::default(), dots.into_iter().map(reached).collect::<Result<_, _>>()?))
        })
        .await
    }

    /// Whether the disk is too full for new orders.
    pub(crate) fn is_low_on_disk(&self) -> bool {
        self.low_on_disk.load(Ordering::Relaxed)
    }

    /// Records verified facts.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn facts(&self, facts: Vec<Fact>, trace: String) -> Result<(), NodeError> {
        self.decide(move |cell, view, now_ms| Ok((cell.facts(view, facts, &trace, now_ms)?, ()))).await
    }

    /// The gateway does not know the key of this attempt any more, or never did.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn never_started(&self, payment: PaymentId, k: u64) -> Result<(), NodeError> {
        self.decide(move |cell, view, now_ms| Ok((cell.never_started(view, payment, k, now_ms)?, ()))).await
    }

    pub(crate) fn tray(&self) -> &Tray {
        &self.tray
    }

    /// Decides what is owed on an entity by now.
    ///
    /// # Errors
    /// [`NodeError`].
    pub async fn wake(&self, entity: EntityId) -> Result<(), NodeError> {
        // It is written down as touched even where nothing was decided, so that its due time is computed anew.
        self.decide(move |cell, view, now_ms| {
            let mut step = cell.wake(view, entity, now_ms)?;
            if let Some(state) = view.entity(entity)? {
                step.entities.entry(entity).or_insert(state);
            }
            Ok((step, ()))
        })
        .await
    }

    /// An entity as it stands, own writes included.
    ///
    /// # Errors
    /// [`NodeError::Unavailable`] if the view cannot be read: never "not found" for what was lost.
    pub fn entity(&self, id: EntityId) -> Result<Option<Arc<Entity>>, NodeError> {
        Ok(self.working.entity_or_lost(id)?)
    }

    /// What is known of an entity, whole or not: for a region that takes over what is known, and what is not.
    ///
    /// # Errors
    /// [`NodeError::Unavailable`] if the view cannot be read.
    pub(crate) fn known_of(&self, id: EntityId) -> Result<Option<Arc<Entity>>, NodeError> {
        Ok(self.working.entity(id)?)
    }

    // === for the sync-agent and operators ===

    /// How far the node is: what a status says.
    pub(crate) async fn known(&self) -> Result<Known, NodeError> {
        let members = self.members.clone();
        self.run(move |cell, _, _| {
            let is = |actor: &ActorId| cell.fronts().seq(actor);
            let heard = |region: &RegionId| Some((*region, cell.lives().heard_of(*region, is)?));
            let known = Known {
                fronts: cell.fronts().clone(),
                holes: cell.quarantined().map(|(dot, hole)| (*dot, hole.clone())).collect(),
                lives: cell.lives().iter().copied().collect(),
                heard: members.iter().filter_map(heard).collect(),
            };
            Ok((Step::default(), known))
        })
        .await
    }

    /// What duties depend on as of now, apart from the view.
    pub(crate) async fn overseer(&self) -> Result<Overseer, NodeError> {
        self.run(|cell, _, _| Ok((Step::default(), cell.overseer()))).await
    }

    pub(crate) fn working(&self) -> &Working {
        &self.working
    }

    pub(crate) fn scrub(&self) -> &Scrub {
        &self.scrub
    }

    /// These slots were counted and are off: from now on their digests are what is there, and they are in doubt.
    pub(crate) async fn correct(&self, off: Vec<Off>) -> Result<(), NodeError> {
        let working = self.working.clone();
        let work = move |cell: &mut Cell, _: &dyn View, _| {
            let correct = |off: &Off| cell.correct_digest(off.slot, off.found, off.expected);
            let steps = off.iter().map(correct).collect();
            working.doubt_slots(off.iter().map(|off| off.slot));
            Ok((steps, ()))
        };
        self.submit.run(work).await
    }

    /// The version and each slot's digest of what it covers: of what a peer said, or of the node's own.
    pub(crate) async fn digests(
        &self,
        at: Option<Said>,
    ) -> Result<Result<Compared, NotComparable>, NodeError> {
        let working = self.working.clone();
        let compare = move |cell: &Cell, holes: &[Dot], now_ms| {
            let fronts = cell.fronts();
            let open = |covers: &dyn Fn(&Dot) -> bool| holes.iter().filter(|dot| covers(dot)).count() as u64;
            let doubt = working.doubt_generation();
            let Some(said) = at else {
                let (at, quarantined) = (fronts.say(None), open(&|_| true));
                return cell.digests_at(None, now_ms).map(|slots| Compared { at, slots, doubt, quarantined });
            };
            // Who cannot tell what a stamp stands for has heard too little, or too much.
            let version = fronts.hear(said.clone()).ok_or(NotComparable::Behind)?;
            let version: VersionVector =
                version.into_iter().map(|(actor, front)| (actor, front.seq)).collect();
            let slots = cell.digests_at(Some(&version), now_ms)?;
            let quarantined = open(&|dot| version.covers(dot));
            Ok(Compared { at: said, slots, doubt, quarantined })
        };
        self.run(move |cell, view, now_ms| {
            let holes = cell.open_holes(view)?;
            Ok((Step::default(), compare(cell, &holes, now_ms)))
        })
        .await
    }

    /// Looks at the cell between two groups.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Cell) -> T + Send + 'static,
    ) -> Result<T, NodeError> {
        self.run(move |cell, _, _| Ok((Step::default(), look(cell)))).await
    }

    pub(crate) fn submit(&self) -> &Submit {
        &self.submit
    }

    pub(crate) fn heard_of_more(&self) -> &watch::Sender<Instant> {
        &self.more
    }

    pub(crate) fn retention(&self) -> &Retention {
        &self.retention
    }

    pub(crate) fn members(&self) -> &[RegionId] {
        &self.members
    }

    pub(crate) fn log(&self) -> &LogReader {
        &self.log
    }

    pub(crate) fn durable_watch(&self) -> watch::Receiver<u64> {
        self.durable.clone()
    }

    /// Applies changes of other actors in order; returns those refused, and what is known of their actors.
    /// Several can be under way: they are applied in the order in which they were given.
    pub(crate) fn replicate(
        &self,
        entries: Vec<Entry>,
    ) -> impl Future<Output = Result<Vec<(Dot, Refused, Option<Front>)>, NodeError>> + Send + use<> {
        let work = move |cell: &mut Cell, view: &dyn View, now_ms: u64| {
            let (mut steps, mut refused) = (Vec::new(), Vec::new());
            let over = crate::working::Stacked::new(view);
            let mut came_back = 0;
            for entry in &entries {
                match cell.replicate(&over, entry, now_ms)? {
                    Ok(step) => {
                        let own = entry.dot.actor.node == cell.me().node;
                        came_back += usize::from(own && !step.entries.is_empty());
                        over.put(&step);
                        steps.push(step);
                    }
                    Err(why) => {
                        refused.push((entry.dot, why, cell.fronts().get(&entry.dot.actor).copied()));
                    }
                }
            }
            if came_back > 0 {
                tracing::error!(
                    came_back,
                    "changes of this node's own came back from a peer: its disk had lost them"
                );
            }
            Ok((steps, refused))
        };
        self.submit.run(work)
    }

    /// Merges states of another region; returns how many of them brought something new, and which cannot be taken.
    pub(crate) async fn merge(&self, entities: Vec<Entity>) -> Result<(usize, Vec<EntityId>), NodeError> {
        let most = self.ability.entity_bytes_max.min(STATE_BYTES_MAX);
        let (entities, large): (Vec<_>, Vec<_>) = entities.into_iter().partition(|it| it.bytes() <= most);
        let large: Vec<EntityId> = large.iter().map(|entity| entity.id).collect();
        self.run_all(move |cell, view, now_ms| {
            let (mut steps, mut refused) = (Vec::new(), large);
            match contained("merge", &"states", || cell.merge(view, entities.clone(), now_ms)) {
                Ok(step) => steps.push(step?),
                // One of them: the others are as good.
                Err(_) => {
                    let over = crate::working::Stacked::new(view);
                    for entity in entities {
                        let id = entity.id;
                        match contained("merge", &id, || cell.merge(&over, vec![entity], now_ms)) {
                            Ok(step) => {
                                let step = step?;
                                over.put(&step);
                                steps.push(step);
                            }
                            Err(_) => refused.push(id),
                        }
                    }
                }
            }
            let changed = steps.iter().map(|step| step.merged.len()).sum();
            Ok((steps, (changed, refused)))
        })
        .await
    }

    pub(crate) async fn deliver(&self, envelope: Envelope, why: Delivery) -> Result<Answer, NodeError> {
        let span = envelope.trace.parse::<TraceParent>().map(|trace| trace.span("take"));
        let (id, kind, subject) = (envelope.id, envelope.kind, envelope.subject);
        let answer = self
            .decide(move |cell, view, now_ms| {
                let delivered = contained("deliver", &id, || cell.deliver(view, &envelope, why, now_ms));
                delivered
                    .unwrap_or_else(|said| Ok((Step::default(), Answer::Failed(format!("panicked: {said}")))))
            })
            .await;
        let _entered = span.as_ref().map(tracing::Span::enter);
        tracing::info!(%id, %kind, %subject, ?answer, "a message was taken");
        answer
    }

    pub(crate) async fn audit(&self, audit: Audit) -> Result<(), NodeError> {
        self.run(move |cell, view, now_ms| Ok((cell.audit(view, audit, now_ms)?, ()))).await
    }

    /// Of these requirements, those that are not met: neither covered by the frontier nor in the entity named.
    pub(crate) async fn missing(&self, requires: Vec<Requirement>) -> Result<Vec<Requirement>, NodeError> {
        self.run(move |cell, view, _| {
            let mut missing = Vec::new();
            for need in requires {
                if !cell.meets(view, &need)? {
                    missing.push(need);
                }
            }
            Ok((Step::default(), missing))
        })
        .await
    }

    /// What the changes of an entity touched beside it.
    pub(crate) fn beside(&self, id: EntityId) -> Result<Vec<EntityId>, NodeError> {
        let Some(entity) = self.entity(id)? else { return Ok(Vec::new()) };
        if id.order().is_some() {
            let reading = Reading::<Order>::of(&entity);
            return Ok(every_permit(&reading).map(|(payment, _)| payment.into()).collect());
        }
        let order = entity.record::<Payment>().map(|(permit, _)| permit.order.into());
        Ok(order.into_iter().collect())
    }

    /// Messages about this entity that nobody needs any more.
    pub(crate) fn hints(&self, id: EntityId) -> Vec<v1::GateHint> {
        let Ok(Some(entity)) = self.entity(id) else { return Vec::new() };
        let state = Reading::<Payment>::of(&entity).state;
        let gone = |kind: MessageKind, why: &str| v1::GateHint {
            subject: bytes::Bytes::copy_from_slice(&id.to_bytes()),
            kind: kind.code(),
            why: why.to_owned(),
            slot: 0,
            epoch: None,
        };
        match state.map(|state| state.phase) {
            Some(PaymentPhase::Ended(how)) => {
                [MessageKind::PayRequest, MessageKind::Withdrawal].map(|kind| gone(kind, how.as_str())).into()
            }
            Some(PaymentPhase::Received | PaymentPhase::Accepted) => {
                vec![gone(MessageKind::PayRequest, "received by the data alone")]
            }
            _ => Vec::new(),
        }
    }

    pub(crate) async fn explain(&self, id: EntityId) -> Result<Option<serde_json::Value>, NodeError> {
        let duties = self.run(move |cell, view, _| Ok((Step::default(), cell.duties(view, id)?))).await?;
        let mut document = explain::explain(&self.working, id, &duties)?;
        if let (Some(document), Some(dot)) = (&mut document, self.working.withheld_by(id)) {
            document["withheld_by"] = serde_json::json!(dot.to_string());
        }
        Ok(document)
    }

    /// What keeps the view; for [`Running::join`].
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        self.working.store()
    }

    /// Timers: beats, and whatever becomes due; until the shutdown begins.
    pub async fn keep_time(self, shutdown: Shutdown) {
        let (mut due, mut beat) = (tokio::time::interval(DUE_EVERY), tokio::time::interval(BEAT_EVERY));
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let mut deciding = pin!(async {
            self.wait_for_peers().await;
            self.look_at_everything_open().await;
        });
        let mut decides = false;
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                () = &mut deciding, if !decides => decides = true,
                _ = beat.tick() => {
                    let beaten = self.run(|cell, view, now_ms| Ok((cell.beat(view, now_ms)?, ()))).await;
                    if let Err(error) = beaten {
                        tracing::warn!(%error, "no heartbeat");
                    }
                    self.hear().await;
                }
                _ = due.tick(), if decides => self.wake_due().await,
            }
        }
    }

    /// A region that was distrusted is heard: everything it wrote up to some time after this start is here.
    async fn hear(&self) {
        let distrusted = self.working.distrusted();
        if distrusted.is_empty() {
            return;
        }
        let Ok(Known { heard, .. }) = self.known().await else { return };
        let since_ms = self.started_ms.saturating_add(SKEW_MS_MAX);
        for (region, _) in heard.into_iter().filter(|(_, beat_ms)| *beat_ms > since_ms) {
            self.working.hears(region);
        }
    }

    /// Watches the free space under `dir`; until the shutdown begins.
    pub(crate) async fn watch_disk(self, dir: PathBuf, low_water_bytes: u64, shutdown: Shutdown) {
        let mut every = tokio::time::interval(DISK_EVERY);
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                _ = every.tick() => {}
            }
            let Ok(free) = cell_store::free_bytes(&dir) else { continue };
            metrics::gauge!("cell_disk_free_bytes").set(free as f64);
            let low = free < low_water_bytes;
            if self.low_on_disk.swap(low, Ordering::Relaxed) != low {
                tracing::warn!(free, low_water_bytes, low, "free disk crossed the low-water mark");
            }
        }
    }

    /// What was under way is looked at once: after a start, so that its duties are known again.
    pub(crate) async fn look_at_everything_open(&self) {
        let mut after = None;
        loop {
            let store = self.store().clone();
            let page = tokio::task::spawn_blocking(move || view::open_now(&store, after, DUE_MAX)).await;
            let Ok(Ok(page)) = page else { return tracing::error!("what is under way cannot be read") };
            let Some(last) = page.last().copied() else { return };
            for entity in page {
                if let Err(error) = self.wake(entity).await {
                    tracing::warn!(%error, %entity, "could not be looked at");
                }
            }
            after = Some(last);
        }
    }

    async fn wake_due(&self) {
        let store = self.store().clone();
        let found = tokio::task::spawn_blocking(move || view::due_by(&store, now_ms(), DUE_MAX)).await;
        let found = match found {
            Ok(Ok(found)) => found,
            Ok(Err(error)) => return tracing::error!(%error, "what is due cannot be read"),
            Err(error) => return tracing::error!(%error, "what is due cannot be read"),
        };
        for entity in found {
            if let Err(error) = self.wake(entity).await {
                tracing::warn!(%error, %entity, "could not be woken; tried again");
            }
        }
    }
}

impl Running {
    /// Waits until everything accepted is in the view and on disk. Every [`Node`] must be gone by then.
    pub fn join(self, store: &Arc<dyn Store>) {
        self.writer.join();
        if let Err(error) = store.sync() {
            tracing::error!(%error, "the view is not synced; it is replayed at the next start");
        }
    }
}
