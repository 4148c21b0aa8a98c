//! What one cell makes of a change that it cannot apply.

use std::cell::Cell;
use std::sync::Arc;

use bytes::Bytes;
use cell_core::canon::Message;
use cell_core::cell::{
    Ability, Ask, Cause, Command, Incoming, Problem, Quarantined, Reached, Refused, Step, Unavailable, View,
};
use cell_core::clock::Hlc;
use cell_core::entity::Entity;
use cell_core::event::{ChangeShape, Entry, EventAddress, Fact};
use cell_core::gate::Requirement;
use cell_core::id::{EntityId, OrderId, UserId};
use cell_core::version::Dot;

use crate::support::{Region, Shelf, user};

/// North places an order and cancels it; east takes no change of more than `bytes_max`.
fn north_and_east(bytes_max: usize) -> (Region, Region, OrderId) {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    east.cell.ability =
        Ability { software: "old".to_owned(), change_bytes_max: bytes_max, ..Ability::default() };
    let (order, _) = north.place();
    north.ask("c", Ask::Cancel { order });
    (north, east, order)
}

fn take(region: &mut Region, entry: &Entry) -> Step {
    let step = region.cell.replicate(&region.shelf, &Incoming::read(entry.clone()), 2_000).unwrap().unwrap();
    region.shelf.0.extend(step.entities.clone());
    step
}

fn kept(steps: &[Step]) -> Vec<Quarantined> {
    steps.iter().flat_map(|step| step.quarantined.clone()).collect()
}

#[test]
fn a_change_that_is_too_large_is_kept_whole_and_applied_by_a_software_that_can() {
    let (north, mut east, order) = north_and_east(300);
    let steps: Vec<Step> = north.log.iter().map(|entry| take(&mut east, entry)).collect();
    let held = kept(&steps);
    // The beat and the cancel are small, the order is not.
    assert_eq!(held.len(), 1, "{held:?}");
    assert_eq!(
        (held[0].cause.as_str(), held[0].entry.clone()),
        (Cause::TooLarge.as_str(), north.log[1].clone())
    );
    assert_eq!((held[0].entities.clone(), held[0].obscure), (vec![order.into()], false));
    let [dot, cancel] = [1, 2].map(|at: usize| north.log[at].dot);
    assert_eq!(east.cell.fronts().seq(&dot.actor), 3, "it goes on over the hole");
    assert_eq!(east.cell.whole_to(&dot.actor), 1);
    // What is here of the order is not the order.
    assert!(east.shelf.0.contains_key(&order.into()));
    assert_eq!(east.cell.withheld_by(&east.shelf, order.into()).unwrap(), Some(dot));
    for seen in [dot, cancel] {
        assert_eq!(east.reached(Some(order.into()), seen), Reached::NotYet);
        assert_eq!(east.reached(None, seen), Reached::NotYet);
        let need = Requirement { entity: order.into(), dot: seen };
        assert!(!east.cell.meets(&east.shelf, &need).unwrap());
    }
    assert_ne!(east.cell.digests().all(), north.cell.digests().all());
    // The same software does no better, and says so; another one does.
    let again = east.cell.retry(&east.shelf, &held[0], 3_000).unwrap();
    assert_eq!((again.released.len(), kept(&[again]).len()), (0, 1));
    east.cell.ability = Ability::default();
    let step = east.cell.retry(&east.shelf, &held[0], 4_000).unwrap();
    assert_eq!((&step.released, &step.entries), (&vec![dot], &vec![north.log[1].clone()]));
    east.take(step);
    assert_eq!(east.cell.withheld_by(&east.shelf, order.into()).unwrap(), None);
    assert_eq!(east.reached(Some(order.into()), cancel), Reached::Here);
    assert_eq!(east.shelf.0, north.shelf.0);
    assert_eq!(east.cell.digests().all(), north.cell.digests().all());
    let more = east.cell.retry(&east.shelf, &held[0], 5_000).unwrap();
    assert!(more.entries.is_empty() && more.quarantined.is_empty(), "applied once");
}

#[test]
fn the_state_of_an_entity_from_elsewhere_stands_for_what_is_quarantined_of_it() {
    let (north, mut east, order) = north_and_east(300);
    north.log.iter().for_each(|entry| drop(take(&mut east, entry)));
    east.merge(&north, order);
    assert_eq!(east.cell.withheld_by(&east.shelf, order.into()).unwrap(), None, "all of it is here");
    assert_eq!(east.reached(Some(order.into()), north.log[2].dot), Reached::Here);
    assert_eq!(east.reached(None, north.log[2].dot), Reached::NotYet, "a list may lack something else");
    assert_eq!(east.cell.quarantined().count(), 1, "the hole stays until it is filled");
}

