//! `region status`: who is up, how far each knows the others.

use std::time::Duration;

use cell_proto::v1::{
    ActorFrontier, AgentStatusReply, AgentStatusRequest, Closed, StatusReply, StatusRequest,
};
use clap::Subcommand;
use futures::future::join_all;
use serde::Serialize;
use tonic::{Response, Status};

use crate::cluster::{Cluster, Region, refusal};
use crate::output::{Format, Refused, Silent, age, show};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Nodes, agents, and the lag between regions.
    Status {
        /// Only this region.
        region: Option<String>,
    },
}

#[derive(Debug, Serialize)]
struct Row {
    region: String,
    node: Seen<NodeRow>,
    agent: Seen<AgentRow>,
}

/// What somebody said, or why nothing.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Seen<T> {
    Answered(T),
    Silent { unreachable: String },
}

impl<T> From<Result<T, String>> for Seen<T> {
    fn from(asked: Result<T, String>) -> Seen<T> {
        asked.map_or_else(|unreachable| Seen::Silent { unreachable }, Seen::Answered)
    }
}

impl<T> Seen<T> {
    fn silence(&self) -> Option<&str> {
        match self {
            Seen::Answered(_) => None,
            Seen::Silent { unreachable } => Some(unreachable),
        }
    }
}

const COLUMNS: usize = 14;
/// Who stands still is not waited for longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(3);

#[derive(Debug, Serialize)]
struct NodeRow {
    actor: String,
    durable_position: u64,
    /// Closed ones too, whose last change every region has.
    actors_known: usize,
    /// Those of which more may come: what a version vector names.
    actors_open: usize,
    version: String,
    /// It has not heard its peers yet of what it wrote before.
    recovering: bool,
    /// A part of what it had is not back yet.
    lacking: bool,
}

#[derive(Debug, Serialize)]
struct AgentRow {
    node_connected: bool,
    node_protocol: u32,
    /// Changes that could not be applied here.
    quarantined: u64,
    parked: u64,
    dead_letters: u64,
    peers: Vec<PeerRow>,
}

#[derive(Debug, Serialize)]
struct PeerRow {
    region: String,
    changes: String,
    change_lag_ms: Option<u64>,
    messages: String,
    message_lag_ms: Option<u64>,
    /// 0: not known yet.
    protocol: u32,
    detail: String,
}

pub(crate) async fn run(cluster: &Cluster, verb: Verb, format: Format) -> Result<(), Refused> {
    let Verb::Status { region } = verb;
    let rows = join_all(cluster.some(region.as_deref())?.into_iter().map(look)).await;
    let lines = rows.iter().flat_map(lines).collect();
    let head: [&str; COLUMNS] = [
        "region", "node", "position", "agent", "parked", "dead", "holes", "peer", "changes", "lag",
        "messages", "lag", "protocol", "why",
    ];
    show(format, &head, lines, &rows);
    let mut silent = Silent::default();
    for row in &rows {
        let node = row.node.silence().map(|error| format!("its node: {error}"));
        let agent = row.agent.silence().map(|error| format!("its agent: {error}"));
        node.iter().chain(&agent).for_each(|error| silent.note(&row.region, error));
    }
    silent.end()
}

async fn look(region: &Region) -> Row {
    let node = async {
        let mut node = region.node().await?;
        let reply = within(&region.node, node.status(StatusRequest::default())).await?;
        Ok(node_row(reply))
    };
    let agent = async {
        let mut agent = region.agent().await?;
        let reply = within(&region.agent, agent.agent_status(AgentStatusRequest {})).await?;
        Ok(agent_row(reply))
    };
    let (node, agent) = tokio::join!(node, agent);
    Row { region: region.name.clone(), node: node.into(), agent: agent.into() }
}

/// What `address` says, if it does soon.
async fn within<T>(
    address: &str,
    asked: impl Future<Output = Result<Response<T>, Status>>,
) -> Result<T, String> {
    match tokio::time::timeout(ANSWER_WITHIN, asked).await {
        Ok(Ok(reply)) => Ok(reply.into_inner()),
        Ok(Err(status)) => Err(refusal(address, &status)),
        Err(_) => Err(format!("{address} did not answer within {} s", ANSWER_WITHIN.as_secs())),
    }
}

fn node_row(reply: StatusReply) -> NodeRow {
    let actor = reply.actor.and_then(|actor| {
        let node = actor.node?;
        Some(format!("{}-{}.{}.{:016x}", node.region, node.index, actor.start, actor.nonce))
    });
    NodeRow {
        actor: actor.unwrap_or_default(),
        durable_position: reply.durable_position,
        actors_known: reply.frontier.len(),
        actors_open: reply.frontier.iter().filter(|front| !is_closed(&reply.closed, front)).count(),
        version: reply.version,
        recovering: reply.recovering,
        lacking: reply.lacking,
    }
}

/// Whether every region has all that the actor ever wrote.
fn is_closed(closed: &[Closed], front: &ActorFrontier) -> bool {
    closed.iter().any(|it| it.actor == front.actor && it.last == front.seq)
}

fn agent_row(reply: AgentStatusReply) -> AgentRow {
    let peers = reply.peers.into_iter().map(|peer| PeerRow {
        region: peer.region,
        changes: peer.changes,
        change_lag_ms: peer.change_lag_ms,
        messages: peer.messages,
        message_lag_ms: peer.message_lag_ms,
        protocol: peer.protocol,
        detail: peer.detail,
    });
    AgentRow {
        node_connected: reply.node_connected,
        node_protocol: reply.node_protocol,
        quarantined: reply.quarantined,
        parked: reply.parked,
        dead_letters: reply.dead_letters,
        peers: peers.collect(),
    }
}

fn lines(row: &Row) -> Vec<Vec<String>> {
    let (node, position) = match &row.node {
        Seen::Answered(node) => {
            let state = match (node.recovering, node.lacking) {
                (true, _) => " recovering",
                (_, true) => " lacks a part",
                _ => "",
            };
            (format!("{}{state}", node.actor), node.durable_position.to_string())
        }
        Seen::Silent { .. } => ("does not answer".to_owned(), String::new()),
    };
    let agent = match &row.agent {
        Seen::Answered(agent) => agent,
        Seen::Silent { .. } => {
            let mut line = vec![row.region.clone(), node, position, "does not answer".to_owned()];
            line.resize(COLUMNS, String::new());
            return vec![line];
        }
    };
    let link = if agent.node_connected { "up" } else { "up, no node" };
    let lag = |ms: Option<u64>| ms.map_or_else(|| "–".to_owned(), age);
    let mut lines = Vec::new();
    for (i, peer) in agent.peers.iter().enumerate() {
        let once = |text: String| if i == 0 { text } else { String::new() };
        lines.push(vec![
            once(row.region.clone()),
            once(node.clone()),
            once(position.clone()),
            once(link.to_owned()),
            once(agent.parked.to_string()),
            once(agent.dead_letters.to_string()),
            once(agent.quarantined.to_string()),
            peer.region.clone(),
            peer.changes.clone(),
            lag(peer.change_lag_ms),
            peer.messages.clone(),
            lag(peer.message_lag_ms),
            if peer.protocol == 0 { "–".to_owned() } else { peer.protocol.to_string() },
            peer.detail.clone(),
        ]);
    }
    lines
}
