//! The entity kernel: a grow-only set of events that merges by union, and the one reading of it.
//!
//! Replicated state is nothing but the set; everything else (effective history, strays, forks, what is unsettled) is
//! computed from it, so equal sets mean equal state everywhere. Merge is union: total, it never fails and never panics.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Deref;
use std::sync::Arc;

use bytes::Bytes;
use crdts::{CmRDT, CvRDT};
use smallvec::{SmallVec, smallvec};

use crate::canon::{Malformed, Message, message};
use crate::clock::Hlc;
use crate::digest::Digest;
use crate::event::{Body, CommandRef, Decided, Decision, Event, Fact, FactKey, Record};
use crate::id::{EntityId, Hash};
use crate::placement::Epoch;
use crate::version::{Dot, EventId};

/// Decisions beyond which requests are no longer admitted on one entity.
pub const REQUEST_DECISIONS_MAX: usize = 800;
/// Decisions beyond which nothing is admitted on one entity; facts and merges never are refused.
pub const DECISIONS_MAX: usize = 1_000;

/// Bytes of events beyond which requests are no longer admitted on one entity: a later epoch carries them in one change.
pub const REQUEST_BYTES_MAX: usize = 512 << 10;

/// Where an event stands in its entity. Two contents at one place of a chain, or under one outside id, are two items.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ItemKey {
    Record(Hash),
    Decision {
        epoch: Epoch,
        place: u64,
        hash: Hash,
    },
    Fact {
        key: FactKey,
        hash: Hash,
    },
    /// Of a kind that only a newer version knows.
    Newer(Hash),
}

/// One event of an entity and where it entered the world; a fact recorded in two regions has two origins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    pub event: Arc<Event>,
    pub origins: Origins,
    /// The earliest stamp among its origins.
    pub since: Hlc,
}

/// Where an event entered the world, in order. Nearly always one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origins(SmallVec<[EventId; 1]>);

impl Origins {
    /// `true` if it was not there.
    fn insert(&mut self, origin: EventId) -> bool {
        let Err(at) = self.0.binary_search(&origin) else { return false };
        self.0.insert(at, origin);
        true
    }
}

impl Deref for Origins {
    type Target = [EventId];
    fn deref(&self) -> &[EventId] {
        &self.0
    }
}

impl<'a> IntoIterator for &'a Origins {
    type Item = &'a EventId;
    type IntoIter = std::slice::Iter<'a, EventId>;
    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// An event on its way into an entity.
#[derive(Clone, Debug)]
pub struct Placing {
    pub event: Arc<Event>,
    pub origin: EventId,
    pub at: Hlc,
}

/// The replicated state of an order, a payment, or a kind of a later version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entity {
    pub id: EntityId,
    /// In key order. Most have one or a few, and new ones mostly come last.
    items: Vec<(ItemKey, Item)>,
    digest: Digest,
    /// Of its events.
    bytes: usize,
}

message! {
    /// The stored and fetched shape of an item.
    open pub struct ItemShape { 1 => event: Bytes, 2 => origins: Vec<EventId>, 3 => since: Hlc }
}
message! {
    /// The stored and fetched shape of an entity.
    open pub struct EntityShape { 1 => id: EntityId, 2 => items: Vec<ItemShape> }
}

impl Entity {
    #[must_use]
    pub fn new(id: EntityId) -> Entity {
        Entity { id, items: Vec::new(), digest: Digest::default(), bytes: 0 }
    }

    /// The items in key order.
    pub fn items(&self) -> impl Iterator<Item = (&ItemKey, &Item)> {
        self.items.iter().map(|(key, item)| (key, item))
    }

    fn each(&self) -> impl Iterator<Item = &Item> {
        self.items.iter().map(|(_, item)| item)
    }

    /// The digest of its set: of every event with every origin.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Bytes of its events; what a later epoch may have to carry.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether an event of the change at `dot` is in it.
    #[must_use]
    pub fn contains(&self, dot: &Dot) -> bool {
        self.each().any(|item| item.origins.iter().any(|origin| origin.dot == *dot))
    }

