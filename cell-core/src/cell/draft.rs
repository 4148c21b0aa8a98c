//! One change in the making: entities as they will be, and the events that make them so.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Alarm, Cell, Front, Step, Unavailable, View};
use crate::clock::Hlc;
use crate::digest::Digest;
use crate::entity::{Blocked, Entity, Item, Kind, Placing, Reading};
use crate::event::{
    Body, Capture, Carried, Change, CommandRef, Decided, Decision, Entry, Event, Fact, Placed, Record,
};
use crate::id::{EntityId, EntityKind, Hash, OrderId, PaymentId, Slot, UserId};
use crate::museum::{Bug, planted};
use crate::order::{Order, OrderDecision, OrderRecord};
use crate::payment::{Payment, PaymentDecision, PaymentPhase};
use crate::placement::Epoch;
use crate::settle::{self, Around, PaymentGlance, Row};
use crate::version::{Dot, EventId};

/// Settling steps after one input at most: more means two rules feed each other, which is a bug here.
const SETTLE_STEPS_MAX: usize = 5_000;

pub(super) struct Draft<'a> {
    pub(super) cell: &'a mut Cell,
    view: &'a dyn View,
    pub(super) now_ms: u64,
    trace: String,
    dot: Dot,
    at: Hlc,
    events: Vec<Arc<Event>>,
    changed: BTreeMap<EntityId, Arc<Entity>>,
    touched: BTreeSet<EntityId>,
    /// Of the order asked about last.
    twins_in_view: RefCell<Option<(OrderId, Vec<OrderId>)>>,
    rows: Vec<Row>,
    lost: Vec<(Slot, Epoch)>,
    alarms: Vec<Alarm>,
    /// What entered an entity, by the change it first was in.
    entered: Vec<(Dot, EntityId, Digest)>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(cell: &'a mut Cell, view: &'a dyn View, now_ms: u64, trace: &str) -> Draft<'a> {
        let seq = cell.fronts.seq(&cell.me) + 1;
        let dot = Dot { actor: cell.me, seq };
        let at = cell.clock.tick(now_ms);
        Draft {
            cell,
            view,
            now_ms,
            trace: trace.to_owned(),
            dot,
            at,
            events: Vec::new(),
            changed: BTreeMap::new(),
            touched: BTreeSet::new(),
            twins_in_view: RefCell::default(),
            rows: Vec::new(),
            lost: Vec::new(),
            alarms: Vec::new(),
            entered: Vec::new(),
        }
    }

    pub(super) fn entity(&self, id: EntityId) -> Result<Option<Arc<Entity>>, Unavailable> {
        match self.changed.get(&id) {
            Some(entity) => Ok(Some(entity.clone())),
            None => self.view.entity(id),
        }
    }

    /// Reads an entity as it stands in this draft; `None` if there is none.
    pub(super) fn read<K: Kind, T>(
        &self,
        id: EntityId,
        look: impl FnOnce(&Reading<'_, K>) -> T,
    ) -> Result<Option<T>, Unavailable> {
        Ok(self.entity(id)?.map(|entity| look(&Reading::<K>::of(&entity))))
    }

    pub(super) fn touch(&mut self, id: EntityId) {
        self.touched.insert(id);
    }

    pub(super) fn alarm(&mut self, alarm: Alarm) {
        self.alarms.push(alarm);
    }

    /// An entity that this draft would make larger than it may be.
    pub(super) fn larger_than(&self, bytes_max: usize) -> Option<EntityId> {
        self.changed.iter().find(|(_, entity)| entity.bytes() > bytes_max).map(|(id, _)| *id)
    }

    fn orders_of_key(&self, user: &UserId, key: &str) -> Result<Vec<OrderId>, Unavailable> {
        Ok(self.with_changed(self.view.orders_of_key(user, key)?, user, key))
    }

    /// Orders of the same user under the same key, itself among them once it is here. Asked about one order again and
    /// again: what the view says does not change meanwhile.
    pub(super) fn twins(&self, order: OrderId, record: &OrderRecord) -> Result<Vec<OrderId>, Unavailable> {
        let (user, key) = (&record.user, &*record.key);
        let known = self
            .twins_in_view
            .borrow()
            .as_ref()
            .and_then(|(of, in_view)| (*of == order).then(|| in_view.clone()));
        let in_view = match known {
            Some(in_view) => in_view,
            None => {
                let in_view = self.view.orders_of_key(user, key)?;
                self.twins_in_view.replace(Some((order, in_view.clone())));
                in_view
            }
        };
        Ok(self.with_changed(in_view, user, key))
    }

    fn with_changed(&self, mut orders: Vec<OrderId>, user: &UserId, key: &str) -> Vec<OrderId> {
        for (id, entity) in &self.changed {
            let Some(order) = id.order().filter(|order| !orders.contains(order)) else { continue };
            let record = entity.record::<Order>();
            if record.is_some_and(|(record, _)| record.user == *user && record.key == key) {
                orders.push(order);
            }
        }
        orders
    }

    /// As [`Cell::withheld_by`], of the entity as it stands in this draft.
    pub(super) fn withheld_by(&self, id: EntityId) -> Result<Option<Dot>, Unavailable> {
        self.cell.withheld_by(&Drafted(self), id)
    }

    /// Whether an equal event is in every entity it belongs to already.
    pub(super) fn holds(&self, event: &Event) -> Result<bool, Unavailable> {
        for id in &event.entities {
            let held = self.entity(*id)?;
            let held =
                held.is_some_and(|entity| entity.items().any(|(_, item)| item.event.hash == event.hash));
            if !held {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// A higher epoch for a slot: join it, and stop owning where this node did.
    pub(super) fn contact(&mut self, slot: Slot, epoch: &Epoch) {
        let owned = self.cell.owned(slot).is_some();
        if self.cell.placement.join(slot, epoch) && owned && self.cell.owned(slot).is_none() {
            self.lost.push((slot, *epoch));
        }
    }

    /// Contact by a message: of a home that moved everybody is told, the new one too, whoever it was that moved. The log of
    /// the new home may have gone down with the decree; then nobody would feel responsible, or two would.
    pub(super) fn contact_by_message(&mut self, slot: Slot, epoch: &Epoch) -> Result<(), Unavailable> {
        let known = self.cell.placement().home(slot);
        // To a newer start of the same node it did not.
        let moved = (epoch.term, epoch.step, epoch.actor.node) > (known.term, known.step, known.node);
        self.contact(slot, epoch);
        if moved {
            let placed = Placed { slots: vec![slot], epoch: *epoch };
            self.push(Event::new(Vec::new(), Body::Placed(placed)))?;
        }
        Ok(())
    }

    /// The epochs that a capture's metadata names have been at work.
    pub(super) fn contact_capture(&mut self, capture: &Capture) {
        let payment = capture.permit.payment_id();
        capture.order_epoch.iter().for_each(|epoch| self.contact(capture.permit.order.slot(), epoch));
        capture.payment_epoch.iter().for_each(|epoch| self.contact(payment.slot(), epoch));
    }

    /// Puts an event that entered the world at `origin` into the entities it names.
    pub(super) fn place(&mut self, event: &Arc<Event>, origin: EventId, at: Hlc) -> Result<(), Unavailable> {
        match &event.body {
            Some(Body::Carried(carried)) => {
                // Carried bytes that cannot be read stay in the change; they have no effect.
                let Ok(inner) = Event::decode(carried.event.clone()) else {
                    return Ok(());
                };
                if matches!(inner.body, Some(Body::Carried(_))) {
                    return Ok(());
                }
                return self.place(&Arc::new(inner), carried.origin, carried.at);
            }
            Some(Body::Decided(decided)) => {
                event.entities.iter().for_each(|id| self.contact(id.slot(), &decided.epoch));
            }
            Some(Body::Placed(placed)) => {
                placed.slots.iter().for_each(|slot| self.contact(*slot, &placed.epoch));
            }
            // Also where it comes by replication: who took the money may be gone with the decree it acted under.
            Some(Body::Fact(Fact::Capture(capture))) => self.contact_capture(capture),
            Some(Body::Closed(closed)) => {
                self.cell.close(closed.actor, closed.last);
            }
            Some(Body::Succeeds(succeeds)) => self.cell.lives.ended(succeeds.old, succeeds.last),
            Some(Body::Beat(beat)) => {
                self.cell.lives.beat(origin.dot.actor, beat.wall_ms, self.now_ms);
            }
            _ => {}
        }
        for id in &event.entities {
            let mut entity = self.entity(*id)?.unwrap_or_else(|| Arc::new(Entity::new(*id)));
            let before = entity.digest();
            if Arc::make_mut(&mut entity).place(Placing { event: event.clone(), origin, at }) {
                self.entered.push((origin.dot, *id, entity.digest().minus(before)));
                self.changed.insert(*id, entity);
                self.touched.insert(*id);
            }
        }
        Ok(())
    }

    /// There were so many holes before. What stands behind one that was given up reaches the others as state, and no state
    /// tells of homes: this does.
    pub(super) fn tell_behind(&mut self, holes: usize) -> Result<(), Unavailable> {
        if self.cell.holes().count() == holes {
            return Ok(());
        }
        for placed in self.cell.placed() {
            if (placed.epoch.term, placed.epoch.step) > (1, 0) {
                self.push(Event::new(Vec::new(), Body::Placed(placed)))?;
            }
        }
        Ok(())
    }

    /// Merges a whole entity that did not come as a change.
    pub(super) fn join(&mut self, other: &Entity) -> Result<(), Unavailable> {
        for (_, item) in other.items() {
            for origin in &item.origins {
                self.place(&item.event, *origin, item.since)?;
            }
        }
        Ok(())
    }

    /// Adds an event of this node's own.
    pub(super) fn push(&mut self, event: Event) -> Result<(), Unavailable> {
        let event = Arc::new(event);
        let origin = EventId { dot: self.dot, place: self.events.len() as u64 };
        self.events.push(event.clone());
        self.place(&event, origin, self.at)
    }

    pub(super) fn decide_order(
        &mut self,
        order: OrderId,
        decision: OrderDecision,
        command: Option<CommandRef>,
    ) -> Result<(), Unavailable> {
        let permit = match &decision {
            OrderDecision::PermitOpened(opened) => Some(opened.permit.clone()),
            _ => None,
        };
        self.decide::<Order>(order.into(), Decision::Order(decision), command)?;
        if let Some(permit) = permit {
            let payment = permit.payment_id();
            let record = Event::new(vec![payment.into()], Body::Record(Record::Permit(permit)));
            if !self.holds(&record)? {
                self.push(record)?;
            }
            self.touch(payment.into());
        }
        Ok(())
    }

    pub(super) fn decide_payment(
        &mut self,
        payment: PaymentId,
        decision: PaymentDecision,
        command: Option<CommandRef>,
    ) -> Result<(), Unavailable> {
        self.decide::<Payment>(payment.into(), Decision::Payment(decision), command)
    }

    /// Appends to the chain of this node's epoch. The first decision in it carries what it inherits.
    fn decide<K: Kind>(
        &mut self,
        id: EntityId,
        body: Decision,
        command: Option<CommandRef>,
    ) -> Result<(), Unavailable> {
        let Some(epoch) = self.cell.owned(id.slot()) else {
            debug_assert!(false, "decided on a slot that is not ours");
            return Ok(());
        };
        let entity = self.entity(id)?.unwrap_or_else(|| Arc::new(Entity::new(id)));
        let reading = Reading::<K>::of(&entity);
        let (place, inherits) = if reading.epoch == Some(epoch) {
            (reading.next_place, Vec::new())
        } else {
            (0, reading.history.iter().map(|link| link.hash).collect())
        };
        if place == 0 && !planted(Bug::InheritedNotCarried) {
            self.carry(&entity, &inherits)?;
        }
        let decided = Decided { epoch, place, command, inherits, body };
        self.push(Event::new(vec![id], Body::Decided(decided)))
    }

    /// Brings along, with their birth bytes, the record, the inherited decisions and the facts that did not come from
    /// this very actor: who receives this change has everything it builds on.
    fn carry(&mut self, entity: &Entity, inherits: &[Hash]) -> Result<(), Unavailable> {
        let inherits: BTreeSet<&Hash> = inherits.iter().collect();
        let me = self.cell.me;
        let wanted = |item: &Item| match &item.event.body {
            Some(Body::Decided(_)) => inherits.contains(&item.event.hash),
            Some(Body::Record(_) | Body::Fact(_)) => true,
            _ => false,
        };
        let foreign = entity
            .items()
            .map(|(_, item)| item)
            .filter(|item| wanted(item) && item.origins.iter().all(|origin| origin.dot.actor != me));
        let carried: Vec<Carried> = foreign
            .filter_map(|item| {
                let origin = *item.origins.first()?;
                Some(Carried { origin, at: item.since, event: item.event.bytes.clone() })
            })
            .collect();
        for carried in carried {
            self.push(Event::new(vec![entity.id], Body::Carried(carried)))?;
        }
        Ok(())
    }

    // === settling ===

    /// Decides everything this node owes on what was touched, until nothing is owed.
    pub(super) fn settle_touched(&mut self) -> Result<(), Unavailable> {
        for _ in 0..SETTLE_STEPS_MAX {
            let Some(id) = self.touched.pop_first() else {
                return Ok(());
            };
            if self.settle_once(id)? {
                self.touched.insert(id);
            }
        }
        // Whatever is left is owed still: the next wake goes on with it.
        debug_assert!(false, "settling does not come to rest");
        Ok(())
    }

    /// One settling step on one entity and what stands beside it. `true` if something was decided.
    fn settle_once(&mut self, id: EntityId) -> Result<bool, Unavailable> {
        let Some(entity) = self.entity(id)? else {
            return Ok(false);
        };
        if self.withheld_by(id)?.is_some() {
            return Ok(false);
        }
        match id.kind {
            // Another home decides, and there is nothing beside it to look at.
            EntityKind::ORDER if entity.is_fresh() && self.cell.owned(id.slot()).is_none() => Ok(false),
            EntityKind::ORDER => {
                let reading = Reading::<Order>::of(&entity);
                self.note_blocked(id, reading.blocked);
                let glances = payment_glances(&reading, |id| self.entity(id))?;
                let stale: Vec<_> =
                    glances.keys().filter(|id| self.stale(id)).map(|id| EntityId::from(*id)).collect();
                self.touched.extend(stale);
                if self.cell.owned(id.slot()).is_none() {
                    return Ok(false);
                }
                let glance = |payment: &PaymentId| glances.get(payment).copied().unwrap_or_default();
                let next = settle::next_order(&reading, &glance, self.now_ms, &self.cell.rules);
                let next = match next {
                    None => self.same_key(&reading)?,
                    next => next,
                };
                let (Some(next), Some(order)) = (next, id.order()) else {
                    self.touch_later_twins(&reading)?;
                    return self.record_permits(&reading, &glance).map(|()| false);
                };
                self.rows.extend(next.row);
                let last = next.decisions.len().saturating_sub(1);
                for (i, decision) in next.decisions.into_iter().enumerate() {
                    self.decide_order(order, decision, next.command.clone().filter(|_| i == last))?;
                }
                self.touched.extend(glances.into_keys().map(EntityId::from));
                Ok(true)
            }
            EntityKind::PAYMENT => {
                let reading = Reading::<Payment>::of(&entity);
                self.note_blocked(id, reading.blocked);
                let (Some(permit), Some(payment)) = (&reading.record, id.payment()) else {
                    return Ok(false);
                };
                let order = EntityId::from(permit.order);
                if self.cell.owned(id.slot()).is_none() {
                    self.touch_if_owed(order)?;
                    return Ok(false);
                }
                let around = self.around(&reading, payment)?;
                let next = settle::next_payment(&reading, around, self.now_ms, &self.cell.rules);
                let Some(next) = next else {
                    self.touch_if_owed(order)?;
                    return Ok(false);
                };
                self.rows.extend(next.row);
                let last = next.decisions.len().saturating_sub(1);
                for (i, decision) in next.decisions.into_iter().enumerate() {
                    self.decide_payment(payment, decision, next.command.clone().filter(|_| i == last))?;
                }
                self.touched.insert(order);
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// A payment of this node's own that went down with a disk while its order came as state: what it is stands in the
    /// order. To another owner a message says so.
    fn record_permits(
        &mut self,
        order: &Reading<'_, Order>,
        glance: &dyn Fn(&PaymentId) -> PaymentGlance,
    ) -> Result<(), Unavailable> {
        for (payment, permit) in crate::duty::every_permit(order) {
            if glance(&payment).ended.is_some() || self.cell.owned(payment.slot()).is_none() {
                continue;
            }
            if self.read::<Payment, _>(payment.into(), |reading| reading.record.is_some())? != Some(true) {
                self.learn_permit(&permit)?;
            }
        }
        Ok(())
    }

    /// A payment beside a touched order is worth a look if this node owns it and would decide something.
    fn stale(&self, payment: &PaymentId) -> bool {
        if self.cell.owned(payment.slot()).is_none() {
            return false;
        }
        let look = |reading: &Reading<'_, Payment>| {
            let around = self.around(reading, *payment)?;
            Ok(settle::next_payment(reading, around, self.now_ms, &self.cell.rules).is_some())
        };
        let owed: Result<Option<Result<bool, Unavailable>>, Unavailable> =
            self.read::<Payment, _>((*payment).into(), look);
        matches!(owed, Ok(Some(Ok(true))))
    }

    fn touch_if_owed(&mut self, order: EntityId) -> Result<(), Unavailable> {
        if self.cell.owned(order.slot()).is_none() {
            return Ok(());
        }
        let Some(entity) = self.entity(order)? else {
            return Ok(());
        };
        let reading = Reading::<Order>::of(&entity);
        let glances = payment_glances(&reading, |id| self.entity(id))?;
        let glance = |payment: &PaymentId| glances.get(payment).copied().unwrap_or_default();
        if settle::next_order(&reading, &glance, self.now_ms, &self.cell.rules).is_some() {
            self.touched.insert(order);
        }
        Ok(())
    }

    fn around(&self, reading: &Reading<'_, Payment>, payment: PaymentId) -> Result<Around, Unavailable> {
        let Some(permit) = &reading.record else {
            return Ok(Around { permit: settle::PermitGlance::Unknown, order_lost: false });
        };
        let order = self.entity(permit.order.into())?;
        let glance = crate::duty::OrderGlance::of(order.as_deref(), &payment);
        let known = order.as_deref().is_some_and(|order| order.record::<Order>().is_some());
        let opener = reading.known_facts().find_map(|(_, fact)| match fact {
            crate::event::Fact::Capture(capture) => capture.order_epoch.map(|epoch| epoch.actor),
            _ => None,
        });
        // Not by its closing alone: the order may be among what is still on its way.
        let order_lost = !known && opener.is_some_and(|actor| self.cell.fronts.is_complete(&actor));
        Ok(Around { permit: glance.permit, order_lost })
    }

    /// Two orders of one user under one key with different bodies: the later is cancelled if nothing was paid.
    fn same_key(
        &self,
        reading: &Reading<'_, Order>,
    ) -> Result<Option<settle::Next<OrderDecision>>, Unavailable> {
        let (Some(record), Some(state), Some(id)) =
            (&reading.record, &reading.state, reading.entity.id.order())
        else {
            return Ok(None);
        };
        let payable = state.phase == crate::order::OrderPhase::Payable;
        if !payable || reading.blocked.is_some() || state.open_permit().is_some() {
            return Ok(None);
        }
        for other in self.twins(id, record)? {
            if other == id {
                continue;
            }
            let earlier = self.read::<Order, _>(other.into(), |twin| {
                let dead = twin.state.as_ref().is_none_or(|state| {
                    matches!(
                        state.phase,
                        crate::order::OrderPhase::Cancelled | crate::order::OrderPhase::Expired
                    )
                });
                !dead && (twin.created, other) < (reading.created, id)
            })?;
            if earlier == Some(true) {
                let case = crate::order::CaseOpened {
                    subject: other.to_string(),
                    reason: "the same key was used for another body in another region".to_owned(),
                };
                let cancelled = OrderDecision::Cancelled(crate::order::Cancelled { refund: None });
                let decisions = vec![OrderDecision::CaseOpened(case), cancelled];
                return Ok(Some(settle::Next { decisions, row: None, command: None }));
            }
        }
        Ok(None)
    }

    /// An order that arrives late may be the earlier of two under one key: the other has to be looked at.
    fn touch_later_twins(&mut self, reading: &Reading<'_, Order>) -> Result<(), Unavailable> {
        let (Some(record), Some(id)) = (&reading.record, reading.entity.id.order()) else {
            return Ok(());
        };
        for other in self.twins(id, record)?.into_iter().filter(|other| *other != id) {
            let later = self.read::<Order, _>(other.into(), |twin| {
                let payable =
                    twin.state.as_ref().is_some_and(|state| state.phase == crate::order::OrderPhase::Payable);
                payable && (twin.created, other) > (reading.created, id)
            })?;
            if later == Some(true) {
                self.touched.insert(other.into());
            }
        }
        Ok(())
    }

    fn note_blocked(&mut self, id: EntityId, blocked: Option<Blocked>) {
        match blocked {
            Some(Blocked::Orphan) => self.alarm(Alarm::Orphan(id)),
            Some(Blocked::Forked) => self.alarm(Alarm::Forked(id)),
            Some(Blocked::Newer) | None => {}
        }
    }

    // === the end ===

    /// Seals the change, if anything was pushed, behind the entries that came from elsewhere.
    pub(super) fn finish(self, mut entries: Vec<Entry>) -> Result<Step, Unavailable> {
        if !self.events.is_empty() {
            let previous = self.cell.front(&self.dot.actor).hash;
            let change =
                Change { dot: self.dot, at: self.at, trace: self.trace.clone(), events: self.events };
            let entry = change.seal(&previous);
            self.cell.raise(self.dot.actor, Front { seq: self.dot.seq, hash: entry.hash });
            entries.push(entry);
        }
        let cell = self.cell;
        let (fronts, mut grown) = (&cell.fronts, BTreeMap::new());
        let covers = |dot: &Dot| fronts.covers(dot);
        for (dot, id, term) in self.entered.into_iter().filter(|(_, _, term)| *term != Digest::default()) {
            let slot = id.slot();
            let of_entity: &mut Digest = grown.entry(id).or_default();
            *of_entity = of_entity.plus(term);
            cell.digests.add(&covers, self.now_ms, dot, slot, term);
            if !covers(&dot) && fronts.is_complete(&dot.actor) {
                cell.digests.settle(&dot.actor, fronts.seq(&dot.actor));
            }
        }
        Ok(Step {
            entries,
            quarantined: Vec::new(),
            released: Vec::new(),
            grown,
            corrected: BTreeSet::new(),
            merged: Vec::new(),
            adopted: None,
            entities: self.changed,
            rows: self.rows,
            lost: self.lost,
            alarms: self.alarms,
            trace: self.trace,
        })
    }
}

/// The entities of a draft, as a view.
struct Drafted<'a>(&'a Draft<'a>);

impl View for Drafted<'_> {
    fn entity(&self, id: EntityId) -> Result<Option<Arc<Entity>>, Unavailable> {
        self.0.entity(id)
    }
    fn orders_of_key(&self, user: &UserId, key: &str) -> Result<Vec<OrderId>, Unavailable> {
        self.0.orders_of_key(user, key)
    }
}

/// What is seen of every payment an order ever opened a permit for, or holds a fact about.
pub(super) fn payment_glances(
    reading: &Reading<'_, Order>,
    entity: impl Fn(EntityId) -> Result<Option<Arc<Entity>>, Unavailable>,
) -> Result<BTreeMap<PaymentId, PaymentGlance>, Unavailable> {
    let permits = crate::duty::every_permit(reading).map(|(payment, _)| payment);
    let facts = reading.known_facts().map(|(_, fact)| fact.concerns().1);
    let mut glances = BTreeMap::new();
    for payment in permits.chain(facts) {
        if glances.contains_key(&payment) {
            continue;
        }
        let glance = entity(payment.into())?.map(|entity| glance_at(&entity)).unwrap_or_default();
        glances.insert(payment, glance);
    }
    Ok(glances)
}

fn glance_at(entity: &Entity) -> PaymentGlance {
    let reading = Reading::<Payment>::of(entity);
    let captured = reading.facts.keys().any(|key| key.kind == 1);
    let Some(state) = reading.state.as_ref().filter(|_| reading.blocked.is_none()) else {
        return PaymentGlance { captured, ..PaymentGlance::default() };
    };
    PaymentGlance {
        ended: state.ended(),
        ended_by: state.ended_by,
        captured,
        received: state.phase != PaymentPhase::Known,
    }
}
