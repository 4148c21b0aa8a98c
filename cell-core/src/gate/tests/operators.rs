//! What operators see and do, and that every action leaves one audit record.

use super::*;

fn with_dead_letters() -> East {
    let mut east = East::new(Config::default());
    for n in 1..=4 {
        let from = region(if n % 2 == 0 { "south" } else { "north" });
        east.arrive(Envelope { from, ..request(n) });
    }
    east.pass(30 * MINUTE);
    east.arrive(Envelope { deadline_ms: 0, ..request(5) });
    east
}

fn ids(entries: &[Entry]) -> Vec<u8> {
    entries.iter().map(|entry| entry.id.0[0]).collect()
}

#[test]
fn dead_letters_are_listed_by_reason_region_entity_age_and_page_by_page() {
    let east = with_dead_letters();
    let list = |filter: Filter| ids(&east.gate.list(east.now_ms, &filter, None, 100));
    assert_eq!(list(Filter::default()), [1, 2, 3, 4, 5]);
    assert_eq!(list(Filter { stage: Some(Stage::Waiting), ..Filter::default() }), [5]);
    let missing = Some(DeadReason::MissingDependency);
    assert_eq!(list(Filter { reason: missing, ..Filter::default() }), [1, 2, 3, 4]);
    assert!(list(Filter { reason: Some(DeadReason::Poison), ..Filter::default() }).is_empty());
    assert_eq!(list(Filter { reason: missing, region: Some(region("south")), ..Filter::default() }), [2, 4]);
    assert_eq!(list(Filter { entity: Some(order(3)), ..Filter::default() }), [3]);
    assert_eq!(list(Filter { entity: Some(payment(2)), ..Filter::default() }), [2]);
    assert_eq!(list(Filter { older_than_ms: Some(MINUTE), ..Filter::default() }), [1, 2, 3, 4]);
    let page = east.gate.list(east.now_ms, &Filter::default(), Some(id(2)), 2);
    assert_eq!(ids(&page), [3, 4]);
}

#[test]
fn inspecting_a_dead_letter_names_what_is_missing() {
    let east = with_dead_letters();
    let entry = east.gate.inspect(&id(3)).unwrap();
    assert_eq!((entry.stage, entry.reason), (Stage::Dead, Some(DeadReason::MissingDependency)));
    let message = entry.message.unwrap();
    assert_eq!(message.missing, [needs(3, 3)]);
    assert_eq!((message.deadline_ms, message.until_ms), (T0 + 30 * MINUTE, T0 + 2 * HOUR));
    assert_eq!(message.epoch, epoch(1, "north"));
    assert_eq!(east.gate.inspect(&id(99)), None);
}

#[test]
fn a_redrive_asks_and_fetches_but_delivers_nothing_before_it_is_there() {
    let mut east = with_dead_letters();
    let redrive = Action::Redrive { id: id(1) };
    assert_eq!(east.operator(redrive.clone()), ["audit ops 1", "check 1 north#1", "fetch 1 north#1"]);
    assert!(east.checked(1, &[]).is_empty());
    assert_eq!(east.gate.inspect(&id(1)).unwrap().stage, Stage::Dead);
    east.operator(redrive.clone());
    assert_eq!(east.checked(1, &[needs(1, 1)]), ["deliver 1.1"]);
    assert_eq!(east.operator(redrive), ["audit ops"], "it is under way");
}

#[test]
fn a_redrive_by_filter_goes_on_behind_the_last_of_its_audit() {
    let mut east = with_dead_letters();
    let redrive = |after| Action::RedriveMatching { filter: Filter::default(), after, limit: 3 };
    assert_eq!(east.operator(redrive(None))[0], "audit ops 1 2 3");
    assert_eq!(east.operator(redrive(Some(id(3))))[0], "audit ops 4", "5 is no dead letter");
    assert_eq!(east.operator(redrive(Some(id(4)))), ["audit ops"]);
}

#[test]
fn poison_is_redriven_with_a_new_budget_also_after_a_restart() {
    let mut east = East::new(Config { attempts_max: 1, ..Config::default() });
    east.arrive(request(1));
    east.apply(1);
    let failed = || Answer::Failed { error: " no".into() };
    assert_eq!(count(&east.answer(1, 1, failed()), "dead 1 poison no"), 1);
    assert_eq!(east.operator(Action::Redrive { id: id(1) }), ["audit ops 1", "deliver 1.2"]);
    assert_eq!(count(&east.answer(1, 2, failed()), "dead 1 poison no"), 1);

    assert!(east.restart().is_empty(), "poison does not go off by itself");
    assert_eq!(east.gate.inspect(&id(1)).unwrap().detail, " no");
    let heard = east.operator(Action::Redrive { id: id(1) });
    assert_eq!(heard, ["audit ops 1", "check 1 north#1", "fetch 1 north#1"]);
    assert_eq!(east.checked(1, &[needs(1, 1)]), ["deliver 1.1"]);
}

