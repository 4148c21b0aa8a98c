//! What a node says of a version that a reader saw elsewhere: here, not yet, never.

use std::collections::BTreeMap;
use std::sync::Arc;

use cell_core::cell::{Ask, Cell, Command, Reached, Step, Unavailable, View};
use cell_core::entity::{Entity, Reading};
use cell_core::event::{Capture, Entry, Fact};
use cell_core::id::{ActorId, EntityId, NodeId, OrderId, RegionId, UserId};
use cell_core::order::{Line, Order, OrderContent, OrderRecord};
use cell_core::payment::Payment;
use cell_core::placement::Placement;
use cell_core::rules::Rules;
use cell_core::version::Dot;

#[derive(Default)]
struct Shelf(BTreeMap<EntityId, Arc<Entity>>);

impl View for Shelf {
    fn entity(&self, id: EntityId) -> Result<Option<Arc<Entity>>, Unavailable> {
        Ok(self.0.get(&id).cloned())
    }
    fn orders_of_key(&self, _: &UserId, _: &str) -> Result<Vec<OrderId>, Unavailable> {
        Ok(Vec::new())
    }
}

struct Region {
    cell: Cell,
    shelf: Shelf,
    log: Vec<Entry>,
}

fn region(name: &str) -> RegionId {
    RegionId::new(name).unwrap()
}

fn actor(name: &str, start: u64) -> ActorId {
    ActorId { node: NodeId { region: region(name), index: 0 }, start, nonce: start }
}

/// Whose home is north.
fn user() -> UserId {
    (0..).map(|i| UserId::new(&format!("u{i}")).unwrap()).find(|user| user.slot().number() < 512).unwrap()
}

impl Region {
    fn of(cell: Cell) -> Region {
        Region { cell, shelf: Shelf::default(), log: Vec::new() }
    }

    fn new(name: &str) -> Region {
        let placement = Placement::initial(vec![region("north"), region("east")], |slot| {
            if slot.number() < 512 { region("north") } else { region("east") }
        });
        let mut this = Region::of(Cell::new(actor(name, 1), placement, Rules::default()));
        let step = this.cell.start(&this.shelf, None, 1).unwrap();
        this.take(step);
        this
    }

    fn take(&mut self, step: Step) {
        self.shelf.0.extend(step.entities);
        self.log.extend(step.entries);
    }

    /// The newest change of its own.
    fn newest(&self) -> Dot {
        self.log.iter().map(|entry| entry.dot).rfind(|dot| dot.actor == self.cell.me()).unwrap()
    }

    fn ask(&mut self, key: &str, ask: Ask) -> Dot {
        let command = Command { user: user(), key: key.to_owned(), body: vec![], trace: String::new(), ask };
        let (step, reply) = self.cell.command(&self.shelf, &command, 1_000).unwrap();
        assert!(reply.is_ok(), "{reply:?}");
        self.take(step);
        self.newest()
    }

    fn place(&mut self) -> (OrderId, Dot) {
        let line = Line { sku: "tea".to_owned(), title: String::new(), quantity: 1, unit_minor: 900 };
        let content = OrderContent {
            currency: "CNY".to_owned(),
            lines: vec![line],
            promotions_minor: 0,
            coupon_minor: 0,
            points_minor: 0,
            foreign_shipping_minor: 0,
            forwarding_fee_minor: 0,
            service_fee_minor: 0,
            duty_minor: 0,
        };
        let record = OrderRecord {
            user: user(),
            key: "o".to_owned(),
            content,
            pay_window_ms: 600_000,
            external_ref: String::new(),
            sealed: bytes::Bytes::new(),
            sealed_key: String::new(),
            attributes: String::new(),
            time_ms: 0,
        };
        let order = record.order_id();
        (order, self.ask("o", Ask::Place { record: Box::new(record) }))
    }

    fn pull(&mut self, from: &Region) {
        for entry in &from.log {
            if entry.dot.actor != self.cell.me() {
                let step = self.cell.replicate(&self.shelf, entry, 2_000).unwrap().unwrap();
                self.take(step);
            }
        }
    }

    fn merge(&mut self, from: &Region, id: impl Into<EntityId>) {
        let entity = (*from.shelf.0[&id.into()]).clone();
        let step = self.cell.merge(&self.shelf, vec![entity], 2_000).unwrap();
        self.take(step);
    }

    fn reached(&self, about: Option<EntityId>, dot: Dot) -> Reached {
        self.cell.reached(&self.shelf, about, &dot).unwrap()
    }
}

