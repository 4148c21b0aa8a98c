//! Messages and waiting.

use bytes::Bytes;
use cell_core::cell::{Ask, Problem, Reached};
use cell_core::gate::{DeadReason, Filter, MessageId, MessageKind, Stage as GateStage};
use cell_core::order::How;
use cell_core::payment::PaymentPhase;

use super::{A, B, C, Channel, D, E, LONG, N, Op, S, Stage, expect};

/// A asks B, and the message is in E without its order.
fn parked() -> Result<(Stage, cell_core::id::PaymentId), String> {
    let mut stage = Stage::new();
    stage.mute_data(N);
    stage.place(0, A, N)?;
    let payment = stage.ask(N, B)?;
    stage.pass(500);
    expect(stage.kept(E) == 1, "the request is parked")?;
    Ok((stage, payment))
}

pub(super) fn message_overtakes_data() -> Result<(), String> {
    for (late_ms, dead) in [(1, false), (1_000, false), (20_000, false), (40_000, true), (70_000, true)] {
        let (mut stage, payment) = parked()?;
        stage.pass(late_ms);
        let letters = Filter { stage: Some(GateStage::Dead), ..Filter::default() };
        let dead_now = stage.world.nodes[E].agent.gate.list(0, &letters, None, 9).len();
        expect((dead_now > 0) == (dead && late_ms < 60_000), format!("dead letter after {late_ms} ms"))?;
        stage.mend();
        stage.pass(5_000);
        expect(stage.kept(E) == 0, "it is delivered by itself")?;
        let phase = stage.payment(E, payment)?.phase;
        let over = late_ms > 60_000;
        let wanted = if over { PaymentPhase::Ended(How::Expired) } else { PaymentPhase::Received };
        expect(phase == wanted, format!("after {late_ms} ms: {phase:?}"))?;
        if !over {
            stage.accept(E, B, "ok")?;
            stage.rest()?;
            stage.is("Paid")?;
        } else {
            stage.rest()?;
        }
    }
    Ok(())
}

pub(super) fn withdrawal_overtakes_request() -> Result<(), String> {
    let mut stage = Stage::new();
    stage.mute_data(N);
    stage.cut(N, E, Channel::Message);
    stage.place(0, A, N)?;
    let payment = stage.ask(N, B)?;
    stage.pass(100);
    let requests = stage.world.journal.envelopes.values();
    let request =
        requests.into_iter().find(|e| e.kind == MessageKind::PayRequest).cloned().ok_or("no request")?;
    stage.ok(N, Op::Withdraw { order: 0 })?;
    stage.world.net.heal();
    stage.mute_data(N);
    stage.pass(8_000);
    expect(stage.payment(E, payment)?.ended() == Some(How::Withdrawn), "withdrawn")?;
    stage.world.post(N, request, E);
    stage.pass(500);
    expect(stage.payment(E, payment)?.ended() == Some(How::Withdrawn), "the request changes nothing")?;
    stage.rest()?;
    expect(stage.state(N)?.permits[&payment].closed == Some(How::Withdrawn), "one outcome")
}

pub(super) fn withdrawal_behind_parked_request() -> Result<(), String> {
    let (mut stage, _) = parked()?;
    stage.ok(N, Op::Cancel { order: 0 })?;
    stage.pass(8_000);
    expect(stage.label(N)? == "Cancelled", "without waiting for the order to arrive in E")?;
    expect(stage.kept(E) == 0, "and the request waits no more")?;
    stage.rest()
}

pub(super) fn dead_letter_holds_order() -> Result<(), String> {
    let (mut stage, payment) = parked()?;
    stage.pass(30_000);
    expect(stage.world.coverage.faults.contains_key("dead-letter"), "dead-lettered")?;
    expect(stage.state(N)?.stalled.contains(&payment), "A is told")?;
    stage.pass(45_000);
    expect(stage.payment(E, payment)?.ended() == Some(How::Expired), "at until the payment ends")?;
    let state = stage.state(N)?;
    expect(state.label() == "PendingPayment" && state.open_permit().is_none(), "the order is free")?;
    stage.rest()
}

