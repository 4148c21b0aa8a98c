//! The view: what a group of the log becomes in the store, and how it is brought up to the log at start.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cell_core::canon::Message;
use cell_core::cell::{Cell, Front, Kept as KeptCell, Step};
use cell_core::digest::Digest;
use cell_core::duty::{Act, Duty};
use cell_core::entity::Entity;
use cell_core::event::Closed;
use cell_core::id::{ActorId, EntityId, Hash, NodeId, OrderId, RegionId, SLOT_COUNT, Slot, UserId};
use cell_core::lives::ActorLife;
use cell_core::order::Order;
use cell_core::payment::Payment;
use cell_core::placement::Epoch;
use cell_core::version::Dot;
use cell_store::{Batch, LogReader, Position, Scan, Store, StoreError};

use crate::conflict::{self, Tally};
use crate::contain::contained;
use crate::keys;
use crate::notice::{Kept, notices};
use crate::own::Own;
use crate::quarantine;
use crate::record::Record;
use crate::traces::Traces;
use crate::working::Working;
use crate::writer::{Group, Sheet};

/// See [`keys::FORMAT`].
const FORMAT: u16 = 3;

/// Records replayed between two writes of the view.
const REPLAY_BYTES: usize = 1 << 20;

/// Writes a group's effects in one batch, its position with them; returns whose notices are among them.
pub(crate) fn apply(
    working: &Working,
    traces: &Traces,
    group: &Group,
) -> Result<BTreeSet<UserId>, StoreError> {
    let mut batch = Batch::new();
    let (mut orders_of, mut users) = (BTreeMap::new(), BTreeSet::new());
    let mut tally = Tally::default();
    for entity in group.entities.values() {
        put_entity(entity, &mut batch)?;
        // What cannot be derived of one entity is missing of that one alone.
        let derived = contained("view", &entity.id, || {
            put_indexes(working, entity, &mut orders_of, &mut batch)?;
            conflict::put(working.store(), entity, &mut batch, &mut tally)?;
            let trace = || traces.of(&entity.id);
            put_notices(working.store(), entity, trace, group.end, &mut users, &mut batch)
        });
        derived.unwrap_or(Ok(()))?;
    }
    for (key, orders) in orders_of {
        let ids: Vec<u8> = orders.iter().flat_map(|order| order.0.0).collect();
        batch.put(key, ids);
    }
    // The last sheet of an entity is what it needs now.
    let sheets: BTreeMap<EntityId, &Sheet> = group.sheets.iter().map(|sheet| (sheet.entity, sheet)).collect();
    for sheet in sheets.into_values() {
        put_due(working, sheet, &mut batch)?;
    }
    let mut own = working.own();
    if working.take_unkept() {
        put_doubted(working, &mut own, &mut batch);
    }
    put_own(&**working.store(), &mut own, group, &mut batch)?;
    working.store().write(batch)?;
    drop(own);
    group.entities.values().for_each(|entity| working.is_there(entity));
    tally.count();
    Ok(users)
}

fn put_own(store: &dyn Store, own: &mut Own, group: &Group, batch: &mut Batch) -> Result<(), StoreError> {
    let of_actor = |prefix: &[u8], actor: &ActorId| [prefix, actor.to_string().as_bytes()].concat();
    for (actor, front) in &group.frontier {
        let dot = Dot { actor: *actor, seq: front.seq }.to_canon();
        own.put(batch, of_actor(keys::FRONTIER, actor), [&front.hash.0[..], &dot].concat());
    }
    for (slot, epoch) in &group.epochs {
        own.put(batch, [keys::EPOCHS, &slot.number().to_be_bytes()].concat(), epoch.to_canon());
    }
    for (actor, last) in &group.closed {
        let closed = Closed { actor: *actor, last: *last };
        own.put(batch, of_actor(keys::CLOSED, actor), closed.to_canon());
    }
    for (nth, digests) in &group.digests {
        own.put(batch, keys::digests(*nth), digests.clone());
    }
    for life in &group.lives {
        own.put(batch, of_actor(keys::LIVES, &life.actor), life.to_canon());
    }
    for beyond in &group.beyond {
        own.put(batch, of_actor(keys::BEYOND, &beyond.actor), beyond.to_canon());
    }
    for (dot, kept) in &group.quarantined {
        match kept {
            Some(kept) => quarantine::put(kept, own, batch),
            None => quarantine::remove(store, dot, own, batch)?,
        }
    }
    own.put(batch, keys::POSITION, Bytes::copy_from_slice(&group.end.0.to_be_bytes()));
    own.seal(batch);
    Ok(())
}