#[test]
fn a_version_is_here_once_the_frontier_covers_it_or_what_is_read_holds_it() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (order, placed) = north.place();
    assert_eq!(north.reached(None, placed), Reached::Here);
    assert_eq!(east.reached(Some(order.into()), placed), Reached::NotYet);
    east.merge(&north, order);
    assert_eq!(east.reached(Some(order.into()), placed), Reached::Here, "fetched past the stream");
    assert_eq!(east.reached(None, placed), Reached::NotYet, "of anything else it is not known");
    east.pull(&north);
    assert_eq!(east.reached(None, placed), Reached::Here);
    assert_eq!(Reading::<Order>::of(&east.shelf.0[&order.into()]).version(), Some(placed));
}

#[test]
fn a_fact_that_came_with_the_other_entity_is_no_proof_of_what_was_decided_on_it() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (order, _) = north.place();
    north.ask("p", Ask::Pay { order, card: "ok".to_owned() });
    let payment = Reading::<Order>::of(&north.shelf.0[&order.into()])
        .state
        .and_then(|state| state.open_permit().map(|(payment, _)| *payment))
        .unwrap();
    let permit = Reading::<Payment>::of(&north.shelf.0[&payment.into()]).record.unwrap();
    let capture = Fact::Capture(Capture {
        intent: "in_1".to_owned(),
        key: [1; 16],
        k: 1,
        at_ms: 2_500,
        amount_minor: permit.amount_minor,
        currency: permit.currency.clone(),
        permit,
        order_epoch: None,
        payment_epoch: None,
    });
    let step = north.cell.facts(&north.shelf, vec![capture], "", 3_000).unwrap();
    north.take(step);
    let paid = Reading::<Order>::of(&north.shelf.0[&order.into()]).version().unwrap();
    assert_eq!(paid, north.newest(), "the fact and what it settled are one change");
    // The payment alone reaches east; the fact concerns the order, too, and is put there.
    east.merge(&north, payment);
    let there = &east.shelf.0[&order.into()];
    assert!(there.contains(&paid) && !there.decided_in(&paid));
    assert_eq!(east.reached(Some(order.into()), paid), Reached::NotYet);
    assert_eq!(east.reached(Some(payment.into()), paid), Reached::Here);
    east.merge(&north, order);
    assert_eq!(east.reached(Some(order.into()), paid), Reached::Here);
}

#[test]
fn what_its_actor_did_not_live_to_write_never_comes() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (order, placed) = north.place();
    let lost = Dot { actor: placed.actor, seq: placed.seq + 1 };
    east.pull(&north);
    assert_eq!(east.reached(Some(order.into()), lost), Reached::NotYet, "it may be under way");
    // The node starts anew and says how far it knows its predecessor.
    let successor = north.cell.clone().succeeded_by(actor("north", 2));
    let mut again = Region { cell: successor, shelf: north.shelf, log: Vec::new() };
    let step = again.cell.start(&again.shelf, Some(placed.actor), 3_000).unwrap();
    again.take(step);
    assert_eq!(again.reached(None, lost), Reached::Never);
    again.cell.hold_back();
    assert_eq!(again.reached(None, lost), Reached::NotYet, "it asks its peers first");
    let behind = Region::new("east");
    east.pull(&again);
    assert_eq!(east.reached(None, lost), Reached::Never);
    assert_eq!(east.reached(None, placed), Reached::Here);
    // Who lacks a part of the old actor waits for that part.
    let mut behind = Region::of(behind.cell);
    behind.pull(&again);
    assert_eq!(behind.reached(None, placed), Reached::NotYet);
    assert_eq!(behind.reached(None, lost), Reached::NotYet, "the claim may be raised by what comes");
}

#[test]
fn a_closed_actor_ends_every_wait_for_more_of_it() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (_, placed) = north.place();
    let old = actor("north", 9);
    let step = east.cell.close_actor(&east.shelf, old, 4, 2_000).unwrap();
    east.take(step);
    assert_eq!(east.reached(None, Dot { actor: old, seq: 5 }), Reached::Never);
    assert_eq!(east.reached(None, Dot { actor: old, seq: 4 }), Reached::NotYet, "that much there is");
    assert_eq!(east.reached(None, placed), Reached::NotYet);
}

#[test]
fn nobody_waits_for_a_stranger_or_for_what_the_node_would_have_written_itself() {
    let north = Region::new("north");
    assert_eq!(north.reached(None, Dot { actor: actor("mars", 1), seq: 1 }), Reached::Never);
    let own = north.newest();
    assert_eq!(north.reached(None, own), Reached::Here);
    assert_eq!(north.reached(None, Dot { seq: own.seq + 1, ..own }), Reached::Never);
}
