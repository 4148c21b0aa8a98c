//! Chapter 8: money moves that nobody asked for, and a person decides.

use anyhow::{Result, ensure};
use cell_core::id::PaymentId;
use serde_json::{Value, json};

use super::super::stage::{Books, Stage, text};
use super::paid;

pub(super) async fn decided_by_a_person(stage: &mut Stage) -> Result<()> {
    stage.chapter("8  money goes back that nobody owed: a case for a person");
    let order = stage.place(22_000).await?;
    let payment = stage.ask(&order, None).await?;
    stage.payment_is("east", &payment, "received").await?;
    stage.accept(&payment).await?;
    stage.everywhere(&order, "Paid").await?;
    stage.books_are(&order, paid(22_000)).await?;
    refund_at_the_console(stage, &order, &payment, 2_000).await?;
    stage.say("B paid; somebody gave 20.00 of it back at the gateway's own console, which tells north");
    let case = stage
        .until("east knows of the case", async |stage| {
            let open = ["conflict", "list", "--open", "--order", &order, "--region", "east"];
            let listed = stage.cellctl(&open).await?;
            Ok(listed.get(0).cloned().ok_or_else(|| "no case".to_owned()))
        })
        .await?;
    let id = text(&case, "/id")?;
    let seen = stage.order_in("south", &order).await?;
    ensure!(seen["status"] == "Paid", "the case changed the order: {seen}");
    stage.say(&format!("cellctl conflict list --open: {id}, in every region; the order stays paid"));
    let with = ["conflict", "resolve", &id, "--with", "refund", "--reason", "the customer was promised it"];
    stage.cellctl(&[&with[..], &["--as", "mo", "--region", "east"]].concat()).await?;
    stage.everywhere(&order, "Refunded").await?;
    stage.books_are(&order, Books { captured: 22_000, refunded: 22_000, captures: 1 }).await?;
    let open = stage.cellctl(&["conflict", "list", "--open", "--order", &order, "--region", "south"]).await?;
    ensure!(open == Value::Array(Vec::new()), "still open: {open}");
    stage.say("cellctl conflict resolve --with refund: north gives the rest back; nothing is open anywhere");
    Ok(())
}

/// What somebody at the gateway does by hand: no decision of any region names it.
async fn refund_at_the_console(stage: &Stage, order: &str, payment: &str, amount_minor: u64) -> Result<()> {
    let (gateway, north) = (stage.cluster.gateway(), stage.cluster.node_http("north")?);
    let intents = stage.api.get(gateway, &format!("/v1/intents?reference={payment}"), "").await?.body;
    let id: PaymentId = payment.parse()?;
    let key = format!("{:032x}", u128::from_be_bytes(id.0.0));
    let refund = json!({ "key": key, "intent_id": intents[0]["id"], "amount_minor": amount_minor,
        "reference": payment, "metadata": { "order": order },
        "callback_urls": [format!("http://{north}/v1/payments/callback")] });
    let back = stage.api.call(gateway, "POST", "/v1/refunds", "", payment, &refund).await?;
    ensure!(back.status == 200, "the gateway refuses: {} {}", back.status, back.body);
    Ok(())
}
