//! The group-commit writer: the one thread that owns the cell and the log.
//!
//! Take what waits (at once when idle), run each piece against the working state, append one frame, sync once, answer;
//! the next group forms while the disk syncs. The view is applied right behind by a second thread, in order, through a
//! bounded queue.

mod applier;
mod group;
mod submit;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use cell_core::canon::Message;
use cell_core::cell::{Alarm, Cell, Quarantined, Step, Unavailable, View};
use cell_core::digest::Digest;
use cell_core::duty::{Act, every_permit};
use cell_core::entity::{Entity, Reading};
use cell_core::id::{ActorId, EntityId, Slot};
use cell_core::order::Order;
use cell_core::payment::Payment;
use cell_core::placement::Epoch;
use cell_core::version::Dot;
use cell_store::{FRAME_BODY_BYTES_MAX, Log, Position};
use tokio::sync::watch;

pub(crate) use self::applier::Hurry;
pub(crate) use self::group::{Group, Sheet};
pub(crate) use self::submit::Submit;

use self::applier::apply_all;
use self::group::{grow, quarantined};
use self::submit::Work;
use crate::contain::contained;
use crate::record::Record;
use crate::traces::Traces;
use crate::working::{Stacked, Working};

/// Pieces of work in one group at most.
const GROUP_MAX: usize = 128;
/// Work waiting at most; beyond it callers are told to come back.
const WAITING_MAX: usize = 4_096;
/// Groups appended and not yet in the view at most; then the writer waits for the view.
const BEHIND_MAX: usize = 256;
/// Pause between two tries to write to a full disk.
const FULL_PAUSE: Duration = Duration::from_millis(500);

/// Why a piece of work was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// Too much waits; nothing was touched. Come back.
    #[error("the node is busy")]
    Busy,
    /// The view or the log failed. Whether this work took effect is unknown; the node stops.
    #[error("the node is unavailable: {0}")]
    Unavailable(String),
}

impl From<Unavailable> for NodeError {
    fn from(error: Unavailable) -> NodeError {
        NodeError::Unavailable(error.0)
    }
}

/// Actors of whose changes some are missing, and how far there is something of them.
fn holed(cell: &Cell) -> BTreeMap<ActorId, u64> {
    cell.holes().map(|(actor, _, beyond)| (actor, beyond)).collect()
}

/// Wall milliseconds since the Unix epoch.
#[must_use]
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What the writer tells the rest of the node after each group.
pub(crate) trait Told: Send + 'static {
    fn sheets(&self, sheets: &[Sheet]);
    fn alarms(&self, alarms: &[Alarm]);
    /// A group is durable, and in the working state.
    fn published(&self, cell: &Cell, group: &Group);
    fn failed(&self, error: &NodeError);
}

/// The running writer and applier.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) submit: Submit,
    pub(crate) durable: watch::Receiver<u64>,
    pub(crate) hurry: Hurry,
    threads: Vec<JoinHandle<()>>,
}

impl Writer {
    /// Starts both threads. They end when every [`Submit`] is gone, after the last group is in the view.
    ///
    /// # Errors
    /// The system gives no threads.
    pub(crate) fn start(
        cell: Cell,
        log: Log,
        working: Working,
        traces: Traces,
        told: impl Told,
        apply: impl FnMut(Group) -> Result<(), String> + Send + 'static,
    ) -> std::io::Result<Writer> {
        let (work, waiting) = sync_channel(WAITING_MAX);
        let (behind, groups) = sync_channel(BEHIND_MAX);
        let (published, durable) = watch::channel(log.durable().0);
        let holed = holed(&cell);
        working.set_holes(holed.len());
        let closed = cell.fronts().closed_shared();
        let working_too = working.clone();
        let run = Loop {
            cell,
            log,
            working: working_too,
            traces,
            told,
            behind,
            published,
            number: 0,
            closed,
            holed,
        };
        let writer = std::thread::Builder::new().name("writer".into()).spawn(move || run.run(&waiting))?;
        let hurry = Hurry::default();
        let hurried = hurry.clone();
        let applier = std::thread::Builder::new()
            .name("applier".into())
            .spawn(move || apply_all(&groups, &working, &hurried, apply))?;
        Ok(Writer { submit: Submit { work }, durable, hurry, threads: vec![writer, applier] })
    }

