//! The schedules of messages and waiting, as far as the gate alone shows them, under their names.

use super::*;

const NONE: [&str; 0] = [];

fn parked() -> East {
    let mut east = East::new(Config::default());
    assert_eq!(east.arrive(request(1)), ["persist accepted 1", "ack 1", "check 1 north#1"]);
    assert_eq!(east.checked(1, &[]), NONE);
    east
}

// === message-overtakes-data ===

#[test]
fn message_overtakes_data_by_a_millisecond_and_is_delivered_as_the_data_comes() {
    let mut east = parked();
    assert_eq!(east.pass(1), NONE);
    assert_eq!(east.apply(1), ["deliver 1.1"]);
    assert_eq!(east.answer(1, 1, Answer::Done), ["persist gone 1", "ended 1 done"]);
    assert!(east.is_empty());
}

#[test]
fn message_overtakes_data_by_a_second_and_nothing_is_fetched() {
    let mut east = parked();
    assert_eq!(east.pass(SECOND), NONE);
    assert_eq!(east.apply(5), ["deliver 1.1"]);
}

#[test]
fn message_overtakes_data_by_a_minute_and_is_fetched_and_warned_about() {
    let mut east = parked();
    assert_eq!(east.pass(2 * SECOND - 1), NONE);
    assert_eq!(east.pass(2 * SECOND), ["fetch 1 north#1"]);
    let heard = east.pass(MINUTE);
    assert_eq!(count(&heard, "warn 1 10000 north#1"), 1, "{heard:?}");
    // Pauses of about 2, 4, 8, 16 and 32 seconds, the upper half of each drawn.
    assert!((3..=6).contains(&count(&heard, "fetch 1 north#1")), "{heard:?}");
    assert_eq!(count(&heard, "warn") + count(&heard, "fetch"), heard.len(), "{heard:?}");
    assert_eq!(east.apply(1), ["deliver 1.1"]);
}

#[test]
fn message_overtakes_data_by_an_hour_and_is_a_dead_letter_that_redrives_itself() {
    let mut east = parked();
    let heard = east.pass(30 * MINUTE - 1);
    assert_eq!(count(&heard, "dead"), 0);
    let dead = [
        "persist dead-lettered 1",
        "dead 1 missing-dependency north#1",
        "notice 1 to north missing-dependency north#1",
    ];
    assert_eq!(east.pass(30 * MINUTE), dead);
    assert_eq!(east.pass(HOUR), NONE, "a dead letter does nothing but wait");
    assert_eq!(east.apply(1), ["deliver 1.1"]);
    assert_eq!(east.answer(1, 1, Answer::Done), ["persist gone 1", "ended 1 done"]);
    assert!(east.is_empty());
}

#[test]
fn data_that_is_here_before_the_message_costs_no_question_when_the_frontier_said_so() {
    let mut east = East::new(Config::default());
    assert_eq!(east.apply(1), NONE);
    assert_eq!(east.arrive(request(1)), ["persist accepted 1", "ack 1", "deliver 1.1"]);
    assert_eq!(east.arrive(request(2)), ["persist accepted 2", "ack 2", "check 2 north#2"]);
    assert_eq!(east.checked(2, &[needs(2, 2)]), ["deliver 2.1"]);
}

#[test]
fn parked_messages_cost_nothing_while_nothing_happens_to_them() {
    let mut east = parked();
    assert_eq!(east.tell(Input::Tick), NONE);
    assert_eq!(east.tell(Input::Applied { upto: vec![(actor("south"), 9)] }), NONE);
    assert_eq!(east.tell(Input::Applied { upto: vec![(actor("north"), 0)] }), NONE);
    let other = Requirement { entity: order(2), ..needs(1, 1) };
    assert_eq!(east.tell(Input::Present { present: vec![other] }), NONE, "another entity's dot");
}

#[test]
fn a_frontier_wakes_everybody_up_to_it_in_the_order_of_the_changes_and_nobody_beyond() {
    let mut east = East::new(Config::default());
    for n in [3, 1, 4, 2] {
        east.arrive(request(n));
    }
    assert_eq!(east.apply(3), ["deliver 1.1", "deliver 2.1", "deliver 3.1"]);
    assert_eq!(east.gate.counts(), Counts { waiting: 1, in_flight: 3, ..Counts::default() });
}

