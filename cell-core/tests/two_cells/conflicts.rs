//! The conflict journal, and what a person does about it.

use cell_core::cell::{Ask, Incoming, Problem, Resolve};
use cell_core::conflict::{Class, Conflict, Kind, conflicts};
use cell_core::entity::Reading;
use cell_core::event::{Body, Change, Fact, Refund};
use cell_core::id::{EntityId, OrderId};
use cell_core::order::{Order, Remedy};

use crate::support::{Region, user};

fn journal(region: &Region, id: impl Into<EntityId>) -> Vec<Conflict> {
    conflicts(&region.shelf.0[&id.into()])
}

fn label(region: &Region, order: OrderId) -> &'static str {
    Reading::<Order>::of(&region.shelf.0[&order.into()]).state.unwrap().label()
}

fn refund(region: &Region, order: OrderId, capture: &cell_core::event::Capture, amount_minor: u64) -> Fact {
    let state = Reading::<Order>::of(&region.shelf.0[&order.into()]).state.unwrap();
    let owed = state.refunds.values().find(|refund| !refund.settled);
    Fact::Refund(Refund {
        refund: format!("re_{amount_minor}"),
        intent: capture.intent.clone(),
        case: owed.map_or([9; 16], |refund| refund.case.case),
        payment: capture.permit.payment_id(),
        order,
        amount_minor,
        currency: capture.currency.clone(),
        at_ms: 2_900,
    })
}

/// Paid with 900, of which somebody gave 100 back by hand.
fn refunded_by_hand() -> (Region, OrderId) {
    let mut north = Region::new("north");
    let (order, _) = north.place();
    north.ask("p", Ask::Pay { order, card: "ok".to_owned() });
    let (_, capture) = north.capture(order);
    north.facts(Fact::Capture(capture.clone()));
    assert_eq!((label(&north, order), journal(&north, order).len()), ("Paid", 0));
    let by_hand = refund(&north, order, &capture, 100);
    north.facts(by_hand);
    (north, order)
}

fn resolve(order: OrderId, with: Remedy) -> Resolve {
    let (identity, reason) = ("mo".to_owned(), "seen at the gateway".to_owned());
    Resolve { entity: order.into(), subject: "re_100".to_owned(), with, identity, reason }
}

#[test]
fn money_that_met_a_cancel_is_open_until_it_is_back() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (order, _) = north.place();
    north.ask("p", Ask::Pay { order, card: "ok".to_owned() });
    let (_, capture) = north.capture(order);
    north.ask("c", Ask::Cancel { order });
    assert_eq!(journal(&north, order), []);
    north.facts(Fact::Capture(capture.clone()));
    assert_eq!(label(&north, order), "Cancelled");
    let [entry] = &journal(&north, order)[..] else { panic!("one entry") };
    assert_eq!((entry.kind, entry.class, entry.open), (Kind::Capture, Class::PaidVersusCancelled, true));
    let (stands, other) = (entry.stands.as_ref().unwrap(), entry.other.as_ref().unwrap());
    assert_eq!((stands.what, other.what), ("cancelled", "capture"));
    assert!(other.value.contains("in_1 900"), "{}", other.value);
    let back = refund(&north, order, &capture, 900);
    north.facts(back);
    east.pull(&north);
    for region in [&north, &east] {
        let [after] = &journal(region, order)[..] else { panic!("one entry") };
        assert_eq!((after.id, after.open), (entry.id, false), "the same everywhere");
    }
}

