//! The working state: the view, and over it everything appended that the view does not hold yet.
//!
//! Admission and reads see it; so a client always reads its own write, and admission never waits for the view. Entities
//! stay here for a while after they were applied: what was just written is what is read next.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use cell_core::canon::Message;
use cell_core::cell::{Cell, Unavailable, View};
use cell_core::entity::{Entity, EntityShape, Reading};
use cell_core::id::{EntityId, OrderId, PublicId, RegionId, Slot, UserId};
use cell_core::order::Order;
use cell_core::payment::Payment;
use cell_core::version::Dot;
use cell_store::{Scan, Store, StoreError};
use hashbrown::HashMap;
use tokio::sync::{Notify, watch};

use crate::doubt::Doubt;
use crate::keys;
use crate::known::Known;
use crate::own::Own;

/// Ids that were missed and not looked for yet; forgotten as a whole beyond it.
const MISSED_MAX: usize = 1_024;
/// Applied entities kept in memory.
const KEPT_MAX: usize = 50_000;

/// Cheap to clone; shared by the writer, the applier and readers.
#[derive(Clone, Debug)]
pub(crate) struct Working {
    store: Arc<dyn Store>,
    over: Arc<RwLock<Over>>,
    /// Actors of whose changes some are missing, by damage: what is not found then may be what was lost.
    holes: Arc<AtomicUsize>,
    unkept: Arc<AtomicBool>,
    /// So it may be before the peers were heard; nothing is decided as long.
    recovering: Arc<watch::Sender<bool>>,
    doubt: Arc<Mutex<Doubt>>,
    withheld: Arc<RwLock<Withheld>>,
    /// The view was read through once since the start.
    verified: Arc<watch::Sender<bool>>,
    /// Slots of regions of which this disk may have lost something, until they are heard.
    unheard: Arc<Mutex<BTreeMap<Slot, RegionId>>>,
    own: Arc<Mutex<Own>>,
    known: Arc<Known>,
    missed: Arc<Missed>,
}

/// What was in the view, and was not found when it was read.
#[derive(Debug, Default)]
struct Missed {
    ids: Mutex<BTreeSet<EntityId>>,
    /// There is one more: the view is to be read through.
    news: Notify,
}

/// What is not shown, since a change of it could not be applied.
#[derive(Debug, Default)]
struct Withheld {
    by: BTreeMap<EntityId, Dot>,
    /// Some change may concern anything.
    obscured: bool,
}

#[derive(Debug, Default)]
struct Over {
    entities: HashMap<EntityId, Held>,
    orders_of: HashMap<Bytes, Vec<OrderId>>,
    /// What the view holds by now, oldest first; evicted beyond [`KEPT_MAX`].
    applied: VecDeque<(u64, Vec<EntityId>, Vec<Bytes>)>,
    applied_entities: usize,
}

#[derive(Clone, Debug)]
struct Held {
    group: u64,
    entity: Arc<Entity>,
}

fn unavailable(error: StoreError) -> Unavailable {
    Unavailable(error.to_string())
}

impl Working {
    pub(crate) fn new(store: Arc<dyn Store>) -> Working {
        Working {
            store,
            over: Arc::default(),
            holes: Arc::default(),
            unkept: Arc::default(),
            recovering: Arc::new(watch::Sender::new(false)),
            doubt: Arc::default(),
            withheld: Arc::default(),
            verified: Arc::new(watch::Sender::new(false)),
            unheard: Arc::default(),
            own: Arc::default(),
            known: Arc::default(),
            missed: Arc::default(),
        }
    }

    /// Of a store that may hold something.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if the node's own state in it is not what was written.
    pub(crate) fn open(store: Arc<dyn Store>) -> Result<Working, StoreError> {
        let own = Own::load(store.as_ref())?;
        Ok(Working { own: Arc::new(Mutex::new(own)), ..Working::new(store) })
    }

