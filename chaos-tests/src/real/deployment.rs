//! Two regions of real processes, and the questions that are asked of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cell_proto::v1;
use cell_proto::v1::agent_admin_client::AgentAdminClient;
use cell_proto::v1::node_client::NodeClient;
use serde_json::{Value, json};
use tokio::time::Instant;
use tonic::transport::Channel;

use super::roles;
use crate::harness::{self, Answer, Api, Cluster, Plan, Role};

/// The regions of every rehearsal.
pub(super) const REGIONS: [&str; 2] = ["north", "east"];
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// An operator's question is answered within this, or not.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// Node settings with which what is damaged is found in seconds, and a log has several files.
pub(super) const NODE: [&str; 3] =
    ["allow_damage = true", "scrub_every_ms = 500", "log = { segment_kib = 16 }"];

/// A running deployment and somebody who asks.
#[derive(Debug)]
pub(super) struct Deployment {
    pub(super) cluster: Cluster,
    pub(super) api: Api,
    /// A client of each region, in the order of [`REGIONS`].
    pub(super) users: Vec<String>,
}

impl Deployment {
    pub(super) async fn start(folder: PathBuf, engine: &str, node: &[&str]) -> Result<Deployment> {
        Deployment::of(Deployment::plan(folder, engine, node)).await
    }

    /// [`REGIONS`] with the patience of rehearsals.
    pub(super) fn plan(folder: PathBuf, engine: &str, node: &[&str]) -> Plan {
        Plan {
            node: node.iter().map(|line| (*line).to_owned()).collect(),
            limits: vec!["compare_every_ms = 200".to_owned()],
            gate: vec!["retry_after_ms = 100".to_owned(), "retry_pause_max_ms = 500".to_owned()],
            ask_every_ms: 200,
            engine: engine.to_owned(),
            ..Plan::new(&REGIONS, &folder, roles::program)
        }
    }

    pub(super) async fn of(plan: Plan) -> Result<Deployment> {
        let cluster = Cluster::start(plan).await?;
        let users = cluster.regions().iter().map(|region| cluster.user_of(region, &["bob", "alice"]));
        let users = users.collect();
        Ok(Deployment { cluster, api: Api::default(), users })
    }

