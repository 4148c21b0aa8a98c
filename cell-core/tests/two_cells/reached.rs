//! What a node says of a version that a reader saw elsewhere: here, not yet, never.

use cell_core::cell::{Ask, Reached};
use cell_core::entity::{Entity, ItemKey, Placing, Reading};
use cell_core::event::Fact;
use cell_core::order::Order;
use cell_core::version::{Dot, EventId};

use crate::support::{Region, actor};

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
    let (payment, capture) = north.capture(order);
    north.facts(Fact::Capture(capture));
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
fn a_part_of_what_was_decided_is_no_proof_of_it() {
    let mut north = Region::new("north");
    let (order, placed) = north.place();
    north.ask("p", Ask::Pay { order, card: "ok".to_owned() });
    let (_, capture) = north.capture(order);
    north.facts(Fact::Capture(capture));
    let paid = north.newest();
    let whole = north.shelf.0[&order.into()].clone();
    let with = |wanted: &dyn Fn(&ItemKey) -> bool| {
        let mut part = Entity::new(whole.id);
        for (_, item) in whole.items().filter(|(key, _)| wanted(key)) {
            let origin = *item.origins.first().unwrap();
            part.place(Placing { event: item.event.clone(), origin, at: item.since });
        }
        part
    };
    assert!(with(&|_| true).decided_in(&paid) && with(&|_| true).decided_in(&placed));
    let without_the_first = with(&|key| !matches!(key, ItemKey::Decision { place: 0, .. }));
    assert!(!without_the_first.decided_in(&paid), "it builds on the first one");
    let is_record = |key: &ItemKey| matches!(key, ItemKey::Record(_));
    let mut record = with(&is_record);
    assert!(record.decided_in(&placed), "nobody decided anything");
    // A new home carries the record along, and not what was decided in the same change and is not in its history.
    let origin = EventId { dot: Dot { actor: actor("east", 1), seq: 1 }, place: 1 };
    for (_, item) in whole.items().filter(|(key, _)| matches!(key, ItemKey::Decision { .. })) {
        record.place(Placing { event: item.event.clone(), origin, at: item.since });
    }
    assert!(!record.decided_in(&placed));
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