    /// The node's own state; held while it is written.
    pub(crate) fn own(&self) -> MutexGuard<'_, Own> {
        // A store that failed halfway is written no more, and opened anew.
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This entity is in the view.
    pub(crate) fn is_there(&self, entity: &Entity) {
        if let Some((record, _)) = entity.record::<Order>() {
            self.known.add_command(entity.id.slot(), &keys::command(&record.user, &record.key));
        }
        self.id_is_there(&entity.id);
    }

    /// As [`Working::is_there`], of an entity of which no more can be read than its id.
    pub(crate) fn id_is_there(&self, id: &EntityId) {
        self.known.add(id);
        let mut missed = self.missed.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if !missed.is_empty() {
            missed.remove(id);
        }
    }

    /// Whether an id that is not found was in the view: it is lost, and not unknown.
    fn was_there(&self, id: EntityId) -> bool {
        let was_there = self.known.contains(&id);
        if was_there {
            self.miss(id);
        }
        was_there
    }

    /// Whether it cannot be in the view, as it was read through and nothing of this slot is missing. Then the store need
    /// not be asked.
    pub(crate) fn is_new(&self, id: &EntityId) -> bool {
        !self.known.contains(id) && self.why_the_view_may_lack(id.slot()).is_none()
    }

    fn miss(&self, id: EntityId) {
        let mut missed = self.missed.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if missed.len() >= MISSED_MAX {
            missed.clear();
        }
        if missed.insert(id) {
            tracing::error!(%id, "it was in the view, and cannot be read: the view is read through");
            self.missed.news.notify_one();
        }
    }

