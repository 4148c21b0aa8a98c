//! The tour: eight chapters, each of which does something and then checks what came of it, in the three regions' APIs and
//! in the gateway's own books.

mod case;
mod endings;
mod late;
mod road;
mod wiped;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::stage::{Books, Stage};

pub(super) async fn tour(stage: &mut Stage) -> Result<()> {
    road::placed_and_seen(stage).await.context("chapter 1")?;
    road::paid_by_somebody_else(stage).await.context("chapter 2")?;
    road::overtaken(stage).await.context("chapter 3")?;
    endings::each_ends_once(stage).await.context("chapter 4")?;
    late::dead_letters(stage).await.context("chapter 5")?;
    late::killed(stage).await.context("chapter 6")?;
    wiped::wiped(stage).await.context("chapter 7")?;
    case::decided_by_a_person(stage).await.context("chapter 8")?;
    balance(stage).await.context("the balance")
}

/// Every order of the tour once more: the same in all regions, and the money is what the orders say.
async fn balance(stage: &mut Stage) -> Result<()> {
    stage.chapter("the balance: every order of the tour, three regions, the gateway's books");
    for (order, total) in stage.orders.clone() {
        let books = stage
            .until(&format!("{order} is the same everywhere"), async |stage| {
                let mut seen: Vec<Value> = Vec::new();
                for region in stage.cluster.regions() {
                    seen.push(stage.order_in(region, &order).await?);
                }
                if seen.iter().any(|it| *it != seen[0]) {
                    return Ok(Err(format!("{seen:?}")));
                }
                let books = stage.books(&order).await?;
                let kept = books.captured - books.refunded;
                let owed = if seen[0]["status"] == "Paid" { total } else { 0 };
                Ok(if kept == owed { Ok(books) } else { Err(format!("{books:?} for {}", seen[0])) })
            })
            .await?;
        ensure!(books.captures <= 1, "{order} was captured {} times", books.captures);
    }
    for region in stage.cluster.regions().to_vec() {
        stage
            .until(&format!("nothing is left in {region}'s gate"), async |stage| {
                let agent = stage.agent(&region).await?;
                let left = agent.parked + agent.dead_letters;
                Ok(if left == 0 { Ok(()) } else { Err(format!("{left} messages")) })
            })
            .await?;
    }
    let orders = stage.orders.len();
    stage.say(&format!(
        "{orders} orders agree in all regions; every gate is empty; no order was captured twice"
    ));
    Ok(())
}

/// Captured once, nothing given back.
fn paid(total: u64) -> Books {
    Books { captured: total, refunded: 0, captures: 1 }
}
