//! The stage of the tour: the deployment, its users, and the ways to act on it and to look at it.
//!
//! Users act through the router. What came of it is read from each region's own API and from the gateway's books; waiting
//! is asking again until the answer is the one wanted, and a wait that ends in vain says what was seen last.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cell_proto::v1::agent_admin_client::AgentAdminClient;
use cell_proto::v1::{AgentStatusReply, AgentStatusRequest};
use chaos_tests::harness::{self, Answer, Api, Cluster, Event, Events};
use serde_json::{Value, json};

use crate::output::line;

/// The longest a step waits for anything that has no deadline of its own.
pub(super) const WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// What a tour works with.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) cluster: Cluster,
    pub(super) api: Api,
    /// The buyer, at home in north.
    pub(super) a: String,
    /// The payer, at home in east.
    pub(super) b: String,
    begun: Instant,
    keys: u64,
    /// Every order placed on this tour, with its total.
    pub(super) orders: Vec<(String, u64)>,
}

/// The money of one order in the gateway's own books, in minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Books {
    pub(super) captured: u64,
    pub(super) refunded: u64,
    pub(super) captures: u64,
}

impl Stage {
    pub(super) fn new(cluster: Cluster, users: &[(String, String)]) -> Stage {
        let user = |region: &str| {
            users.iter().find(|(home, _)| home == region).map(|(_, user)| user.clone()).unwrap_or_default()
        };
        let (a, b) = (user("north"), user("east"));
        Stage { cluster, api: Api::default(), a, b, begun: Instant::now(), keys: 0, orders: Vec::new() }
    }

    // === the timeline ===

    pub(super) fn chapter(&self, title: &str) {
        line(format!("\n── {title}"));
    }

    pub(super) fn say(&self, what: &str) {
        line(format!("{:>8.3} s  {what}", self.begun.elapsed().as_secs_f64()));
    }

    // === what users do, through the router ===

    pub(super) fn key(&mut self) -> String {
        self.keys += 1;
        // The folder may be of an earlier tour: keys are never the same.
        format!("tour-{}-{}", std::process::id(), self.keys)
    }