    /// Whether what the change at `dot` decided is in it, with all that it builds on. A fact of that change is no proof: it
    /// may have come alone, with the other entity that it concerns. Nor is a record where others decided: a new home
    /// carries it along, and of what was decided only what it builds on.
    #[must_use]
    pub fn decided_in(&self, dot: &Dot) -> bool {
        let decisions = || self.each().filter_map(|item| Some((decided(item)?, item)));
        let of_dot = |item: &Item| item.origins.iter().any(|origin| origin.dot == *dot);
        let mut decided_there = decisions().filter(|(_, item)| of_dot(item)).peekable();
        if decided_there.peek().is_some() {
            return decided_there.all(|(decided, _)| self.is_founded(decided));
        }
        let later = |item: &Item| {
            item.origins.iter().any(|origin| origin.dot.actor == dot.actor && origin.dot.seq > dot.seq)
        };
        let record = |item: &Item| matches!(item.event.body, Some(Body::Record(_))) && of_dot(item);
        let mut behind = decisions().filter(|(_, item)| later(item));
        self.each().any(record)
            && (decisions().next().is_none() || behind.any(|(decided, _)| self.is_founded(decided)))
    }

    /// Whether everything in front of a decision is here: the chain of its epoch, and what that inherited.
    fn is_founded(&self, last: &Decided) -> bool {
        let chain = || self.each().filter_map(decided).filter(|decided| decided.epoch == last.epoch);
        let whole = (0..last.place).all(|place| chain().any(|decided| decided.place == place));
        let is_here = |hash: &Hash| self.each().any(|item| item.event.hash == *hash);
        whole && chain().filter(|decided| decided.place == 0).all(|first| first.inherits.iter().all(is_here))
    }

    /// The creation record of this kind that the id proves, and where it stands; of several copies the earliest.
    #[must_use]
    pub fn record<K: Kind>(&self) -> Option<(&K::Record, &Item)> {
        let mut earliest: Option<(&K::Record, &Item)> = None;
        for item in self.each().filter(|item| item.event.proves == Some(self.id)) {
            let Some(Body::Record(record)) = &item.event.body else { continue };
            let Some(record) = K::record(record) else { continue };
            if earliest.is_none_or(|(_, known)| item.since < known.since) {
                earliest = Some((record, item));
            }
        }
        earliest
    }

    /// Whether it holds nothing but a creation record that its id proves: nothing was decided or happened.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.items.len() == 1 && self.each().all(|item| item.event.proves == Some(self.id))
    }

    /// Puts an event in its place. `true` if anything changed: merging again is a no-op.
    pub fn place(&mut self, placing: Placing) -> bool {
        let Some(key) = item_key(&placing.event) else {
            return false;
        };
        match self.items.binary_search_by(|(other, _)| other.cmp(&key)) {
            Err(at) => {
                self.digest.add(&placing.origin, &placing.event.hash);
                self.bytes += placing.event.bytes.len();
                let Placing { event, origin, at: since } = placing;
                if self.items.is_empty() {
                    // Many never have another one.
                    self.items.reserve_exact(1);
                }
                self.items.insert(at, (key, Item { event, origins: Origins(smallvec![origin]), since }));
                true
            }
            Ok(at) => {
                let item = &mut self.items[at].1;
                let earlier = placing.at < item.since;
                item.since = item.since.min(placing.at);
                let further = item.origins.insert(placing.origin);
                if further {
                    self.digest.add(&placing.origin, &placing.event.hash);
                }
                further || earlier
            }
        }
    }

    /// The union with another copy. `true` if anything changed.
    pub fn join(&mut self, other: &Entity) -> bool {
        let mut changed = false;
        for item in other.each() {
            for origin in &item.origins {
                changed |= self.place(Placing { event: item.event.clone(), origin: *origin, at: item.since });
            }
        }
        changed
    }

    #[must_use]
    pub fn to_shape(&self) -> EntityShape {
        let items = self.each().map(|item| ItemShape {
            event: item.event.bytes.clone(),
            origins: item.origins.to_vec(),
            since: item.since,
        });
        EntityShape { id: self.id, items: items.collect() }
    }

    /// # Errors
    /// [`Malformed`] if an event cannot be read.
    pub fn from_shape(shape: EntityShape) -> Result<Entity, Malformed> {
        let mut entity = Entity::new(shape.id);
        for item in shape.items {
            let event = Arc::new(Event::decode(item.event)?);
            for origin in item.origins {
                entity.place(Placing { event: event.clone(), origin, at: item.since });
            }
        }
        Ok(entity)
    }

    /// # Errors
    /// [`Malformed`] if these are not the bytes of an entity.
    pub fn decode(bytes: &[u8]) -> Result<Entity, Malformed> {
        Entity::from_shape(EntityShape::decode(bytes)?)
    }
}

