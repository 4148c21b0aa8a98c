//! Money.

use cell_core::cell::{Ask, Problem};
use cell_core::entity::Blocked;
use cell_core::order::How;

use super::{A, B, C, Channel, D, E, LONG, N, Op, S, Stage, expect};

/// A's order is asked of B in east, who has it.
fn asked() -> Result<(Stage, cell_core::id::PaymentId), String> {
    let mut stage = Stage::with_order()?;
    let payment = stage.ask(N, B)?;
    stage.pass(300);
    Ok((stage, payment))
}

pub(super) fn cancel_then_captured() -> Result<(), String> {
    let (mut stage, _) = asked()?;
    stage.accept(E, B, "slow")?;
    stage.cut(N, E, Channel::Data);
    stage.cut(N, E, Channel::Message);
    stage.cut(N, S, Channel::Data);
    let reply = stage.ok(N, Op::Cancel { order: 0 })?;
    expect(reply.pending, "202")?;
    stage.pass(2_000);
    expect(stage.captures() == 1, "the capture won")?;
    stage.rest()?;
    expect(stage.balance()? == 0 && stage.world.gateway.refunds.len() == 1, "one refund")?;
    stage.is("Cancelled")
}

pub(super) fn callback_at_the_zombie() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.isolate(N);
    stage.ok(N, Op::Pay { order: 0, card: "slow" })?;
    stage.decree(S, A);
    stage.ok(S, Op::Amend { order: 0, amount: 700 })?;
    (stage.world.callbacks, stage.world.callbacks_at) = (1, Some(N));
    let slot = stage.order()?.slot();
    stage.ok(S, Op::Pay { order: 0, card: "ok" })?;
    stage.pass(80);
    expect(stage.world.nodes[N].cell.owned(slot).is_none(), "N stops owning before it settles")?;
    stage.rest()?;
    expect(stage.balance()? == 700 && stage.total(N)? == 700, "what S shows as paid is kept")?;
    stage.is("Paid")
}

pub(super) fn capture_after_withdrawn() -> Result<(), String> {
    let (mut stage, payment) = asked()?;
    stage.isolate(E);
    stage.accept(E, B, "slow")?;
    stage.decree(S, B);
    stage.pass(50);
    stage.ok(N, Op::Withdraw { order: 0 })?;
    stage.pass(100);
    expect(stage.payment(S, payment)?.ended() == Some(How::Withdrawn), "written withdrawn")?;
    stage.pass(1_000);
    expect(stage.captures() == 1, "the old attempt is captured")?;
    stage.rest()?;
    expect(stage.payment(S, payment)?.ended() == Some(How::Captured), "one end, amended")?;
    stage.is("Paid")
}

pub(super) fn attempt_after_listing() -> Result<(), String> {
    let (mut stage, payment) = asked()?;
    stage.isolate(E);
    stage.decree(S, B);
    stage.pass(1_000);
    stage.accept(E, B, "ok")?;
    stage.pass(20);
    stage.world.lose_disk(E, LONG);
    stage.pass(10_000);
    expect(stage.payment(S, payment)?.ended() == Some(How::Captured), "found by the later listing")?;
    stage.rest()?;
    stage.is("Paid")
}

pub(super) fn order_and_disk_lost() -> Result<(), String> {
    let mut stage = Stage::new();
    stage.isolate(N);
    stage.place(0, A, N)?;
    stage.ok(N, Op::Pay { order: 0, card: "ok" })?;
    stage.pass(200);
    stage.world.lose_disk(N, 1_000);
    stage.pass(3_000);
    expect(stage.balance()? == 900, "nobody knows the order; its actor is not closed")?;
    stage.rest()?;
    expect(stage.balance()? == 0, "refunded once the actor is closed")
}

