//! Three regions as real processes, and how they are looked at.

use std::path::PathBuf;
use std::time::Duration;

use cell_proto::v1;
use cell_proto::v1::agent_admin_client::AgentAdminClient;
use cell_proto::v1::node_client::NodeClient;
use chaos_tests::harness::{self, Answer, Api, Cluster, Plan, Role};
use serde_json::json;
use tonic::transport::Channel;

pub(super) const WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(10);

pub(super) struct Regions {
    pub(super) cluster: Cluster,
    pub(super) api: Api,
    pub(super) buyer: String,
    _folder: tempfile::TempDir,
}

pub(super) fn program(role: Role) -> (PathBuf, Vec<String>) {
    (env!("CARGO_BIN_EXE_cellctl").into(), vec!["role".to_owned(), role.program().to_owned()])
}

impl Regions {
    pub(super) async fn start() -> Regions {
        Regions::start_with(&[], &[]).await
    }

    /// With lines in the settings of every node, and among the limits of every agent.
    pub(super) async fn start_with(node: &[&str], limits: &[&str]) -> Regions {
        let folder = tempfile::tempdir().unwrap();
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        let plan = Plan {
            node: lines(node),
            limits: lines(limits),
            ..Plan::new(&["north", "east", "south"], folder.path(), program)
        };
        let cluster = Cluster::start(plan).await.unwrap();
        let buyer = cluster.user_of("north", &["bob"]);
        Regions { cluster, api: Api::default(), buyer, _folder: folder }
    }

    pub(super) async fn place_answer(&self, key: &str) -> Answer {
        let body = json!({ "content": { "currency": "CNY",
            "lines": [{ "sku": "tea", "quantity": 1, "unit_minor": 700 }] } });
        let router = self.cluster.router();
        self.api.call(router, "POST", "/v1/orders", &self.buyer, key, &body).await.unwrap()
    }

    pub(super) async fn place(&self, key: &str) -> String {
        let answer = self.place_answer(key).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body["id"].as_str().unwrap().to_owned()
    }

    pub(super) async fn sees(&self, region: &str, order: &str) -> bool {
        let at = self.cluster.node_http(region).unwrap();
        let answer = self.api.get(at, &format!("/v1/orders/{order}"), &self.buyer).await;
        answer.is_ok_and(|answer| answer.status == 200)
    }

    pub(super) async fn agent(&self, region: &str) -> AgentAdminClient<Channel> {
        let address = format!("http://{}", self.cluster.agent_grpc(region).unwrap());
        AgentAdminClient::connect(address).await.unwrap()
    }

    /// What a region's agent says of its link to a peer.
    pub(super) async fn peer(&self, region: &str, peer: &str) -> v1::PeerStatus {
        let status = self.agent(region).await.agent_status(v1::AgentStatusRequest {}).await.unwrap();
        status.into_inner().peers.into_iter().find(|it| it.region == peer).unwrap()
    }

    /// How often a region's agent compared with a peer, and could.
    pub(super) async fn compared(&self, region: &str, peer: &str) -> u64 {
        let agent = self.cluster.agent_admin(region).unwrap();
        let page = self.api.text(agent, "/metrics").await.unwrap();
        let with_peer = format!("peer=\"{peer}\"");
        let lines =
            page.lines().filter(|line| line.starts_with("cell_compared_total") && line.contains(&with_peer));
        let could = lines.filter(|line| line.contains("\"equal\"") || line.contains("\"different\""));
        could.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// How far a region's node is: (actor's region, start, seq) of every actor.
    pub(super) async fn frontier(&self, region: &str) -> Vec<(String, u64, u64)> {
        let address = format!("http://{}", self.cluster.node_grpc(region).unwrap());
        let mut node = NodeClient::connect(address).await.unwrap();
        let status = node.status(v1::StatusRequest::default()).await.unwrap().into_inner();
        let mut frontier: Vec<_> = status
            .frontier
            .into_iter()
            .map(|front| {
                let actor = front.actor.unwrap();
                (actor.node.unwrap().region, actor.start, front.seq)
            })
            .collect();
        frontier.sort();
        frontier
    }
}

/// Asks again until it is so.
pub(super) async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let so = harness::until(WITHIN, LOOK_AGAIN, async || is().await.then_some(()).ok_or(()));
    so.await.unwrap_or_else(|()| panic!("{what}: not within {WITHIN:?}"));
}

/// The node's log and view on disk.
pub(super) fn node_folder(regions: &Regions, region: &str) -> PathBuf {
    regions.cluster.data_folder().join(region).join("node")
}

/// Flips one bit in the middle of the log's records.
pub(super) fn damage_log(node: &std::path::Path) {
    let mut segments: Vec<_> =
        std::fs::read_dir(node.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.metadata().unwrap().len() > 4_096);
    segments.sort();
    let segment = segments.first().expect("a segment with records");
    let mut bytes = std::fs::read(segment).unwrap();
    // Behind them is room for more.
    let written = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count();
    let middle = written / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(segment, bytes).unwrap();
}

/// What a region's node says of itself.
pub(super) async fn node_status(regions: &Regions, region: &str) -> v1::StatusReply {
    let address = format!("http://{}", regions.cluster.node_grpc(region).unwrap());
    let mut node = NodeClient::connect(address).await.unwrap();
    node.status(v1::StatusRequest::default()).await.unwrap().into_inner()
}
