//! Changes that are here and cannot be applied: kept whole, passed on as they came, and a hole to whoever asks.
//!
//! Their hashes were checked, so they are what their actor wrote. The actor's frontier goes on over them; what they would
//! have changed is withheld, since nobody can say what it is, until they are applied after all or an operator gives them up.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use super::draft::Draft;
use super::{Alarm, Cell, Front, Incoming, Refused, Step, Unavailable, View};
use crate::canon::{Message, codes, message};
use crate::clock::Observed;
use crate::entity::{Entity, Kind, Reading};
use crate::event::{Body, Change, ChangeShape, Entry, Event, EventAddress};
use crate::gate::Requirement;
use crate::id::{ActorId, EntityId, EntityKind, Hash};
use crate::museum::{Bug, planted};
use crate::order::Order;
use crate::payment::Payment;
use crate::version::{Dot, EventId};

/// Holes kept at most; what comes behind them waits with its peer, and its actor stops.
pub const HOLES_MAX: usize = 10_000;
/// Larger changes cannot be kept either.
pub const ENTRY_BYTES_MAX: usize = 15 << 20;

/// What this software can take. Another version may take more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ability {
    /// Which software it is: what it could not apply it need not try again.
    pub software: String,
    pub change_bytes_max: usize,
    /// Of all events of an entity.
    pub entity_bytes_max: usize,
}

impl Default for Ability {
    fn default() -> Ability {
        Ability { software: String::new(), change_bytes_max: 8 << 20, entity_bytes_max: 64 << 20 }
    }
}

codes! {
    /// Why a change could not be applied.
    pub enum Cause {
        1 => Malformed: "malformed",
        2 => TooLarge: "too-large",
        3 => Panicked: "panicked",
    }
}

message! {
    /// A fact of a quarantined change, of an entity about which it says nothing else.
    open pub struct HeldFact { 1 => entity: EntityId, 2 => event: Hash }
}

message! {
    /// A change that could not be applied, as it is kept. The newest copy in a log stands.
    open pub struct Quarantined {
        1 => entry: Entry,
        /// A [`Cause`]; text, so that any version reads it.
        2 => cause: String,
        3 => detail: String,
        /// What it would have changed, as far as that can be read.
        4 => entities: Vec<EntityId>,
        /// Not all of that can be read.
        5 => obscure: bool,
        6 => since_ms: u64,
        /// The software that tried last.
        7 => software: String,
        /// An operator does without it.
        8 => given_up: bool,
        /// What it says of entities about which it decided nothing.
        9 => facts: Vec<HeldFact>,
    }
}

/// What a cell remembers of a quarantined change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hole {
    pub entities: BTreeSet<EntityId>,
    /// Of those about which it decided nothing, all the facts that it recorded.
    pub facts: BTreeMap<EntityId, BTreeSet<Hash>>,
    /// It may concern others, too.
    pub obscure: bool,
    pub cause: String,
    pub software: String,
    pub given_up: bool,
}

impl Hole {
    fn may_concern(&self, about: Option<EntityId>) -> bool {
        self.obscure || about.is_none_or(|about| self.entities.contains(&about))
    }