#[test]
fn a_message_with_several_requirements_waits_for_the_last() {
    let mut east = East::new(Config::default());
    let south = Requirement { entity: order(9), dot: Dot { actor: actor("south"), seq: 4 } };
    let requires = vec![needs(1, 1), south, needs(7, 1)];
    east.arrive(Envelope { requires, ..request(1) });
    assert_eq!(east.hear(Input::Present { present: vec![needs(1, 1), needs(7, 1)] }), NONE);
    assert_eq!(east.hear(Input::Applied { upto: vec![(actor("south"), 3)] }), NONE);
    assert_eq!(east.hear(Input::Applied { upto: vec![(actor("south"), 4)] }), ["deliver 1.1"]);
}

#[test]
fn fetch_splits_a_change_and_the_message_waits_for_the_other_entity_of_the_same_dot() {
    let mut east = East::new(Config::default());
    east.arrive(Envelope { requires: vec![needs(1, 1), needs(2, 1)], ..request(1) });
    assert_eq!(east.hear(Input::Present { present: vec![needs(1, 1)] }), NONE);
    assert_eq!(east.hear(Input::Present { present: vec![needs(2, 1)] }), ["deliver 1.1"]);
}

// === wake-lost-on-reconnect ===

#[test]
fn wake_lost_on_reconnect_as_the_order_is_applied_while_the_link_to_the_node_is_down() {
    let mut east = parked();
    // Nobody hears that north#1 was applied.
    assert_eq!(east.pass(SECOND), NONE);
    assert_eq!(east.hear(Input::Reconnected), ["check 1 north#1"]);
    assert_eq!(east.checked(1, &[needs(1, 1)]), ["deliver 1.1"]);
}

#[test]
fn wake_lost_on_reconnect_as_the_agent_restarts_between_registering_and_checking() {
    let mut east = East::new(Config::default());
    assert_eq!(east.arrive(request(1)), ["persist accepted 1", "ack 1", "check 1 north#1"]);
    assert_eq!(east.restart(), ["check 1 north#1"]);
    assert_eq!(east.checked(1, &[needs(1, 1)]), ["deliver 1.1"]);
}

#[test]
fn a_version_applied_between_registering_and_the_answer_wakes_and_the_late_answer_does_nothing() {
    let mut east = East::new(Config::default());
    east.arrive(request(1));
    assert_eq!(east.apply(1), ["deliver 1.1"]);
    assert_eq!(east.checked(1, &[]), NONE);
}

#[test]
fn what_was_in_flight_at_a_reconnect_is_checked_and_handed_again_and_the_old_answer_does_not_count() {
    let mut east = parked();
    assert_eq!(east.apply(1), ["deliver 1.1"]);
    assert_eq!(east.hear(Input::Reconnected), ["check 1 north#1"]);
    assert_eq!(east.checked(1, &[needs(1, 1)]), ["deliver 1.2"]);
    assert_eq!(east.answer(1, 1, Answer::Failed { error: "late".into() }), NONE);
    assert_eq!(east.answer(1, 2, Answer::Done), ["persist gone 1", "ended 1 done"]);
}

#[test]
fn a_restart_past_the_deadline_asks_before_it_gives_up() {
    let mut east = parked();
    east.now_ms = T0 + HOUR;
    assert_eq!(east.restart(), ["check 1 north#1"]);
    assert_eq!(east.hear(Input::Tick), NONE);
    assert_eq!(east.checked(1, &[needs(1, 1)]), ["deliver 1.1"]);
}

// === withdrawals ===

#[test]
fn withdrawal_overtakes_request_and_both_are_delivered_by_themselves() {
    let mut east = East::new(Config::default());
    assert_eq!(east.arrive(withdrawal(1)), ["persist accepted 101", "ack 101", "deliver 101.1"]);
    assert_eq!(east.answer(101, 1, Answer::Done), ["persist gone 101", "ended 101 done"]);
    east.arrive(request(1));
    assert_eq!(east.apply(1), ["deliver 1.1"]);
    let refused = Answer::Refused { reason: "withdrawn".into() };
    assert_eq!(east.answer(1, 1, refused), ["persist gone 1", "ended 1 refused withdrawn"]);
}

