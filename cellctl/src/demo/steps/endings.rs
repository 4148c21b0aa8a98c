//! Chapter 4: every way in which a request to pay can end, each of them once.

use anyhow::{Result, ensure};
use chaos_tests::harness::LinkState;
use serde_json::Value;

use super::super::stage::{Books, Stage};

const NOTHING: Books = Books { captured: 0, refunded: 0, captures: 0 };

pub(super) async fn each_ends_once(stage: &mut Stage) -> Result<()> {
    stage.chapter("4  declined, refused, expired, withdrawn, cancelled: one outcome each");
    declined(stage).await?;
    refused(stage).await?;
    expired(stage).await?;
    withdrawn(stage).await?;
    cancelled_while_paying(stage).await
}

/// A new order, and B has been asked.
async fn asked(stage: &mut Stage, total: u64, window_s: Option<u64>) -> Result<(String, String)> {
    let order = stage.place(total).await?;
    let payment = stage.ask(&order, window_s).await?;
    stage.payment_is("east", &payment, "received").await?;
    Ok((order, payment))
}

/// The payment ended so, both were told, and the order can be paid anew.
async fn ended(stage: &Stage, order: &str, payment: &str, how: &str) -> Result<()> {
    stage.payment_is("east", payment, how).await?;
    stage.payable_again(order).await?;
    let (a, b) = (stage.a.clone(), stage.b.clone());
    stage.told(&b, &format!("payment.{how}"), order).await?;
    stage.told(&a, "order.payable-again", order).await?;
    stage.books_are(order, NOTHING).await
}

async fn declined(stage: &mut Stage) -> Result<()> {
    let (order, payment) = asked(stage, 4_000, None).await?;
    let b = stage.b.clone();
    let answer = stage.post(&b, &format!("/v1/pay-requests/{payment}/decline"), Value::Null).await?;
    ensure!(matches!(answer.status, 200..=202), "declining failed: {} {}", answer.status, answer.body);
    ended(stage, &order, &payment, "declined").await?;
    stage.say("B declined: A was told, the order is payable again, no money moved");
    Ok(())
}

async fn refused(stage: &mut Stage) -> Result<()> {
    // Amounts that end in 91 are refused by the sandbox gateway.
    let (order, payment) = asked(stage, 4_091, None).await?;
    stage.accept(&payment).await?;
    ended(stage, &order, &payment, "failed").await?;
    stage.say("the gateway refused B's card: both were told, the order is payable again");
    Ok(())
}

async fn expired(stage: &mut Stage) -> Result<()> {
    let (order, payment) = asked(stage, 4_200, Some(3)).await?;
    ended(stage, &order, &payment, "expired").await?;
    stage.say("B let it expire: both were told, the order is payable again");
    Ok(())
}

async fn withdrawn(stage: &mut Stage) -> Result<()> {
    let (order, payment) = asked(stage, 4_300, None).await?;
    let a = stage.a.clone();
    let answer = stage.post(&a, &format!("/v1/pay-requests/{payment}/withdraw"), Value::Null).await?;
    ensure!(matches!(answer.status, 200..=202), "withdrawing failed: {} {}", answer.status, answer.body);
    ended(stage, &order, &payment, "withdrawn").await?;
    let b = stage.b.clone();
    let late = stage.post(&b, &format!("/v1/pay-requests/{payment}/accept"), card()).await?;
    ensure!(late.status == 409, "B accepted what was withdrawn: {} {}", late.status, late.body);
    stage.say("A withdrew while B looked at it: both were told, B's late yes is refused with 409");
    Ok(())
}

async fn cancelled_while_paying(stage: &mut Stage) -> Result<()> {
    let (order, payment) = asked(stage, 4_400, None).await?;
    stage.cluster.data_into("north", LinkState::Held);
    stage.accept(&payment).await?;
    stage.payment_is("east", &payment, "captured").await?;
    let a = stage.a.clone();
    let answer = stage.post(&a, &format!("/v1/orders/{order}/cancel"), Value::Null).await?;
    ensure!(answer.status == 202, "a cancel while paying is pending: {} {}", answer.status, answer.body);
    stage.say("B's capture is done, A cancels before north has heard of it: pending");
    stage.cluster.data_into("north", LinkState::Open);
    stage.everywhere(&order, "Cancelled").await?;
    stage.books_are(&order, Books { captured: 4_400, refunded: 4_400, captures: 1 }).await?;
    let b = stage.b.clone();
    stage.told(&a, "order.cancelled", &order).await?;
    stage.told(&b, "refund.done", &order).await?;
    stage.say("the capture won the race and was refunded by itself: Cancelled everywhere, both were told, books at zero");
    Ok(())
}

fn card() -> Value {
    serde_json::json!({ "card_token": "visa" })
}
