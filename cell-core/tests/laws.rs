//! The laws of merge, for the whole entity and for what is read off it, on histories with several epochs.

use std::sync::Arc;

use cell_core::clock::Hlc;
use cell_core::entity::{Entity, Placing, Reading};
use cell_core::event::{Body, Capture, Decided, Decision, Event, Fact, Record};
use cell_core::id::{ActorId, EntityId, Hash, NodeId, OrderId, RegionId, UserId};
use cell_core::order::{Cancelled, Expired, How, Line, Order, OrderContent, OrderDecision, OrderRecord};
use cell_core::payment::{Accepted, Ended, Payment, PaymentDecision, Permit, Received};
use cell_core::placement::Epoch;
use cell_core::version::{Dot, EventId};
use crdts::{CmRDT, CvRDT};
use proptest::prelude::*;

fn record() -> OrderRecord {
    OrderRecord {
        user: UserId::new("alice").unwrap(),
        key: "k".to_owned(),
        content: OrderContent {
            currency: "EUR".to_owned(),
            lines: vec![Line { sku: "s".to_owned(), title: String::new(), quantity: 1, unit_minor: 100 }],
            promotions_minor: 0,
            coupon_minor: 0,
            points_minor: 0,
            foreign_shipping_minor: 0,
            forwarding_fee_minor: 0,
            service_fee_minor: 0,
            duty_minor: 0,
        }
        .into(),
        pay_window_ms: 1_000,
        external_ref: String::new(),
        sealed: bytes::Bytes::new(),
        sealed_key: String::new(),
        attributes: String::new(),
        time_ms: 5,
    }
}

fn order() -> OrderId {
    record().order_id()
}

fn permit() -> Permit {
    Permit {
        order: order(),
        buyer: UserId::new("alice").unwrap(),
        payer: UserId::new("bob").unwrap(),
        amount_minor: 100,
        currency: "EUR".to_owned(),
        content: record().content.hash(),
        until_ms: 900,
        until_from_command: true,
        command: [3; 16],
    }
}

fn actor(start: u64) -> ActorId {
    ActorId { node: NodeId { region: RegionId::new("north").unwrap(), index: 0 }, start, nonce: start }
}

fn id_of(payment: bool) -> EntityId {
    if payment { permit().payment_id().into() } else { order().into() }
}

/// Everything that can stand in an entity, of several epochs, with forks and with facts recorded twice.
fn placings(payment: bool) -> Vec<Placing> {
    let id = id_of(payment);
    let mut all: Vec<Placing> = Vec::new();
    let mut put = |body: Body, who: u64, seq: u64| {
        let event = Arc::new(Event::new(vec![id], body));
        let origin = EventId { dot: Dot { actor: actor(who), seq }, place: 0 };
        all.push(Placing { event: event.clone(), origin, at: Hlc { wall_ms: seq, counter: who } });
        event.hash
    };
    let born = if payment { Record::Permit(permit()) } else { Record::Order(record()) };
    put(Body::Record(born.clone()), 1, 1);
    put(Body::Record(born), 2, 1);
    let decision = |n: u64| {
        if payment {
            Decision::Payment(match n % 3 {
                0 => PaymentDecision::Received(Received {}),
                1 => PaymentDecision::Accepted(Accepted { card: format!("card{n}") }),
                _ => PaymentDecision::Ended(Ended { how: How::Declined, code: n.to_string() }),
            })
        } else {
            Decision::Order(match n % 2 {
                0 => OrderDecision::Expired(Expired {}),
                _ => OrderDecision::Cancelled(Cancelled { refund: None }),
            })
        }
    };
    let mut history: Vec<Hash> = Vec::new();
    for who in 1..4 {
        let epoch = Epoch { term: 1, step: 0, actor: actor(who) };
        let inherits = history.clone();
        for place in 0..3 {
            let inherits = if place == 0 { inherits.clone() } else { Vec::new() };
            let decided = Decided { epoch, place, command: None, inherits, body: decision(place + who) };
            let hash = put(Body::Decided(decided), who, 2 + place);
            if place == 0 && who < 3 {
                history.push(hash);
            }
        }
    }
    let fork = Epoch { term: 1, step: 0, actor: actor(3) };
    let fork = Decided { epoch: fork, place: 1, command: None, inherits: Vec::new(), body: decision(9) };
    put(Body::Decided(fork), 3, 9);
    for (who, amount_minor) in [(1, 100), (2, 100), (2, 70)] {
        let capture = Capture {
            intent: "in".to_owned(),
            key: [1; 16],
            k: 1,
            permit: permit(),
            amount_minor,
            currency: "EUR".to_owned(),
            at_ms: 1,
            order_epoch: None,
            payment_epoch: None,
        };
        put(Body::Fact(Fact::Capture(capture)), who, 20 + amount_minor);
    }
    all
}