/// The log may begin here from now on: what was before it is to be deleted.
pub(crate) fn put_trimmed(working: &Working, before: u64) -> Result<(), StoreError> {
    let (mut own, mut batch) = (working.own(), Batch::new());
    own.put(&mut batch, keys::TRIMMED, Bytes::copy_from_slice(&before.to_be_bytes()));
    own.seal(&mut batch);
    working.store().write(batch)
}

/// Keeps which slots are in doubt, over a restart too.
pub(crate) fn put_doubts(working: &Working) -> Result<(), StoreError> {
    let (mut own, mut batch) = (working.own(), Batch::new());
    put_doubted(working, &mut own, &mut batch);
    own.seal(&mut batch);
    working.store().write(batch)
}

fn put_doubted(working: &Working, own: &mut Own, batch: &mut Batch) {
    let slots: Vec<u8> = working.doubted().iter().flat_map(|slot| slot.number().to_be_bytes()).collect();
    if slots.is_empty() && own.get(keys::GAP).is_some() {
        own.remove(batch, Bytes::from_static(keys::GAP));
    }
    own.put(batch, keys::DOUBTS, slots);
}

/// Every slot is in doubt, since a part of the log is missing: also at the next start nothing is decided before a peer was
/// heard.
pub(crate) fn put_gap(working: &Working) -> Result<(), StoreError> {
    working.doubt_slots(Slot::all());
    let (mut own, mut batch) = (working.own(), Batch::new());
    own.put(&mut batch, keys::GAP, Bytes::new());
    own.seal(&mut batch);
    drop(own);
    working.store().write(batch)?;
    put_doubts(working)
}

/// Keeps which regions have to be heard, over a restart too.
pub(crate) fn put_distrusted(working: &Working) -> Result<(), StoreError> {
    let names: Vec<String> = working.distrusted().iter().map(ToString::to_string).collect();
    let (mut own, mut batch) = (working.own(), Batch::new());
    if own.get(keys::DISTRUSTED).unwrap_or_default() == names.join("\n").as_bytes() {
        return Ok(());
    }
    own.put(&mut batch, keys::DISTRUSTED, names.join("\n").into_bytes());
    own.seal(&mut batch);
    drop(own);
    working.store().write(batch)
}

/// Regions that had to be heard when that was kept.
pub(crate) fn distrusted(working: &Working) -> BTreeSet<RegionId> {
    let own = working.own();
    let names = std::str::from_utf8(own.get(keys::DISTRUSTED).unwrap_or_default()).unwrap_or_default();
    names.lines().filter_map(|name| RegionId::new(name).ok()).collect()
}

/// Whether such a part is still missing.
pub(crate) fn has_gap(working: &Working) -> bool {
    working.own().get(keys::GAP).is_some()
}

/// The orders placed under each (user, key) that a batch touches: those stored, and those it adds.
type OrdersOf = BTreeMap<Bytes, Vec<OrderId>>;