    /// Whether state that came otherwise holds all that the change at `dot` would have changed.
    ///
    /// # Errors
    /// Those of `entity`.
    pub fn is_made_good<T: Borrow<Entity>, E>(
        &self,
        dot: &Dot,
        entity: impl Fn(EntityId) -> Result<Option<T>, E>,
    ) -> Result<bool, E> {
        if self.obscure {
            return Ok(false);
        }
        for id in &self.entities {
            if !entity(*id)?.is_some_and(|entity| self.is_whole(entity.borrow(), dot)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether an entity that came otherwise has all of the change at `dot`, and what that builds on.
    fn is_whole(&self, entity: &Entity, dot: &Dot) -> bool {
        let Some(facts) = self.facts.get(&entity.id) else { return is_whole_at(entity, dot) };
        let of_dot = entity.items().filter(|(_, item)| item.origins.iter().any(|origin| origin.dot == *dot));
        let here: BTreeSet<&Hash> = of_dot.map(|(_, item)| &item.event.hash).collect();
        has_record(entity) && facts.iter().all(|fact| here.contains(fact))
    }
}

impl From<&Quarantined> for Hole {
    fn from(kept: &Quarantined) -> Hole {
        let mut facts: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for HeldFact { entity, event } in &kept.facts {
            facts.entry(*entity).or_default().insert(*event);
        }
        Hole {
            entities: kept.entities.iter().copied().collect(),
            facts,
            obscure: kept.obscure,
            cause: kept.cause.clone(),
            software: kept.software.clone(),
            given_up: kept.given_up,
        }
    }
}

/// What stood in the way.
type Obstacle = (Cause, String);

impl Cell {
    /// Every quarantined change.
    pub fn quarantined(&self) -> impl Iterator<Item = (&Dot, &Hole)> {
        self.quarantine.iter()
    }

    /// Those that still withhold something: nobody did without them, and no state that came otherwise made them good.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails.
    pub fn open_holes(&self, view: &dyn View) -> Result<Vec<Dot>, Unavailable> {
        let mut open = Vec::new();
        for (dot, hole) in self.quarantine.iter().filter(|(_, hole)| !hole.given_up) {
            let is_made_good = hole.is_made_good(dot, |id| view.entity(id))?;
            open.extend((!is_made_good).then_some(*dot));
        }
        Ok(open)
    }

    /// How far an actor is applied without a hole: what an entity of it may be waited for by.
    #[must_use]
    pub fn whole_to(&self, actor: &ActorId) -> u64 {
        let known = self.fronts.seq(actor);
        let first = self.holes_upto(&Dot { actor: *actor, seq: known }).next();
        first.map_or(known, |(dot, _)| dot.seq - 1)
    }

    /// Whether a quarantined change may concern anything: nothing is denied then.
    #[must_use]
    pub fn is_obscured(&self) -> bool {
        self.quarantine.values().any(|hole| hole.obscure && !hole.given_up)
    }

    /// The change without which this entity, as it stands in the view, is not what its owner decided.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails.
    pub fn withheld_by(&self, view: &dyn View, id: EntityId) -> Result<Option<Dot>, Unavailable> {
        withheld_by(&self.quarantine, view, id)
    }

    /// Whether what a message requires is here, with all that it builds on.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails.
    pub fn meets(&self, view: &dyn View, need: &Requirement) -> Result<bool, Unavailable> {
        let passed = self.passed(&need.dot);
        if passed && !self.is_holed(view, Some(need.entity), &need.dot)? {
            return Ok(true);
        }
        let holed = self.holes_upto(&need.dot).any(|(_, hole)| hole.may_concern(Some(need.entity)));
        let Some(entity) = view.entity(need.entity)? else { return Ok(false) };
        Ok(if holed { is_whole_at(&entity, &need.dot) } else { entity.contains(&need.dot) })
    }

    /// Holes that somebody who saw `dot` may have seen without a hole.
    pub(super) fn holes_upto(&self, dot: &Dot) -> impl Iterator<Item = (&Dot, &Hole)> {
        let first = Dot { actor: dot.actor, seq: 0 };
        self.quarantine.range(first..=*dot).filter(|(_, hole)| !hole.given_up)
    }

    /// Whether somebody who saw `dot` would see less here, in what they read about.
    pub(super) fn is_holed(
        &self,
        view: &dyn View,
        about: Option<EntityId>,
        dot: &Dot,
    ) -> Result<bool, Unavailable> {
        let mut holes = self.holes_upto(dot).filter(|(_, hole)| hole.may_concern(about)).peekable();
        if holes.peek().is_none() {
            return Ok(false);
        }
        let entity = about.map(|about| view.entity(about)).transpose()?.flatten();
        let Some(entity) = entity else { return Ok(true) };
        Ok(!is_whole_at(&entity, dot)
            && !holes.all(|(dot, hole)| !hole.obscure && hole.is_whole(&entity, dot)))
    }

    // === in ===

    /// Applies a change whose hash was checked; keeps it as it is if that is impossible.
    pub(super) fn apply_or_hold(
        &mut self,
        view: &dyn View,
        incoming: &Incoming,
        now_ms: u64,
    ) -> Result<Result<Step, Refused>, Unavailable> {
        let entry = &incoming.entry;
        let (cause, detail) = match self.attempt(view, incoming, now_ms)? {
            Ok(step) => return Ok(Ok(step)),
            Err(obstacle) => obstacle,
        };
        if self.quarantine.len() >= HOLES_MAX || entry.bytes.len() > ENTRY_BYTES_MAX {
            return Ok(Err(Refused::NotKept));
        }
        self.hold(view, entry, (cause, detail), now_ms).map(Ok)
    }

    /// A quarantined change once more, perhaps by a newer software. What it brings is logged like a change that came now.
    /// What stood in the way is in the step if it still does.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn retry(&mut self, view: &dyn View, kept: &Quarantined, now_ms: u64) -> Result<Step, Unavailable> {
        let dot = kept.entry.dot;
        let Some(hole) = self.quarantine.get(&dot).cloned() else { return Ok(Step::default()) };
        let beside = beside(view, &hole.entities)?;
        self.quarantine.remove(&dot);
        match self.attempt(view, &Incoming::read(kept.entry.clone()), now_ms) {
            Ok(Ok(mut step)) => {
                // What came as state before: what is owed on it is looked at anew.
                for (id, entity) in beside {
                    step.entities.entry(id).or_insert(entity);
                }
                step.released.push(dot);
                Ok(step)
            }
            Ok(Err((cause, detail))) => {
                let (cause, software) = (cause.to_string(), self.ability.software.clone());
                Ok(self.keep(beside, Quarantined { cause, detail, software, ..kept.clone() }))
            }
            Err(error) => {
                self.quarantine.insert(dot, hole);
                Err(error)
            }
        }
    }

    /// An operator does without a quarantined change: what it would have changed is served again, without it.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn give_up(&mut self, view: &dyn View, kept: &Quarantined) -> Result<Step, Unavailable> {
        if !self.quarantine.contains_key(&kept.entry.dot) {
            return Ok(Step::default());
        }
        Ok(self.keep(beside(view, &kept.entities)?, Quarantined { given_up: true, ..kept.clone() }))
    }

    /// A quarantined change as the log holds it: replay after a restart.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn replay_quarantined(&mut self, view: &dyn View, kept: &Quarantined) -> Result<Step, Unavailable> {
        let beside = beside(view, &kept.entities)?;
        self.pass(&kept.entry);
        Ok(self.keep(beside, kept.clone()))
    }

