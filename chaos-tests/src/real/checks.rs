//! What has to be so once everything is healed: nothing acknowledged is lost, nothing happened twice, both regions agree.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail, ensure};
use futures::StreamExt;
use serde_json::Value;

use super::book::{Book, Order, placing};
use super::deployment::{Deployment, REGIONS};
use crate::harness::Role;

/// Questions under way at once.
const ASKED_AT_ONCE: usize = 16;

/// Both regions show every order of `book`, and the same of it; returns their bodies.
pub(super) async fn agree<'a>(
    it: &Deployment,
    orders: impl IntoIterator<Item = &'a Order>,
) -> Result<BTreeMap<String, Value>> {
    let asked = orders.into_iter().map(|order| async move {
        let path = format!("/v1/orders/{}", order.id);
        let mut seen = Vec::new();
        for region in REGIONS {
            let answer = it.get(region, &path, &order.user).await?;
            ensure!(answer.status == 200, "{region} {}: {} {}", order.id, answer.status, answer.body);
            seen.push(answer.body);
        }
        ensure!(
            seen[0] == seen[1],
            "{}: {} in {}, {} in {}",
            order.id,
            seen[0],
            REGIONS[0],
            seen[1],
            REGIONS[1]
        );
        Ok::<_, anyhow::Error>((order.id.clone(), seen.swap_remove(0)))
    });
    let mut bodies = BTreeMap::new();
    let mut asked = futures::stream::iter(asked).buffer_unordered(ASKED_AT_ONCE);
    while let Some(answered) = asked.next().await {
        bodies.extend([answered?]);
    }
    Ok(bodies)
}

/// The digests of both regions agree, asked from both sides.
pub(super) async fn digests(it: &Deployment) -> Result<()> {
    for (here, there) in [(REGIONS[0], REGIONS[1]), (REGIONS[1], REGIONS[0])] {
        let differing = it.diff(here, there).await?;
        ensure!(differing.is_empty(), "{here} and {there} differ in {differing:?}");
    }
    Ok(())
}

/// What is found by lists: each user's orders, each once, by the platform's own number, too; requests; notices.
pub(super) async fn lists(it: &Deployment, book: &Book, numbers: usize) -> Result<()> {
    for (user, orders) in book.by_user() {
        let ids: BTreeSet<&str> = orders.iter().map(|order| order.id.as_str()).collect();
        for region in REGIONS {
            let listed = it.list(region, "/v1/orders", user).await?;
            let found: Vec<&str> = listed.iter().filter_map(|order| order["id"].as_str()).collect();
            let distinct: BTreeSet<&str> = found.iter().copied().collect();
            ensure!(found.len() == distinct.len(), "{region} lists an order of {user} twice");
            let missing: Vec<&&str> = ids.difference(&distinct).collect();
            ensure!(missing.is_empty(), "{region} does not list {missing:?} of {user}");
        }
        for order in orders.iter().rev().take(numbers) {
            let path = format!("/v1/orders?external_ref=ref-{}", order.key);
            for region in REGIONS {
                let listed = it.list(region, &path, user).await?;
                let found: Vec<&str> = listed.iter().filter_map(|order| order["id"].as_str()).collect();
                ensure!(
                    found == [order.id.as_str()],
                    "{region} finds {found:?} by the number of {}",
                    order.id
                );
            }
        }
    }
    let payers = book.orders.values().filter_map(|order| order.payer.as_deref());
    let users: BTreeSet<&str> = book.by_user().into_keys().chain(payers).collect();
    for user in users {
        for path in ["/v1/notifications", "/v1/pay-requests?role=payer", "/v1/pay-requests?role=buyer"] {
            let mut seen = Vec::new();
            for region in REGIONS {
                let listed = it.list(region, path, user).await?;
                let ids: BTreeSet<String> =
                    listed.iter().filter_map(|item| item["id"].as_str()).map(str::to_owned).collect();
                let twice = path.starts_with("/v1/pay") && ids.len() < listed.len();
                ensure!(!twice, "{region} {path} of {user} has something twice");
                seen.push(ids);
            }
            let differing: Vec<&String> = seen[0].symmetric_difference(&seen[1]).collect();
            ensure!(differing.is_empty(), "{path} of {user} differ by {differing:?}");
        }
    }
    Ok(())
}

/// A repeat is known as one: the same request is the same order, another under its key is refused.
pub(super) async fn repeats<'a>(it: &Deployment, orders: impl IntoIterator<Item = &'a Order>) -> Result<()> {
    for order in orders {
        let at = it.cluster.node_http(it.home_of(&order.user))?;
        let place = async |total_minor: u64| {
            let body = placing(total_minor, &order.key);
            it.api.call(at, "POST", "/v1/orders", &order.user, &order.key, &body).await
        };
        let same = place(order.total_minor).await?;
        ensure!(matches!(same.status, 200 | 201), "{} again: {} {}", order.id, same.status, same.body);
        ensure!(same.body["id"] == order.id.as_str(), "{} again is {}", order.id, same.body["id"]);
        let other = place(order.total_minor + 1).await?;
        ensure!(
            other.status == 422,
            "another under the key of {}: {} {}",
            order.id,
            other.status,
            other.body
        );
    }
    Ok(())
}

/// The gateway's books are those of the orders: what is paid was taken once, and everything else given back.
pub(super) fn books(
    orders: &BTreeMap<String, Order>,
    bodies: &BTreeMap<String, Value>,
    ledger: &Value,
) -> Result<()> {
    for (id, order) in orders {
        let (Some(body), of_order) = (bodies.get(id), &ledger[id]) else { bail!("{id} was not read") };
        let number = |name: &str| of_order[name].as_u64().unwrap_or(0);
        let kept = number("captured_minor") - number("refunded_minor");
        let status = body["status"].as_str().unwrap_or("");
        let owed = if status == "Paid" { order.total_minor } else { 0 };
        ensure!(kept == owed, "{id} is {status}, and the gateway keeps {kept} of {}", order.total_minor);
        // Nobody cancels what is paid: what clients were told of either stands.
        ensure!(!order.cancelled || status == "Cancelled", "{id} was cancelled, and is {status}");
        ensure!(!order.paid || order.cancelled || status == "Paid", "{id} was paid, and is {status}");
    }
    Ok(())
}

/// Both nodes have read their views through, and found nothing to put right: nobody harmed them.
pub(super) async fn sound_views(it: &Deployment) -> Result<()> {
    for region in REGIONS {
        let metrics = it.metrics(Role::Node, region).await?;
        let of = |name: &str| metrics.get(name).copied().unwrap_or(0.0);
        ensure!(of("cell_scrubs_total") >= 2.0, "{region} has not read its view through yet");
        let found = of("cell_healed_keys_total") + of("cell_damaged_entities_total");
        ensure!(found == 0.0, "{region} found {found} keys that were not what they should be");
    }
    Ok(())
}