    pub(super) async fn post(&mut self, user: &str, path: &str, body: Value) -> Result<Answer> {
        let (key, begun) = (self.key(), Instant::now());
        loop {
            let answer = self.api.call(self.cluster.router(), "POST", path, user, &key, &body).await?;
            // As any client does: the same request with the same key, until it is taken or refused for good.
            if answer.status != 503 || answer.body["retryable"] != true || begun.elapsed() > WITHIN {
                return Ok(answer);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// A places an order of this total.
    pub(super) async fn place(&mut self, total_minor: u64) -> Result<String> {
        let body = json!({ "content": { "currency": "CNY",
            "lines": [{ "sku": "tea", "title": "Oolong", "quantity": 1, "unit_minor": total_minor }] } });
        let a = self.a.clone();
        let answer = self.post(&a, "/v1/orders", body).await?;
        ensure!(answer.status == 201, "the order was not placed: {} {}", answer.status, answer.body);
        let order = text(&answer.body, "/id")?;
        self.orders.push((order.clone(), total_minor));
        Ok(order)
    }

    /// A asks B to pay; `window_s` for how long.
    pub(super) async fn ask(&mut self, order: &str, window_s: Option<u64>) -> Result<String> {
        let mut body = json!({ "payer": self.b });
        if let Some(window_s) = window_s {
            body["window_s"] = json!(window_s);
        }
        let a = self.a.clone();
        let answer = self.post(&a, &format!("/v1/orders/{order}/pay-requests"), body).await?;
        ensure!(matches!(answer.status, 201 | 202), "asking failed: {} {}", answer.status, answer.body);
        // The payer's region has the payment; here it is known by its permit.
        let payment = answer.body.pointer("/payment/id").or_else(|| answer.body.pointer("/open_payment"));
        let payment = payment.and_then(Value::as_str).context("the answer names no payment")?;
        Ok(payment.to_owned())
    }

    /// B says yes.
    pub(super) async fn accept(&mut self, payment: &str) -> Result<()> {
        let b = self.b.clone();
        let path = format!("/v1/pay-requests/{payment}/accept");
        let answer = self.post(&b, &path, json!({ "card_token": "visa" })).await?;
        ensure!(matches!(answer.status, 200..=202), "accepting failed: {} {}", answer.status, answer.body);
        Ok(())
    }

    // === looking ===

    /// An order as a region's own API shows it to A; `null` if it is not there.
    pub(super) async fn order_in(&self, region: &str, order: &str) -> Result<Value> {
        self.read(region, &format!("/v1/orders/{order}"), &self.a).await
    }

    /// A payment as a region's own API shows it to B; `null` if it is not there.
    pub(super) async fn payment_in(&self, region: &str, payment: &str) -> Result<Value> {
        self.read(region, &format!("/v1/pay-requests/{payment}"), &self.b).await
    }

    async fn read(&self, region: &str, path: &str, user: &str) -> Result<Value> {
        let answer = self.api.get(self.cluster.node_http(region)?, path, user).await?;
        match answer.status {
            200 => Ok(answer.body),
            404 => Ok(Value::Null),
            // A region that has just started denies nothing before it heard the home.
            503 if answer.body["retryable"] == true => Ok(Value::Null),
            status => bail!("{region} {path}: {status} {}", answer.body),
        }
    }

    /// The gateway's own books on one order.
    pub(super) async fn books(&self, order: &str) -> Result<Books> {
        let ledger = self.api.get(self.cluster.gateway(), "/control/ledger", "").await?;
        let total = &ledger.body["by_order"][order];
        let number = |name: &str| total[name].as_u64().unwrap_or(0);
        Ok(Books {
            captured: number("captured_minor"),
            refunded: number("refunded_minor"),
            captures: number("captures"),
        })
    }

    pub(super) async fn agent(&self, region: &str) -> Result<AgentStatusReply> {
        let address = format!("http://{}", self.cluster.agent_grpc(region)?);
        let mut agent = AgentAdminClient::connect(address).await?;
        Ok(agent.agent_status(AgentStatusRequest {}).await?.into_inner())
    }

    /// The value of a metric of a region's agent, summed over its labels; 0 if it was never set.
    pub(super) async fn metric(&self, region: &str, name: &str) -> Result<f64> {
        let metrics = self.api.metrics(self.cluster.agent_admin(region)?).await?;
        Ok(metrics.get(name).copied().unwrap_or(0.0))
    }

    // === waiting ===

    /// Asks again until `look` finds what is wanted; the error is what it saw last.
    pub(super) async fn until<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut(&Stage) -> Result<Result<T, String>>,
    ) -> Result<T> {
        let looked = harness::until(WITHIN, LOOK_AGAIN, async || {
            look(self).await.unwrap_or_else(|error| Err(format!("{error:#}")))
        });
        looked.await.map_err(|seen| anyhow!("{what}: not within {WITHIN:?}; last seen: {seen}"))
    }

    /// Waits until a region shows the order in this status.
    pub(super) async fn order_is(&self, region: &str, order: &str, status: &str) -> Result<()> {
        self.until(&format!("{order} is {status} in {region}"), async |stage| {
            let seen = stage.order_in(region, order).await?;
            Ok(if seen["status"] == status { Ok(()) } else { Err(seen.to_string()) })
        })
        .await
    }

    /// Waits until all three regions do.
    pub(super) async fn everywhere(&self, order: &str, status: &str) -> Result<()> {
        for region in self.cluster.regions().to_vec() {
            self.order_is(&region, order, status).await?;
        }
        Ok(())
    }

    pub(super) async fn payment_is(&self, region: &str, payment: &str, status: &str) -> Result<()> {
        self.until(&format!("{payment} is {status} in {region}"), async |stage| {
            let seen = stage.payment_in(region, payment).await?;
            Ok(if seen["status"] == status { Ok(()) } else { Err(seen.to_string()) })
        })
        .await
    }

    /// Waits until the order can be paid anew, in all regions: nothing open, nothing paid.
    pub(super) async fn payable_again(&self, order: &str) -> Result<()> {
        for region in self.cluster.regions().to_vec() {
            self.until(&format!("{order} is payable again in {region}"), async |stage| {
                let seen = stage.order_in(&region, order).await?;
                let free = seen["status"] == "PendingPayment" && seen.get("open_payment").is_none();
                Ok(if free { Ok(()) } else { Err(seen.to_string()) })
            })
            .await?;
        }
        Ok(())
    }

    /// Waits until the books say so, and never more.
    pub(super) async fn books_are(&self, order: &str, wanted: Books) -> Result<()> {
        self.until(&format!("the gateway's books on {order} are {wanted:?}"), async |stage| {
            let seen = stage.books(order).await?;
            Ok(if seen == wanted { Ok(()) } else { Err(format!("{seen:?}")) })
        })
        .await
    }

    /// Waits until the user's own list of notices at home has one of this kind about the order.
    pub(super) async fn told(&self, user: &str, kind: &str, order: &str) -> Result<()> {
        self.until(&format!("{user} is told {kind}"), async |stage| {
            let (mut after, mut kinds) = (String::new(), Vec::new());
            loop {
                let path = format!("/v1/notifications{after}");
                let page = stage.api.get(stage.cluster.router(), &path, user).await?.body;
                let items = page["items"].as_array().cloned().unwrap_or_default();
                for notice in items.iter().filter(|notice| notice["order"] == order) {
                    if notice["kind"] == kind {
                        return Ok(Ok(()));
                    }
                    kinds.push(notice["kind"].to_string());
                }
                match page["next"].as_str() {
                    Some(next) if !items.is_empty() => after = format!("?after={next}"),
                    _ => return Ok(Err(kinds.join(", "))),
                }
            }
        })
        .await
    }

    pub(super) async fn listen(&self, user: &str) -> Result<Events> {
        Ok(self.api.events(self.cluster.router(), user, "").await?)
    }

    /// `cellctl` itself, as an operator would call it; its JSON.
    pub(super) async fn cellctl(&self, args: &[&str]) -> Result<Value> {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--cluster").arg(self.cluster.cluster_file()).args(["-o", "json"]).args(args);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        ensure!(output.status.success(), "cellctl {}: {said}", args.join(" "));
        serde_json::from_slice(&output.stdout).with_context(|| format!("cellctl {}: no JSON", args.join(" ")))
    }
}

/// The next event of this kind about the order.
pub(super) async fn hears(events: &mut Events, kind: &str, order: &str) -> Result<Event> {
    let begun = Instant::now();
    let mut heard = Vec::new();
    while let Some(event) = events.next(WITHIN.saturating_sub(begun.elapsed())).await {
        if event.kind == kind && event.data["order"] == order {
            return Ok(event);
        }
        heard.push(event.kind);
    }
    bail!("no event {kind} about {order} within {WITHIN:?}; heard: {}", heard.join(", "))
}

pub(super) fn text(body: &Value, pointer: &str) -> Result<String> {
    let found = body.pointer(pointer).and_then(Value::as_str);
    Ok(found.with_context(|| format!("the answer has no {pointer}: {body}"))?.to_owned())
}