    /// The region that decides about a user's orders.
    pub(super) fn home_of(&self, user: &str) -> &'static str {
        let at_home = |region: &&&str| self.cluster.user_of(region, &[user]) == user;
        REGIONS.iter().find(at_home).copied().unwrap_or(REGIONS[0])
    }

    /// The node's folder on disk.
    pub(super) fn node_folder(&self, region: &str) -> PathBuf {
        self.cluster.data_folder().join(region).join("node")
    }

    /// What a region's node has said on its standard error.
    pub(super) fn node_log(&self, region: &str) -> PathBuf {
        self.cluster.data_folder().join(region).join("node.log")
    }

    // === clients ===

    /// One request, again and again with the same key until it is taken or refused for good.
    pub(super) async fn post(
        &self,
        user: &str,
        path: &str,
        key: &str,
        body: &Value,
        within: Duration,
    ) -> Result<Answer> {
        let begun = Instant::now();
        loop {
            let answer = self.api.call(self.cluster.router(), "POST", path, user, key, body).await;
            match answer {
                // In flight, or not now.
                Ok(answer) if answer.status < 500 && answer.body["retryable"] != true => return Ok(answer),
                Ok(answer) if begun.elapsed() > within => bail!("{path}: {} {}", answer.status, answer.body),
                Err(error) if begun.elapsed() > within => return Err(error.into()),
                _ => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    }

    pub(super) async fn get(&self, region: &str, path: &str, user: &str) -> Result<Answer> {
        Ok(self.api.get(self.cluster.node_http(region)?, path, user).await?)
    }

    /// Everything in a list of a region, over all its pages.
    pub(super) async fn list(&self, region: &str, path: &str, user: &str) -> Result<Vec<Value>> {
        let (mut items, mut cursor) = (Vec::new(), String::new());
        let (of_page, from) =
            if path.starts_with("/v1/notifications") { ("after", "1") } else { ("cursor", "") };
        cursor.push_str(from);
        loop {
            let mark = if path.contains('?') { '&' } else { '?' };
            let at = if cursor.is_empty() { String::new() } else { format!("&{of_page}={cursor}") };
            let answer = self.get(region, &format!("{path}{mark}limit=100{at}"), user).await?;
            if answer.status != 200 {
                bail!("{region} {path}: {} {}", answer.status, answer.body);
            }
            let page = answer.body["items"].as_array().cloned().unwrap_or_default();
            let (empty, next) = (page.is_empty(), answer.body["next"].as_str().unwrap_or("").to_owned());
            items.extend(page);
            if next.is_empty() || (empty && of_page == "after") || next == cursor {
                return Ok(items);
            }
            cursor = next;
        }
    }

    // === operators ===

    pub(super) async fn node(&self, region: &str) -> Result<NodeClient<Channel>> {
        let address = format!("http://{}", self.cluster.node_grpc(region)?);
        Ok(NodeClient::connect(address).await?)
    }

    /// What `cellctl diff` asks: the entities that differ at a version that both have; an error where nothing can be said.
    pub(super) async fn diff(&self, here: &str, there: &str) -> Result<Vec<String>> {
        let address = format!("http://{}", self.cluster.agent_grpc(here)?);
        let request = v1::CompareRequest { peer: there.to_owned(), repair: false, identity: String::new() };
        let compared = AgentAdminClient::connect(address).await?.compare(request).await?.into_inner();
        let mut differing: Vec<String> = compared.differences.into_iter().map(|it| it.entity).collect();
        if differing.is_empty() && !compared.slots.is_empty() {
            differing.push(format!("{} slots", compared.slots.len()));
        }
        Ok(differing)
    }

    /// What `cellctl region status` asks a region's agent; an error if it is paused or away.
    pub(super) async fn agent(&self, region: &str) -> Result<v1::AgentStatusReply> {
        let address = format!("http://{}", self.cluster.agent_grpc(region)?);
        let asked = async {
            let mut agent = AgentAdminClient::connect(address).await?;
            Ok::<_, anyhow::Error>(agent.agent_status(v1::AgentStatusRequest {}).await?.into_inner())
        };
        tokio::time::timeout(ANSWER_WITHIN, asked).await.context("no answer")?
    }

    /// What a region's node says of itself.
    pub(super) async fn status(&self, region: &str) -> Result<v1::StatusReply> {
        let asked = async {
            let mut node = self.node(region).await?;
            Ok::<_, anyhow::Error>(node.status(v1::StatusRequest::default()).await?.into_inner())
        };
        tokio::time::timeout(ANSWER_WITHIN, asked).await.context("no answer")?
    }

    /// A page of metrics, each summed up over its labels.
    pub(super) async fn metrics(&self, role: Role, region: &str) -> Result<BTreeMap<String, f64>> {
        let admin = match role {
            Role::Node => self.cluster.node_admin(region)?,
            _ => self.cluster.agent_admin(region)?,
        };
        Ok(self.api.metrics(admin).await?)
    }

    /// Harm done through the engine, behind the node's back.
    pub(super) async fn damage(&self, region: &str, entity: &[u8; 17], part: &str, how: &str) -> Result<()> {
        let request = v1::DamageRequest {
            entity: bytes::Bytes::copy_from_slice(entity),
            how: how.to_owned(),
            part: part.to_owned(),
        };
        self.node(region).await?.damage(request).await.with_context(|| format!("{how} {part}"))?;
        Ok(())
    }

    /// The gateway's own books: by order, what was captured, refunded, and how often captured.
    pub(super) async fn ledger(&self) -> Result<Value> {
        let answer = self.api.get(self.cluster.gateway(), "/control/ledger", "").await?;
        Ok(answer.body["by_order"].clone())
    }

    pub(super) async fn stop(self) -> Result<()> {
        Ok(self.cluster.stop().await?)
    }
}

/// An empty body.
pub(super) fn nothing() -> Value {
    json!({})
}

/// Asks again until it holds; the last reason why not is the error.
pub(super) async fn until(within: Duration, holds: impl AsyncFnMut() -> Result<()>) -> Result<()> {
    let held = harness::until(within, LOOK_AGAIN, holds).await;
    held.with_context(|| format!("not within {within:?}"))
}

/// Copies a folder and everything in it.
pub(super) fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