fn put_entity(entity: &Entity, batch: &mut Batch) -> Result<(), StoreError> {
    // How many parts, and the digest, stand in front of the first; most have one.
    let mut first = Vec::with_capacity(1 << 10);
    first.extend([0; 2]);
    first.extend(entity.digest().to_bytes());
    let begin = first.len();
    entity.to_shape().encode(&mut first);
    let rest = first.split_off(first.len().min(begin + keys::PART_BYTES_MAX));
    let count = 1 + rest.len().div_ceil(keys::PART_BYTES_MAX);
    let count = u16::try_from(count).map_err(|_| StoreError::Io(format!("{} is too large", entity.id)))?;
    first[..2].copy_from_slice(&count.to_be_bytes());
    batch.put(keys::entity_part(&entity.id, 0), first);
    for (i, part) in (1..count).zip(rest.chunks(keys::PART_BYTES_MAX)) {
        batch.put(keys::entity_part(&entity.id, i), part.to_vec());
    }
    Ok(())
}

/// Where an entity is found, by what it says itself.
#[derive(Debug, Default)]
pub(crate) struct Places {
    /// Keys of lists; they have no value.
    pub(crate) listed: Vec<Bytes>,
    /// The key of the command that placed it, and the order.
    pub(crate) placed: Option<(Bytes, OrderId)>,
}

impl Places {
    pub(crate) fn of(entity: &Entity) -> Places {
        let mut places = Places::default();
        if let Some(order) = entity.id.order() {
            let Some((record, item)) = entity.record::<Order>() else { return places };
            let created = item.since.wall_ms;
            places.listed.push(keys::user_entry(b'u', &record.user, created, &order.0.0));
            if !record.external_ref.is_empty() {
                let key = keys::ref_entry(&record.external_ref, &record.user, created, &order.0.0);
                places.listed.push(key);
            }
            places.placed = Some((keys::command(&record.user, &record.key), order));
        } else if let Some(payment) = entity.id.payment() {
            let Some((permit, item)) = entity.record::<Payment>() else { return places };
            if permit.payer == permit.buyer {
                return places;
            }
            let created = item.since.wall_ms;
            for (prefix, user) in [(b'p', &permit.payer), (b'b', &permit.buyer)] {
                places.listed.push(keys::user_entry(prefix, user, created, &payment.0.0));
            }
        }
        places
    }
}

fn put_indexes(
    working: &Working,
    entity: &Entity,
    orders_of: &mut OrdersOf,
    batch: &mut Batch,
) -> Result<(), StoreError> {
    let Places { listed, placed } = Places::of(entity);
    listed.into_iter().for_each(|key| batch.put(key, Bytes::new()));
    if let Some((key, order)) = placed {
        let orders = match orders_of.entry(key) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let stored = working.orders_in_view(order.slot(), unknown.key())?;
                unknown.insert(stored)
            }
        };
        if !orders.contains(&order) {
            orders.push(order);
        }
    }
    Ok(())
}

/// Adds the notices that are new or say something else now; what stands already keeps its place.
pub(crate) fn put_notices(
    store: &Arc<dyn Store>,
    entity: &Entity,
    trace: impl Fn() -> String,
    end: Position,
    users: &mut BTreeSet<UserId>,
    batch: &mut Batch,
) -> Result<(), StoreError> {
    for told in notices(entity) {
        let (kept, known) = (told.to_kept(&trace()), keys::place_of_notice(&told.user, &told.id));
        if let Some(place) = store.get(&known)? {
            let stands = keys::notice(&told.user, &place);
            let before = store.get(&stands)?;
            if before.is_some_and(|before| Kept::says_the_same(&before, &kept)) {
                continue;
            }
            batch.delete(stands);
        }
        let place = keys::notice_place(end.0, told.notice.at_ms, told.notice.counter, &told.id);
        batch.put(keys::notice(&told.user, &place), kept);
        batch.put(known, Bytes::copy_from_slice(&place));
        users.insert(told.user);
    }
    Ok(())
}

/// When an entity next needs something done; 0 at once.
pub(crate) fn next_due(duties: &[Duty]) -> Option<u64> {
    let due = |act: &Act, due_ms: u64| if matches!(act, Act::Send(_)) { 0 } else { due_ms };
    duties.iter().map(|duty| due(&duty.act, duty.due_ms)).min()
}

