//! What the gateway says about things that no region, or only a lost one, knew; found by the simulator.

use std::collections::BTreeMap;
use std::sync::Arc;

use cell_core::cell::{Baseline, Cell, Incoming, KnownFront, Step, Unavailable, View};
use cell_core::conflict::{Class, conflicts};
use cell_core::duty::{Act, stalled_notice};
use cell_core::entity::{Entity, Reading};
use cell_core::event::{Capture, Fact, Refund};
use cell_core::gate::{Envelope, MessageKind};
use cell_core::id::{ActorId, EntityId, Hash, NodeId, OrderId, RegionId, UserId};
use cell_core::order::{Line, Order, OrderContent, OrderRecord};
use cell_core::payment::{Payment, Permit, attempt_key};
use cell_core::placement::{Epoch, Placement};
use cell_core::rules::Rules;

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

fn actor(region: &str, start: u64) -> ActorId {
    ActorId { node: NodeId { region: RegionId::new(region).unwrap(), index: 0 }, start, nonce: 1 }
}

/// A cell of `region`; every slot's home is north.
fn cell(region: &str) -> Cell {
    let north = RegionId::new("north").unwrap();
    let placement = Placement::initial(vec![north, RegionId::new("east").unwrap()], |_| north);
    Cell::new(actor(region, 1), placement, Rules::default())
}

fn take(shelf: &mut Shelf, step: Step) -> Step {
    shelf.0.extend(step.entities.iter().map(|(id, entity)| (*id, entity.clone())));
    step
}

fn record() -> OrderRecord {
    let line = Line { sku: "tea".into(), title: String::new(), quantity: 1, unit_minor: 100 };
    let content = OrderContent {
        currency: "CNY".into(),
        lines: vec![line],
        promotions_minor: 0,
        coupon_minor: 0,
        points_minor: 0,
        foreign_shipping_minor: 0,
        forwarding_fee_minor: 0,
        service_fee_minor: 0,
        duty_minor: 0,
    };
    OrderRecord {
        user: UserId::new("a").unwrap(),
        key: "k".into(),
        content: content.into(),
        pay_window_ms: 1_000_000,
        external_ref: String::new(),
        sealed: bytes::Bytes::new(),
        sealed_key: String::new(),
        attributes: String::new(),
        time_ms: 0,
    }
}

fn capture(epoch: Epoch) -> Capture {
    let record = record();
    let permit = Permit {
        order: record.order_id(),
        buyer: record.user.clone(),
        payer: UserId::new("b").unwrap(),
        amount_minor: 100,
        currency: "CNY".into(),
        content: record.content.hash(),
        until_ms: 900_000,
        until_from_command: false,
        command: [7; 16],
    };
    Capture {
        intent: "in_1".into(),
        key: attempt_key(&permit.payment_id(), 1),
        k: 1,
        amount_minor: 100,
        currency: "CNY".into(),
        at_ms: 5,
        order_epoch: Some(epoch),
        payment_epoch: Some(epoch),
        permit,
    }
}

#[test]
fn a_capture_makes_its_payment_readable_where_nobody_knew_it() {
    let (mut north, mut shelf) = (cell("north"), Shelf::default());
    let capture = capture(Epoch { term: 1, step: 0, actor: actor("north", 1) });
    let payment = capture.permit.payment_id();
    let step = north.facts(&shelf, vec![Fact::Capture(capture)], "", 10).unwrap();
    take(&mut shelf, step);
    let state = Reading::<Payment>::of(&shelf.0[&payment.into()]).state.expect("the gateway kept the permit");
    assert_eq!(state.label(), "captured");
}

