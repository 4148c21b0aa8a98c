//! The road in miniature: two cells, their changes carried by hand.

use std::collections::BTreeMap;
use std::sync::Arc;

use cell_core::cell::{Answer, Ask, Cell, Command, Delivery, Incoming, Problem, Step, Unavailable, View};
use cell_core::duty::{Act, Charge, Duty, stalled_notice};
use cell_core::entity::{Entity, Reading};
use cell_core::event::{Capture, Entry, Fact, Failure, FailureKind};
use cell_core::gate::{Envelope, MessageKind};
use cell_core::id::{ActorId, EntityId, NodeId, OrderId, PaymentId, RegionId, UserId};
use cell_core::order::{Line, Order, OrderContent, OrderRecord};
use cell_core::payment::Payment;
use cell_core::placement::Placement;
use cell_core::rules::Rules;

#[derive(Default)]
struct Shelf {
    entities: BTreeMap<EntityId, Arc<Entity>>,
    keys: BTreeMap<(UserId, String), Vec<OrderId>>,
}

impl View for Shelf {
    fn entity(&self, id: EntityId) -> Result<Option<Arc<Entity>>, Unavailable> {
        Ok(self.entities.get(&id).cloned())
    }
    fn orders_of_key(&self, user: &UserId, key: &str) -> Result<Vec<OrderId>, Unavailable> {
        Ok(self.keys.get(&(user.clone(), key.to_owned())).cloned().unwrap_or_default())
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

impl Region {
    fn new(name: &str) -> Region {
        let placement = Placement::initial(vec![region("north"), region("east")], |slot| {
            if slot.number() < 512 { region("north") } else { region("east") }
        });
        let me = ActorId { node: NodeId { region: region(name), index: 0 }, start: 1, nonce: 7 };
        let mut this =
            Region { cell: Cell::new(me, placement, Rules::default()), shelf: Shelf::default(), log: vec![] };
        let step = this.cell.start(&this.shelf, None, 1).unwrap();
        this.take(step);
        this
    }

    fn take(&mut self, step: Step) {
        for (id, entity) in step.entities {
            let record = id.order().and_then(|_| entity.record::<Order>().map(|(record, _)| record));
            if let (Some(order), Some(record)) = (id.order(), record) {
                let orders = self.shelf.keys.entry((record.user.clone(), record.key.clone())).or_default();
                if !orders.contains(&order) {
                    orders.push(order);
                }
            }
            self.shelf.entities.insert(id, entity);
        }
        self.log.extend(step.entries);
    }

    fn ask(&mut self, user: &str, key: &str, ask: Ask, now: u64) -> Result<cell_core::cell::Reply, Problem> {
        let command = Command {
            user: UserId::new(user).unwrap(),
            key: key.to_owned(),
            body: format!("{ask:?}").into_bytes(),
            trace: String::new(),
            ask,
        };
        let (step, reply) = self.cell.command(&self.shelf, &command, now).unwrap();
        self.take(step);
        reply.map_err(|refusal| refusal.problem)
    }

    fn pull(&mut self, from: &Region, now: u64) {
        for entry in &from.log {
            if entry.dot.actor != self.cell.me() {
                let step =
                    self.cell.replicate(&self.shelf, &Incoming::read(entry.clone()), now).unwrap().unwrap();
                self.take(step);
            }
        }
    }

    fn duties(&self, id: impl Into<EntityId>) -> Vec<Duty> {
        self.cell.duties(&self.shelf, id.into()).unwrap()
    }

    fn message(&self, id: impl Into<EntityId>, kind: MessageKind) -> Option<Envelope> {
        self.duties(id).into_iter().find_map(|duty| match duty.act {
            Act::Send(envelope) if envelope.kind == kind => Some(*envelope),
            _ => None,
        })
    }

    fn charge(&self, payment: PaymentId) -> Option<Charge> {
        self.duties(payment).into_iter().find_map(|duty| match duty.act {
            Act::Charge(charge) => Some(*charge),
            _ => None,
        })
    }

    fn deliver(&mut self, envelope: &Envelope, now: u64) -> Answer {
        let (step, answer) = self.cell.deliver(&self.shelf, envelope, Delivery::Ready, now).unwrap();
        self.take(step);
        answer
    }

    fn order(&self, id: OrderId) -> &'static str {
        Reading::<Order>::of(&self.shelf.entities[&id.into()]).state.unwrap().label()
    }

    fn payment(&self, id: PaymentId) -> &'static str {
        Reading::<Payment>::of(&self.shelf.entities[&id.into()]).state.unwrap().label()
    }
}