pub(super) fn failure_of_a_lost_permit() -> Result<(), String> {
    let mut stage = Stage::new();
    stage.isolate(N);
    stage.place(0, A, N)?;
    let payment = stage.ask(N, B)?;
    // The request goes nowhere, and N takes the payment itself.
    stage.pass(500);
    stage.decree(N, B);
    stage.accept(N, B, "refused")?;
    stage.pass(500);
    stage.world.lose_disk(N, 1_000);
    stage.pass(3_000);
    // Nobody has order, permit or request any more. That an attempt failed, the gateway tells.
    stage.mend();
    stage.decree(E, A);
    stage.pass(20_000);
    for region in [N, E, S] {
        let blocked = stage.world.nodes[region].payment(payment, |reading| reading.blocked);
        expect(blocked == Some(Some(Blocked::Orphan)), "the failure is kept, and nothing is decided on it")?;
    }
    stage.rest()
}

pub(super) fn closing_follow_up() -> Result<(), String> {
    let (mut stage, _) = asked()?;
    (stage.world.callbacks, stage.world.callbacks_at) = (1, Some(N));
    stage.accept(E, B, "slow")?;
    stage.cut(N, E, Channel::Data);
    stage.cut(N, E, Channel::Message);
    stage.cut(N, S, Channel::Data);
    stage.ok(N, Op::Cancel { order: 0 })?;
    stage.pass(1_000);
    expect(stage.label(N)? == "Cancelled", "the settled capture closes the permit, and the cancel happens")?;
    stage.rest()?;
    expect(stage.balance()? == 0, "refunded")
}

pub(super) fn two_homes_one_command() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    let order = stage.order()?;
    stage.isolate(N);
    let payer = stage.world.users[B].id.clone();
    let ask = |payer: cell_core::id::UserId| Ask::AskPayer { order, payer, until_ms: None, window_ms: None };
    let first = stage.keyed(N, A, "pay", ask(payer.clone()))?.map_err(|problem| format!("{problem:?}"))?;
    stage.decree(E, A);
    stage.ok(E, Op::Amend { order: 0, amount: 700 })?;
    let second = stage.keyed(E, A, "pay", ask(payer))?.map_err(|problem| format!("{problem:?}"))?;
    expect(first.payment != second.payment, "another amount is another payment")?;
    stage.mend();
    stage.pass(5_000);
    let first = first.payment.ok_or("no payment")?;
    expect(stage.payment(E, first)?.ended() == Some(How::Withdrawn), "the stray's permit is withdrawn")?;
    let open = stage.state(N)?.open_permit().map(|(payment, _)| *payment);
    expect(open == second.payment, "one permit is in force")?;
    stage.rest()
}

pub(super) fn retry_pays_twice() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    let order = stage.order()?;
    let pay = Ask::Pay { order, card: "ok".to_owned() };
    stage.keyed(N, A, "pay", pay.clone())?.map_err(|problem| format!("{problem:?}"))?;
    stage.keyed(E, A, "pay", pay.clone())?.map_err(|problem| format!("{problem:?}"))?;
    stage.isolate(N);
    stage.decree(E, A);
    stage.keyed(E, A, "pay", pay)?.map_err(|problem| format!("{problem:?}"))?;
    stage.rest()?;
    expect(stage.captures() == 1, "one capture")?;
    stage.is("Paid")
}

pub(super) fn second_attempt_early() -> Result<(), String> {
    let (mut stage, payment) = asked()?;
    stage.accept(E, B, "hang")?;
    stage.pass(5_000);
    let other = Ask::Accept { payment, card: "ok".to_owned() };
    let answer = stage.keyed(E, B, "again", other)?;
    expect(answer == Err(Problem::Forbidden), "refused until the first is terminal")?;
    stage.rest()?;
    expect(stage.world.gateway.intents.len() == 1, "one attempt")
}

pub(super) fn attempt_in_lost_tail() -> Result<(), String> {
    let (mut stage, _) = asked()?;
    stage.mute_data(E);
    stage.accept(E, B, "ok")?;
    stage.pass(80);
    expect(stage.captures() == 1, "captured")?;
    stage.world.lose_disk(E, LONG);
    stage.decree(S, B);
    stage.pass(10_000);
    stage.rest()?;
    expect(stage.balance()? == 900, "found by listing")?;
    stage.is("Paid")
}