fn decided(item: &Item) -> Option<&Decided> {
    match &item.event.body {
        Some(Body::Decided(decided)) => Some(decided),
        _ => None,
    }
}

fn item_key(event: &Event) -> Option<ItemKey> {
    let hash = event.hash;
    match &event.body {
        None => Some(ItemKey::Newer(hash)),
        Some(Body::Record(_)) => Some(ItemKey::Record(hash)),
        Some(Body::Decided(decided)) => {
            Some(ItemKey::Decision { epoch: decided.epoch, place: decided.place, hash })
        }
        Some(Body::Fact(fact)) => Some(ItemKey::Fact { key: fact.key(), hash }),
        // Cell-level events are no part of any entity, whatever their envelope says.
        Some(Body::Carried(_) | Body::Succeeds(_) | Body::Beat(_) | Body::Placed(_) | Body::Closed(_)) => {
            None
        }
        Some(Body::Audit(_)) => None,
    }
}

impl CvRDT for Entity {
    type Validation = std::convert::Infallible;
    fn validate_merge(&self, _: &Self) -> Result<(), Self::Validation> {
        Ok(())
    }
    fn merge(&mut self, other: Self) {
        self.join(&other);
    }
}

impl CmRDT for Entity {
    type Op = Placing;
    type Validation = std::convert::Infallible;
    fn validate_op(&self, _: &Placing) -> Result<(), Self::Validation> {
        Ok(())
    }
    fn apply(&mut self, op: Placing) {
        self.place(op);
    }
}

// === reading ===

/// What a kind of entity folds to. Two real kinds: [`crate::order::Order`] and [`crate::payment::Payment`].
pub trait Kind {
    type Record;
    type Decision;
    type State;

    /// The creation record, if it is one of this kind.
    fn record(record: &Record) -> Option<&Self::Record>;
    fn decision(decision: &Decision) -> Option<&Self::Decision>;
    fn start(record: &Self::Record) -> Self::State;
    /// Adds one decision. Total: each was validated by its one writer against exactly this history.
    fn fold(state: &mut Self::State, link: &Link<'_, Self::Decision>);
}

/// A decision where it stands.
#[derive(Debug)]
pub struct Link<'a, D> {
    pub decided: &'a Decided,
    pub body: &'a D,
    pub hash: Hash,
    pub since: Hlc,
    /// The dot that wrote it.
    pub dot: Dot,
}

impl<D> Clone for Link<'_, D> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<D> Copy for Link<'_, D> {}

impl<D> Link<'_, D> {
    #[must_use]
    pub fn command(&self) -> Option<&CommandRef> {
        self.decided.command.as_ref()
    }
}

/// Why nothing is decided on an entity for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Blocked {
    /// Its creation record is unknown; what is here waits as an orphan.
    Orphan,
    /// It holds an event that only a newer version can read.
    Newer,
    /// Two contents stand at one place of the effective chain; the next epoch chooses.
    Forked,
}

/// The one reading of an entity: computed from its set alone.
#[derive(Debug)]
pub struct Reading<'a, K: Kind> {
    pub entity: &'a Entity,
    pub record: Option<&'a K::Record>,
    /// Stamp of the earliest origin of the creation record.
    pub created: Hlc,
    /// The dot that brought the record first.
    pub created_dot: Option<Dot>,
    /// The epoch whose chain is in force, and how many decisions stand in it so far (the next place).
    pub epoch: Option<Epoch>,
    pub next_place: u64,
    /// The effective history: what the epoch inherited, then its contiguous chain.
    pub history: Vec<Link<'a, K::Decision>>,
    pub state: Option<K::State>,
    /// Legal decisions of lower epochs that are not in the history, in (epoch, place) order.
    pub strays: Vec<Link<'a, K::Decision>>,
    pub facts: BTreeMap<FactKey, Vec<(&'a Fact, &'a Item)>>,
    pub blocked: Option<Blocked>,
}

/// Per epoch and place, the contents that stand there, in hash order.
type Chains<'a, D> = BTreeMap<Epoch, BTreeMap<u64, Vec<Link<'a, D>>>>;