#[test]
fn withdrawal_behind_parked_request_does_not_wait_for_the_order() {
    let mut east = parked();
    assert_eq!(east.arrive(withdrawal(1)), ["persist accepted 101", "ack 101", "deliver 101.1"]);
    assert_eq!(east.answer(101, 1, Answer::Done), ["persist gone 101", "ended 101 done"]);
    let gone = Input::NeedGone { id: id(1), why: "withdrawn".into() };
    assert_eq!(east.hear(gone), ["persist gone 1", "ended 1 need-gone withdrawn"]);
    assert_eq!(east.apply(1), NONE);
    assert!(east.is_empty());
}

// === losing the gate, moving homes ===

#[test]
fn gate_lost_with_ten_thousand_parked_and_each_that_is_sent_again_has_one_outcome() {
    let many = |n: u32| {
        let mut envelope = request(1);
        envelope.id = MessageId(u128::from(n).to_be_bytes());
        envelope.requires[0].dot.seq = u64::from(n) + 1;
        envelope
    };
    let mut east = East::new(Config::default());
    (0..10_000).for_each(|n| drop(east.arrive(many(n))));
    assert_eq!(east.gate.counts().waiting, 10_000);

    let mut east = East::new(Config::default());
    (0..10_000).for_each(|n| drop(east.arrive(many(n))));
    let mut delivered = 0;
    let mut out = east.raw(Input::Applied { upto: vec![(actor("north"), 10_000)] });
    while let Some(output) = out.pop() {
        if let Output::Deliver { id, attempt } = output {
            delivered += 1;
            out.extend(east.raw(Input::Answered { id, attempt, answer: Answer::Done }));
        }
    }
    assert_eq!(delivered, 10_000);
    assert!(east.is_empty());
}

#[test]
fn payer_moves_while_parked_and_that_is_no_failure() {
    let mut east = parked();
    let home = Input::SlotHome { slot: slot(2), epoch: Epoch { step: 1, ..epoch(1, "south") } };
    assert_eq!(east.hear(home), ["persist gone 1", "ended 1 moved"]);
    assert_eq!(east.arrive(request(1)), ["refuse 1 moved"]);

    let mut east = parked();
    east.apply(1);
    assert_eq!(east.answer(1, 1, Answer::Moved), ["persist gone 1", "ended 1 moved"]);
    assert!(east.is_empty());
}

#[test]
fn a_higher_term_of_the_sender_s_slot_drops_what_the_old_owner_sent_and_a_restart_of_it_does_not() {
    let mut east = parked();
    let restarted = Epoch { actor: ActorId { start: 2, ..actor("north") }, ..epoch(1, "north") };
    assert_eq!(east.hear(Input::SlotHome { slot: slot(1), epoch: restarted }), NONE);
    let home = Input::SlotHome { slot: slot(1), epoch: epoch(2, "south") };
    assert_eq!(east.hear(home), ["persist gone 1", "ended 1 senderreplaced"]);
    assert_eq!(east.arrive(request(1)), ["refuse 1 sender-replaced"]);
    let known = Input::SlotHome { slot: slot(1), epoch: epoch(1, "north") };
    assert_eq!(east.hear(known), NONE, "homes never go back");
    let anew = Envelope { epoch: epoch(2, "south"), from: region("south"), ..request(1) };
    assert_eq!(east.arrive(anew), ["persist accepted 1", "ack 1", "check 1 north#1"]);
}

// === the same id again ===

#[test]
fn a_copy_is_acked_and_a_higher_epoch_takes_the_place_of_what_is_parked() {
    let mut east = parked();
    assert_eq!(east.arrive(request(1)), ["ack 1"]);
    let higher = Envelope { epoch: epoch(2, "north"), requires: vec![needs(1, 6)], ..request(1) };
    assert_eq!(east.arrive(higher), ["persist accepted 1", "ack 1", "check 1 north#6"]);
    assert_eq!(east.arrive(request(1)), ["ack 1"], "the old epoch changes nothing back");
    assert_eq!(east.apply(5), NONE);
    assert_eq!(east.apply(6), ["deliver 1.1"]);
}

#[test]
fn a_higher_epoch_replaces_what_is_in_flight_and_the_answer_to_the_old_one_does_not_end_it() {
    let mut east = parked();
    assert_eq!(east.apply(1), ["deliver 1.1"]);
    let higher = Envelope { epoch: epoch(2, "north"), ..request(1) };
    assert_eq!(east.arrive(higher), ["persist accepted 1", "ack 1", "deliver 1.2"]);
    assert_eq!(east.answer(1, 1, Answer::Done), NONE);
    assert_eq!(east.answer(1, 2, Answer::Done), ["persist gone 1", "ended 1 done"]);
}