    /// Waits until everything accepted is in the view. Every other [`Submit`] must be gone by then.
    pub(crate) fn join(self) {
        drop(self.submit);
        for thread in self.threads {
            if thread.join().is_err() {
                tracing::error!("a storage thread panicked");
            }
        }
    }
}

struct Loop<T> {
    cell: Cell,
    log: Log,
    working: Working,
    traces: Traces,
    told: T,
    behind: SyncSender<Group>,
    published: watch::Sender<u64>,
    number: u64,
    /// What the view was given last.
    closed: Arc<BTreeMap<ActorId, u64>>,
    /// Actors with holes, and how far there is something of them.
    holed: BTreeMap<ActorId, u64>,
}

impl<T: Told> Loop<T> {
    fn run(mut self, waiting: &Receiver<Work>) {
        while let Ok(first) = waiting.recv() {
            let mut group = vec![first];
            while group.len() < GROUP_MAX
                && let Ok(next) = waiting.try_recv()
            {
                group.push(next);
            }
            if let Err(error) = self.commit(group, waiting) {
                tracing::error!(%error, "the log failed; the node stops");
                self.told.failed(&error);
                return;
            }
        }
    }

    /// One group: run, append, sync, publish, answer, hand on.
    fn commit(&mut self, work: Vec<Work>, waiting: &Receiver<Work>) -> Result<(), NodeError> {
        self.number += 1;
        let mut made = Made::default();
        let mut finishes = Vec::with_capacity(work.len());
        // What a group makes is seen by the rest of the group at once, and by nobody else before it is durable.
        let over = Stacked::new(&self.working);
        for Work(run) in work {
            let mut steps = Vec::new();
            let ran =
                contained("work", &"a piece of work", || run(&mut self.cell, &over, now_ms(), &mut steps));
            // What it did stands, however it ended.
            for step in steps {
                self.traces.note(&step.trace, step.entities.keys());
                over.put(&step);
                made.take(step);
            }
            // Whoever waits for a piece that panicked hears that it was not carried out.
            finishes.extend(ran.ok());
        }
        drop(over);
        let durable = self.append(&made.records, waiting);
        if let Ok(end) = &durable {
            // Whoever is answered finds it there.
            made.keys = self.working.put(self.number, made.entities.iter());
            self.withhold(&made)?;
            self.look_at_holes();
            self.published.send_replace(end.0);
        }
        let outcome = durable.as_ref().map(|_| ()).map_err(Clone::clone);
        finishes.into_iter().for_each(|finish| finish(outcome.clone()));
        let end = durable?;
        self.hand_on(made, end)
    }

    /// A hole that ended without what was missing was given up: another region may have had some of it as state, and until a
    /// comparison said what, nothing is denied.
    fn look_at_holes(&mut self) {
        let holed = holed(&self.cell);
        let fronts = self.cell.fronts();
        let given_up =
            |(actor, beyond): (&ActorId, &u64)| !holed.contains_key(actor) && fronts.seq(actor) < *beyond;
        if self.holed.iter().any(given_up) {
            self.working.lacks_what_was_given_up();
        }
        self.working.set_holes(holed.len());
        self.holed = holed;
    }