#[test]
fn a_replicated_capture_is_contact_with_the_epoch_it_was_taken_under() {
    let (mut north, mut east) = (cell("north"), cell("east"));
    let (mut at_north, mut at_east) = (Shelf::default(), Shelf::default());
    let higher = Epoch { term: 2, step: 0, actor: actor("east", 0) };
    let capture = capture(higher);
    let slot = capture.permit.payment_id().slot();
    let step = north.facts(&at_north, vec![Fact::Capture(capture)], "", 10).unwrap();
    assert!(north.owned(slot).is_none(), "north stops owning");
    let step = take(&mut at_north, step);
    assert!(east.owned(slot).is_none());
    for entry in &step.entries {
        let step = east.replicate(&at_east, &Incoming::read(entry.clone()), 20).unwrap().unwrap();
        take(&mut at_east, step);
    }
    assert!(east.owned(slot).is_some(), "else the slot would have no home at all");
}

#[test]
fn a_slot_lost_by_a_message_is_told_to_everybody() {
    use cell_core::canon::Message;
    use cell_core::cell::Delivery;
    use cell_core::duty::{MessageBody, ResultBody};
    let (mut north, mut east) = (cell("north"), cell("east"));
    let (shelf, at_east) = (Shelf::default(), Shelf::default());
    let payment = capture(Epoch { term: 1, step: 0, actor: actor("north", 1) }).permit.payment_id();
    let (from_slot, to_slot) = (payment.slot(), record().order_id().slot());
    assert_ne!(from_slot, to_slot);
    let result = Envelope {
        id: cell_core::gate::MessageId([1; 16]),
        kind: MessageKind::Result,
        from: RegionId::new("east").unwrap(),
        to_slot,
        subject: record().order_id().into(),
        requires: Vec::new(),
        // Of a decree that went down with east's disk: nobody else has heard of it.
        epoch: Epoch { term: 2, step: 0, actor: actor("east", 0) },
        deadline_ms: 0,
        until_ms: 0,
        trace: String::new(),
        from_slot,
        body: bytes::Bytes::from(MessageBody::Result(ResultBody { payment }).to_canon()),
        created_ms: 0,
    };
    let (step, _) = north.deliver(&shelf, &result, Delivery::Ready, 10).unwrap();
    assert!(north.owned(from_slot).is_none());
    assert!(east.owned(from_slot).is_none());
    for entry in &step.entries {
        east.replicate(&at_east, &Incoming::read(entry.clone()), 20).unwrap().unwrap();
    }
    assert!(east.owned(from_slot).is_some(), "else the slot would have no home at all");
}

#[test]
fn another_content_behind_what_was_settled_is_a_case_once() {
    let (mut north, mut shelf) = (cell("north"), Shelf::default());
    let capture = capture(Epoch { term: 1, step: 0, actor: actor("north", 1) });
    let order = capture.permit.order;
    let ask = cell_core::cell::Ask::Place { record: Box::new(record()) };
    let (user, key) = (record().user, "k".to_owned());
    let place = cell_core::cell::Command { user, key, body: Vec::new(), trace: String::new(), ask };
    let (step, placed) = north.command(&shelf, &place, 1).unwrap();
    assert!(placed.is_ok());
    take(&mut shelf, step);
    let mut told = |amount_minor, now_ms| {
        let fact = Fact::Capture(Capture { amount_minor, ..capture.clone() });
        let step = north.facts(&shelf, vec![fact], "", now_ms).unwrap();
        take(&mut shelf, step);
        let entity = &shelf.0[&order.into()];
        let state = Reading::<Order>::of(entity).state.unwrap().label();
        let open = conflicts(entity).into_iter().filter(|conflict| conflict.open);
        (state, open.map(|conflict| conflict.class).collect::<Vec<_>>())
    };
    assert_eq!(told(100, 10), ("Paid", Vec::new()));
    assert_eq!(told(1, 20), ("Paid", vec![Class::TwoContents]));
    assert_eq!(told(1, 30), ("Paid", vec![Class::TwoContents]));
    assert_eq!(told(2, 40), ("Paid", vec![Class::TwoContents]), "the case that is open shows all of them");
}