    /// Until something is missed.
    pub(crate) async fn missed(&self) {
        self.missed.news.notified().await;
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// How many actors have holes now.
    pub(crate) fn set_holes(&self, count: usize) {
        let before = self.holes.swap(count, Ordering::Relaxed);
        if before != count {
            metrics::gauge!("cell_log_holes").set(count as f64);
            tracing::warn!(before, now = count, "actors of whose changes some are missing here");
        }
    }

    /// These entities are shown, or not, by what the cell knows of them now.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails.
    pub(crate) fn withhold(
        &self,
        cell: &Cell,
        ids: impl IntoIterator<Item = EntityId>,
    ) -> Result<(), Unavailable> {
        let by: Vec<(EntityId, Option<Dot>)> = ids
            .into_iter()
            .map(|id| Ok((id, cell.withheld_by(self, id)?)))
            .collect::<Result<_, Unavailable>>()?;
        let mut withheld = self.withheld_mut();
        for (id, by) in by {
            match by {
                Some(dot) => withheld.by.insert(id, dot),
                None => withheld.by.remove(&id),
            };
        }
        withheld.obscured = cell.is_obscured();
        let open = cell.quarantined().filter(|(_, hole)| !hole.given_up).count();
        metrics::gauge!("cell_quarantined_changes").set(open as f64);
        metrics::gauge!("cell_withheld_entities").set(withheld.by.len() as f64);
        Ok(())
    }

    /// Whether anything is withheld.
    pub(crate) fn withholds(&self) -> bool {
        let withheld = self.withheld.read().unwrap_or_else(PoisonError::into_inner);
        withheld.obscured || !withheld.by.is_empty()
    }

    /// The change for whose sake it is withheld.
    pub(crate) fn withheld_by(&self, id: EntityId) -> Option<Dot> {
        self.withheld.read().unwrap_or_else(PoisonError::into_inner).by.get(&id).copied()
    }

    /// Whether something is withheld of which the view has nothing: whose it is, nobody knows here.
    fn withholds_unseen(&self, slot: Slot) -> bool {
        let withheld = self.withheld.read().unwrap_or_else(PoisonError::into_inner);
        withheld.by.keys().any(|id| id.slot() == slot && !self.known.contains(id))
    }

    fn withheld_mut(&self) -> RwLockWriteGuard<'_, Withheld> {
        self.withheld.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubt(&self) -> MutexGuard<'_, Doubt> {
        // Only assignments run under the lock.
        self.doubt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set_verified(&self) {
        self.verified.send_replace(true);
    }

    /// Waits until the view was read through.
    pub(crate) async fn verified(&self) {
        // It holds the sender: there is an end.
        let _ = self.verified.subscribe().wait_for(|verified| *verified).await;
    }

    /// These slots lack something.
    pub(crate) fn doubt_slots(&self, slots: impl IntoIterator<Item = Slot>) {
        self.doubted_by(|doubt| doubt.lack(slots));
    }

    /// What was missing of an actor's changes does not come any more. The doubt is kept with the next group in the view, at
    /// the latest with the one that says so of the actor.
    pub(crate) fn lacks_what_was_given_up(&self) {
        self.doubt_slots(Slot::all());
        self.unkept.store(true, Ordering::Relaxed);
    }

    /// Whether there is a doubt that the next group keeps; asked once.
    pub(crate) fn take_unkept(&self) -> bool {
        self.unkept.swap(false, Ordering::Relaxed)
    }

    /// A peer's state is being taken over, or still is.
    pub(crate) fn take_over(&self) {
        self.doubted_by(Doubt::take_over);
    }

    /// All of the peer's state is here.
    pub(crate) fn taken_over(&self) {
        self.doubted_by(Doubt::taken_over);
    }

    /// Those that lack something.
    pub(crate) fn doubted(&self) -> BTreeSet<Slot> {
        self.doubt().slots().clone()
    }

    /// Not zero while there is doubt: which one.
    pub(crate) fn doubt_generation(&self) -> u64 {
        self.doubt().generation()
    }

    /// Whether another region may build on what is here.
    pub(crate) fn may_be_built_on(&self) -> bool {
        !self.has_holes() && self.doubt().may_be_built_on()
    }

    /// The disk is an older one.
    pub(crate) fn is_older(&self) {
        self.doubted_by(Doubt::is_older);
    }

    /// Whether another region may conclude from what is not here that it never was.
    pub(crate) fn may_found(&self) -> bool {
        !self.has_holes() && self.doubt().may_found()
    }

    /// A peer had nothing more as of this doubt, or could not say so of some slots; whether that changed anything.
    pub(crate) fn resolve(&self, generation: u64, but: &BTreeSet<Slot>) -> bool {
        self.doubted_by(|doubt| doubt.agree(generation, but))
    }

    fn doubted_by<T>(&self, change: impl FnOnce(&mut Doubt) -> T) -> T {
        let mut doubt = self.doubt();
        let changed = change(&mut doubt);
        metrics::gauge!("cell_doubted_slots").set(doubt.slots().len() as f64);
        changed
    }

    /// The view is at odds with the sums that a comparison saw: it is read through.
    pub(crate) fn recount(&self) {
        self.missed.news.notify_one();
    }

    pub(crate) fn has_holes(&self) -> bool {
        self.holes.load(Ordering::Relaxed) > 0
    }

    /// Whether the peers are still asked what they hold of this node.
    pub(crate) fn recovering(&self) -> &watch::Sender<bool> {
        &self.recovering
    }

    /// An entity for a reader: never "not found" for what was lost.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub(crate) fn entity_or_lost(&self, id: EntityId) -> Result<Option<Arc<Entity>>, Unavailable> {
        if let Some(dot) = self.withheld_by(id) {
            return Err(Unavailable(format!(
                "the change {dot} of it could not be applied here: an operator has to look"
            )));
        }
        let entity = self.entity(id)?;
        if entity.is_none()
            && let Some(why) = self.why_it_may_be_lost(id)
        {
            return Err(Unavailable(why.into_owned()));
        }
        Ok(entity)
    }

    fn unheard(&self) -> MutexGuard<'_, BTreeMap<Slot, RegionId>> {
        // Only assignments run under the lock.
        self.unheard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the homes of these slots wrote may be lost here.
    pub(crate) fn distrust(&self, homes: impl IntoIterator<Item = (Slot, RegionId)>) {
        self.unheard().extend(homes);
    }