fn entity_of(payment: bool, picks: &[usize]) -> Entity {
    let all = placings(payment);
    let mut entity = Entity::new(id_of(payment));
    picks.iter().for_each(|pick| entity.apply(all[pick % all.len()].clone()));
    entity
}

/// What a reader sees, in words; reading must be total on every subset.
fn seen(entity: &Entity) -> String {
    let order = Reading::<Order>::of(entity);
    let payment = Reading::<Payment>::of(entity);
    format!(
        "{:?} {:?} {:?} {:?} | {:?} {:?} {:?}",
        order.state.map(|state| state.label()),
        order.epoch,
        order.strays.iter().map(|link| link.hash).collect::<Vec<_>>(),
        order.blocked,
        payment.state.map(|state| state.label()),
        payment.strays.iter().map(|link| link.hash).collect::<Vec<_>>(),
        payment.blocked,
    )
}

fn joined(a: &Entity, b: &Entity) -> Entity {
    let mut c = a.clone();
    c.merge(b.clone());
    c
}

fn picks() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(0..64usize, 0..20)
}

proptest! {
    #[test]
    fn merge_is_commutative_associative_and_idempotent(
        payment: bool, a in picks(), b in picks(), c in picks(),
    ) {
        let [a, b, c] = [a, b, c].map(|picks| entity_of(payment, &picks));
        prop_assert_eq!(joined(&a, &b), joined(&b, &a));
        prop_assert_eq!(joined(&joined(&a, &b), &c), joined(&a, &joined(&b, &c)));
        prop_assert_eq!(joined(&a, &a), a);
    }

    #[test]
    fn merge_only_adds_and_equal_sets_read_the_same_whatever_the_order(
        payment: bool, a in picks(), shuffle in any::<u64>(),
    ) {
        let whole = entity_of(payment, &a);
        let mut shuffled = a.clone();
        shuffled.sort_by_key(|pick| (*pick as u64).wrapping_add(shuffle).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let other = entity_of(payment, &shuffled);
        prop_assert_eq!(&whole, &other);
        prop_assert_eq!(seen(&whole), seen(&other));
        let grown = joined(&whole, &entity_of(payment, &[1, 5, 9]));
        prop_assert_eq!(joined(&grown, &whole), grown);
    }

    #[test]
    fn an_entity_survives_its_bytes(payment: bool, a in picks()) {
        let entity = entity_of(payment, &a);
        let bytes = cell_core::canon::Message::to_canon(&entity.to_shape());
        prop_assert_eq!(Entity::decode(&bytes), Ok(entity));
    }

    #[test]
    fn bytes_that_are_no_event_or_entity_are_an_error_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Entity::decode(&bytes);
        let _ = Event::decode(bytes::Bytes::from(bytes.clone()));
        let _ = cell_core::event::Change::decode(&bytes);
    }
}

#[test]
fn the_highest_epoch_that_has_its_first_decision_is_the_history_and_a_hole_ends_it() {
    let all = placings(false);
    let mut entity = Entity::new(id_of(false));
    let decided = |who: u64, place: u64| {
        all.iter()
            .find(|placing| match &placing.event.body {
                Some(Body::Decided(decided)) => decided.epoch.actor == actor(who) && decided.place == place,
                _ => false,
            })
            .unwrap()
            .clone()
    };
    entity.apply(all[0].clone());
    entity.apply(decided(1, 0));
    entity.apply(decided(1, 2));
    entity.apply(decided(2, 1));
    let reading = Reading::<Order>::of(&entity);
    assert_eq!((reading.epoch.unwrap().actor, reading.history.len()), (actor(1), 1));
    entity.apply(decided(2, 0));
    let reading = Reading::<Order>::of(&entity);
    assert_eq!((reading.epoch.unwrap().actor, reading.history.len()), (actor(2), 3));
    assert_eq!(reading.strays.len(), 1, "the third decision of the first epoch was not inherited");
}

#[test]
fn a_decision_not_written_by_the_actor_its_epoch_names_has_no_effect() {
    let all = placings(false);
    let mut entity = Entity::new(id_of(false));
    entity.apply(all[0].clone());
    let mut forged = all
        .iter()
        .find(|placing| matches!(&placing.event.body, Some(Body::Decided(decided)) if decided.place == 0))
        .unwrap()
        .clone();
    forged.origin.dot.actor = actor(99);
    entity.apply(forged);
    assert_eq!(Reading::<Order>::of(&entity).epoch, None);
}