#[test]
fn a_copy_right_behind_the_end_is_only_acked_and_one_sent_later_is_delivered_again() {
    let mut east = parked();
    east.apply(1);
    east.answer(1, 1, Answer::Done);
    assert_eq!(east.arrive(request(1)), ["ack 1"]);
    let higher = Envelope { epoch: epoch(2, "north"), ..request(1) };
    assert_eq!(east.arrive(higher), ["persist accepted 1", "ack 1", "deliver 1.1"]);
    east.answer(1, 1, Answer::Done);
    east.pass(MINUTE);
    assert_eq!(east.arrive(request(1)), ["persist accepted 1", "ack 1", "deliver 1.1"]);
}

#[test]
fn a_sender_that_asks_again_about_a_dead_letter_is_told_again() {
    let mut east = parked();
    east.pass(30 * MINUTE);
    assert_eq!(east.arrive(request(1)), ["ack 1", "notice 1 to north missing-dependency north#1"]);
}

// === dead letters ===

#[test]
fn dead_letter_holds_order_and_at_its_until_the_node_lets_it_expire() {
    let mut east = parked();
    east.pass(30 * MINUTE);
    assert_eq!(east.pass(2 * HOUR - 1), NONE);
    assert_eq!(east.pass(2 * HOUR), ["expire 1.1"]);
    assert_eq!(east.answer(1, 1, Answer::Busy), NONE, "the node's clock is behind");
    assert_eq!(east.pass(2 * HOUR + SECOND), ["expire 1.2"]);
    assert_eq!(east.apply(1), NONE, "too late for anything else");
    assert_eq!(east.answer(1, 2, Answer::Done), ["persist gone 1", "ended 1 expired"]);
    assert!(east.is_empty());
}

#[test]
fn a_parked_request_whose_until_comes_before_any_tick_expires_without_a_detour() {
    let mut east = parked();
    east.now_ms = T0 + 3 * HOUR;
    assert_eq!(east.hear(Input::Tick), ["expire 1.1"]);
}

#[test]
fn dead_letter_outlives_need_and_is_dropped_as_the_need_goes_or_the_new_owner_speaks() {
    let dead = || {
        let mut east = East::new(Config::default());
        east.arrive(Envelope { kind: MessageKind::RefundOrder, until_ms: 0, ..request(1) });
        east.pass(30 * MINUTE);
        assert_eq!(east.gate.counts().dead, 1);
        assert_eq!(east.pass(48 * HOUR), NONE, "nothing wakes it, and it costs nothing");
        east
    };
    let mut east = dead();
    let gone = Input::NeedGone { id: id(1), why: "refund known".into() };
    assert_eq!(east.hear(gone), ["persist gone 1", "ended 1 need-gone refund known"]);
    assert!(east.is_empty());

    let mut east = dead();
    let home = Input::SlotHome { slot: slot(1), epoch: epoch(2, "south") };
    assert_eq!(east.hear(home), ["persist gone 1", "ended 1 senderreplaced"]);
    assert!(east.is_empty());
}

#[test]
fn redrive_after_until_ten_times_lets_it_expire_once() {
    let mut east = parked();
    east.pass(30 * MINUTE);
    east.now_ms = T0 + 3 * HOUR;
    let redrive = || Action::Redrive { id: id(1) };
    assert_eq!(east.operator(redrive()), ["audit ops 1", "expire 1.1"]);
    for _ in 0..5 {
        assert_eq!(east.operator(redrive()), ["audit ops"]);
    }
    assert_eq!(east.answer(1, 1, Answer::Done), ["persist gone 1", "ended 1 expired"]);
    for _ in 0..4 {
        assert_eq!(east.operator(redrive()), ["audit ops"]);
    }
    assert!(east.is_empty());
}

