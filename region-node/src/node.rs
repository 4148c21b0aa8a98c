//! The node: everything that may change an order or a payment here goes through [`Node`], and through it into the one
//! writer.

mod announce;
mod exchange;
mod holes;
mod opening;
mod recovery;
mod time;

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use cell_core::cell::{
    Ability, Cell, Command, Problem, Reached, Refusal, Reply, Resolve, Step, Unavailable, View,
};
use cell_core::entity::Entity;
use cell_core::event::Fact;
use cell_core::id::{ActorId, EntityId, PaymentId, RegionId, UserId};
use cell_core::placement::Placement;
use cell_core::rules::Rules;
use cell_core::version::Dot;
use cell_store::{LogReader, LogTrimmer, Store};
pub(crate) use exchange::{Compared, Known};
pub use opening::OpenError;
use tokio::sync::{broadcast, watch};

use crate::config::LogSettings;
use crate::desk::Tray;
use crate::grpc::Members;
use crate::scrub::Scrub;
use crate::session::Sessions;
use crate::stopped;
use crate::upkeep::Retention;
use crate::view::{self, Lineage};
use crate::working::{Whole, Working};
use crate::writer::{Hurry, NodeError, Submit, Writer};

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
    trimmer: LogTrimmer,
    members: Members,
    me: Arc<Mutex<ActorId>>,
    /// Actors that this very process was before.
    was: Arc<Mutex<BTreeSet<ActorId>>>,
    lineage: Arc<Lineage>,
    scrub: Scrub,
    recovery_wait: Duration,
    ability: Arc<Ability>,
    /// When the agent last said that more is coming.
    more: Arc<watch::Sender<Instant>>,
    /// Neither log nor view have all that was here once: nothing is decided before a peer was heard.
    must_hear: bool,
    retention: Retention,
    /// That its disk had lost something of its own.
    said_lost: Arc<AtomicBool>,
    started_ms: u64,
}

/// The part of a running node that has to be ended.
#[derive(Debug)]
pub struct Running {
    writer: Writer,
    dir: PathBuf,
}

impl Node {
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Cell, &dyn View, u64) -> Result<(Step, T), Unavailable> + Send + 'static,
    ) -> Result<T, NodeError> {
        let work = |cell: &mut Cell, view: &dyn View, now_ms: u64, steps: &mut Vec<Step>| {
            let (step, value) = work(cell, view, now_ms)?;
            steps.push(step);
            Ok(value)
        };
        self.submit.run(work).await
    }

    /// The same with several steps, each pushed as it is done: see [`Submit::run`].
    pub(crate) async fn run_all<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Cell, &dyn View, u64, &mut Vec<Step>) -> Result<T, Unavailable> + Send + 'static,
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
        work: impl FnOnce(&mut Cell, &dyn View, u64) -> Result<(Step, T), Unavailable> + Send + 'static,
    ) -> Result<T, NodeError> {
        let working = self.working.clone();
        self.run(move |cell, view, now_ms| work(cell, &Whole::new(view, &working), now_ms)).await
    }

    #[must_use]
    pub fn actor(&self) -> ActorId {
        *self.me.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whose places in the view are places here.
    pub(crate) fn lineage(&self) -> &Lineage {
        &self.lineage
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

    /// What [`Node::resolve`] would say before it looks at the case.
    pub(crate) async fn may_resolve(&self, entity: EntityId) -> Result<Result<(), Refusal>, NodeError> {
        let look = move |cell: &mut Cell, _: &dyn View, _| {
            Ok((Step::default(), cell.cannot_resolve(entity).map_or(Ok(()), Err)))
        };
        self.decide(look).await
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
            let before = view.entity(entity)?;
            let mut step = cell.wake(view, entity, now_ms)?;
            if let Some(state) = before {
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

    pub(crate) fn working(&self) -> &Working {
        &self.working
    }

    pub(crate) fn scrub(&self) -> &Scrub {
        &self.scrub
    }

    /// Looks at the cell between two groups.
    pub(crate) async fn read<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Cell) -> T + Send + 'static,
    ) -> Result<T, NodeError> {
        self.run(move |cell, _, _| Ok((Step::default(), look(cell)))).await
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

    pub(crate) fn trimmer(&self) -> &LogTrimmer {
        &self.trimmer
    }

    pub(crate) fn durable_watch(&self) -> watch::Receiver<u64> {
        self.durable.clone()
    }

    /// What keeps the view; for [`Running::join`].
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        self.working.store()
    }
}

impl Running {
    /// Waits until everything accepted is in the view and on disk. Every [`Node`] must be gone by then.
    pub fn join(self, store: &Arc<dyn Store>) {
        self.writer.join();
        let synced = store.sync().and_then(|()| view::position(store));
        match synced {
            Ok(at) => at.into_iter().for_each(|at| stopped::close(&self.dir, at)),
            Err(error) => tracing::error!(%error, "the view is not synced; it is replayed at the next start"),
        }
    }
}