fn captured(charge: &Charge) -> Fact {
    Fact::Capture(Capture {
        intent: "in_1".to_owned(),
        key: charge.key,
        k: charge.k,
        permit: charge.permit.clone(),
        amount_minor: charge.permit.amount_minor,
        currency: charge.permit.currency.clone(),
        at_ms: 9,
        order_epoch: charge.order_epoch,
        payment_epoch: Some(charge.payment_epoch),
    })
}

fn user_of(home: &str, nth: usize) -> String {
    let north = home == "north";
    let fits = |user: &String| (UserId::new(user).unwrap().slot().number() < 512) == north;
    (0..).map(|i| format!("user{i}")).filter(fits).nth(nth).unwrap()
}

fn place(cell: &mut Region, user: &str, key: &str, now: u64) -> Result<OrderId, Problem> {
    let content = OrderContent {
        currency: "CNY".to_owned(),
        lines: vec![Line { sku: "tea".to_owned(), title: String::new(), quantity: 2, unit_minor: 4_500 }],
        promotions_minor: 0,
        coupon_minor: 0,
        points_minor: 0,
        foreign_shipping_minor: 1_000,
        forwarding_fee_minor: 0,
        service_fee_minor: 0,
        duty_minor: 0,
    };
    let record = OrderRecord {
        user: UserId::new(user).unwrap(),
        key: key.to_owned(),
        content: content.into(),
        pay_window_ms: 1_800_000,
        external_ref: String::new(),
        sealed: bytes::Bytes::new(),
        sealed_key: String::new(),
        attributes: String::new(),
        time_ms: 0,
    };
    cell.ask(user, key, Ask::Place { record: Box::new(record) }, now).map(|reply| reply.order)
}

fn ask_payer(cell: &mut Region, buyer: &str, order: OrderId, payer: &str, key: &str, now: u64) -> PaymentId {
    let payer = UserId::new(payer).unwrap();
    let ask = Ask::AskPayer { order, payer, until_ms: None, window_ms: None };
    cell.ask(buyer, key, ask, now).unwrap().payment.unwrap()
}

#[test]
fn an_order_placed_in_one_region_is_paid_for_by_someone_in_another() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (a, b) = (user_of("north", 0), user_of("east", 0));
    let order = place(&mut north, &a, "k1", 1_000).unwrap();
    assert_eq!(place(&mut north, &a, "k1", 1_001), Ok(order), "a repeat is the same order");
    assert_eq!(place(&mut east, &a, "k2", 1_001), Err(Problem::Misdirected));
    let payment = ask_payer(&mut north, &a, order, &b, "k3", 1_002);
    assert_eq!(ask_payer(&mut north, &a, order, &b, "k3", 1_003), payment);
    let request = north.message(order, MessageKind::PayRequest).unwrap();
    assert_eq!(request.requires.len(), 1);

    east.pull(&north, 1_010);
    assert_eq!(east.payment(payment), "received", "the data alone raises the request");
    assert_eq!(east.deliver(&request, 1_011), Answer::Done);
    assert_eq!(east.ask(&a, "x", Ask::Accept { payment, card: "c".into() }, 1_012), Err(Problem::NotFound));
    east.ask(&b, "k4", Ask::Accept { payment, card: "visa".into() }, 1_012).unwrap();
    let charge = east.charge(payment).unwrap();
    let step = east.cell.facts(&east.shelf, vec![captured(&charge)], "", 1_020).unwrap();
    east.take(step);
    assert_eq!(east.payment(payment), "captured");
    assert_eq!(east.charge(payment), None);
    let result = east.message(payment, MessageKind::Result).unwrap();

    north.pull(&east, 1_030);
    assert_eq!(north.order(order), "Paid");
    assert_eq!(north.deliver(&result, 1_031), Answer::Done);
    assert_eq!(north.message(order, MessageKind::PayRequest), None);
    east.pull(&north, 1_040);
    assert_eq!(east.order(order), "Paid");
    assert_eq!(east.message(payment, MessageKind::Result), None, "the need is gone with the permit");
    assert_eq!(north.shelf.entities[&order.into()], east.shelf.entities[&order.into()]);
    assert_eq!(north.shelf.entities[&payment.into()], east.shelf.entities[&payment.into()]);
}