/// When an entity is looked at next, as the index says.
pub(crate) fn due_of(store: &Arc<dyn Store>, id: &EntityId) -> Result<Option<u64>, StoreError> {
    let due = store.get(&keys::due_of(id))?;
    Ok(due.and_then(|value| Some(u64::from_be_bytes(value.as_ref().try_into().ok()?))))
}

fn put_due(working: &Working, sheet: &Sheet, batch: &mut Batch) -> Result<(), StoreError> {
    let (at, next) = (keys::due_of(&sheet.entity), next_due(&sheet.duties));
    let before = if working.is_new(&sheet.entity) { None } else { due_of(working.store(), &sheet.entity)? };
    if before == next {
        return Ok(());
    }
    if let Some(before) = before {
        batch.delete(keys::due(before, &sheet.entity));
    }
    match next {
        Some(next) => {
            batch.put(keys::due(next, &sheet.entity), Bytes::new());
            batch.put(at, Bytes::copy_from_slice(&next.to_be_bytes()));
        }
        None => batch.delete(at),
    }
    Ok(())
}

/// Entities with something due by `now_ms`, soonest first.
pub(crate) fn due_by(store: &Arc<dyn Store>, now_ms: u64, limit: usize) -> Result<Vec<EntityId>, StoreError> {
    // What is due at 0 is carried out as soon as it is known; only its index entry stays until the need is gone.
    let edge = |due_ms| keys::due(due_ms, &EntityId::from_bytes(&[0; 17]));
    let range = Scan::prefix(&b"d"[..], limit).after(edge(1)).before(edge(now_ms.saturating_add(1)));
    let due = store.scan(&range)?;
    Ok(due.iter().filter_map(|(key, _)| keys::entity_of_due(key)).map(|(_, id)| id).collect())
}

/// Entities with something to be done at once, in id order, behind `after`.
pub(crate) fn open_now(
    store: &Arc<dyn Store>,
    after: Option<EntityId>,
    limit: usize,
) -> Result<Vec<EntityId>, StoreError> {
    let end = keys::due(1, &EntityId::from_bytes(&[0; 17]));
    let mut range = Scan::prefix(&b"d"[..], limit).before(end);
    if let Some(after) = after {
        range = range.after(keys::due(0, &after));
    }
    let open = store.scan(&range)?;
    Ok(open.iter().filter_map(|(key, _)| keys::entity_of_due(key)).map(|(_, id)| id).collect())
}

// === start ===

/// Why a node cannot start from what is on its disk.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Log(#[from] cell_store::LogError),
    #[error(
        "the view is another version's: remove its folder, in one region after the other, and it is made anew from log and peers"
    )]
    OtherFormat,
    #[error("the log holds a record that cannot be read: {0}")]
    Record(#[from] cell_core::canon::Malformed),
    #[error(transparent)]
    View(#[from] cell_core::cell::Unavailable),
}

/// How far the view is, of every actor: what the last batch said.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn frontier(store: &Arc<dyn Store>) -> Result<BTreeMap<ActorId, u64>, StoreError> {
    let frontier = store.scan(&Scan::prefix(keys::FRONTIER, usize::MAX))?;
    let dot = |value: &Bytes| Dot::decode(value.get(32..)?).ok();
    Ok(frontier.iter().filter_map(|(_, value)| dot(value)).map(|dot| (dot.actor, dot.seq)).collect())
}

/// Everything in the log before it is in the view; `None` of a new one.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn position(store: &Arc<dyn Store>) -> Result<Option<Position>, StoreError> {
    let position = store.get(keys::POSITION)?;
    Ok(position.and_then(|value| Some(Position(u64::from_be_bytes(value.as_ref().try_into().ok()?)))))
}

/// Whether records that neither the view nor the log has are gone from the log, and whether it was the node that deleted
/// the log's beginning.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn gap(store: &Arc<dyn Store>, first: Position) -> Result<(bool, bool), StoreError> {
    let shown = position(store)?.unwrap_or(Position(0));
    let trimmed = store.get(keys::TRIMMED)?;
    let trimmed = trimmed.and_then(|value| Some(u64::from_be_bytes(value.as_ref().try_into().ok()?)));
    Ok((shown < first, trimmed.unwrap_or(0) >= first.0))
}