#[test]
fn a_case_is_resolved_by_its_owner_once_with_what_follows_and_an_audit_in_one_change() {
    let (mut north, order) = refunded_by_hand();
    let [case] = &journal(&north, order)[..] else { panic!("one case") };
    assert_eq!((case.kind, case.class, case.open), (Kind::Case, Class::Unasked, true));
    assert_eq!((case.subject.as_str(), &case.remedies[..]), ("re_100", Remedy::ALL));
    let mut east = Region::new("east");
    east.pull(&north);
    let (step, elsewhere) = east.cell.resolve(&east.shelf, &resolve(order, Remedy::Keep), 4_000).unwrap();
    assert!(step.entries.is_empty());
    assert_eq!(elsewhere.unwrap_err().problem, Problem::Misdirected);
    let (step, done) = north.cell.resolve(&north.shelf, &resolve(order, Remedy::Refund), 4_000).unwrap();
    assert_eq!(done, Ok(()));
    let change = Change::decode(&step.entries[0].bytes).unwrap();
    let audited = |body: &Option<Body>| matches!(body, Some(Body::Audit(audit)) if audit.identity == "mo");
    assert!(step.entries.len() == 1 && change.events.iter().any(|event| audited(&event.body)));
    north.take(step);
    assert_eq!(label(&north, order), "Refunding");
    let state = Reading::<Order>::of(&north.shelf.0[&order.into()]).state.unwrap();
    let owed: u64 = state.refunds.values().map(|refund| refund.case.amount_minor).sum();
    assert_eq!(owed, 800, "what the gateway still has: a part went back by hand");
    let [case] = &journal(&north, order)[..] else { panic!("one case") };
    assert_eq!((case.open, case.ruling, &case.remedies[..]), (false, "refund", &[][..]));
    assert!(case.why.contains("mo resolved it: seen at the gateway"), "{}", case.why);
    // Again: nothing more. Otherwise: no.
    let (step, again) = north.cell.resolve(&north.shelf, &resolve(order, Remedy::Refund), 5_000).unwrap();
    assert_eq!((step.entries.len(), again), (0, Ok(())));
    let (_, other) = north.cell.resolve(&north.shelf, &resolve(order, Remedy::Cancel), 5_000).unwrap();
    assert_eq!(other.unwrap_err().problem, Problem::Forbidden);
    let nothing = Resolve { subject: "re_7".to_owned(), ..resolve(order, Remedy::Keep) };
    let (_, nothing) = north.cell.resolve(&north.shelf, &nothing, 5_000).unwrap();
    assert_eq!(nothing.unwrap_err().problem, Problem::NotFound);
}

#[test]
fn a_case_can_be_kept_and_an_order_be_cancelled_by_one() {
    let (mut north, order) = refunded_by_hand();
    let (step, kept) = north.cell.resolve(&north.shelf, &resolve(order, Remedy::Keep), 4_000).unwrap();
    assert_eq!(kept, Ok(()));
    north.take(step);
    assert_eq!((label(&north, order), journal(&north, order)[0].open), ("Paid", false));
    let (mut north, order) = refunded_by_hand();
    let (step, cancelled) = north.cell.resolve(&north.shelf, &resolve(order, Remedy::Cancel), 4_000).unwrap();
    assert_eq!(cancelled, Ok(()));
    north.take(step);
    assert_eq!(label(&north, order), "Cancelled");
}

#[test]
fn a_decision_of_a_replaced_home_is_shown_beside_what_stands_and_open_until_it_is_ruled_on() {
    let (mut north, mut east) = (Region::new("north"), Region::new("east"));
    let (order, _) = north.place();
    east.pull(&north);
    let heard = north.log.len();
    north.ask("c", Ask::Cancel { order });
    // East takes over and decides otherwise, without having heard of the cancel.
    let step = east.cell.decree(&east.shelf, vec![user().slot()], 2, 0, 2_000).unwrap();
    east.take(step);
    east.ask("p", Ask::Pay { order, card: "ok".to_owned() });
    let (tail, of_east) = (north.log.split_off(heard), east.log.clone());
    for entry in of_east.iter().filter(|entry| entry.dot.actor == east.cell.me()) {
        let step =
            north.cell.replicate(&north.shelf, &Incoming::read(entry.clone()), 2_500).unwrap().unwrap();
        north.take(step);
    }
    let [unruled] = &journal(&north, order)[..] else { panic!("one stray") };
    assert_eq!((unruled.kind, unruled.subject.as_str(), unruled.open), (Kind::Stray, "cancelled", true));
    for entry in &tail {
        let step = east.cell.replicate(&east.shelf, &Incoming::read(entry.clone()), 2_500).unwrap().unwrap();
        east.take(step);
    }
    let [ruled] = &journal(&east, order)[..] else { panic!("one stray") };
    assert_eq!((ruled.id, ruled.open, ruled.ruling), (unruled.id, false, "adopted"));
    assert_eq!(ruled.other.as_ref().unwrap().user, Some(user()));
    assert_eq!(ruled.stands.as_ref().unwrap().what, "permit-opened");
    assert!(!ruled.why.is_empty() && ruled.remedies.is_empty());
}
