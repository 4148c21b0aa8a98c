//! Chapter 7: a region loses its disks, and comes back by itself.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use chaos_tests::harness::Role;
use serde_json::Value;

use super::late::{kill, restart};
use super::paid;
use super::road::ms;
use crate::demo::stage::Stage;

pub(super) async fn wiped(stage: &mut Stage) -> Result<()> {
    stage.chapter("7  North's disks are lost");
    let order = stage.place(21_000).await?;
    let payment = stage.ask(&order, None).await?;
    stage.payment_is("east", &payment, "received").await?;
    let orders: Vec<String> = stage.orders.iter().map(|(order, _)| order.clone()).collect();
    for order in &orders {
        same(stage, order, "south", "north").await?;
    }
    kill(stage, "north").await?;
    for folder in ["node", "agent"] {
        let folder = stage.cluster.data_folder().join("north").join(folder);
        std::fs::remove_dir_all(&folder).with_context(|| folder.display().to_string())?;
    }
    stage.say(&format!(
        "{order} waits for its payer; north's node and agent were killed and their folders removed"
    ));
    let begun = Instant::now();
    restart(stage, "north").await?;
    stage.cluster.ready(Role::Node, "north").await?;
    stage.say(&format!(
        "north decides again {:.0} ms after its start: it heard what its peers hold",
        ms(begun.elapsed())
    ));
    for order in &orders {
        same(stage, order, "south", "north").await?;
    }
    stage.say(&format!(
        "all {} orders are back, {:.0} ms after the start",
        orders.len(),
        ms(begun.elapsed())
    ));
    // What was under way goes on: north settles the payment of an order that it has from its peers.
    stage.accept(&payment).await?;
    stage.everywhere(&order, "Paid").await?;
    stage.books_are(&order, paid(21_000)).await?;
    stage.say("the order that waited is paid for, captured once");
    let differs = stage.cellctl(&["diff", "north", "east"]).await?;
    ensure!(differs[0]["slots"] == Value::Array(Vec::new()), "they differ: {differs}");
    stage.say("cellctl diff north east: no difference");
    Ok(())
}

/// Waits until both regions show the order alike.
async fn same(stage: &Stage, order: &str, one: &str, other: &str) -> Result<()> {
    stage
        .until(&format!("{order} is in {other} as in {one}"), async |stage| {
            let (seen, wanted) = (stage.order_in(other, order).await?, stage.order_in(one, order).await?);
            let alike = !wanted.is_null() && seen["status"] == wanted["status"];
            Ok(if alike { Ok(()) } else { Err(format!("{seen} and {wanted}")) })
        })
        .await
}