    /// The frontier goes on over a change that the log holds, or stays in front of a gap before it.
    pub(super) fn pass(&mut self, entry: &Entry) {
        let Dot { actor, seq } = entry.dot;
        let known = self.fronts.seq(&actor);
        if seq == known + 1 {
            self.raise(actor, Front { seq, hash: entry.hash });
        } else if seq > known {
            let beyond = self.beyond.entry(actor).or_insert(0);
            *beyond = seq.max(*beyond);
        }
    }

    /// In this node's log a predecessor ends before it is said where. Where it says so and the end is not here, it was lost.
    pub(super) fn miss_ends(&mut self, change: &Change) {
        let node = self.me.node;
        if change.dot.actor.node != node {
            return;
        }
        for event in &change.events {
            let (actor, last) = match &event.body {
                Some(Body::Succeeds(succeeds)) => (succeeds.old, succeeds.last),
                Some(Body::Closed(closed)) => (closed.actor, closed.last),
                _ => continue,
            };
            if actor.node == node && last > self.fronts.seq(&actor) {
                let beyond = self.beyond.entry(actor).or_insert(0);
                *beyond = last.max(*beyond);
            }
        }
    }

    /// Everything of the change, or nothing but what its epochs and signs of life say of their own.
    fn attempt(
        &mut self,
        view: &dyn View,
        Incoming { entry, change }: &Incoming,
        now_ms: u64,
    ) -> Result<Result<Step, Obstacle>, Unavailable> {
        let (bytes, most) = (entry.bytes.len(), self.ability.change_bytes_max);
        if bytes > most {
            return Ok(Err((Cause::TooLarge, format!("{bytes} bytes, and this software takes {most}"))));
        }
        let change = match change {
            Ok(change) if change.dot == entry.dot => change,
            Ok(change) => return Ok(Err((Cause::Malformed, format!("it says that it is {}", change.dot)))),
            Err(error) => return Ok(Err((Cause::Malformed, error.to_string()))),
        };
        // A draft is thrown away whole; what was joined on the way is true whatever became of the rest.
        let applied = catch_unwind(AssertUnwindSafe(|| self.apply(view, entry, change, now_ms)));
        applied.unwrap_or_else(|panic| Ok(Err((Cause::Panicked, said(&*panic)))))
    }