#[test]
fn a_withdrawal_that_overtakes_its_request_ends_the_payment_for_good() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (a, b) = (user_of("north", 0), user_of("east", 0));
    let order = place(&mut north, &a, "k1", 1_000).unwrap();
    let payment = ask_payer(&mut north, &a, order, &b, "k2", 1_001);
    let reply = north.ask(&a, "k3", Ask::Withdraw { payment }, 1_002).unwrap();
    assert!(reply.pending);
    let withdrawal = north.message(order, MessageKind::Withdrawal).unwrap();
    assert_eq!(east.deliver(&withdrawal, 1_003), Answer::Done);
    assert_eq!(east.payment(payment), "withdrawn");
    east.pull(&north, 1_004);
    assert_eq!(east.payment(payment), "withdrawn");
    north.pull(&east, 1_005);
    assert_eq!(north.order(order), "PendingPayment");
    let again = ask_payer(&mut north, &a, order, &b, "k4", 1_006);
    assert_ne!(again, payment);
}

#[test]
fn a_capture_that_wins_against_a_cancel_is_cancelled_with_one_refund_owed() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (a, b) = (user_of("north", 0), user_of("east", 0));
    let order = place(&mut north, &a, "k1", 1_000).unwrap();
    let payment = ask_payer(&mut north, &a, order, &b, "k2", 1_001);
    east.pull(&north, 1_002);
    east.ask(&b, "k3", Ask::Accept { payment, card: "visa".into() }, 1_003).unwrap();
    let charge = east.charge(payment).unwrap();
    assert!(north.ask(&a, "k4", Ask::Cancel { order }, 1_004).unwrap().pending);
    let step = east.cell.facts(&east.shelf, vec![captured(&charge)], "", 1_005).unwrap();
    east.take(step);
    north.pull(&east, 1_006);
    assert_eq!(north.order(order), "Cancelled");
    east.pull(&north, 1_007);
    let refunds =
        east.duties(payment).into_iter().filter(|duty| matches!(duty.act, Act::Refund { .. })).count();
    assert_eq!(refunds, 1);
    assert!(north.message(order, MessageKind::RefundOrder).is_some());
}

#[test]
fn a_stray_tail_that_nothing_contradicts_is_adopted_by_the_new_home() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (a, b) = (user_of("north", 0), user_of("east", 0));
    let order = place(&mut north, &a, "k1", 1_000).unwrap();
    east.pull(&north, 1_001);
    // North's tail: a permit that east has not seen when it becomes the home and amends the order's owner chain.
    let payment = ask_payer(&mut north, &a, order, &b, "k2", 1_002);
    let slots = vec![order.slot()];
    let step = east.cell.decree(&east.shelf, slots, 2, 0, 1_003).unwrap();
    east.take(step);
    let other = ask_payer(&mut east, &a, order, &b, "k5", 1_004);
    assert_ne!(other, payment);
    east.ask(&a, "k6", Ask::Withdraw { payment: other }, 1_005).unwrap();
    assert_eq!(east.order(order), "PendingPayment");
    east.pull(&north, 1_006);
    assert_eq!(east.payment(payment), "received", "adopted: still payable, none open");
    north.pull(&east, 1_007);
    assert_eq!(place(&mut north, &a, "k9", 1_008), Err(Problem::Misdirected), "a zombie stops on contact");
    assert_eq!(north.shelf.entities, east.shelf.entities);
}

