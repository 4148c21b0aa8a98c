//! Bounded memory, bounded work per step, and that a full gate loses nothing.

use super::*;

#[test]
fn a_parked_message_costs_less_than_300_bytes() {
    let parked = Item::resident_bytes(1);
    assert!(parked <= 240, "{parked} bytes");
    let dead = parked + size_of::<item::Note>();
    assert!(dead <= 300, "{dead} bytes as a dead letter");
}

#[test]
fn a_gate_that_empties_keeps_no_room_for_what_it_held() {
    let mut east = East::new(Config::default());
    let nth = |n: u64| {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        Envelope { id: MessageId(id), ..request(1) }
    };
    let gone = |n| Input::NeedGone { id: nth(n).id, why: String::new() };
    let chunk = held::CHUNK as u64;
    (0..8 * chunk).for_each(|n| drop(east.arrive(nth(n))));
    assert_eq!(east.gate.items.chunks(), 8);
    (0..4 * chunk).for_each(|n| drop(east.hear(gone(n))));
    assert_eq!(east.gate.items.chunks(), 5, "the first, and those not empty");
    (0..chunk + 1).for_each(|n| drop(east.arrive(nth(n))));
    assert_eq!(east.gate.items.chunks(), 6, "what comes fills the first ones");
    let listed = east.gate.list(T0, &Filter::default(), None, usize::MAX);
    assert!(listed.iter().map(|entry| entry.id).is_sorted());
    assert_eq!((listed.len(), east.gate.items.iter().count()), (5 * held::CHUNK + 1, 5 * held::CHUNK + 1));
    (0..chunk + 1).chain(4 * chunk..8 * chunk).for_each(|n| drop(east.hear(gone(n))));
    assert!(east.is_empty());
    assert_eq!(east.gate.items.chunks(), 1);
}

#[test]
fn a_gate_full_of_waiting_messages_still_lets_through_what_need_not_wait() {
    let mut east = East::new(Config { waiting_max: 1, ..Config::default() });
    east.arrive(request(1));
    assert_eq!(east.arrive(withdrawal(1)), ["persist accepted 101", "ack 101", "deliver 101.1"]);

    // Not accepted, not acked: first it is asked whether it would have to wait.
    assert_eq!(east.arrive(request(2)), ["check 2 north#2"]);
    assert_eq!(east.arrive(request(2)), ["check 2 north#2"]);
    assert!(!east.gate.holds(&id(2)));
    assert_eq!(east.checked(2, &[needs(2, 2)]), ["persist accepted 2", "ack 2", "deliver 2.1"]);

    assert_eq!(east.arrive(request(3)), ["check 3 north#3"]);
    assert_eq!(east.checked(3, &[]), ["refuse 3 busy"]);

    // The sender still owes it, and there is room later.
    assert_eq!(east.apply(1), ["deliver 1.1"]);
    assert_eq!(east.arrive(request(3)), ["persist accepted 3", "ack 3", "check 3 north#3"]);
}

#[test]
fn a_copy_of_what_is_asked_about_is_accepted_once_there_is_room_and_the_answer_then_accepts_nothing() {
    let mut east = East::new(Config { waiting_max: 1, ..Config::default() });
    east.arrive(request(1));
    let higher = Envelope { epoch: epoch(2, "north"), ..request(2) };
    assert_eq!(east.arrive(higher), ["check 2 north#2"]);
    assert_eq!(east.apply(1), ["deliver 1.1"]);
    assert_eq!(east.arrive(request(2)), ["persist accepted 2", "ack 2", "check 2 north#2"]);
    assert_eq!(east.gate.inspect(&id(2)).unwrap().message.unwrap().epoch.term, 2, "the newer of the two");
    assert_eq!(east.checked(2, &[needs(2, 2)]), ["deliver 2.1"]);
    assert_eq!(east.gate.counts(), Counts { in_flight: 2, ..Counts::default() });
}