#[test]
fn poison_is_a_dead_letter_with_the_error_and_everything_else_flows() {
    let mut east = East::new(Config::default());
    east.apply(9);
    east.arrive(request(1));
    let failed = || Answer::Failed { error: " division by zero".into() };
    for attempt in 1..8 {
        assert_eq!(east.answer(1, attempt, failed()), NONE);
        let heard = east.pass(u64::from(attempt) * 10 * SECOND);
        assert_eq!(heard, [format!("deliver 1.{}", attempt + 1)]);
        let (n, attempt) = (10 + attempt as u8, 1);
        let other = Envelope { id: id(n), ..request(2) };
        assert_eq!(count(&east.arrive(other), "deliver"), 1);
        assert_eq!(count(&east.answer(n, attempt, Answer::Done), "ended"), 1);
    }
    let dead = ["persist dead-lettered 1", "dead 1 poison division by zero", "notice 1 to north poison"];
    assert_eq!(east.answer(1, 8, failed()), dead);
    assert_eq!(east.pass(2 * HOUR - 1), NONE);
    assert_eq!(east.pass(2 * HOUR), ["expire 1.9"], "also poison is free at its until");
}

#[test]
fn waiting_and_a_busy_or_unreachable_node_never_use_up_the_budget() {
    let mut east = parked();
    east.apply(1);
    for attempt in 1..200 {
        let answer = if attempt % 2 == 0 { Answer::Busy } else { Answer::Unreachable };
        assert_eq!(east.answer(1, attempt, answer), NONE);
        east.now_ms += 40 * SECOND;
        let heard = east.hear(Input::Tick);
        let late = east.now_ms >= T0 + 30 * MINUTE && count(&heard, "notice 1 to north undeliverable") == 1;
        assert_eq!(heard.len(), if late { 2 } else { 1 }, "{heard:?}");
        let handed = if east.now_ms < T0 + 2 * HOUR { "deliver" } else { "expire" };
        assert_eq!(heard[heard.len() - 1], format!("{handed} 1.{}", attempt + 1));
    }
    assert_eq!(east.gate.inspect(&id(1)).unwrap().message.unwrap().failures, 0);
}

#[test]
fn a_node_that_never_answers_is_unreachable_after_a_while() {
    let mut east = parked();
    assert_eq!(east.apply(1), ["deliver 1.1"]);
    assert_eq!(east.pass(30 * SECOND - 1), NONE);
    assert_eq!(east.pass(31 * SECOND), ["deliver 1.2"]);
}

#[test]
fn a_clock_set_back_turns_no_expiry_into_a_delivery() {
    let mut east = parked();
    east.now_ms = T0 + 3 * HOUR;
    assert_eq!(east.hear(Input::Tick), ["expire 1.1"]);
    east.answer(1, 1, Answer::Unreachable);
    east.now_ms = T0 + HOUR;
    assert_eq!(east.hear(Input::Reconnected), ["expire 1.2"]);
}

// === what cannot be read ===

#[test]
fn a_message_that_cannot_be_read_is_kept_whole_and_read_again_at_the_next_start() {
    let mut east = East::new(Config::default());
    let bytes = Bytes::from_static(b"from the future");
    let kept = MessageId::of_undecoded(&bytes);
    let n = kept.0[0];
    let malformed =
        || Input::Malformed { bytes: bytes.clone(), from: region("north"), reason: " newer".into() };
    let heard = east.hear(malformed());
    assert_eq!(
        heard,
        [format!("persist undecoded {n}"), format!("ack {n}"), format!("dead {n} malformed newer")]
    );
    assert_eq!(east.hear(malformed()), [format!("ack {n}")]);
    let Record::Undecoded(record) = &east.log[0] else { panic!("{:?}", east.log) };
    assert_eq!(record.bytes, bytes);

    assert_eq!(east.restart(), [format!("decode {n}")]);
    assert_eq!(east.hear(Input::Decoded { id: kept, envelope: None }), NONE);
    let heard = east.hear(Input::Decoded { id: kept, envelope: Some(request(1)) });
    let gone = [format!("persist gone {n}"), format!("ended {n} decoded 1"), "check 1 north#1".to_owned()];
    assert_eq!(heard[..2], ["persist accepted 1", "ack 1"]);
    assert!(gone.iter().all(|line| heard.contains(line)), "{heard:?}");
    assert_eq!(east.gate.counts(), Counts { waiting: 1, ..Counts::default() });
}

#[test]
fn more_requirements_than_are_held_make_a_message_unreadable_not_lost() {
    let mut east = East::new(Config::default());
    let requires = vec![needs(1, 1); REQUIRES_MAX + 1];
    let heard = east.arrive(Envelope { requires, ..request(1) });
    assert_eq!(heard.last().map(String::as_str), Some("ack 1"));
    assert_eq!(east.gate.counts().undecoded, 1);
}