#[test]
fn who_learns_from_a_message_that_it_is_the_home_no_more_passes_it_on() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (a, b) = (user_of("north", 0), user_of("east", 0));
    let order = place(&mut north, &a, "k1", 1_000).unwrap();
    let payment = ask_payer(&mut north, &a, order, &b, "k2", 1_001);
    east.pull(&north, 1_002);
    let step = east.cell.decree(&east.shelf, vec![order.slot()], 2, 0, 1_003).unwrap();
    east.take(step);
    let epoch = east.cell.owned(order.slot()).unwrap();
    let request = north.message(order, MessageKind::PayRequest).unwrap();
    let request = Envelope { epoch, ..request };
    // Its sender's slot is the one it is sent to.
    let notice = stalled_notice(&request, "the order", region("east"), 1_004).unwrap();
    assert_eq!(north.deliver(&notice, 1_005), Answer::Moved);
    assert_eq!(place(&mut north, &a, "k9", 1_006), Err(Problem::Misdirected));
    assert_eq!(east.deliver(&notice, 1_007), Answer::Done);
    let stalled = Reading::<Order>::of(&east.shelf.entities[&order.into()]).state.unwrap().stalled;
    assert!(stalled.contains(&payment), "the home knows that the request waits in vain");
}

#[test]
fn a_notice_about_another_slots_order_is_refused() {
    let mut north = Region::new("north");
    let (a, other, b) = (user_of("north", 0), user_of("north", 1), user_of("east", 0));
    let order = place(&mut north, &a, "k1", 1_000).unwrap();
    ask_payer(&mut north, &a, order, &b, "k2", 1_001);
    let request = north.message(order, MessageKind::PayRequest).unwrap();
    let from_slot = UserId::new(&other).unwrap().slot();
    assert_ne!(from_slot, order.slot());
    let epoch = north.cell.owned(from_slot).unwrap();
    let notice =
        stalled_notice(&Envelope { from_slot, epoch, ..request }, "", region("east"), 1_004).unwrap();
    assert!(matches!(north.deliver(&notice, 1_005), Answer::Failed(_)));
}

#[test]
fn an_expired_request_unlocks_the_order_and_an_idle_order_expires() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (a, b) = (user_of("north", 0), user_of("east", 0));
    let order = place(&mut north, &a, "k1", 1_000).unwrap();
    let payment = ask_payer(&mut north, &a, order, &b, "k2", 1_001);
    east.pull(&north, 1_002);
    let until = 1_001 + Rules::default().permit_window_ms;
    assert!(east.duties(payment).iter().any(|duty| duty.act == Act::Decide && duty.due_ms == until));
    let step = east.cell.wake(&east.shelf, payment.into(), until).unwrap();
    east.take(step);
    assert_eq!(east.payment(payment), "expired");
    north.pull(&east, until + 1);
    assert_eq!(north.order(order), "PendingPayment");
    let step = north.cell.wake(&north.shelf, order.into(), 1_000 + 1_800_000).unwrap();
    north.take(step);
    assert_eq!(north.order(order), "Expired");
}

fn failed(charge: &Charge, kind: FailureKind) -> Fact {
    Fact::Failure(Failure {
        intent: format!("in_{}", charge.k),
        key: charge.key,
        k: charge.k,
        payment: charge.payment,
        order: charge.permit.order,
        kind,
        code: "code".to_owned(),
    })
}