pub(super) fn wake_lost_on_reconnect() -> Result<(), String> {
    for restart in [false, true] {
        let (mut stage, payment) = parked()?;
        if restart {
            stage.world.crash_agent(E, 3_000, false);
        } else {
            stage.world.act_now(E, Op::Unlink { for_ms: 3_000 });
        }
        stage.mend();
        stage.pass(2_900);
        expect(stage.payment(E, payment)?.phase == PaymentPhase::Received, "applied meanwhile")?;
        stage.pass(1_000);
        expect(stage.kept(E) == 0, "woken after the reconnect")?;
        stage.rest()?;
    }
    Ok(())
}

pub(super) fn outcome_lost() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    let payment = stage.ask(N, B)?;
    stage.pass(300);
    stage.cut(E, S, Channel::Data);
    stage.mute_data(N);
    stage.ok(E, Op::Decline { order: 0, payer: B })?;
    stage.pass(200);
    expect(stage.state(N)?.open_permit().is_none(), "N hears it")?;
    stage.world.lose_disk(N, LONG);
    stage.decree(S, A);
    stage.mend();
    stage.pass(5_000);
    expect(
        stage.state(S)?.permits[&payment].closed == Some(How::Declined),
        "the new owner closes the permit",
    )?;
    expect(stage.label(S)? == "PendingPayment", "the order is payable again")?;
    stage.rest()
}

pub(super) fn gate_lost() -> Result<(), String> {
    let mut stage = Stage::new();
    stage.mute_data(N);
    let many = 120;
    for order in 0..many {
        let op =
            Op::Place { order, buyer: [A, D][order % 2], amount: 900, window_ms: 180_000, twin_of: None };
        stage.world.act_now(N, op);
        stage.pass(4);
        stage.world.act_now(N, Op::Ask { order, payer: B });
        stage.pass(4);
    }
    stage.pass(500);
    expect(stage.kept(E) == many, format!("{} parked", stage.kept(E)))?;
    stage.world.crash_agent(E, 500, true);
    stage.pass(8_000);
    expect(stage.kept(E) == many, "sent again")?;
    stage.mend();
    stage.pass(5_000);
    expect(stage.kept(E) == 0, "and delivered")?;
    stage.rest()
}

pub(super) fn payer_moves_while_parked() -> Result<(), String> {
    let (mut stage, payment) = parked()?;
    stage.decree(S, B);
    stage.mend();
    stage.pass(8_000);
    expect(stage.kept(E) == 0 && stage.kept(S) == 0, "re-addressed and delivered")?;
    expect(!stage.world.coverage.faults.contains_key("dead-letter"), "never counted as a failing handler")?;
    expect(stage.payment(S, payment)?.phase == PaymentPhase::Received, "received at the new home")?;
    stage.accept(S, B, "ok")?;
    stage.rest()?;
    stage.is("Paid")
}

pub(super) fn wait_for_lost_version() -> Result<(), String> {
    let (mut stage, payment) = parked()?;
    let asked = stage.world.journal.acked.last().copied().ok_or("nothing was acknowledged")?;
    expect(stage.reached(E, payment, &asked)? == Reached::NotYet, "a reader waits for it, too")?;
    stage.world.lose_disk(N, 1_000);
    stage.mend();
    stage.pass(3_000);
    expect(stage.kept(E) == 1, "it waits for what is lost")?;
    for region in [N, E, S] {
        expect(
            stage.reached(region, payment, &asked)? == Reached::Never,
            "a reader is told that it is lost",
        )?;
    }
    stage.rest()?;
    let ended =
        stage.world.nodes[E].payment(payment, |reading| reading.state.as_ref().and_then(|s| s.ended()));
    expect(ended.is_none_or(|how| how.is_some()), "nothing waits for ever")
}