#[test]
fn a_discard_is_told_to_the_node_whatever_happens_in_between() {
    let mut east = with_dead_letters();
    let discard = Action::Discard { id: id(1), reason: "duplicate order".into() };
    let heard = east.operator(discard.clone());
    assert_eq!(heard, ["audit ops 1", "persist discarded 1", "discard 1.1 duplicate order"]);
    assert_eq!(east.operator(discard), ["audit ops"]);
    assert!(east.apply(0).is_empty());
    let discarded = Some("discard 1.1 duplicate order".to_owned());
    assert_eq!(east.restart().into_iter().find(|line| line.starts_with("discard")), discarded);
    let higher = Envelope { epoch: epoch(2, "north"), ..request(1) };
    let heard = east.arrive(higher);
    assert_eq!(
        heard,
        ["persist accepted 1", "persist discarded 1", "ack 1", "discard 1.2 duplicate order"],
        "a discard stands, also for a newer copy"
    );
    assert_eq!(east.answer(1, 2, Answer::Done), ["persist gone 1", "ended 1 discarded"]);
}

#[test]
fn a_message_written_once_more_as_it_was_keeps_what_was_noted_about_it() {
    let mut east = East::new(Config { attempts_max: 1, ..Config::default() });
    east.arrive(request(1));
    east.arrive(request(2));
    east.apply(2);
    east.answer(1, 1, Answer::Failed { error: "broken".into() });
    east.operator(Action::Discard { id: id(2), reason: "no".into() });
    // As by a runtime that died while it wrote its log anew.
    let again: Vec<Record> =
        east.log.iter().filter(|record| matches!(record, Record::Accepted(_))).cloned().collect();
    let notes = [1, 2].map(|n| east.gate.notes(&id(n)).collect::<Vec<_>>());
    let places = [1, 2].map(|n| east.gate.place(&id(n)).unwrap().0 + east.log.len() as u64);
    east.log.extend(again);
    east.restart();
    assert_eq!(east.gate.inspect(&id(1)).unwrap().detail, "broken");
    assert!(east.gate.inspect(&id(2)).unwrap().message.unwrap().discarded);
    assert_eq!([1, 2].map(|n| east.gate.notes(&id(n)).collect::<Vec<_>>()), notes);
    assert_eq!([1, 2].map(|n| east.gate.place(&id(n)).unwrap().0), places);
}

#[test]
fn a_discard_that_the_node_fails_on_stays_a_discard() {
    let mut east = East::new(Config { attempts_max: 1, ..Config::default() });
    east.arrive(request(1));
    east.operator(Action::Discard { id: id(1), reason: "no".into() });
    let dead = east.answer(1, 1, Answer::Failed { error: " broken".into() });
    assert_eq!(count(&dead, "dead 1 poison north#1 broken"), 1, "{dead:?}");
    assert_eq!(east.operator(Action::Redrive { id: id(1) }), ["audit ops 1", "discard 1.2 no"]);
    assert_eq!(count(&east.answer(1, 2, Answer::Failed { error: " broken".into() }), "dead 1"), 1);
    east.restart();
    assert_eq!(east.operator(Action::Redrive { id: id(1) }), ["audit ops 1", "discard 1.1 no"]);
}

#[test]
fn what_cannot_be_read_is_redriven_by_reading_it_and_discarded_at_once() {
    let mut east = East::new(Config::default());
    let bytes = Bytes::from_static(b"?");
    let kept = MessageId::of_undecoded(&bytes);
    let n = kept.0[0];
    east.hear(Input::Malformed { bytes, from: region("north"), reason: "wire".into() });
    let heard = east.operator(Action::Redrive { id: kept });
    assert_eq!(heard, [format!("audit ops {n}"), format!("decode {n}")]);
    let heard = east.operator(Action::Discard { id: kept, reason: "noise".into() });
    assert_eq!(
        heard,
        [format!("audit ops {n}"), format!("persist gone {n}"), format!("ended {n} discarded")]
    );
    assert!(east.is_empty());
}

#[test]
fn every_action_has_one_audit_record_with_an_identity_also_on_nothing() {
    let mut east = with_dead_letters();
    let nothing = id(77);
    let actions = [
        Action::Redrive { id: nothing },
        Action::Discard { id: nothing, reason: "x".into() },
        Action::RedriveMatching { filter: Filter::default(), after: None, limit: 0 },
    ];
    for action in actions {
        let out = east.raw(Input::Operator { identity: "ops".into(), action: action.clone() });
        assert_eq!(out, [Output::Audit { identity: "ops".into(), action, ids: Vec::new() }]);
    }
}