/// How long it is known that the places of an earlier start are places here: so many starts.
const EARLIER_MAX: usize = 32;

/// Whose places in the view are places in this one. Every start gives out places under an identity of its own, for a copy
/// of the folder may have gone on from the same position: what that one gave out means nothing here. What an earlier start
/// gave out does, up to where this folder went on from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lineage {
    now: u64,
    earlier: Vec<(u64, Position)>,
}

impl Lineage {
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn read(store: &Arc<dyn Store>) -> Result<Lineage, StoreError> {
        let value = store.get(keys::IDENTITY)?.unwrap_or_default();
        let numbers: Vec<u64> = value.as_chunks::<8>().0.iter().map(|it| u64::from_be_bytes(*it)).collect();
        let Some((now, earlier)) = numbers.split_first() else { return Ok(Lineage::default()) };
        let earlier = earlier.as_chunks::<2>().0.iter().map(|[id, upto]| (*id, Position(*upto))).collect();
        Ok(Lineage { now: *now, earlier })
    }

    fn to_bytes(&self) -> Bytes {
        let earlier = self.earlier.iter().flat_map(|(id, upto)| [*id, upto.0]);
        std::iter::once(self.now).chain(earlier).flat_map(u64::to_be_bytes).collect()
    }

    /// The same from the next start on, in a view that shows what is before `upto`.
    fn next(&self, now: u64, upto: Position) -> Lineage {
        let last = (self.now != 0).then_some((self.now, upto));
        let earlier = last.into_iter().chain(self.earlier.iter().copied()).take(EARLIER_MAX);
        Lineage { now, earlier: earlier.collect() }
    }

    pub(crate) fn now(&self) -> u64 {
        self.now
    }

    /// Whether a place that was given out under this identity is one here.
    pub(crate) fn has(&self, identity: u64, place: &[u8; keys::NOTICE_BYTES]) -> bool {
        let is_at = place.first_chunk().map(|position| u64::from_be_bytes(*position));
        let upto = self.earlier.iter().find(|(id, _)| *id == identity).map(|(_, upto)| upto.0);
        identity == self.now || upto.is_some_and(|upto| is_at.is_some_and(|is_at| is_at <= upto))
    }
}

/// That it is this node's view, or a new one: another's has what it has at another's positions.
///
/// # Errors
/// [`StoreError::Damaged`].
pub(crate) fn check_owner(working: &Working, node: NodeId) -> Result<(), StoreError> {
    let (own, node) = (working.own(), node.to_string());
    match own.get(keys::OWNER) {
        Some(owner) if owner != node.as_bytes() => {
            let owner = String::from_utf8_lossy(owner);
            Err(StoreError::Damaged(format!("it is the view of {owner}, not of {node}")))
        }
        _ => Ok(()),
    }
}

fn identify(working: &Working, node: NodeId, lineage: &Lineage) -> Result<(), StoreError> {
    let (mut own, mut batch) = (working.own(), Batch::new());
    own.put(&mut batch, keys::IDENTITY, lineage.to_bytes());
    own.put(&mut batch, keys::OWNER, node.to_string().into_bytes());
    own.put(&mut batch, keys::FORMAT, Bytes::copy_from_slice(&FORMAT.to_be_bytes()));
    own.seal(&mut batch);
    working.store().write(batch)
}