pub(super) fn lost_with_an_actor_nobody_heard_of() -> Result<(), String> {
    let mut stage = Stage::new();
    stage.mute_data(N);
    stage.world.crash(N, 50);
    stage.pass(1_000);
    let actor = stage.world.nodes[N].cell.me();
    stage.place(0, A, N)?;
    let seen = *stage.world.journal.acked.last().ok_or("nothing was acknowledged")?;
    expect(seen.actor == actor, "the answer names it")?;
    stage.world.lose_disk(N, 50);
    stage.mend();
    stage.pass(3_000);
    let reached = |stage: &Stage, region: usize| {
        let node = &stage.world.nodes[region];
        node.cell.reached(&node.shelf, None, &seen).map_err(|error| error.to_string())
    };
    for region in [N, E, S] {
        expect(reached(&stage, region)? == Reached::NotYet, "nobody knows that it was, nor that it ended")?;
    }
    stage.world.close_ended();
    stage.pass(1_000);
    for region in [N, E, S] {
        expect(reached(&stage, region)? == Reached::Never, "once it is closed everybody knows")?;
    }
    stage.rest()
}

pub(super) fn settle_before_command() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    let order = stage.order()?;
    stage.isolate(N);
    stage.keyed(N, A, "cancel", Ask::Cancel { order })?.map_err(|problem| format!("{problem:?}"))?;
    stage.decree(E, A);
    stage.ok(E, Op::Amend { order: 0, amount: 700 })?;
    // The tail reaches E as a fetch, and the same moment A tries again.
    stage.mend();
    stage.pass(3_200);
    let again = stage.keyed(E, A, "cancel", Ask::Cancel { order })?;
    expect(
        again.is_ok_and(|reply| reply.repeated),
        format!("the tail first, then a true answer: {again:?}"),
    )?;
    stage.rest()?;
    stage.is("Cancelled")
}

pub(super) fn fetch_splits_a_change() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.mute_data(N);
    stage.ok(N, Op::Pay { order: 0, card: "ok" })?;
    stage.pass(3_000);
    let order = stage.order()?.into();
    let half = (*stage.world.nodes[N].shelf.entities[&order]).clone();
    stage.world.fetched(E, vec![half], Vec::new());
    stage.pass(100);
    // E takes over with one entity of each of those changes.
    stage.decree(E, A);
    stage.pass(3_000);
    expect(stage.label(E)? == "Paid", "the capture was settled, nothing opened before it")?;
    stage.rest()?;
    expect(stage.captures() == 1, "once")?;
    stage.is("Paid")
}

pub(super) fn dead_letter_outlives_need() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.ask(N, B)?;
    stage.pass(300);
    stage.accept(E, B, "ok")?;
    stage.pass(3_000);
    stage.mute_data(N);
    stage.ok(N, Op::Refund { order: 0, amount: Some(300) })?;
    stage.pass(200);
    expect(stage.kept(E) == 1, "the refund order waits")?;
    stage.world.lose_disk(N, 1_000);
    stage.rest()?;
    expect(stage.kept(E) == 0 && stage.world.gateway.refunds.is_empty(), "dropped, not executed")?;
    stage.is("Paid")
}

pub(super) fn refused_then_adopted() -> Result<(), String> {
    let mut stage = Stage::new();
    stage.cut(S, N, Channel::Data);
    stage.cut(S, E, Channel::Data);
    stage.place(0, A, N)?;
    let payment = stage.ask(N, B)?;
    stage.pass(300);
    stage.isolate(E);
    let decline = Ask::Decline { payment };
    stage.keyed(E, B, "decline", decline.clone())?.map_err(|problem| format!("{problem:?}"))?;
    stage.decree(S, B);
    let refused = stage.keyed(S, B, "decline", decline)?;
    expect(refused == Err(Problem::NotFound), format!("refused at the new home: {refused:?}"))?;
    stage.rest()?;
    expect(stage.payment(S, payment)?.ended() == Some(How::Declined), "the refusal was provisional")
}