fn fact(cell: &mut Region, fact: Fact, now: u64) {
    let step = cell.cell.facts(&cell.shelf, vec![fact], "", now).unwrap();
    cell.take(step);
}

#[test]
fn after_a_refusal_that_may_be_retried_the_payer_chooses_and_never_before_it_is_terminal() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (a, b) = (user_of("north", 0), user_of("east", 0));
    let order = place(&mut north, &a, "k1", 1_000).unwrap();
    let payment = ask_payer(&mut north, &a, order, &b, "k2", 1_001);
    east.pull(&north, 1_002);
    let accept = |card: &str| Ask::Accept { payment, card: card.into() };
    east.ask(&b, "k3", accept("visa"), 1_003).unwrap();
    let first = east.charge(payment).unwrap();
    assert_eq!(east.ask(&b, "k4", accept("master"), 1_004), Err(Problem::Forbidden), "attempt 1 is unknown");
    fact(&mut east, failed(&first, FailureKind::Retryable), 1_005);
    assert_eq!((east.payment(payment), east.charge(payment)), ("try-again", None));
    east.ask(&b, "k5", accept("master"), 1_006).unwrap();
    let second = east.charge(payment).unwrap();
    assert_eq!((second.k, second.card.as_str()), (2, "master"));
    assert_ne!(first.key, second.key);
    fact(&mut east, failed(&second, FailureKind::Refused), 1_007);
    assert_eq!(east.payment(payment), "failed");
    north.pull(&east, 1_008);
    assert_eq!(north.order(order), "PendingPayment");
}

#[test]
fn an_attempt_that_surfaces_after_the_end_is_closed_at_the_gateway_and_never_charged() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (a, b) = (user_of("north", 0), user_of("east", 0));
    let order = place(&mut north, &a, "k1", 1_000).unwrap();
    let payment = ask_payer(&mut north, &a, order, &b, "k2", 1_001);
    east.pull(&north, 1_002);
    // East's tail: an attempt. North becomes B's home without it and writes the payment withdrawn.
    east.ask(&b, "k3", Ask::Accept { payment, card: "visa".into() }, 1_003).unwrap();
    let step = north.cell.decree(&north.shelf, vec![payment.slot()], 2, 0, 1_004).unwrap();
    north.take(step);
    north.ask(&a, "k4", Ask::Withdraw { payment }, 1_005).unwrap();
    assert_eq!(north.payment(payment), "withdrawn");
    let charge = east.charge(payment).unwrap();
    north.pull(&east, 1_006);
    assert_eq!(north.charge(payment), None);
    assert!(north.duties(payment).iter().any(|duty| matches!(duty.act, Act::CloseAtGateway { .. })));
    // The old home's attempt was captured after all: the one end is amended, and the order takes it.
    fact(&mut north, captured(&charge), 1_007);
    assert_eq!((north.payment(payment), north.order(order)), ("captured", "Paid"));
    east.pull(&north, 1_008);
    assert_eq!(east.charge(payment), None, "a zombie stops on contact");
    assert_eq!(north.shelf.entities, east.shelf.entities);
}

#[test]
fn a_cancel_still_happens_when_a_capture_of_something_else_closes_its_permit() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (a, b) = (user_of("north", 0), user_of("east", 0));
    let order = place(&mut north, &a, "k1", 1_000).unwrap();
    let payment = ask_payer(&mut north, &a, order, &b, "k2", 1_001);
    east.pull(&north, 1_002);
    east.ask(&b, "k3", Ask::Accept { payment, card: "visa".into() }, 1_003).unwrap();
    let charge = east.charge(payment).unwrap();
    north.ask(&a, "k4", Ask::Cancel { order }, 1_004).unwrap();
    let Fact::Capture(mut short) = captured(&charge) else { unreachable!() };
    short.amount_minor -= 1;
    fact(&mut north, Fact::Capture(short), 1_005);
    assert_eq!(north.order(order), "Cancelled");
    assert!(north.message(order, MessageKind::RefundOrder).is_some());
}
