//! Chapters 5 and 6: dead letters that come back to life, and processes that are killed.

use anyhow::{Context, Result, ensure};
use chaos_tests::harness::{LinkState, Role};
use serde_json::Value;

use super::super::stage::{Books, Stage, hears};
use super::paid;
use super::road::parked_and_warned;

pub(super) async fn dead_letters(stage: &mut Stage) -> Result<()> {
    stage.chapter("5  the order does not come before the deadline");
    let (a, b) = (stage.a.clone(), stage.b.clone());
    let mut b_hears = stage.listen(&b).await?;
    stage.cluster.data_into("east", LinkState::Held);
    let order = stage.place(16_000).await?;
    let payment = stage.ask(&order, None).await?;
    let letter = dead_letter(stage, &payment).await?;
    let id = letter["id"].as_str().unwrap_or_default().to_owned();
    stage.say(&format!("dead letter {id} in east: {} {}", letter["reason"], letter["missing"]));
    let inspected = stage.cellctl(&["dlq", "inspect", &id]).await?;
    ensure!(inspected["subject"] == payment.as_str(), "inspect shows {inspected}");
    stage.told(&a, "pay-request.stalled", &order).await?;
    stage.say("cellctl dlq inspect shows what it waits for; A was told that it stalls");
    stage.cluster.data_into("east", LinkState::Open);
    hears(&mut b_hears, "pay-request.received", &order).await?;
    stage.say("the order arrives late, inside its window: redriven by itself, B hears of it");
    stage.accept(&payment).await?;
    stage.everywhere(&order, "Paid").await?;
    stage.books_are(&order, paid(16_000)).await?;
    no_dead_letters(stage).await?;
    stage.say("paid once; no dead letter is left");

    stage.cluster.data_into("east", LinkState::Held);
    let order = stage.place(17_000).await?;
    let payment = stage.ask(&order, Some(6)).await?;
    dead_letter(stage, &payment).await?;
    stage.say("a second one, with six seconds to pay: dead letter");
    stage.payment_is("east", &payment, "expired").await?;
    stage.order_unlocked_at_home(&order).await?;
    stage.told(&a, "order.payable-again", &order).await?;
    stage.say("its time is over: the payment ended as expired, the order is unlocked, A was told");
    stage.cluster.data_into("east", LinkState::Open);
    stage.payable_again(&order).await?;
    let again = stage.ask(&order, None).await?;
    ensure!(again != payment, "the second request is the first one");
    stage.payment_is("east", &again, "received").await?;
    stage.accept(&again).await?;
    stage.everywhere(&order, "Paid").await?;
    stage.books_are(&order, paid(17_000)).await?;
    stage.say("A asked again, B paid: once");
    Ok(())
}

/// Waits for the dead letter about a payment, as `cellctl dlq list` shows it.
async fn dead_letter(stage: &Stage, payment: &str) -> Result<Value> {
    stage
        .until(&format!("a dead letter about {payment}"), async |stage| {
            let listed = stage.cellctl(&["dlq", "list", "--region", "east"]).await?;
            let found = listed.as_array().and_then(|all| all.iter().find(|it| it["subject"] == payment));
            Ok(found.cloned().ok_or_else(|| listed.to_string()))
        })
        .await
}

async fn no_dead_letters(stage: &Stage) -> Result<()> {
    stage
        .until("no dead letter is left", async |stage| {
            let listed = stage.cellctl(&["dlq", "list"]).await?;
            let empty = listed.as_array().is_some_and(Vec::is_empty);
            Ok(if empty { Ok(()) } else { Err(listed.to_string()) })
        })
        .await
}

pub(super) async fn killed(stage: &mut Stage) -> Result<()> {
    stage.chapter("6  SIGKILL in the middle of it");
    let a = stage.a.clone();
    stage.cluster.data_into("east", LinkState::Held);
    let order = stage.place(18_000).await?;
    let payment = stage.ask(&order, None).await?;
    parked_and_warned(stage, "east").await?;
    kill(stage, "east").await?;
    stage.say("a request is parked in east; its node and its agent were killed");
    restart(stage, "east").await?;
    stage
        .until("the parked message is there again", async |stage| {
            let parked = stage.agent("east").await?.parked;
            Ok(if parked == 1 { Ok(()) } else { Err(format!("{parked} parked")) })
        })
        .await?;
    stage.say("both are back, as new actors; the message is parked as before");
    stage.cluster.data_into("east", LinkState::Open);
    stage.payment_is("east", &payment, "received").await?;
    stage.say("healed: the request woke");

    stage.cluster.data_into("north", LinkState::Held);
    stage.accept(&payment).await?;
    stage.books_are(&order, paid(18_000)).await?;
    kill(stage, "east").await?;
    stage.say("the gateway has captured; east was killed at that moment");
    restart(stage, "east").await?;
    kill(stage, "north").await?;
    restart(stage, "north").await?;
    stage.say("north, which waits for the result, was killed too; both are back");
    stage.payment_is("east", &payment, "captured").await?;
    stage.cluster.data_into("north", LinkState::Open);
    stage.everywhere(&order, "Paid").await?;
    stage.told(&a, "order.paid", &order).await?;
    stage.books_are(&order, paid(18_000)).await?;
    stage.say("Paid everywhere, captured once: nothing was lost, nothing happened twice");

    // An order whose acknowledgement came just before the kill.
    let acknowledged = stage.place(1_900).await?;
    kill(stage, "north").await?;
    restart(stage, "north").await?;
    stage.everywhere(&acknowledged, "PendingPayment").await?;
    let books = stage.books(&acknowledged).await?;
    ensure!(books == Books::default(), "money moved for an order nobody paid: {books:?}");
    stage.say("an order acknowledged just before the kill is there, in all regions");
    Ok(())
}

pub(super) async fn kill(stage: &mut Stage, region: &str) -> Result<()> {
    stage.cluster.kill(Role::Node, region).await?;
    stage.cluster.kill(Role::Agent, region).await?;
    Ok(())
}

pub(super) async fn restart(stage: &mut Stage, region: &str) -> Result<()> {
    stage.cluster.restart(Role::Node, region).await.with_context(|| format!("{region}'s node"))?;
    stage.cluster.restart(Role::Agent, region).await.with_context(|| format!("{region}'s agent"))?;
    Ok(())
}

impl Stage {
    /// Waits until the order's home shows nothing open.
    async fn order_unlocked_at_home(&self, order: &str) -> Result<()> {
        self.until(&format!("{order} is unlocked in north"), async |stage| {
            let seen = stage.order_in("north", order).await?;
            let free = seen["status"] == "PendingPayment" && seen.get("open_payment").is_none();
            Ok(if free { Ok(()) } else { Err(seen.to_string()) })
        })
        .await
    }
}