    fn apply(
        &mut self,
        view: &dyn View,
        entry: &Entry,
        change: &Change,
        now_ms: u64,
    ) -> Result<Result<Step, Obstacle>, Unavailable> {
        let (dot, most) = (entry.dot, self.ability.entity_bytes_max);
        let observed = self.clock.observe(change.at, now_ms);
        let holes = self.holes().count();
        let mut draft = Draft::new(self, view, now_ms, &change.trace);
        if let Observed::Ahead { by_ms } = observed {
            draft.alarm(Alarm::ClockAhead { actor: dot.actor, by_ms });
        }
        for (place, event) in change.events.iter().enumerate() {
            draft.place(event, EventId { dot, place: place as u64 }, change.at)?;
        }
        if let Some(entity) = draft.larger_than(most) {
            let detail = format!("{entity} would have more than {most} bytes");
            return Ok(Err((Cause::TooLarge, detail)));
        }
        draft.tell_behind(holes)?;
        draft.settle_touched()?;
        draft.cell.pass(entry);
        draft.finish(vec![entry.clone()]).map(Ok)
    }

    /// Keeps a change that could not be applied; the frontier goes on over it.
    pub(super) fn hold(
        &mut self,
        view: &dyn View,
        entry: &Entry,
        (cause, detail): Obstacle,
        now_ms: u64,
    ) -> Result<Step, Unavailable> {
        let Addressed { entities, facts, obscure } = addressed(&entry.bytes);
        let kept = Quarantined {
            entry: entry.clone(),
            cause: cause.to_string(),
            detail,
            entities: entities.into_iter().collect(),
            facts,
            obscure,
            since_ms: now_ms,
            software: self.ability.software.clone(),
            given_up: false,
        };
        let step = self.keep(beside(view, &kept.entities)?, kept);
        self.pass(entry);
        if planted(Bug::PoisonSkipped) {
            self.quarantine.remove(&entry.dot);
        }
        Ok(step)
    }

    /// Holes of a region whose state is taken over: here, too, where the changes themselves were not. What an operator did
    /// without there, nobody did without here. With them what each would have changed, as it is in the view.
    pub(super) fn holes_to_take(
        view: &dyn View,
        theirs: &[Quarantined],
        passed_before: impl Fn(&Dot) -> bool,
    ) -> Result<Vec<(Quarantined, Beside)>, Unavailable> {
        let new = theirs.iter().filter(|kept| !passed_before(&kept.entry.dot));
        let with = |kept: &Quarantined| {
            Ok((Quarantined { given_up: false, ..kept.clone() }, beside(view, &kept.entities)?))
        };
        new.map(with).collect()
    }

    pub(super) fn take_holes(&mut self, holes: Vec<(Quarantined, Beside)>, step: &mut Step) {
        for (kept, beside) in holes {
            let held = self.keep(beside, kept);
            step.entities.extend(held.entities);
            step.quarantined.extend(held.quarantined);
        }
    }