#[test]
fn beyond_its_bounds_the_gate_refuses_and_holds_no_more() {
    let config = Config { waiting_max: 2, items_max: 3, probing_max: 1, ..Config::default() };
    let mut east = East::new(config);
    east.arrive(request(1));
    east.arrive(request(2));
    assert_eq!(east.arrive(request(3)), ["check 3 north#3"]);
    assert_eq!(east.arrive(request(4)), ["refuse 4 busy"], "no room to ask either");
    let heard = east.hear(Input::Reconnected);
    assert_eq!(heard[0], "refuse 3 busy", "a question whose answer is lost ends");
    assert_eq!(east.arrive(request(3)), ["check 3 north#3"]);
    east.arrive(withdrawal(1));
    assert_eq!(east.arrive(withdrawal(2)), ["refuse 102 busy"], "the node does not keep up");
    assert_eq!(east.checked(3, &[needs(3, 3)]), ["refuse 3 busy"]);
    let malformed = Input::Malformed { bytes: Bytes::new(), from: region("north"), reason: String::new() };
    assert_eq!(count(&east.hear(malformed), "refuse"), 1);
    assert_eq!(east.log.len(), 3);
}

#[test]
fn only_so_many_are_at_the_node_at_once_and_the_next_one_goes_as_soon_as_one_is_back() {
    let mut east = East::new(Config { in_flight_max: 2, ..Config::default() });
    (1..=4).for_each(|n| drop(east.arrive(request(n))));
    assert_eq!(east.apply(4), ["deliver 1.1", "deliver 2.1"]);
    assert_eq!(east.gate.counts(), Counts { ready: 2, in_flight: 2, ..Counts::default() });
    let heard = east.answer(2, 1, Answer::Done);
    assert_eq!(heard, ["persist gone 2", "ended 2 done", "deliver 3.1"]);
    assert_eq!(east.answer(1, 1, Answer::Busy), ["deliver 4.1"]);
}

#[test]
fn a_step_rings_and_asks_a_bounded_number_and_wants_to_be_woken_at_once_for_the_rest() {
    let mut east = East::new(Config { batch_max: 2, ..Config::default() });
    (1..=5).for_each(|n| drop(east.arrive(request(n))));
    east.now_ms = T0 + 2 * SECOND;
    assert_eq!(east.tell(Input::Tick), ["fetch 1 north#1", "fetch 2 north#2", "wake-at 2000"]);
    assert_eq!(east.pass(2 * SECOND), ["fetch 3 north#3", "fetch 4 north#4", "fetch 5 north#5"]);
    assert_eq!(east.tell(Input::Reconnected), ["check 1 north#1", "check 2 north#2", "wake-at 2000"]);
    assert_eq!(east.pass(2 * SECOND), ["check 3 north#3", "check 4 north#4", "check 5 north#5"]);
}

#[test]
fn what_is_asked_for_is_the_next_timer_and_only_when_that_changes() {
    let mut east = East::new(Config::default());
    let heard = east.tell(Input::Arrived { envelope: request(1) });
    assert_eq!(heard.last().map(String::as_str), Some("wake-at 2000"));
    east.now_ms += 1;
    let heard = east.tell(Input::Arrived { envelope: request(2) });
    assert_eq!(count(&heard, "wake-at"), 0, "the first is still the next");
    let heard = east.tell(Input::NeedGone { id: id(1), why: String::new() });
    assert_eq!(heard.last().map(String::as_str), Some("wake-at 2001"));
}

#[test]
fn an_actor_that_nobody_names_any_more_is_forgotten_and_its_place_is_used_again() {
    let mut east = East::new(Config::default());
    for start in 1..100 {
        let mut envelope = request(1);
        envelope.requires[0].dot.actor.start = start;
        east.arrive(envelope);
        assert_eq!(east.gate.index.names.actors.len(), 1);
        east.hear(Input::NeedGone { id: id(1), why: String::new() });
        assert!(east.is_empty());
    }
}

#[test]
fn times_at_the_end_of_time_overflow_nothing() {
    let mut east = East::new(Config::default());
    east.now_ms = u64::MAX - 1;
    let late = Envelope { deadline_ms: u64::MAX, until_ms: u64::MAX, ..request(1) };
    east.arrive(late);
    east.apply(1);
    assert!(east.answer(1, 1, Answer::Unreachable).is_empty());
    east.now_ms = 0;
    assert!(east.hear(Input::Tick).is_empty());
    assert_eq!(east.hear(Input::Reconnected), ["check 1 north#1"]);
}
