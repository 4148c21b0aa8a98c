//! Two cells, their changes carried by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use cell_core::cell::{Ask, Cell, Command, Incoming, Reached, Step, Unavailable, View};
use cell_core::entity::{Entity, Reading};
use cell_core::event::{Capture, Entry, Fact};
use cell_core::id::{ActorId, EntityId, NodeId, OrderId, PaymentId, RegionId, UserId};
use cell_core::order::{Line, Order, OrderContent, OrderRecord};
use cell_core::payment::Payment;
use cell_core::placement::Placement;
use cell_core::rules::Rules;
use cell_core::version::Dot;

#[derive(Default)]
pub(crate) struct Shelf(pub(crate) BTreeMap<EntityId, Arc<Entity>>);

impl View for Shelf {
    fn entity(&self, id: EntityId) -> Result<Option<Arc<Entity>>, Unavailable> {
        Ok(self.0.get(&id).cloned())
    }
    fn orders_of_key(&self, _: &UserId, _: &str) -> Result<Vec<OrderId>, Unavailable> {
        Ok(Vec::new())
    }
}

pub(crate) struct Region {
    pub(crate) cell: Cell,
    pub(crate) shelf: Shelf,
    pub(crate) log: Vec<Entry>,
}

pub(crate) fn region(name: &str) -> RegionId {
    RegionId::new(name).unwrap()
}

pub(crate) fn actor(name: &str, start: u64) -> ActorId {
    ActorId { node: NodeId { region: region(name), index: 0 }, start, nonce: start }
}

/// Whose home is north.
pub(crate) fn user() -> UserId {
    (0..).map(|i| UserId::new(&format!("u{i}")).unwrap()).find(|user| user.slot().number() < 512).unwrap()
}

impl Region {
    pub(crate) fn of(cell: Cell) -> Region {
        Region { cell, shelf: Shelf::default(), log: Vec::new() }
    }

    pub(crate) fn new(name: &str) -> Region {
        let placement = Placement::initial(vec![region("north"), region("east")], |slot| {
            if slot.number() < 512 { region("north") } else { region("east") }
        });
        let mut this = Region::of(Cell::new(actor(name, 1), placement, Rules::default()));
        let step = this.cell.start(&this.shelf, None, 1).unwrap();
        this.take(step);
        this
    }

    pub(crate) fn take(&mut self, step: Step) {
        self.shelf.0.extend(step.entities);
        self.log.extend(step.entries);
    }

    /// The newest change of its own.
    pub(crate) fn newest(&self) -> Dot {
        self.log.iter().map(|entry| entry.dot).rfind(|dot| dot.actor == self.cell.me()).unwrap()
    }

    pub(crate) fn ask(&mut self, key: &str, ask: Ask) -> Dot {
        let command = Command { user: user(), key: key.to_owned(), body: vec![], trace: String::new(), ask };
        let (step, reply) = self.cell.command(&self.shelf, &command, 1_000).unwrap();
        assert!(reply.is_ok(), "{reply:?}");
        self.take(step);
        self.newest()
    }

    pub(crate) fn place(&mut self) -> (OrderId, Dot) {
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
            content: content.into(),
            pay_window_ms: 600_000,
            external_ref: String::new(),
            sealed: bytes::Bytes::new(),
            sealed_key: String::new(),
            // An order is larger than what is decided about it.
            attributes: "a".repeat(300),
            time_ms: 0,
        };
        let order = record.order_id();
        (order, self.ask("o", Ask::Place { record: Box::new(record) }))
    }

    pub(crate) fn pull(&mut self, from: &Region) {
        for entry in &from.log {
            if entry.dot.actor != self.cell.me() {
                let step =
                    self.cell.replicate(&self.shelf, &Incoming::read(entry.clone()), 2_000).unwrap().unwrap();
                self.take(step);
            }
        }
    }

    pub(crate) fn merge(&mut self, from: &Region, id: impl Into<EntityId>) {
        let entity = (*from.shelf.0[&id.into()]).clone();
        let step = self.cell.merge(&self.shelf, vec![entity], 2_000).unwrap();
        self.take(step);
    }

    pub(crate) fn reached(&self, about: Option<EntityId>, dot: Dot) -> Reached {
        self.cell.reached(&self.shelf, about, &dot).unwrap()
    }

    /// The payment under way on an order, and the capture that the gateway reports of it.
    pub(crate) fn capture(&self, order: OrderId) -> (PaymentId, Capture) {
        let state = Reading::<Order>::of(&self.shelf.0[&order.into()]).state.unwrap();
        let payment = *state.open_permit().unwrap().0;
        let permit = Reading::<Payment>::of(&self.shelf.0[&payment.into()]).record.unwrap().clone();
        let capture = Capture {
            intent: "in_1".to_owned(),
            key: [1; 16],
            k: 1,
            at_ms: 2_500,
            amount_minor: permit.amount_minor,
            currency: permit.currency.clone(),
            permit,
            order_epoch: None,
            payment_epoch: None,
        };
        (payment, capture)
    }

    pub(crate) fn facts(&mut self, fact: Fact) {
        let step = self.cell.facts(&self.shelf, vec![fact], "", 3_000).unwrap();
        self.take(step);
    }
}