/// Restores what the view says of frontier and epochs, then replays the log behind it. Places are given out under `fresh`.
pub(crate) fn restore(
    cell: &mut Cell,
    working: &Working,
    traces: &Traces,
    log: &LogReader,
    fresh: u64,
) -> Result<u64, StartError> {
    let store = working.store();
    let position = position(store)?;
    if position.is_some() && store.get(keys::FORMAT)?.as_deref() != Some(&FORMAT.to_be_bytes()[..]) {
        return Err(StartError::OtherFormat);
    }
    cell.restore(kept(store)?);
    let doubts = store.get(keys::DOUBTS)?.unwrap_or_default();
    let doubts =
        doubts.as_chunks::<2>().0.iter().filter_map(|slot| Slot::new(u16::from_be_bytes(*slot)).ok());
    working.doubt_slots(doubts);
    let shown = position.unwrap_or(Position(0));
    let from = shown.max(log.first());
    identify(working, cell.me().node, &Lineage::read(store)?.next(fresh, shown))?;
    let replayed = replay(cell, working, traces, log, from, shown == from)?;
    let named: BTreeSet<EntityId> =
        cell.quarantined().flat_map(|(_, hole)| hole.entities.iter().copied()).collect();
    working.withhold(cell, named)?;
    Ok(replayed)
}

/// What the view keeps of the cell; entries that cannot be read are none.
fn kept(store: &Arc<dyn Store>) -> Result<KeptCell, StoreError> {
    let frontier = store.scan(&Scan::prefix(keys::FRONTIER, usize::MAX))?;
    let frontier = frontier.iter().filter_map(|(_, value)| {
        let (hash, dot) = value.split_at_checked(32)?;
        let dot = Dot::decode(dot).ok()?;
        Some((dot.actor, Front { seq: dot.seq, hash: Hash(hash.try_into().ok()?) }))
    });
    let beyond = store.scan(&Scan::prefix(keys::BEYOND, usize::MAX))?;
    let beyond = beyond.iter().filter_map(|(_, value)| Dot::decode(value).ok());
    let epochs = store.scan(&Scan::prefix(keys::EPOCHS, usize::MAX))?;
    let epochs = epochs.iter().filter_map(|(key, value)| {
        let number = u16::from_be_bytes(key.get(keys::EPOCHS.len()..)?.try_into().ok()?);
        Some((Slot::new(number).ok()?, Epoch::decode(value).ok()?))
    });
    let closed = store.scan(&Scan::prefix(keys::CLOSED, usize::MAX))?;
    let closed = closed.iter().filter_map(|(_, value)| Closed::decode(value).ok());
    let lives = store.scan(&Scan::prefix(keys::LIVES, usize::MAX))?;
    Ok(KeptCell {
        frontier: frontier.collect(),
        beyond: beyond.map(|dot| (dot.actor, dot.seq)).collect(),
        epochs: epochs.collect(),
        closed: closed.map(|closed| (closed.actor, closed.last)).collect(),
        lives: lives.iter().filter_map(|(_, value)| ActorLife::decode(value).ok()).collect(),
        digests: digests(store)?,
        quarantine: quarantine::holes(&**store)?,
    })
}