    /// What could not be applied is said, and what it would have changed is not shown from now on; or is again.
    fn withhold(&mut self, made: &Made) -> Result<(), NodeError> {
        if made.quarantined.is_empty() && !self.working.withholds() {
            return Ok(());
        }
        for kept in made.quarantined.values().flatten().filter(|kept| !kept.given_up) {
            let Quarantined { cause, detail, entities, .. } = kept;
            let dot = kept.entry.dot;
            metrics::counter!("cell_quarantined_total", "cause" => cause.clone()).increment(1);
            tracing::error!(
                %dot, cause, detail, ?entities,
                "a change cannot be applied here and is quarantined; what it would have changed answers 503. Start this \
                 node again with a newer software, or a larger change_bytes_max where it is too large: it is tried again \
                 then, or by `cellctl quarantine retry`. Or do without it: `cellctl quarantine discard`"
            );
        }
        let named = made.quarantined.values().flatten().flat_map(|kept| kept.entities.iter().copied());
        let ids: BTreeSet<EntityId> = made.entities.keys().copied().chain(named).collect();
        Ok(self.working.withhold(&self.cell, ids)?)
    }

    /// Closings that the view was not given yet.
    fn take_closed(&mut self) -> BTreeMap<ActorId, u64> {
        let known = self.cell.fronts().closed_shared();
        if Arc::ptr_eq(&known, &self.closed) {
            return BTreeMap::new();
        }
        let news = known.iter().filter(|(actor, last)| self.closed.get(actor) != Some(last));
        let news = news.map(|(actor, last)| (*actor, *last)).collect();
        self.closed = known;
        news
    }

    fn append(&mut self, records: &[Vec<u8>], waiting: &Receiver<Work>) -> Result<Position, NodeError> {
        if records.is_empty() {
            return Ok(self.log.durable());
        }
        let failed = |error: cell_store::LogError| NodeError::Unavailable(error.to_string());
        let begin = self.log.next().0;
        loop {
            // After a full disk a part of the group may be written.
            let written = (self.log.next().0 - begin) as usize;
            let rest = &records[written..];
            match self.log.append(&rest[..fitting(rest)]) {
                Ok(()) if fitting(rest) == rest.len() => break,
                Ok(()) => {}
                Err(cell_store::LogError::Full { source }) => wait_for_room(&source, waiting)?,
                Err(error) => return Err(failed(error)),
            }
        }
        let before = Instant::now();
        let end = self.log.sync().map_err(failed)?;
        metrics::histogram!("cell_log_sync_seconds").record(before.elapsed().as_secs_f64());
        metrics::histogram!("cell_log_group_records").record(records.len() as f64);
        metrics::counter!("cell_log_syncs_total").increment(1);
        let bytes: usize = records.iter().map(Vec::len).sum();
        metrics::counter!("cell_log_bytes_total").increment(bytes as u64);
        Ok(end)
    }

    fn hand_on(&mut self, made: Made, end: Position) -> Result<(), NodeError> {
        if made.records.is_empty() && made.touched.is_empty() && made.corrected.is_empty() {
            return Ok(());
        }
        let mut frontier = BTreeMap::new();
        for actor in made.actors {
            frontier.extend(self.cell.fronts().get(&actor).map(|front| (actor, *front)));
        }
        let mut epochs = BTreeMap::new();
        for id in made.entities.keys().map(EntityId::slot).chain(made.lost) {
            let home = self.cell.placement().home(id);
            epochs.extend(home.actor.map(|actor| (id, Epoch { term: home.term, step: home.step, actor })));
        }
        let sheets = self.sheets(&made.entities)?;
        let mut group = Group {
            number: self.number,
            end,
            entities: made.entities,
            command_keys: made.keys,
            frontier,
            epochs,
            closed: self.take_closed(),
            lives: self.cell.lives_mut().take_changed(),
            digests: BTreeMap::new(),
            grown: made.grown,
            beyond: Vec::new(),
            quarantined: made.quarantined,
            sheets,
        };
        group.note_digests(self.cell.digests(), made.corrected);
        self.told.published(&self.cell, &group);
        self.told.sheets(&group.sheets);
        self.told.alarms(&made.alarms);
        self.behind.send(group).map_err(|_| NodeError::Unavailable("the view stopped".to_owned()))
    }