pub(super) fn attempt_adopted_behind_the_bar() -> Result<(), String> {
    let (mut stage, payment) = asked()?;
    stage.mute_data(E);
    // The intent never reaches the gateway; then the payment is closed there.
    stage.world.gateway_loss = 1_000;
    stage.accept(E, B, "ok")?;
    stage.pass(20);
    stage.world.gateway_loss = 0;
    stage.ok(N, Op::Cancel { order: 0 })?;
    stage.pass(300);
    expect(stage.world.gateway.intents.is_empty(), "there is no intent")?;
    expect(stage.payment(E, payment)?.ended().is_some(), "E has ended it, and tells nobody")?;
    // S replaces E. It hears the tail as one that starts does: all of it before it decides anything.
    stage.decree(S, B);
    stage.pass(300);
    stage.world.crash(S, 1_000);
    stage.mend();
    stage.pass(5_000);
    let state = stage.payment(S, payment)?;
    expect(state.attempts.len() == 1, "the attempt of the tail is adopted")?;
    expect(state.open_attempt().is_none(), "and the gateway has said that it takes nothing")?;
    stage.rest()?;
    stage.is("Cancelled")
}

pub(super) fn attempt_never_sent() -> Result<(), String> {
    let (mut stage, payment) = asked()?;
    stage.world.gateway_loss = 1_000;
    stage.accept(E, B, "ok")?;
    stage.world.crash(E, 30_000);
    stage.pass(75_000);
    stage.world.gateway_loss = 0;
    stage.pass(20_000);
    expect(stage.world.gateway.intents.is_empty(), "never sent")?;
    expect(stage.payment(E, payment)?.ended().is_some(), "past expiry the key is terminal")?;
    expect(stage.label(N)? == "PendingPayment" && stage.state(N)?.open_permit().is_none(), "payable again")?;
    stage.rest()
}

pub(super) fn old_key() -> Result<(), String> {
    let (mut stage, _) = asked()?;
    stage.world.act_now(E, Op::Accept { order: 0, payer: B, card: "ok" });
    stage.pass(9);
    stage.world.crash(E, 70_000);
    stage.pass(65_000);
    stage.world.act_now(E, Op::ForgetKeys);
    stage.world.act_now(N, Op::ForgetKeys);
    stage.pass(20_000);
    expect(stage.world.coverage.faults.contains_key("gateway-keys-forgotten"), "the gateway forgot")?;
    stage.rest()?;
    expect(stage.captures() == 1 && stage.world.gateway.intents.len() == 1, "looked up, not charged again")
}

pub(super) fn other_amount_same_permit() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.isolate(N);
    let first = stage.ask(N, B)?;
    stage.decree(E, A);
    stage.ok(E, Op::Amend { order: 0, amount: 1_350 })?;
    let second = stage.ask(E, B)?;
    expect(first != second, "two different payments")?;
    stage.mend();
    stage.pass(5_000);
    stage.accept(E, B, "ok")?;
    stage.rest()?;
    expect(
        stage.balance()? == 1_350 && stage.payment(N, first)?.ended() == Some(How::Withdrawn),
        "only 1350",
    )?;
    stage.is("Paid")
}

pub(super) fn second_payer() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.isolate(N);
    stage.ask(N, D)?;
    stage.accept(N, D, "slow")?;
    stage.decree(E, A);
    let other = stage.ask(E, C)?;
    stage.pass(8_000);
    stage.rest()?;
    expect(stage.captures() == 1 && stage.world.gateway.refunds.is_empty(), "applied once, nobody refunded")?;
    expect(stage.payment(S, other)?.ended() == Some(How::Withdrawn), "C's permit is closed")?;
    stage.is("Paid")
}

pub(super) fn refund_forgotten() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.ok(N, Op::Pay { order: 0, card: "ok" })?;
    stage.pass(3_000);
    expect(stage.label(E)? == "Paid", "paid everywhere")?;
    stage.isolate(N);
    stage.ok(N, Op::Cancel { order: 0 })?;
    stage.pass(200);
    expect(stage.balance()? == 0, "refunded")?;
    stage.world.lose_disk(N, LONG);
    stage.decree(E, A);
    stage.pass(8_000);
    expect(stage.label(E)? == "Cancelled", "never shown as paid with the money gone")?;
    stage.rest()
}

