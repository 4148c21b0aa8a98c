//! Three regions as real processes, and how they are looked at.

use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
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
    _folder: Folder,
}

/// A test that fails shows what the processes said; the folder goes with it.
struct Folder {
    data: PathBuf,
    _dir: tempfile::TempDir,
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for region in ["north", "east", "south"] {
            for log in ["node.log", "agent.log"] {
                let said = std::fs::read_to_string(self.data.join(region).join(log));
                eprintln!("=== {region}/{log}\n{}", said.unwrap_or_else(|error| error.to_string()));
            }
        }
    }
}

pub(super) fn program(role: Role) -> (PathBuf, Vec<String>) {
    (env!("CARGO_BIN_EXE_cellctl").into(), vec!["role".to_owned(), role.program().to_owned()])
}

/// What it ended with, printed and remarked.
pub(super) fn cellctl(args: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cellctl")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
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
        let folder = Folder { data: cluster.data_folder().to_path_buf(), _dir: folder };
        Regions { cluster, api: Api::default(), buyer, _folder: folder }
    }

    pub(super) async fn place_answer(&self, key: &str) -> Answer {
        self.place_at(self.cluster.router(), &self.buyer, key).await
    }

    pub(super) async fn place_at(&self, at: SocketAddr, user: &str, key: &str) -> Answer {
        let body = json!({ "content": { "currency": "CNY",
            "lines": [{ "sku": "tea", "quantity": 1, "unit_minor": 700 }] } });
        self.api.call(at, "POST", "/v1/orders", user, key, &body).await.unwrap()
    }

    pub(super) async fn place(&self, key: &str) -> String {
        let answer = self.place_answer(key).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body["id"].as_str().unwrap().to_owned()
    }

    /// Orders with the keys `k0`, `k1` and so on.
    pub(super) async fn place_many(&self, count: usize) -> Vec<String> {
        let mut orders = Vec::with_capacity(count);
        for i in 0..count {
            orders.push(self.place(&format!("k{i}")).await);
        }
        orders
    }

    /// The buyer cancels an order.
    pub(super) async fn cancel(&self, at: SocketAddr, order: &str) -> Answer {
        let path = format!("/v1/orders/{order}/cancel");
        self.api.call(at, "POST", &path, &self.buyer, "c", &json!({})).await.unwrap()
    }

    /// The buyer asks somebody to pay. The id of the payment.
    pub(super) async fn ask_to_pay(&self, order: &str, payer: &str, key: &str) -> String {
        let (path, ask) = (format!("/v1/orders/{order}/pay-requests"), json!({ "payer": payer }));
        let asked =
            self.api.call(self.cluster.router(), "POST", &path, &self.buyer, key, &ask).await.unwrap();
        assert_eq!(asked.status, 201, "{}", asked.body);
        asked.body["payment"]["id"].as_str().unwrap().to_owned()
    }

    /// What a region says of something to a user, if it does.
    pub(super) async fn shown(&self, region: &str, path: &str, user: &str) -> Option<serde_json::Value> {
        let at = self.cluster.node_http(region).unwrap();
        let answer = self.api.get(at, path, user).await.ok()?;
        (answer.status == 200).then_some(answer.body)
    }

    pub(super) async fn sees(&self, region: &str, order: &str) -> bool {
        self.shown(region, &format!("/v1/orders/{order}"), &self.buyer).await.is_some()
    }

    /// Waits until every one of these regions says that the order is cancelled.
    pub(super) async fn until_cancelled(&self, regions: &[&str], order: &str) {
        let path = format!("/v1/orders/{order}");
        for region in regions {
            until("the cancel is everywhere", async || {
                let seen = self.shown(region, &path, &self.buyer).await;
                seen.is_some_and(|seen| seen["status"] == "Cancelled")
            })
            .await;
        }
    }

    /// Kills a process and starts it again.
    pub(super) async fn restart(&mut self, role: Role, region: &str) {
        self.cluster.kill(role, region).await.unwrap();
        self.cluster.restart(role, region).await.unwrap();
    }

    /// Kills a region's node, removes its disk and starts it.
    pub(super) async fn wipe(&mut self, region: &str) {
        self.cluster.kill(Role::Node, region).await.unwrap();
        std::fs::remove_dir_all(node_folder(self, region)).unwrap();
        self.cluster.restart(Role::Node, region).await.unwrap();
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
pub(super) async fn until(what: &str, is: impl AsyncFnMut() -> bool) {
    until_within(WITHIN, what, is).await;
}

/// The same for what takes its time.
pub(super) async fn until_within(within: Duration, what: &str, mut is: impl AsyncFnMut() -> bool) {
    let so = harness::until(within, LOOK_AGAIN, async || is().await.then_some(()).ok_or(()));
    so.await.unwrap_or_else(|()| panic!("{what}: not within {within:?}"));
}

/// The node's log and view on disk.
pub(super) fn node_folder(regions: &Regions, region: &str) -> PathBuf {
    regions.cluster.data_folder().join(region).join("node")
}

/// Flips one bit in the middle of the log's records.
pub(super) fn damage_log(node: &std::path::Path) {
    damage_log_at(node, 0.5);
}

/// Flips one bit so far into the records of the log's first segment; the node may go on writing.
pub(super) fn damage_log_at(node: &std::path::Path, part: f64) {
    let (segment, bytes, written) = first_segment(node);
    let place = (written as f64 * part) as usize;
    segment.write_all_at(&[bytes[place] ^ 0x10], place as u64).unwrap();
}

/// Overwrites a part of the records of the log's first segment.
pub(super) fn zero_log(node: &std::path::Path, from: f64, to: f64) {
    let (segment, _, written) = first_segment(node);
    let [from, to] = [from, to].map(|part| (written as f64 * part) as usize);
    segment.write_all_at(&vec![0; to - from], from as u64).unwrap();
}

/// With what is in it, and how much of that are records: behind them is room for more.
fn first_segment(node: &std::path::Path) -> (std::fs::File, Vec<u8>, usize) {
    let mut segments: Vec<_> =
        std::fs::read_dir(node.join("log")).unwrap().map(|entry| entry.unwrap().path()).collect();
    segments.retain(|path| path.metadata().unwrap().len() > 4_096);
    segments.sort();
    let segment = segments.first().expect("a segment with records");
    let bytes = std::fs::read(segment).unwrap();
    let written = bytes.len() - bytes.iter().rev().take_while(|byte| [0, 0x5a].contains(*byte)).count();
    (std::fs::OpenOptions::new().write(true).open(segment).unwrap(), bytes, written)
}

/// What a region's node says of itself.
pub(super) async fn node_status(regions: &Regions, region: &str) -> v1::StatusReply {
    let address = format!("http://{}", regions.cluster.node_grpc(region).unwrap());
    let mut node = NodeClient::connect(address).await.unwrap();
    node.status(v1::StatusRequest::default()).await.unwrap().into_inner()
}