    /// What every touched entity, and what stands beside it, needs done now.
    fn sheets(&self, entities: &BTreeMap<EntityId, Arc<Entity>>) -> Result<Vec<Sheet>, NodeError> {
        let mut ids: BTreeSet<EntityId> = entities.keys().copied().collect();
        for (id, entity) in
            entities.iter().filter(|(_, entity)| !entity.is_fresh() || entity.id.order().is_none())
        {
            if id.order().is_some() {
                let reading = Reading::<Order>::of(entity);
                ids.extend(every_permit(&reading).map(|(payment, _)| EntityId::from(payment)));
            } else if let Some((permit, _)) = entity.record::<Payment>() {
                ids.insert(permit.order.into());
            }
        }
        let recovering = *self.working.recovering().borrow();
        let sheet = |entity: EntityId| {
            let home = self.cell.placement().home(entity.slot()).node == self.cell.me().node;
            let outranked = self.cell.is_outranked(entity.slot());
            if recovering && home || outranked {
                // Nothing is owned before it decides; then this is looked at, if there is such a thing.
                let there = entities.contains_key(&entity) || self.working.entity(entity)?.is_some();
                return Ok(match there {
                    false => Sheet { entity, duties: Vec::new() },
                    true if outranked => Sheet::once_decided(entity),
                    true => Sheet::soon(entity),
                });
            }
            let duties = contained("duties", &entity, || self.cell.duties(&self.working, entity));
            let mut duties = duties.unwrap_or_else(|_| Ok(Vec::new()))?;
            for duty in &mut duties {
                if let Act::Send(envelope) = &mut duty.act {
                    envelope.trace = self.traces.of(&entity);
                }
            }
            Ok(Sheet { entity, duties })
        };
        ids.into_iter().map(sheet).collect::<Result<_, Unavailable>>().map_err(NodeError::from)
    }
}

/// How many of the records fit into one frame; one at least.
fn fitting<R: AsRef<[u8]>>(records: &[R]) -> usize {
    let mut bytes = 0;
    let fit = records.iter().take_while(|record| {
        bytes += record.as_ref().len() + 4;
        bytes <= FRAME_BODY_BYTES_MAX
    });
    fit.count().max(1).min(records.len())
}

/// The disk is full: what is at hand stays at hand, what waits is answered that it was not carried out, and reads go on.
fn wait_for_room(error: &std::io::Error, waiting: &Receiver<Work>) -> Result<(), NodeError> {
    tracing::error!(%error, "the log has no room: nothing is written until there is some");
    metrics::counter!("cell_log_full_total").increment(1);
    let until = Instant::now() + FULL_PAUSE;
    loop {
        match waiting.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(unwritten) => drop(unwritten),
            Err(RecvTimeoutError::Timeout) => return Ok(()),
            Err(RecvTimeoutError::Disconnected) => {
                return Err(NodeError::Unavailable("stopped while the disk was full".to_owned()));
            }
        }
    }
}

/// What a group's pieces made together.
#[derive(Debug, Default)]
struct Made {
    records: Vec<Vec<u8>>,
    entities: BTreeMap<EntityId, Arc<Entity>>,
    touched: BTreeSet<EntityId>,
    actors: BTreeSet<ActorId>,
    /// Slots of whose home more is known.
    lost: Vec<Slot>,
    alarms: Vec<Alarm>,
    keys: Vec<Bytes>,
    corrected: BTreeSet<Slot>,
    grown: BTreeMap<EntityId, Digest>,
    quarantined: BTreeMap<Dot, Option<Quarantined>>,
}

impl Made {
    fn take(&mut self, step: Step) {
        self.quarantined.extend(quarantined(&step));
        // What was adopted holds them itself.
        for kept in step.quarantined.into_iter().filter(|_| step.adopted.is_none()) {
            self.actors.insert(kept.entry.dot.actor);
            self.records.push(Record::Quarantined(kept).to_bytes());
        }
        self.records.extend(step.merged.into_iter().map(|entity| Record::Merged(entity).to_bytes()));
        for entry in step.entries {
            self.actors.insert(entry.dot.actor);
            self.records.push(Record::Entry(entry).to_bytes());
        }
        if let Some(baseline) = step.adopted {
            self.actors.extend(baseline.fronts().map(|(actor, _)| actor));
            self.lost.extend(baseline.placed.iter().flat_map(|placed| placed.slots.iter().copied()));
            self.records.push(Record::Adopted(baseline).to_bytes());
        }
        self.corrected.extend(step.corrected);
        grow(&mut self.grown, &step.grown);
        self.touched.extend(step.entities.keys());
        self.entities.extend(step.entities);
        self.lost.extend(step.lost.into_iter().map(|(slot, _)| slot));
        self.alarms.extend(step.alarms);
    }
}