pub(super) fn redrive_after_until() -> Result<(), String> {
    let (mut stage, payment) = parked()?;
    stage.pass(30_000);
    for _ in 0..5 {
        stage.world.act_now(E, Op::Redrive);
        stage.pass(100);
    }
    stage.pass(3_600_000);
    for _ in 0..10 {
        stage.world.act_now(E, Op::Redrive);
        stage.pass(100);
    }
    expect(stage.payment(E, payment)?.ended() == Some(How::Expired), "expired, once")?;
    stage.rest()?;
    expect(stage.world.gateway.intents.is_empty(), "no capture")
}

pub(super) fn accept_races_expiry() -> Result<(), String> {
    for early_ms in [2_300, 2_050, 1_900, 500] {
        let mut stage = Stage::with_order()?;
        stage.world.nodes[N].offset_ms = 450;
        stage.world.nodes[E].offset_ms = -450;
        let payment = stage.ask(N, B)?;
        let until = stage.state(N)?.permits[&payment].permit.until_ms;
        stage.pass(300);
        let at_ms = until - early_ms;
        let now_ms = stage.world.nodes[E].local(stage.world.now_ms);
        stage.pass(at_ms - now_ms);
        let answer = stage.act(E, Op::Accept { order: 0, payer: B, card: "ok" })?;
        stage.rest()?;
        let paid = stage.payment(N, payment)?.ended() == Some(How::Captured);
        let applied = stage.state(N)?.applied.is_some();
        expect(paid == applied, "one outcome on both sides")?;
        expect(answer.is_ok() == (early_ms > 2_000), format!("{early_ms} ms before the end: {answer:?}"))?;
    }
    Ok(())
}

pub(super) fn poison() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.ask(N, B)?;
    stage.pass(300);
    let mut envelope = stage.world.journal.envelopes.values().next().cloned().ok_or("nothing was sent")?;
    envelope.id = MessageId([7; 16]);
    envelope.body = Bytes::from_static(b"\xff\xff");
    (envelope.deadline_ms, envelope.until_ms) = (0, 0);
    stage.world.post(N, envelope, E);
    stage.pass(60_000 / 2);
    let letters = stage.world.nodes[E].agent.gate.list(0, &Filter::default(), None, 9);
    let reasons: Vec<_> = letters.iter().map(|entry| entry.reason).collect();
    expect(reasons == [Some(DeadReason::Poison)], format!("a dead letter with the error: {reasons:?}"))?;
    expect(!letters[0].detail.is_empty(), "that names the error")?;
    stage.accept(E, B, "ok")?;
    stage.pass(3_000);
    stage.is("Paid")?;
    expect(stage.kept(E) == 0, "its need is gone, and with that the letter")
}

pub(super) fn move_heard_by_message_alone() -> Result<(), String> {
    let mut stage = Stage::new();
    stage.place(0, C, S)?;
    stage.ask(S, B)?;
    stage.pass(500);
    // N learns of the decline before S does, and not of what S makes of it; nobody has N's changes.
    stage.mute_data(N);
    stage.cut(S, N, Channel::Data);
    stage.cut(S, E, Channel::Data);
    stage.cut(S, E, Channel::Message);
    stage.ok(E, Op::Decline { order: 0, payer: B })?;
    stage.pass(500);
    stage.cut(E, N, Channel::Data);
    stage.decree(N, B);
    stage.pass(500);
    expect(stage.kept(S) == 1, "N's message waits in S for the decline")?;
    stage.world.net.join(S, E, Channel::Data);
    stage.world.net.join(E, S, Channel::Data);
    stage.pass(5_000);
    let slots = stage.slots(B);
    let term = |stage: &Stage, i: usize| {
        slots.iter().map(|slot| stage.world.nodes[i].cell.placement().home(*slot).term).max()
    };
    expect(term(&stage, S) == Some(2), "S heard of the move by N's message")?;
    // The decree goes down with N's disk.
    stage.world.lose_disk(N, 50);
    stage.mend();
    stage.rest()?;
    expect(term(&stage, E) == Some(2), "whom it was taken from knows")
}