    /// Regions that have to be heard.
    pub(crate) fn distrusted(&self) -> BTreeSet<RegionId> {
        self.unheard().values().copied().collect()
    }

    /// Their slots.
    pub(crate) fn distrusted_slots(&self) -> Vec<Slot> {
        self.unheard().keys().copied().collect()
    }

    /// Everything that this region wrote up to now is here.
    pub(crate) fn hears(&self, region: RegionId) {
        self.unheard().retain(|_, home| *home != region);
    }

    /// Of an entity of which only later events are here: its record may be what was lost. Where nothing was, it is an orphan,
    /// which users do not see.
    ///
    /// # Errors
    /// [`Unavailable`].
    pub(crate) fn recorded_or_lost(&self, entity: &Entity) -> Result<(), Unavailable> {
        let id = entity.id;
        let recorded = match id.order() {
            Some(_) => Reading::<Order>::of(entity).record.is_some(),
            None => Reading::<Payment>::of(entity).record.is_some(),
        };
        let why = if recorded { None } else { self.why_the_view_may_lack(id.slot()) };
        why.map_or(Ok(()), |why| Err(Unavailable(why.into_owned())))
    }

    fn why_it_may_be_lost(&self, id: EntityId) -> Option<Cow<'static, str>> {
        if self.was_there(id) {
            return Some("it was lost here and is not back yet".into());
        }
        if self.withheld.read().unwrap_or_else(PoisonError::into_inner).obscured {
            return Some("a change could not be read here: an operator has to look".into());
        }
        self.why_the_view_may_lack(id.slot())
    }

    fn why_the_view_may_lack(&self, slot: Slot) -> Option<Cow<'static, str>> {
        if !*self.verified.borrow() {
            return Some("the view is being read through after the start".into());
        }
        self.why_the_slot_may_lack(slot)
    }

    /// Whether an id that is not found may have been here.
    pub(crate) fn may_be_lost(&self, id: EntityId) -> bool {
        self.known.contains(&id) || self.why_the_slot_may_lack(id.slot()).is_some()
    }

    /// Why what is found under users of this slot may not be all of it.
    pub(crate) fn why_a_list_may_be_short(&self, slot: Slot) -> Option<Cow<'static, str>> {
        if self.withholds_unseen(slot) {
            return Some(
                "a change of something new could not be applied here: an operator has to look".into(),
            );
        }
        self.why_the_slot_may_lack(slot)
    }

    fn why_the_slot_may_lack(&self, slot: Slot) -> Option<Cow<'static, str>> {
        if let Some(home) = self.unheard().get(&slot) {
            return Some(
                format!(
                    "a part of the disk is new or was lost, and what {home} wrote is not confirmed since"
                )
                .into(),
            );
        }
        if self.has_holes() {
            return Some("a part of the log is damaged here and not back yet".into());
        }
        let doubt = self.doubt();
        if doubt.slots().contains(&slot) {
            let why = match doubt.may_found() {
                true => "a peer's state is being taken over, or was and is not compared yet",
                false => "a part of what was here was lost and is not back yet",
            };
            return Some(why.into());
        }
        drop(doubt);
        self.recovering
            .borrow()
            .then_some("it has just started and asks its peers what they hold of it".into())
    }

    fn over(&self) -> RwLockReadGuard<'_, Over> {
        self.over.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn over_mut(&self) -> RwLockWriteGuard<'_, Over> {
        self.over.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts what a step of group `group` made over the view; returns the keys of new orders.
    pub(crate) fn put<'a>(
        &self,
        group: u64,
        entities: impl Iterator<Item = (&'a EntityId, &'a Arc<Entity>)>,
    ) -> Vec<Bytes> {
        let mut keys = Vec::new();
        let mut over = self.over_mut();
        for (id, entity) in entities {
            let known = over.entities.insert(*id, Held { group, entity: entity.clone() }).is_some();
            if let (false, Some(order)) = (known, id.order())
                && let Some((record, _)) = entity.record::<Order>()
            {
                let key = keys::command(&record.user, &record.key);
                let orders = over.orders_of.entry(key.clone()).or_default();
                if !orders.contains(&order) {
                    orders.push(order);
                }
                keys.push(key);
            }
        }
        keys
    }

    /// The view holds everything of group `group` now.
    pub(crate) fn applied(&self, group: u64, entities: Vec<EntityId>, keys: Vec<Bytes>) {
        let mut over = self.over_mut();
        over.applied_entities += entities.len();
        over.applied.push_back((group, entities, keys));
        while over.applied_entities > KEPT_MAX {
            let Some((group, entities, keys)) = over.applied.pop_front() else { break };
            over.applied_entities -= entities.len();
            for id in entities {
                // A later group may have written it again; that one evicts it.
                if over.entities.get(&id).is_some_and(|held| held.group <= group) {
                    over.entities.remove(&id);
                }
            }
            for key in keys {
                over.orders_of.remove(&key);
            }
        }
    }

    /// Orders under the `k` key of a user of this slot, in the view alone.
    pub(crate) fn orders_in_view(&self, slot: Slot, key: &[u8]) -> Result<Vec<OrderId>, StoreError> {
        if !self.known.contains_command(slot, key) && self.why_the_view_may_lack(slot).is_none() {
            return Ok(Vec::new());
        }
        self.stored_orders(key)
    }

    /// The same, whatever is known of it.
    pub(crate) fn stored_orders(&self, key: &[u8]) -> Result<Vec<OrderId>, StoreError> {
        let stored = self.store.get(key)?.unwrap_or_default();
        Ok(stored.chunks_exact(16).map(|id| OrderId(PublicId(std::array::from_fn(|i| id[i])))).collect())
    }

    /// An entity in the view alone.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if its parts do not make an entity.
    pub(crate) fn stored_entity(&self, id: EntityId) -> Result<Option<Entity>, StoreError> {
        // Most are one part, and most that are asked for are new: a look costs less than a range.
        let first = keys::entity_part(&id, 0);
        let Some(head) = self.store.get(&first)? else { return Ok(None) };
        let parts = match head.starts_with(&1u16.to_be_bytes()) {
            true => vec![(first, head)],
            false => self.store.scan(&Scan::prefix(keys::entity_prefix(&id), usize::from(u16::MAX)))?,
        };
        entity_of_parts(id, &parts).map(Some)
    }

    /// Not kept in memory any more: what the view says counts.
    pub(crate) fn forget(&self, id: &EntityId) {
        self.over_mut().entities.remove(id);
    }
}