pub(super) fn two_partial_refunds() -> Result<(), String> {
    let (mut stage, _) = asked()?;
    stage.accept(E, B, "ok")?;
    stage.pass(3_000);
    stage.ok(N, Op::Refund { order: 0, amount: Some(300) })?;
    stage.ok(N, Op::Refund { order: 0, amount: Some(500) })?;
    let over = stage.act(N, Op::Refund { order: 0, amount: Some(200) })?;
    expect(over == Err(Problem::Invalid), "the sum is capped")?;
    stage.rest()?;
    expect(stage.balance()? == 100 && stage.world.gateway.refunds.len() == 2, "both happen")
}

pub(super) fn refund_granted_by_two_homes() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    stage.ok(N, Op::Pay { order: 0, card: "ok" })?;
    stage.pass(3_000);
    let back = Ask::Refund { order: stage.order()?, amount_minor: Some(300) };
    stage.isolate(N);
    stage.keyed(N, A, "back", back.clone())?.map_err(|problem| format!("{problem:?}"))?;
    stage.pass(500);
    stage.decree(S, A);
    stage.pass(8_000);
    expect(
        stage.state(S)?.cases.len() == 1,
        "the new home learns it from the gateway, and knows of no grant",
    )?;
    stage.keyed(S, A, "back", back)?.map_err(|problem| format!("{problem:?}"))?;
    stage.mend();
    stage.rest()?;
    let state = stage.state(E)?;
    let intent = state.applied.as_ref().map(|applied| applied.intent.clone()).unwrap_or_default();
    expect(state.refunded_minor(&intent) == 300, "the same grant, counted once")?;
    expect(stage.balance()? == 600 && stage.world.gateway.refunds.len() == 1, "and carried out once")
}

pub(super) fn refund_order_is_stray() -> Result<(), String> {
    let (mut stage, _) = asked()?;
    stage.accept(E, B, "ok")?;
    stage.pass(3_000);
    stage.mute_data(N);
    stage.ok(N, Op::Refund { order: 0, amount: Some(300) })?;
    stage.pass(500);
    expect(stage.kept(E) == 1 && stage.world.gateway.refunds.is_empty(), "the refund order waits in E")?;
    stage.decree(S, A);
    stage.ok(S, Op::Cancel { order: 0 })?;
    stage.rest()?;
    expect(stage.world.gateway.refunds.len() == 1 && stage.balance()? == 0, "only what is authorised")?;
    stage.is("Cancelled")
}

pub(super) fn capture_after_expiry() -> Result<(), String> {
    let mut stage = Stage::new();
    stage.place_for(0, A, N, 20_000)?;
    stage.pass(300);
    stage.isolate(N);
    stage.ok(N, Op::Pay { order: 0, card: "late" })?;
    stage.decree(E, A);
    stage.pass(30_000);
    expect(stage.label(E)? == "Expired" && stage.captures() == 1, "captured when it was over")?;
    expect(stage.world.coverage.rows.contains_key("capture-after-expiry"), "by its row")?;
    stage.rest()?;
    expect(stage.balance()? == 0, "refunded")
}

pub(super) fn cancel_while_another_is_captured() -> Result<(), String> {
    let mut stage = Stage::with_order()?;
    // The old home's payer pays, while the new home closes another request for the sake of a cancel.
    stage.isolate(S);
    stage.ask(N, B)?;
    stage.pass(500);
    stage.accept(E, B, "ok")?;
    stage.decree(S, A);
    stage.ask(S, B)?;
    let cancelled = stage.ok(S, Op::Cancel { order: 0 })?;
    expect(cancelled.pending, "it waits for the end of that request")?;
    stage.pass(5_000);
    expect(stage.balance()? == 900, "the old home's payer has paid")?;
    stage.mend();
    stage.rest()?;
    stage.is("Cancelled")?;
    expect(stage.balance()? == 0, "what was paid meanwhile goes back")
}