/// The canonical bytes of an epoch, as they are kept.
pub(crate) fn epoch_bytes(epoch: &Epoch) -> Vec<u8> {
    epoch.to_canon()
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Condvar, Mutex};

    use cell_core::cell::{Ask, Command};
    use cell_core::id::{NodeId, RegionId, UserId};
    use cell_core::placement::Placement;
    use cell_core::rules::Rules;
    use cell_store::{Engine, FaultMedium, LogConfig, Medium};

    use super::*;
    use crate::notice::tests::record;

    /// A disk whose syncs wait until they are let through.
    #[derive(Debug)]
    struct SlowDisk {
        disk: FaultMedium,
        held: Mutex<bool>,
        changed: Condvar,
        waiting: watch::Sender<bool>,
    }

    impl SlowDisk {
        fn hold(&self, held: bool) {
            *self.held.lock().unwrap() = held;
            self.changed.notify_all();
        }
    }

    impl Medium for SlowDisk {
        fn list(&self) -> io::Result<Vec<String>> {
            self.disk.list()
        }
        fn len(&self, file: &str) -> io::Result<u64> {
            self.disk.len(file)
        }
        fn create(&self, file: &str) -> io::Result<()> {
            self.disk.create(file)
        }
        fn append(&self, file: &str, bytes: &[u8]) -> io::Result<()> {
            self.disk.append(file, bytes)
        }
        fn read_at(&self, file: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            self.disk.read_at(file, offset, buf)
        }
        fn read_fresh_at(&self, file: &str, offset: u64, buf: &mut [u8]) -> io::Result<usize> {
            self.disk.read_fresh_at(file, offset, buf)
        }
        fn truncate(&self, file: &str, len: u64) -> io::Result<()> {
            self.disk.truncate(file, len)
        }
        fn delete(&self, file: &str) -> io::Result<()> {
            self.disk.delete(file)
        }
        fn sync(&self, file: &str) -> io::Result<()> {
            let mut held = self.held.lock().unwrap();
            while *held {
                self.waiting.send_replace(true);
                held = self.changed.wait(held).unwrap();
            }
            drop(held);
            self.disk.sync(file)
        }
        fn sync_dir(&self) -> io::Result<()> {
            self.disk.sync_dir()
        }
        fn entropy(&self) -> u64 {
            self.disk.entropy()
        }
    }

    struct Nobody;
    impl Told for Nobody {
        fn sheets(&self, _: &[Sheet]) {}
        fn alarms(&self, _: &[Alarm]) {}
        fn published(&self, _: &Cell, _: &Group) {}
        fn failed(&self, _: &NodeError) {}
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_not_durable_is_seen_by_nobody_outside_the_group() {
        let (waiting, mut waits) = watch::channel(false);
        let (disk, held, changed) = (FaultMedium::new(1), Mutex::new(false), Condvar::new());
        let disk = Arc::new(SlowDisk { disk, held, changed, waiting });
        let (log, _) = Log::open(disk.clone(), LogConfig::default()).unwrap();
        let working = Working::new(cell_store::open(Engine::Memory, std::path::Path::new("")).unwrap());
        let north = RegionId::new("north").unwrap();
        let me = ActorId { node: NodeId { region: north, index: 0 }, start: 1, nonce: 1 };
        let cell = Cell::new(me, Placement::initial(vec![north], |_| north), Rules::default());
        let apply = |_| Ok(());
        let writer = Writer::start(cell, log, working.clone(), Traces::default(), Nobody, apply).unwrap();
        let user = UserId::new("a").unwrap();
        let order = EntityId::from(record(&user).order_id());
        let place = |key: &str| Command {
            user: user.clone(),
            key: key.to_owned(),
            body: Vec::new(),
            trace: String::new(),
            ask: Ask::Place { record: Box::new(record(&user)) },
        };
        disk.hold(true);
        // A repeat in the same group, or in the one that forms meanwhile, is known as one.
        let submit = |command: Command| {
            let submit = writer.submit.clone();
            tokio::spawn(async move {
                let work = move |cell: &mut Cell, view: &dyn View, now_ms: u64, steps: &mut Vec<Step>| {
                    let (step, reply) = cell.command(view, &command, now_ms)?;
                    steps.push(step);
                    Ok(reply)
                };
                submit.run(work).await
            })
        };
        let (first, second) = (submit(place("o")), submit(place("o")));
        waits.wait_for(|waits| *waits).await.unwrap();
        assert!(working.entity(order).unwrap().is_none(), "the disk does not have it");
        assert!(working.orders_of_key(&user, "o").unwrap().is_empty());
        assert!(!first.is_finished() && !second.is_finished());
        disk.hold(false);
        let replies = [first.await.unwrap().unwrap().unwrap(), second.await.unwrap().unwrap().unwrap()];
        assert_eq!(replies.iter().filter(|reply| reply.repeated).count(), 1);
        assert!(working.entity(order).unwrap().is_some());
        writer.join();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_full_disk_holds_up_what_is_at_hand_and_nothing_is_lost_or_decided_twice() {
        let disk = FaultMedium::new(1);
        let (log, _) = Log::open(Arc::new(disk.clone()), LogConfig::default()).unwrap();
        let working = Working::new(cell_store::open(Engine::Memory, std::path::Path::new("")).unwrap());
        let north = RegionId::new("north").unwrap();
        let me = ActorId { node: NodeId { region: north, index: 0 }, start: 1, nonce: 1 };
        let cell = Cell::new(me, Placement::initial(vec![north], |_| north), Rules::default());
        let apply = |_| Ok(());
        let writer = Writer::start(cell, log, working.clone(), Traces::default(), Nobody, apply).unwrap();
        disk.fail_next_append(io::ErrorKind::StorageFull);
        let user = UserId::new("a").unwrap();
        let order = EntityId::from(record(&user).order_id());
        let place = {
            let (user, key, record) = (user.clone(), "o".to_owned(), Box::new(record(&user)));
            Command { user, key, body: Vec::new(), trace: String::new(), ask: Ask::Place { record } }
        };
        let work = move |cell: &mut Cell, view: &dyn View, now_ms: u64, steps: &mut Vec<Step>| {
            let (step, reply) = cell.command(view, &place, now_ms)?;
            steps.push(step);
            Ok(reply)
        };
        let reply = writer.submit.run(work).await.unwrap().unwrap();
        assert!(!reply.repeated && working.entity(order).unwrap().is_some());
        writer.durable.clone().wait_for(|position| *position == 1).await.unwrap();
        writer.join();
    }

    /// An entity, and when it needs something done.
    type Due = (EntityId, Option<u64>);

    /// Keeps what was to be done.
    #[derive(Clone, Default)]
    struct Noted(Arc<Mutex<Vec<Due>>>);
    impl Told for Noted {
        fn sheets(&self, sheets: &[Sheet]) {
            let due = sheets.iter().map(|sheet| (sheet.entity, crate::view::next_due(&sheet.duties)));
            self.0.lock().unwrap().extend(due);
        }
        fn alarms(&self, _: &[Alarm]) {}
        fn published(&self, _: &Cell, _: &Group) {}
        fn failed(&self, _: &NodeError) {}
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_comes_to_a_node_that_is_outranked_is_looked_at_once_it_decides_again() {
        let working = Working::new(cell_store::open(Engine::Memory, std::path::Path::new("")).unwrap());
        let north = RegionId::new("north").unwrap();
        let actor = |start| ActorId { node: NodeId { region: north, index: 0 }, start, nonce: 1 };
        let cell =
            |start| Cell::new(actor(start), Placement::initial(vec![north], |_| north), Rules::default());
        let user = UserId::new("a").unwrap();
        let order = EntityId::from(record(&user).order_id());
        let ask = Ask::Place { record: Box::new(record(&user)) };
        let place = Command { user, key: "o".to_owned(), body: Vec::new(), trace: String::new(), ask };
        let step = cell(1).command(&working, &place, 1_000).unwrap().0;
        let placed = Entity::clone(&step.entities[&order]);
        let mut outranked = cell(2);
        let epoch = Epoch { term: 1, step: 0, actor: actor(3) };
        outranked
            .restore(cell_core::cell::Kept { epochs: vec![(order.slot(), epoch)], ..Default::default() });
        assert!(outranked.is_outranked(order.slot()));
        let (log, _) = Log::open(Arc::new(FaultMedium::new(1)), LogConfig::default()).unwrap();
        let noted = Noted::default();
        let writer =
            Writer::start(outranked, log, working, Traces::default(), noted.clone(), |_| Ok(())).unwrap();
        let merge = move |cell: &mut Cell, view: &dyn View, now_ms: u64, steps: &mut Vec<Step>| {
            steps.push(cell.merge(view, vec![placed], now_ms)?);
            Ok(())
        };
        writer.submit.run(merge).await.unwrap();
        writer.join();
        assert_eq!(*noted.0.lock().unwrap(), [(order, Some(0))], "with what is open, whenever that is");
    }

    #[test]
    fn a_group_larger_than_a_frame_is_written_in_several() {
        let record = |bytes: usize| vec![0u8; bytes];
        assert_eq!(fitting(&[record(5), record(FRAME_BODY_BYTES_MAX - 13)]), 2);
        assert_eq!(fitting(&[record(5), record(FRAME_BODY_BYTES_MAX - 12)]), 1);
        assert_eq!(fitting(&[record(FRAME_BODY_BYTES_MAX)]), 1, "for the log to refuse");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_a_piece_of_work_did_stands_however_it_ends_and_the_next_one_is_carried_out() {
        let (log, _) = Log::open(Arc::new(FaultMedium::new(1)), LogConfig::default()).unwrap();
        let working = Working::new(cell_store::open(Engine::Memory, std::path::Path::new("")).unwrap());
        let north = RegionId::new("north").unwrap();
        let me = ActorId { node: NodeId { region: north, index: 0 }, start: 1, nonce: 1 };
        let cell = Cell::new(me, Placement::initial(vec![north], |_| north), Rules::default());
        let writer = Writer::start(cell, log, working, Traces::default(), Nobody, |_| Ok(())).unwrap();
        let beat = |cell: &mut Cell, view: &dyn View, now_ms: u64, steps: &mut Vec<Step>| {
            steps.push(cell.beat(view, |_| unreachable!("nobody outranks it"), now_ms)?);
            Ok(cell.fronts().seq(&cell.me()))
        };
        let fails = writer.submit.run(move |cell, view, now_ms, steps| {
            beat(cell, view, now_ms, steps)?;
            Err::<(), _>(Unavailable("one entity".to_owned()))
        });
        assert_eq!(fails.await, Err(NodeError::Unavailable("one entity".to_owned())));
        let panics = writer.submit.run(move |cell, view, now_ms, steps| -> Result<(), Unavailable> {
            beat(cell, view, now_ms, steps)?;
            panic!("a bug")
        });
        assert!(matches!(panics.await, Err(NodeError::Unavailable(_))));
        assert_eq!(writer.submit.run(beat).await, Ok(3));
        // As many records as the cell knows of: none is missing in front of the last.
        writer.durable.clone().wait_for(|position| *position == 3).await.unwrap();
        writer.join();
    }
}