/// The entity that these parts are.
///
/// # Errors
/// [`StoreError::Damaged`] if they are not what was written.
pub(crate) fn entity_of_parts(id: EntityId, parts: &[(Bytes, Bytes)]) -> Result<Entity, StoreError> {
    let damaged = |what: String| StoreError::Damaged(format!("{id}: {what}"));
    let Some((count, digest, first)) = parts.first().and_then(|(_, head)| {
        let (count, rest) = head.split_first_chunk::<2>()?;
        let (digest, first) = rest.split_first_chunk::<32>()?;
        Some((u16::from_be_bytes(*count), digest, first))
    }) else {
        return Err(damaged("its head is short".to_owned()));
    };
    if usize::from(count) != parts.len() {
        return Err(damaged("parts are missing".to_owned()));
    }
    let mut bytes = Vec::new();
    for (i, (_, part)) in parts.iter().enumerate() {
        bytes.extend_from_slice(if i == 0 { first } else { part });
    }
    let shape = EntityShape::decode(&bytes).map_err(|error| damaged(error.to_string()))?;
    let entity = Entity::from_shape(shape).map_err(|error| damaged(error.to_string()))?;
    if entity.id != id || entity.digest().to_bytes() != *digest {
        return Err(damaged("it is not what was written".to_owned()));
    }
    Ok(entity)
}