#[test]
fn a_fact_that_is_quarantined_is_made_good_by_state_that_has_it() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (order, _) = north.place();
    north.ask("p", Ask::Pay { order, card: "ok".to_owned() });
    east.pull(&north);
    // The gateway calls east: it says that money was taken, of the order and of the payment, and decides nothing.
    let (payment, capture) = east.capture(order);
    east.facts(Fact::Capture(capture));
    let dot = east.newest();
    north.cell.ability = Ability { change_bytes_max: 100, ..Ability::default() };
    north.pull(&east);
    let withheld = |north: &Region, id: EntityId| north.cell.withheld_by(&north.shelf, id).unwrap();
    let both: [EntityId; 2] = [order.into(), payment.into()];
    for id in both {
        assert_eq!(withheld(&north, id), Some(dot));
        assert_eq!(north.reached(Some(id), dot), Reached::NotYet);
    }
    assert_eq!(north.cell.open_holes(&north.shelf).unwrap(), [dot]);
    // The fact comes with either of the two.
    north.merge(&east, order);
    for id in both {
        assert_eq!(withheld(&north, id), None, "all of it is here");
        assert_eq!(north.reached(Some(id), dot), Reached::Here);
    }
    assert!(north.cell.open_holes(&north.shelf).unwrap().is_empty());
}

#[test]
fn nothing_is_decided_on_what_is_withheld_until_an_operator_does_without_the_change() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (order, _) = north.place();
    north.log.iter().for_each(|entry| drop(take(&mut east, entry)));
    // East wrote something about north's order that north cannot read.
    let front = *east.cell.fronts().get(&east.cell.me()).unwrap();
    let mut event = EventAddress { entities: vec![order.into()] }.to_canon();
    event.extend([0x12, 2, 0x0a, 9]);
    let dot = Dot { actor: east.cell.me(), seq: front.seq + 1 };
    let events = vec![event.into()];
    let shape = ChangeShape { dot, at: Hlc::default(), trace: String::new(), events };
    let bytes = Bytes::from(shape.to_canon());
    let entry = Entry { dot, hash: Entry::chain(&front.hash, &dot, &bytes), bytes };
    north.pull(&east);
    let step = take(&mut north, &entry);
    assert_eq!(step.entities.len(), 1, "what is owed on it is looked at anew");
    let held = kept(&[step]);
    let command = |north: &mut Region| {
        let ask = Ask::Cancel { order };
        let (key, trace) = ("c".to_owned(), String::new());
        let command = Command { user: user(), key, body: vec![], trace, ask };
        let (step, reply) = north.cell.command(&north.shelf, &command, 3_000).unwrap();
        north.take(step);
        reply.map_err(|refusal| refusal.problem)
    };
    assert_eq!(command(&mut north), Err(Problem::Blocked));
    assert_eq!(north.cell.duties(&north.shelf, order.into()).unwrap(), vec![]);
    let step = north.cell.give_up(&north.shelf, &held[0]).unwrap();
    assert!(step.quarantined[0].given_up);
    assert!(command(&mut north).is_ok());
    assert_eq!(north.reached(None, dot), Reached::Never, "it does not come any more");
}

/// A view in which somebody who reads one entity panics, once, as a fold with a bug would.
struct Cursed<'a>(&'a Shelf, Cell<Option<EntityId>>);
impl View for Cursed<'_> {
    fn entity(&self, id: EntityId) -> Result<Option<Arc<Entity>>, Unavailable> {
        if self.1.get() == Some(id) {
            self.1.take();
            panic!("cursed");
        }
        self.0.entity(id)
    }
    fn orders_of_key(&self, user: &UserId, key: &str) -> Result<Vec<OrderId>, Unavailable> {
        self.0.orders_of_key(user, key)
    }
}

#[test]
fn a_panic_while_a_change_is_applied_touches_nothing_but_its_frontier() {
    let (north, mut east, order) = north_and_east(usize::MAX);
    take(&mut east, &north.log[0]);
    let before = east.cell.digests().all().to_vec();
    let cursed = Cursed(&east.shelf, Cell::new(Some(order.into())));
    let step = east.cell.replicate(&cursed, &Incoming::read(north.log[1].clone()), 2_000).unwrap().unwrap();
    let held = kept(&[step]);
    assert_eq!((held[0].cause.as_str(), held[0].detail.as_str()), ("panicked", "cursed"));
    assert_eq!(east.cell.digests().all(), before);
    assert_eq!(east.cell.fronts().get(&north.cell.me()).unwrap().hash, north.log[1].hash);
    assert_eq!(east.cell.whole_to(&north.cell.me()), 1);
}

#[test]
fn an_entity_that_would_grow_too_large_is_left_as_it_is() {
    let (north, mut east, order) = north_and_east(usize::MAX);
    take(&mut east, &north.log[0]);
    take(&mut east, &north.log[1]);
    let before = east.shelf.0[&order.into()].clone();
    east.cell.ability.entity_bytes_max = before.bytes();
    let held = kept(&[take(&mut east, &north.log[2])]);
    assert_eq!(held[0].cause, "too-large");
    assert_eq!(east.shelf.0[&order.into()], before);
}

#[test]
fn bytes_that_are_not_what_their_actor_wrote_are_refused_and_not_kept() {
    let (north, mut east, _) = north_and_east(usize::MAX);
    let entry = Entry { bytes: Bytes::from_static(b"\xff"), ..north.log[0].clone() };
    assert_eq!(
        east.cell.replicate(&east.shelf, &Incoming::read(entry), 2_000).unwrap().unwrap_err(),
        Refused::Conflict
    );
    assert_eq!(east.cell.quarantined().count(), 0);
}