#[test]
fn a_refund_asks_for_no_more_than_is_left_of_its_capture() {
    let (mut north, mut shelf) = (cell("north"), Shelf::default());
    let epoch = Epoch { term: 1, step: 0, actor: actor("north", 1) };
    let mut capture = capture(epoch);
    // Of another content than the order's: refund owed.
    capture.permit.content = Hash::ZERO;
    let (order, payment) = (capture.permit.order, capture.permit.payment_id());
    let command = cell_core::cell::Command {
        user: record().user,
        key: "k".into(),
        body: Vec::new(),
        trace: String::new(),
        ask: cell_core::cell::Ask::Place { record: Box::new(record()) },
    };
    let (step, placed) = north.command(&shelf, &command, 1).unwrap();
    assert!(placed.is_ok());
    take(&mut shelf, step);
    let by_hand = Refund {
        refund: "re_1".into(),
        intent: "in_1".into(),
        case: [9; 16],
        payment,
        order,
        amount_minor: 40,
        currency: "CNY".into(),
        at_ms: 6,
    };
    let mut asked = |facts| {
        let step = north.facts(&shelf, facts, "", 10).unwrap();
        take(&mut shelf, step);
        let duties = north.duties(&shelf, payment.into()).unwrap();
        duties.into_iter().find_map(|duty| match duty.act {
            Act::Refund { case, .. } => Some(case.amount_minor),
            _ => None,
        })
    };
    assert_eq!(asked(vec![Fact::Capture(capture)]), Some(100));
    assert_eq!(asked(vec![Fact::Refund(by_hand.clone())]), Some(60));
    let rest = Refund { refund: "re_2".into(), case: [8; 16], amount_minor: 60, ..by_hand };
    assert_eq!(asked(vec![Fact::Refund(rest)]), None, "nothing is left to be given back");
}

#[test]
fn a_stalled_notice_does_not_claim_the_payers_slot() {
    use cell_core::canon::Message;
    use cell_core::duty::{MessageBody, PayRequestBody};
    let permit = capture(Epoch { term: 1, step: 0, actor: actor("north", 1) }).permit;
    let request = Envelope {
        id: cell_core::gate::MessageId([1; 16]),
        kind: MessageKind::PayRequest,
        from: RegionId::new("north").unwrap(),
        to_slot: permit.payer.slot(),
        subject: permit.payment_id().into(),
        requires: Vec::new(),
        epoch: Epoch { term: 1, step: 0, actor: actor("north", 1) },
        deadline_ms: 0,
        until_ms: 0,
        trace: String::new(),
        from_slot: permit.order.slot(),
        body: bytes::Bytes::from(MessageBody::PayRequest(PayRequestBody { permit }).to_canon()),
        created_ms: 0,
    };
    let notice = stalled_notice(&request, "x", RegionId::new("east").unwrap(), 1).unwrap();
    assert_eq!((notice.from_slot, notice.epoch), (request.from_slot, request.epoch));
}

#[test]
fn an_order_is_given_up_only_where_everything_its_actor_wrote_is_known() {
    let (mut cell, mut shelf) = (cell("north"), Shelf::default());
    let gone = actor("east", 1);
    let step = cell.close_actor(&shelf, gone, 7, 1_000).unwrap();
    take(&mut shelf, step);
    let capture = Capture { payment_epoch: None, ..capture(Epoch { term: 1, step: 0, actor: gone }) };
    let payment = EntityId::from(capture.permit.payment_id());
    let step = cell.facts(&shelf, vec![Fact::Capture(capture)], "", 2_000).unwrap();
    let gives_up = |step: &Step| step.rows.iter().any(|row| row.as_str() == "capture-of-lost-order");
    assert!(!gives_up(&step), "the order may be among the seven changes that are not here");
    take(&mut shelf, step);
    let front = KnownFront { actor: gone, seq: 7, hash: Hash::ZERO };
    let baseline = Baseline {
        fronts: vec![front],
        closed: Vec::new(),
        placed: Vec::new(),
        lives: Vec::new(),
        quarantined: Vec::new(),
    };
    let step = cell.adopt(&shelf, baseline, 3_000).unwrap();
    take(&mut shelf, step);
    let step = cell.wake(&shelf, payment, 4_000).unwrap();
    assert!(gives_up(&step), "all of them are here, and it was not among them: {:?}", step.rows);
}