impl View for Working {
    fn entity(&self, id: EntityId) -> Result<Option<Arc<Entity>>, Unavailable> {
        if let Some(held) = self.over().entities.get(&id) {
            return Ok(Some(held.entity.clone()));
        }
        if self.is_new(&id) {
            return Ok(None);
        }
        let stored = self.stored_entity(id);
        if matches!(stored, Err(StoreError::Damaged(_))) {
            self.miss(id);
        }
        Ok(stored.map_err(unavailable)?.map(Arc::new))
    }

    fn orders_of_key(&self, user: &UserId, key: &str) -> Result<Vec<OrderId>, Unavailable> {
        let key = keys::command(user, key);
        let mut orders = self.over().orders_of.get(&key).cloned().unwrap_or_default();
        let stored = self.orders_in_view(user.slot(), &key).map_err(unavailable)?;
        orders.extend(stored.into_iter().filter(|order| !orders.contains(order)).collect::<Vec<_>>());
        Ok(orders)
    }
}

/// The working state for whoever decides: what was lost is not taken for what never was, lest it be decided anew.
pub(crate) struct Whole<'a> {
    under: &'a dyn View,
    working: &'a Working,
}

impl<'a> Whole<'a> {
    pub(crate) fn new(under: &'a dyn View, working: &'a Working) -> Whole<'a> {
        Whole { under, working }
    }
}

impl View for Whole<'_> {
    fn entity(&self, id: EntityId) -> Result<Option<Arc<Entity>>, Unavailable> {
        let entity = self.under.entity(id)?;
        if entity.is_none() && self.working.was_there(id) {
            return Err(Unavailable(format!("{id} was lost here and is not back yet")));
        }
        Ok(entity)
    }

    fn orders_of_key(&self, user: &UserId, key: &str) -> Result<Vec<OrderId>, Unavailable> {
        self.under.orders_of_key(user, key)
    }
}

/// Steps of one piece of work, over the working state: each sees what the ones before it made.
pub(crate) struct Stacked<'a> {
    under: &'a dyn View,
    made: std::cell::RefCell<Made>,
}

#[derive(Default)]
struct Made {
    entities: HashMap<EntityId, Arc<Entity>>,
    orders: HashMap<Bytes, Vec<OrderId>>,
}

impl<'a> Stacked<'a> {
    pub(crate) fn new(under: &'a dyn View) -> Stacked<'a> {
        Stacked { under, made: std::cell::RefCell::default() }
    }

    pub(crate) fn put(&self, step: &cell_core::cell::Step) {
        let mut made = self.made.borrow_mut();
        for (id, entity) in &step.entities {
            if let Some(order) = id.order()
                && let Some((record, _)) = entity.record::<Order>()
            {
                let orders = made.orders.entry(keys::command(&record.user, &record.key)).or_default();
                if !orders.contains(&order) {
                    orders.push(order);
                }
            }
            made.entities.insert(*id, entity.clone());
        }
    }
}

impl View for Stacked<'_> {
    fn entity(&self, id: EntityId) -> Result<Option<Arc<Entity>>, Unavailable> {
        match self.made.borrow().entities.get(&id) {
            Some(entity) => Ok(Some(entity.clone())),
            None => self.under.entity(id),
        }
    }

    fn orders_of_key(&self, user: &UserId, key: &str) -> Result<Vec<OrderId>, Unavailable> {
        let mut orders = self.under.orders_of_key(user, key)?;
        let made = self.made.borrow();
        let more = made.orders.get(&keys::command(user, key)).into_iter().flatten();
        let more: Vec<_> = more.filter(|order| !orders.contains(order)).copied().collect();
        orders.extend(more);
        Ok(orders)
    }
}