    /// What it would have changed is looked at anew: nothing is owed on it for now, or again.
    fn keep(&mut self, beside: Beside, kept: Quarantined) -> Step {
        let mut step = Step::default();
        step.entities.extend(beside);
        // An epoch of it may have been joined.
        step.lost = self.placement.learned().filter(|(slot, _)| self.owned(*slot).is_none()).collect();
        self.quarantine.insert(kept.entry.dot, Hole::from(&kept));
        step.quarantined.push(kept);
        step
    }
}

/// What a quarantined change would have changed, as far as it is there.
type Beside = Vec<(EntityId, Arc<Entity>)>;

fn beside<'a>(
    view: &dyn View,
    entities: impl IntoIterator<Item = &'a EntityId>,
) -> Result<Beside, Unavailable> {
    let mut beside = Vec::new();
    for id in entities {
        beside.extend(view.entity(*id)?.map(|entity| (*id, entity)));
    }
    Ok(beside)
}

/// See [`Cell::withheld_by`].
pub(super) fn withheld_by(
    quarantine: &BTreeMap<Dot, Hole>,
    view: &dyn View,
    id: EntityId,
) -> Result<Option<Dot>, Unavailable> {
    if quarantine.is_empty() {
        return Ok(None);
    }
    let mut of_it = quarantine.iter().filter(|(_, hole)| !hole.given_up && hole.entities.contains(&id));
    let Some(first) = of_it.next() else { return Ok(None) };
    let entity = view.entity(id)?;
    let lacks =
        |(dot, hole): &(&Dot, &Hole)| !entity.as_deref().is_some_and(|entity| hole.is_whole(entity, dot));
    Ok(std::iter::once(first).chain(of_it).find(lacks).map(|(dot, _)| *dot))
}

/// What a change belongs to.
#[derive(Debug, Default)]
struct Addressed {
    /// As far as that can be read.
    entities: BTreeSet<EntityId>,
    /// Of those about which it says nothing else.
    facts: Vec<HeldFact>,
    /// That may not be all.
    obscure: bool,
}

fn addressed(bytes: &[u8]) -> Addressed {
    let Ok(change) = ChangeShape::decode(bytes) else {
        return Addressed { obscure: true, ..Addressed::default() };
    };
    let (mut all, mut decided) = (Addressed::default(), BTreeSet::new());
    for event in change.events {
        let Ok(address) = EventAddress::decode(&event) else {
            all.obscure = true;
            continue;
        };
        all.entities.extend(&address.entities);
        match Event::decode(event) {
            Ok(Event { hash, body: Some(Body::Fact(_)), .. }) => {
                all.facts.extend(address.entities.into_iter().map(|entity| HeldFact { entity, event: hash }));
            }
            _ => decided.extend(address.entities),
        }
    }
    all.facts.retain(|fact| !decided.contains(&fact.entity));
    all
}

fn has_record(entity: &Entity) -> bool {
    match entity.id.kind {
        EntityKind::ORDER => entity.record::<Order>().is_some(),
        EntityKind::PAYMENT => entity.record::<Payment>().is_some(),
        _ => false,
    }
}

/// Whether what the change at `dot` recorded or decided is in force, and with that all it builds on is there.
fn is_whole_at(entity: &Entity, dot: &Dot) -> bool {
    fn of<K: Kind>(entity: &Entity, dot: &Dot) -> bool {
        let reading = Reading::<K>::of(entity);
        let in_force = || reading.history.iter().any(|link| link.dot == *dot);
        reading.record.is_some() && (reading.created_dot == Some(*dot) || in_force())
    }
    match entity.id.kind {
        EntityKind::ORDER => of::<Order>(entity, dot),
        EntityKind::PAYMENT => of::<Payment>(entity, dot),
        _ => false,
    }
}

/// What a panic said.
fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "without a word".to_owned())
}