fn replay(
    cell: &mut Cell,
    working: &Working,
    traces: &Traces,
    log: &LogReader,
    from: Position,
    whole: bool,
) -> Result<u64, StartError> {
    let (mut at, mut replayed) = (from, 0);
    // Nothing is lacking between what the view has and where this is.
    let mut whole = whole;
    let mut given_up = false;
    loop {
        let records = match log.read(at, REPLAY_BYTES) {
            Ok(records) => records,
            Err(cell_store::LogError::Damaged { lost }) => {
                tracing::error!(from = lost.start, to = lost.end, "damaged records are passed over");
                whole = false;
                at = Position(lost.end);
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        let Some((last, _)) = records.last() else { return Ok(replayed) };
        let end = Position(last.0 + 1);
        let mut group = Group::at(end);
        for (_, bytes) in &records {
            let record = match Record::from_bytes(bytes) {
                // State that another software could read: the comparison with the peers brings it again.
                Err(error) if Record::is_merged(bytes) => {
                    tracing::error!(%error, "merged state in the log cannot be read by this software");
                    working.doubt_slots(Slot::all());
                    continue;
                }
                record => record?,
            };
            let step = match record {
                Record::Quarantined(kept) => {
                    let actor = kept.entry.dot.actor;
                    let step = cell.replay_quarantined(working, &kept)?;
                    group.frontier.extend(cell.fronts().get(&actor).map(|front| (actor, *front)));
                    step
                }
                Record::Entry(entry) => {
                    let step = cell.replay(working, &entry, crate::writer::now_ms())?;
                    let actor = entry.dot.actor;
                    group.frontier.extend(cell.fronts().get(&actor).map(|front| (actor, *front)));
                    step
                }
                // What was merged for it may be among what is lacking: it is asked for again.
                Record::Adopted(_) if !whole => Step::default(),
                Record::Adopted(baseline) => {
                    let step = cell.replay_adopted(working, &baseline)?;
                    let actors = baseline.fronts.iter().map(|known| known.actor);
                    group
                        .frontier
                        .extend(actors.filter_map(|actor| Some((actor, *cell.fronts().get(&actor)?))));
                    step
                }
                Record::Merged(entity) => {
                    cell.replay_merged(working, std::slice::from_ref(&entity), crate::writer::now_ms())?
                }
            };
            traces.note(&step.trace, step.entities.keys());
            working.put(0, step.entities.iter());
            group.take(&step);
        }
        group.epochs = cell.placement().learned().collect();
        group.closed = cell.fronts().closed().clone();
        group.note_digests(cell.digests(), []);
        group.lives = cell.lives_mut().take_changed();
        group.beyond = cell.holes().map(|(actor, _, seq)| Dot { actor, seq }).collect();
        replayed += records.len() as u64;
        if cell.gave_up() && !given_up {
            given_up = true;
            working.lacks_what_was_given_up();
        }
        // Everything replayed is looked at once more when the node runs: it may be due.
        group.sheets = group.entities.keys().copied().map(Sheet::soon).collect();
        apply(working, traces, &group)?;
        working.applied(0, group.entities.into_keys().collect(), Vec::new());
        at = end;
    }
}

// === digests ===

/// The digests of the slots that have one.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn digests(store: &Arc<dyn Store>) -> Result<Vec<(Slot, Digest)>, StoreError> {
    let mut digests = Vec::new();
    for nth in 0..SLOT_COUNT / keys::DIGESTS_OF_KEY {
        let Some(value) = store.get(&keys::digests(nth))? else { continue };
        let first = nth * keys::DIGESTS_OF_KEY;
        for (number, digest) in
            (first..).zip(value.as_chunks::<32>().0).take(usize::from(keys::DIGESTS_OF_KEY))
        {
            digests.extend(Slot::new(number).ok().map(|slot| (slot, Digest::from_bytes(*digest))));
        }
    }
    Ok(digests)
}

/// Entities in one answer.
const DIGESTS_MAX: usize = 1_000;

/// Entities with their digests, and the place to go on from.
type DigestPage = (Vec<(EntityId, Digest)>, Option<Bytes>);

/// Each entity of `wanted` slots with its digest, as the view has them; behind `after`, from a bounded part of the view.
/// `None` for the place to go on from means the end.
///
/// # Errors
/// [`StoreError`].
pub(crate) fn entity_digests(
    store: &Arc<dyn Store>,
    wanted: &BTreeSet<Slot>,
    after: Option<Bytes>,
) -> Result<DigestPage, StoreError> {
    let mut scan = Scan::prefix(keys::ENTITIES, DIGESTS_MAX);
    if let Some(after) = after {
        scan = scan.after(after);
    }
    let found = store.scan(&scan)?;
    let next = found.last().filter(|_| found.len() == DIGESTS_MAX).map(|(key, _)| key.clone());
    let digest = |(key, value): &(Bytes, Bytes)| {
        let (id, part) = keys::entity_of_part(key)?;
        let digest = value.get(2..34)?.try_into().ok()?;
        (part == 0 && wanted.contains(&id.slot())).then_some((id, Digest::from_bytes(digest)))
    };
    Ok((found.iter().filter_map(digest).collect(), next))
}