impl<'a, K: Kind> Reading<'a, K> {
    #[must_use]
    pub fn of(entity: &'a Entity) -> Reading<'a, K> {
        let mut reading = Reading {
            entity,
            record: None,
            created: Hlc::default(),
            created_dot: None,
            epoch: None,
            next_place: 0,
            history: Vec::new(),
            state: None,
            strays: Vec::new(),
            facts: BTreeMap::new(),
            blocked: None,
        };
        let mut chains: Chains<'a, K::Decision> = Chains::new();
        let mut by_hash: HashMap<Hash, Link<'a, K::Decision>> = HashMap::new();
        for item in entity.each() {
            match &item.event.body {
                None => reading.blocked = Some(Blocked::Newer),
                Some(Body::Record(_)) => {}
                Some(Body::Fact(fact)) => reading.facts.entry(fact.key()).or_default().push((fact, item)),
                Some(Body::Decided(decided)) => {
                    if let Some(link) = legal_link::<K>(decided, item) {
                        by_hash.insert(link.hash, link);
                        chains.entry(decided.epoch).or_default().entry(decided.place).or_default().push(link);
                    }
                }
                Some(_) => {}
            }
        }
        if let Some((record, item)) = entity.record::<K>() {
            reading.record = Some(record);
            reading.created = item.since;
            reading.created_dot = item.origins.first().map(|origin| origin.dot);
        }
        reading.choose(&chains, &by_hash);
        reading.fold();
        reading
    }

    /// The chain of the highest epoch that has its first decision, what it inherited in front.
    fn choose(&mut self, chains: &Chains<'a, K::Decision>, by_hash: &HashMap<Hash, Link<'a, K::Decision>>) {
        let mut in_history: BTreeSet<Hash> = BTreeSet::new();
        for (epoch, chain) in chains.iter().rev() {
            let Some(first) = chain.get(&0).and_then(|contents| contents.first()) else {
                continue;
            };
            let inherited: Option<Vec<_>> =
                first.decided.inherits.iter().map(|hash| by_hash.get(hash).copied()).collect();
            let Some(inherited) = inherited else { continue };
            self.epoch = Some(*epoch);
            self.history = inherited;
            for place in 0.. {
                let Some(contents) = chain.get(&place) else { break };
                if contents.len() > 1 {
                    self.blocked = self.blocked.or(Some(Blocked::Forked));
                }
                // Items are in hash order, so every copy takes the same one.
                self.history.push(contents[0]);
                self.next_place = place + 1;
            }
            in_history.extend(self.history.iter().map(|link| link.hash));
            break;
        }
        let Some(effective) = self.epoch else { return };
        let lower = chains.iter().filter(|(epoch, _)| **epoch < effective);
        let links = lower.flat_map(|(_, chain)| chain.values().flatten());
        self.strays.extend(links.filter(|link| !in_history.contains(&link.hash)));
        // The losing side of a fork in the effective chain is as good as a stray of it.
        let forked = chains[&effective].values().filter(|contents| contents.len() > 1).flatten();
        self.strays.extend(forked.filter(|link| !in_history.contains(&link.hash)));
    }

    fn fold(&mut self) {
        let Some(record) = self.record else {
            self.blocked = Some(Blocked::Orphan);
            return;
        };
        if self.blocked == Some(Blocked::Newer) {
            return;
        }
        let mut state = K::start(record);
        self.history.iter().for_each(|link| K::fold(&mut state, link));
        self.state = Some(state);
    }

    /// The version of what it says: what wrote the last decision in force, which stands for everything in front of it, or
    /// the record where nothing was decided.
    #[must_use]
    pub fn version(&self) -> Option<Dot> {
        self.history.last().map(|link| link.dot).or(self.created_dot)
    }

    /// The first content of each fact, in key order: captures before refunds.
    pub fn known_facts(&self) -> impl Iterator<Item = (&FactKey, &'a Fact)> + '_ {
        self.facts.iter().filter_map(|(key, contents)| contents.first().map(|(fact, _)| (key, *fact)))
    }
}

/// A decision is legal if the actor that its epoch names wrote it.
fn legal_link<'a, K: Kind>(decided: &'a Decided, item: &'a Item) -> Option<Link<'a, K::Decision>> {
    let body = K::decision(&decided.body)?;
    let origin = item.origins.iter().find(|origin| origin.dot.actor == decided.epoch.actor)?;
    Some(Link { decided, body, hash: item.event.hash, since: item.since, dot: origin.dot })
}
