//! Regions as real processes, their links held, cut and healed; processes killed and started again.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cell_core::id::{EntityId, OrderId};
use cell_proto::v1;
use cell_proto::v1::agent_admin_client::AgentAdminClient;
use cell_proto::v1::messages_client::MessagesClient;
use cell_proto::v1::node_client::NodeClient;
use chaos_tests::harness::{Answer, Api, Cluster, Kind, Latency, LinkState, Plan, Role};
use serde_json::json;
use tonic::transport::Channel;

const WITHIN: Duration = Duration::from_secs(30);

struct Regions {
    cluster: Cluster,
    api: Api,
    buyer: String,
    _folder: tempfile::TempDir,
}

fn program(role: Role) -> (PathBuf, Vec<String>) {
    (env!("CARGO_BIN_EXE_cellctl").into(), vec!["role".to_owned(), role.program().to_owned()])
}

impl Regions {
    async fn start() -> Regions {
        Regions::start_with(&[], &[]).await
    }

    /// With lines in the settings of every node, and among the limits of every agent.
    async fn start_with(node: &[&str], limits: &[&str]) -> Regions {
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        let folder = tempfile::tempdir().unwrap();
        let plan = Plan {
            regions: ["north", "east", "south"].map(str::to_owned).into(),
            folder: folder.path().to_owned(),
            program,
            latency: Latency::NONE,
            node: lines(node),
            limits: lines(limits),
            rules: Vec::new(),
            gate: Vec::new(),
            ask_every_ms: 500,
            levels: "info".to_owned(),
            engine: "sled".to_owned(),
            all_in_first: false,
        };
        let cluster = Cluster::start(plan).await.unwrap();
        let buyer = cluster.user_of("north", &["bob"]);
        Regions { cluster, api: Api::default(), buyer, _folder: folder }
    }

    async fn place_answer(&self, key: &str) -> Answer {
        let body = json!({ "content": { "currency": "CNY",
            "lines": [{ "sku": "tea", "quantity": 1, "unit_minor": 700 }] } });
        let router = self.cluster.router();
        self.api.call(router, "POST", "/v1/orders", &self.buyer, key, &body).await.unwrap()
    }

    async fn place(&self, key: &str) -> String {
        let answer = self.place_answer(key).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body["id"].as_str().unwrap().to_owned()
    }

    async fn sees(&self, region: &str, order: &str) -> bool {
        let at = self.cluster.node_http(region).unwrap();
        let answer = self.api.get(at, &format!("/v1/orders/{order}"), &self.buyer).await;
        answer.is_ok_and(|answer| answer.status == 200)
    }

    async fn agent(&self, region: &str) -> AgentAdminClient<Channel> {
        let address = format!("http://{}", self.cluster.agent_grpc(region).unwrap());
        AgentAdminClient::connect(address).await.unwrap()
    }

    /// What a region's agent says of its link to a peer.
    async fn peer(&self, region: &str, peer: &str) -> v1::PeerStatus {
        let status = self.agent(region).await.agent_status(v1::AgentStatusRequest {}).await.unwrap();
        status.into_inner().peers.into_iter().find(|it| it.region == peer).unwrap()
    }

    /// How often a region's agent compared with a peer, and could.
    async fn compared(&self, region: &str, peer: &str) -> u64 {
        let agent = self.cluster.agent_admin(region).unwrap();
        let page = self.api.text(agent, "/metrics").await.unwrap();
        let with_peer = format!("peer=\"{peer}\"");
        let lines =
            page.lines().filter(|line| line.starts_with("cell_compared_total") && line.contains(&with_peer));
        let could = lines.filter(|line| line.contains("\"equal\"") || line.contains("\"different\""));
        could.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
    }

    /// How far a region's node is: (actor's region, start, seq) of every actor.
    async fn frontier(&self, region: &str) -> Vec<(String, u64, u64)> {
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
async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !is().await {
        assert!(begun.elapsed() < WITHIN, "{what}: not within {WITHIN:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_one_peer_cannot_reach_is_served_by_the_third_and_says_so() {
    let regions = Regions::start().await;
    let first = regions.place("k1").await;
    until("south has the first order", async || regions.sees("south", &first).await).await;
    let link = regions.cluster.link("north", "south", Kind::Data).unwrap();
    link.set(LinkState::Cut);
    until("south says that north's changes do not come from there", async || {
        regions.peer("south", "north").await.changes == "unreachable"
    })
    .await;
    let second = regions.place("k2").await;
    until("east relays the second order", async || regions.sees("south", &second).await).await;
    let seen = regions.peer("south", "north").await;
    assert_eq!(seen.changes, "unreachable", "{seen:?}");
    assert!(
        seen.change_lag_ms.is_some_and(|lag_ms| lag_ms < 10_000),
        "heartbeats come by the detour: {seen:?}"
    );
    link.set(LinkState::Open);
    until("the link is there again", async || regions.peer("south", "north").await.changes == "idle").await;
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lag_grows_while_nothing_comes_and_nothing_is_lost_when_it_does() {
    let mut regions = Regions::start().await;
    until("north's first heartbeat is in south", async || {
        regions.peer("south", "north").await.change_lag_ms.is_some()
    })
    .await;
    regions.cluster.data_into("south", LinkState::Held);
    let mut orders = Vec::new();
    for i in 0..50 {
        orders.push(regions.place(&format!("k{i}")).await);
    }
    until("south says how far behind it is", async || {
        let north = regions.peer("south", "north").await;
        north.change_lag_ms.is_some_and(|lag_ms| lag_ms > 2_000) && north.changes != "idle"
    })
    .await;
    // Meanwhile its agent is killed: what it had under way comes again.
    regions.cluster.kill(Role::Agent, "south").await.unwrap();
    regions.cluster.restart(Role::Agent, "south").await.unwrap();
    until("the new agent knows how far behind its node is", async || {
        regions.peer("south", "north").await.change_lag_ms.is_some_and(|lag_ms| lag_ms > 2_000)
    })
    .await;
    regions.cluster.data_into("south", LinkState::Open);
    for order in &orders {
        until("every order arrives", async || regions.sees("south", order).await).await;
    }
    until("it is idle and the lag is small", async || {
        let north = regions.peer("south", "north").await;
        north.changes == "idle" && north.change_lag_ms.is_some_and(|lag_ms| lag_ms < 1_500)
    })
    .await;
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_that_was_away_catches_up_and_its_own_changes_reach_the_others() {
    let mut regions = Regions::start().await;
    regions.cluster.kill(Role::Node, "east").await.unwrap();
    regions.cluster.kill(Role::Agent, "east").await.unwrap();
    let mut orders = Vec::new();
    for i in 0..300 {
        orders.push(regions.place(&format!("k{i}")).await);
    }
    // Its agent comes first, and finds no node.
    regions.cluster.restart(Role::Agent, "east").await.unwrap();
    regions.cluster.restart(Role::Node, "east").await.unwrap();
    until("east has the last order", async || regions.sees("east", &orders[299]).await).await;
    for order in &orders {
        assert!(regions.sees("east", order).await, "{order} is missing");
    }
    until("all three are equally far", async || {
        let north = regions.frontier("north").await;
        // Heartbeats go on, so two looks may differ by one.
        let near = |others: &[(String, u64, u64)]| {
            others.len() == north.len()
                && others.iter().zip(&north).all(|(a, b)| a.0 == b.0 && a.1 == b.1 && a.2.abs_diff(b.2) <= 2)
        };
        near(&regions.frontier("east").await) && near(&regions.frontier("south").await)
    })
    .await;
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_message_are_kept_whole_until_an_operator_discards_them() {
    let mut regions = Regions::start().await;
    // What a newer region might send, given to east's message port in south's name.
    let config = std::fs::read_to_string(regions.cluster.data_folder().join("east/agent.toml")).unwrap();
    let port = config.lines().find_map(|line| line.strip_prefix("messages = \"127")).unwrap();
    let address = format!("http://127{}", port.trim_end_matches('"'));
    let garbage = Bytes::from_static(b"\xff\xfe from the future");
    let batch = v1::MessageBatch {
        from_region: "south".to_owned(),
        envelopes: vec![garbage.clone()],
        sent_wall_ms: 1,
        ..v1::MessageBatch::default()
    };
    let mut messages = MessagesClient::connect(address.clone()).await.unwrap();
    let stream = tokio_stream::iter(vec![batch]).chain_forever();
    let mut acks = messages.send(stream).await.unwrap().into_inner();
    let ack = tokio::time::timeout(WITHIN, acks.message()).await.unwrap().unwrap().unwrap();
    assert_eq!(ack.accepted.len(), 1, "it is kept, so its sender need not send it again");
    regions.cluster.kill(Role::Agent, "east").await.unwrap();
    regions.cluster.restart(Role::Agent, "east").await.unwrap();
    let mut agent = regions.agent("east").await;
    let dead = v1::ListHeldRequest { state: "dead".to_owned(), ..v1::ListHeldRequest::default() };
    let listed = agent.list_held(dead.clone()).await.unwrap().into_inner().messages;
    assert_eq!((listed.len(), listed[0].reason.as_str()), (1, "malformed"), "{listed:?}");
    let id = listed[0].id.clone();
    let seen = agent.inspect_held(v1::InspectHeldRequest { id: id.clone() }).await.unwrap().into_inner();
    assert_eq!(seen.raw, garbage);
    let mut discard = v1::DiscardRequest { id: id.clone(), identity: "sre".to_owned(), ..Default::default() };
    let refused = agent.discard(discard.clone()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument, "without a reason");
    discard.reason = "a test".to_owned();
    until("the node is there to record it", async || match agent.clone().discard(discard.clone()).await {
        Ok(reply) => {
            assert_eq!(reply.into_inner().ids, std::slice::from_ref(&id));
            true
        }
        Err(refused) => {
            assert_eq!(refused.code(), tonic::Code::Unavailable);
            false
        }
    })
    .await;
    assert_eq!(agent.list_held(dead).await.unwrap().into_inner().messages, []);
    // Nobody outside the cluster gets that far.
    let stranger = v1::MessageBatch { from_region: "west".to_owned(), ..v1::MessageBatch::default() };
    let mut messages = MessagesClient::connect(address).await.unwrap();
    let mut refused =
        messages.send(tokio_stream::iter(vec![stranger]).chain_forever()).await.unwrap().into_inner();
    assert_eq!(refused.message().await.unwrap_err().code(), tonic::Code::PermissionDenied);
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_too_large_to_be_kept_is_refused_and_the_agent_lives() {
    let regions = Regions::start().await;
    let config = std::fs::read_to_string(regions.cluster.data_folder().join("east/agent.toml")).unwrap();
    let port = config.lines().find_map(|line| line.strip_prefix("messages = \"127")).unwrap();
    let address = format!("http://127{}", port.trim_end_matches('"'));
    let batch = v1::MessageBatch {
        from_region: "south".to_owned(),
        envelopes: vec![Bytes::from(vec![0xff; 20 << 20])],
        sent_wall_ms: 1,
        ..v1::MessageBatch::default()
    };
    let messages = MessagesClient::connect(address).await.unwrap();
    let mut messages = messages.max_encoding_message_size(64 << 20);
    let sent = messages.send(tokio_stream::iter(vec![batch]).chain_forever()).await;
    let answer = match sent {
        Ok(answers) => tokio::time::timeout(WITHIN, answers.into_inner().message()).await.unwrap(),
        Err(refused) => Err(refused),
    };
    assert!(!matches!(answer, Ok(Some(_))), "{answer:?}");
    // A new connection, so that nothing old answers.
    assert_eq!(regions.peer("east", "south").await.region, "south");
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_the_receiving_gate_lost_with_its_disk_is_sent_again() {
    let mut regions = Regions::start().await;
    let payer = regions.cluster.user_of("east", &["alice"]);
    regions.cluster.data_into("east", LinkState::Held);
    let order = regions.place("k").await;
    let path = format!("/v1/orders/{order}/pay-requests");
    let ask = json!({ "payer": payer });
    let router = regions.cluster.router();
    let asked = regions.api.call(router, "POST", &path, &regions.buyer, "q", &ask).await.unwrap();
    assert_eq!(asked.status, 201, "{}", asked.body);
    let parked = async |regions: &Regions| {
        let list = v1::ListHeldRequest { state: "parked".to_owned(), ..v1::ListHeldRequest::default() };
        regions.agent("east").await.list_held(list).await.unwrap().into_inner().messages.len() == 1
    };
    until("the request waits in east", async || parked(&regions).await).await;
    regions.cluster.kill(Role::Agent, "east").await.unwrap();
    std::fs::remove_dir_all(regions.cluster.data_folder().join("east/agent")).unwrap();
    regions.cluster.restart(Role::Agent, "east").await.unwrap();
    // The sender owes it still, acknowledged or not; a new link from its node begins with all that is owed.
    regions.cluster.kill(Role::Agent, "north").await.unwrap();
    regions.cluster.restart(Role::Agent, "north").await.unwrap();
    until("the request waits in east again", async || parked(&regions).await).await;
    regions.cluster.data_into("east", LinkState::Open);
    let payment = asked.body["payment"]["id"].as_str().unwrap().to_owned();
    until("the payer is asked", async || {
        let at = regions.cluster.node_http("east").unwrap();
        let seen = regions.api.get(at, &format!("/v1/payments/{payment}"), &payer).await;
        seen.is_ok_and(|seen| seen.body["status"] == "received")
    })
    .await;
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_in_a_damaged_gate_log_come_again_and_the_others_were_never_away() {
    let mut regions = Regions::start().await;
    let payer = regions.cluster.user_of("east", &["alice"]);
    regions.cluster.data_into("east", LinkState::Held);
    let mut payments = Vec::new();
    let held = async |regions: &Regions| {
        let list = v1::ListHeldRequest { state: "parked".to_owned(), ..v1::ListHeldRequest::default() };
        regions.agent("east").await.list_held(list).await.unwrap().into_inner().messages.len()
    };
    for i in 0..3 {
        let order = regions.place(&format!("k{i}")).await;
        let (path, ask) = (format!("/v1/orders/{order}/pay-requests"), json!({ "payer": payer }));
        let (router, key) = (regions.cluster.router(), format!("q{i}"));
        let asked = regions.api.call(router, "POST", &path, &regions.buyer, &key, &ask).await.unwrap();
        assert_eq!(asked.status, 201, "{}", asked.body);
        payments.push(asked.body["payment"]["id"].as_str().unwrap().to_owned());
        until("the request waits in east", async || held(&regions).await == i + 1).await;
    }
    regions.cluster.kill(Role::Agent, "east").await.unwrap();
    // A byte of the second message, inside what was promised.
    let gate = regions.cluster.data_folder().join("east/agent/gate");
    let segment = std::fs::read_dir(gate).unwrap().map(|file| file.unwrap().path());
    let segment = segment.filter(|path| path.extension().is_some_and(|end| end == "seg")).max().unwrap();
    let mut bytes = std::fs::read(&segment).unwrap();
    let id = payments[1].parse::<cell_core::id::PaymentId>().unwrap();
    let at = bytes.windows(16).position(|window| window == &id.0.0[..]).unwrap();
    bytes[at] ^= 0x40;
    std::fs::write(&segment, bytes).unwrap();
    regions.cluster.restart(Role::Agent, "east").await.unwrap();
    assert!((1..3).contains(&held(&regions).await), "what is damaged is gone, and the rest is there");
    // The sender owes it still, acknowledged or not; a new link from its node begins with all that is owed.
    regions.cluster.kill(Role::Agent, "north").await.unwrap();
    regions.cluster.restart(Role::Agent, "north").await.unwrap();
    until("all wait in east again", async || held(&regions).await == 3).await;
    regions.cluster.data_into("east", LinkState::Open);
    for payment in &payments {
        until("the payer is asked", async || {
            let at = regions.cluster.node_http("east").unwrap();
            let seen = regions.api.get(at, &format!("/v1/payments/{payment}"), &payer).await;
            seen.is_ok_and(|seen| seen.body["status"] == "received")
        })
        .await;
    }
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_damaged_behind_a_nodes_back_is_found_and_healed_with_nothing_restarted() {
    let node = ["allow_damage = true", "scrub_every_ms = 300"];
    let regions = Regions::start_with(&node, &["compare_every_ms = 200"]).await;
    let mut orders = Vec::new();
    for i in 0..20 {
        orders.push(regions.place(&format!("k{i}")).await);
    }
    until("east has them", async || regions.sees("east", &orders[19]).await).await;
    let status_of = async |order: &str| {
        let at = regions.cluster.node_http("east").unwrap();
        regions.api.get(at, &format!("/v1/orders/{order}"), &regions.buyer).await.unwrap().status
    };
    let east = format!("http://{}", regions.cluster.node_grpc("east").unwrap());
    let node = NodeClient::connect(east).await.unwrap();
    for (order, how) in [(&orders[3], "forget"), (&orders[11], "flip")] {
        let id = EntityId::from(order.parse::<OrderId>().unwrap());
        let damage = v1::DamageRequest {
            entity: Bytes::copy_from_slice(&id.to_bytes()),
            how: how.to_owned(),
            part: String::new(),
        };
        until("it is in the view", async || node.clone().damage(damage.clone()).await.is_ok()).await;
    }
    assert_ne!(status_of(&orders[11]).await, 404, "damaged is not unknown");
    until("the agent sees that something differs", async || {
        let metrics = regions.cluster.agent_admin("east").unwrap();
        let page = regions.api.text(metrics, "/metrics").await.unwrap();
        page.lines().any(|line| {
            line.starts_with("cell_repaired_entities_total") && line.rsplit(' ').next() != Some("0")
        })
    })
    .await;
    for order in [&orders[3], &orders[11]] {
        until("it is there again", async || status_of(order).await == 200).await;
    }
    until("the regions agree, and nothing is in doubt", async || {
        let peer = regions.peer("east", "north").await;
        peer.diverged_ms.is_none() && peer.agreed_ms.is_some()
    })
    .await;
    let ask = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_cellctl"))
            .arg("--cluster")
            .arg(regions.cluster.cluster_file())
            .args(["-o", "json"])
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice::<serde_json::Value>(&output.stdout).unwrap()
    };
    assert_eq!(ask(&["diff", "north", "east"])[0]["slots"], json!([]));
    let repaired = ask(&["repair", "east", "north", "--as", "sre"]);
    assert_eq!((&repaired[0]["repaired"], &repaired[1]["repaired"]), (&json!(0), &json!(0)));
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sum_that_is_wrong_over_sound_entities_is_counted_anew() {
    let regions = Regions::start_with(&["allow_damage = true"], &["compare_every_ms = 200"]).await;
    let order = regions.place("k").await;
    until("east has it", async || regions.sees("east", &order).await).await;
    let east = format!("http://{}", regions.cluster.node_grpc("east").unwrap());
    let mut node = NodeClient::connect(east).await.unwrap();
    let id = EntityId::from(order.parse::<OrderId>().unwrap());
    let entity = Bytes::copy_from_slice(&id.to_bytes());
    let damage = v1::DamageRequest { entity, how: "flip".to_owned(), part: "sum".to_owned() };
    node.damage(damage).await.unwrap();
    let differs = async || regions.peer("east", "north").await.diverged_ms.is_some();
    until("the regions differ", differs).await;
    until("they agree, with nothing repaired", async || !differs().await).await;
    let agent = regions.cluster.agent_admin("east").unwrap();
    let page = regions.api.text(agent, "/metrics").await.unwrap();
    let repaired = page.lines().find(|line| line.starts_with("cell_repaired_entities_total"));
    assert!(repaired.is_none_or(|line| line.ends_with(" 0")), "{repaired:?}");
    regions.cluster.stop().await.unwrap();
}

/// A stream that stays open behind its items, as an agent's does.
trait Forever: Sized {
    fn chain_forever(self) -> impl futures::Stream<Item = v1::MessageBatch> + Send + 'static;
}

impl Forever for tokio_stream::Iter<std::vec::IntoIter<v1::MessageBatch>> {
    fn chain_forever(self) -> impl futures::Stream<Item = v1::MessageBatch> + Send + 'static {
        futures::StreamExt::chain(self, futures::stream::pending())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_setting_is_one_line_that_names_file_and_key() {
    let regions = Regions::start().await;
    let folder = regions.cluster.data_folder().to_owned();
    let run = |role: &str, config: &str, sets: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_cellctl"))
            .args(["role", role, "--config"])
            .arg(folder.join(config))
            .args(sets.iter().flat_map(|set| ["--set", set]))
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).trim().to_owned())
    };
    let any = ["listen.data", "listen.messages", "listen.grpc", "listen.admin"];
    let free: Vec<String> = any.iter().map(|key| format!("{key}=127.0.0.1:0")).collect();
    let free: Vec<&str> = free.iter().map(String::as_str).collect();
    let of_agent = format!("data_dir={}", folder.join("east/agent").display());
    let of_node = format!("data_dir={}", folder.join("east/node").display());
    let of_node_free = vec!["listen.http=127.0.0.1:0", "listen.grpc=127.0.0.1:0", "listen.admin=127.0.0.1:0"];
    let cases: [(&str, &str, Vec<&str>, &str); 10] = [
        (
            "region-node",
            "east/node.toml",
            [&of_node_free[..], &[of_agent.as_str()]].concat(),
            "is a sync-agent's",
        ),
        ("sync-agent", "east/agent.toml", [&free[..], &[of_node.as_str()]].concat(), "is a region-node's"),
        ("sync-agent", "east/agent.toml", vec![], "listen.data"),
        ("sync-agent", "east/agent.toml", free.clone(), "data_dir"),
        ("sync-agent", "east/agent.toml", vec!["gate.patience=5"], "gate.patience"),
        ("sync-agent", "east/agent.toml", vec!["region=west"], "region"),
        (
            "router",
            "router.toml",
            vec!["region=west"],
            "region: 'west' is no member of the placement (--set)",
        ),
        ("region-node", "cluster.toml", vec![], "cluster.toml)"),
        ("region-node", "east/node.toml", vec![], "listen.http"),
        ("region-node", "east/node.toml", of_node_free, "data_dir"),
    ];
    for (role, config, sets, key) in cases {
        let (code, said) = run(role, config, &sets);
        assert_eq!(code, Some(2), "{role} {sets:?}: {said}");
        assert!(said.contains(key), "{role} {sets:?}: {said}");
    }
    regions.cluster.stop().await.unwrap();
}

/// `cellctl` as an operator calls it: its exit code, what it printed, what it said.
fn cellctl(args: &[&str]) -> (Option<i32>, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_cellctl")).args(args).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_that_a_deployment_runs_on_is_left_as_it_is() {
    let regions = Regions::start().await;
    let folder = regions.cluster.data_folder().to_owned();
    let configs = || {
        ["cluster.toml", "router.toml", "east/node.toml"]
            .map(|name| std::fs::read(folder.join(name)).unwrap())
    };
    let before = configs();
    let shown = folder.canonicalize().unwrap().display().to_string();
    let (code, _, said) = cellctl(&["demo", "--data", &shown]);
    assert_eq!((code, said), (Some(2), format!("cellctl: --data {shown}: in use by another demo")));
    assert_eq!(configs(), before);
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_what_answered_and_by_the_code_that_not_all_did() {
    let mut regions = Regions::start().await;
    let order = regions.place("k").await;
    let cluster = regions.cluster.cluster_file().display().to_string();
    for region in ["east", "south"] {
        until("all have it", async || regions.sees(region, &order).await).await;
    }
    let commands = [
        &["region", "status"][..],
        &["dlq", "list"],
        &["order", "get", &order],
        &["order", "explain", &order],
    ];
    let run = |args: &[&str]| cellctl(&[&["--cluster", &cluster, "-o", "json"], args].concat());
    for args in commands {
        let (code, _, said) = run(args);
        assert_eq!(code, Some(0), "{args:?}: {said}");
    }
    let page = async |admin| regions.api.text(admin, "/metrics").await.unwrap();
    let (node, agent) =
        (regions.cluster.node_admin("east").unwrap(), regions.cluster.agent_admin("east").unwrap());
    for (admin, lines) in [
        (
            node,
            &[
                "# HELP cell_alarms_total ",
                "cell_alarms_total{kind=\"forked\"} 0",
                "cell_problems_total{type=\"busy\"} 0",
            ][..],
        ),
        (
            agent,
            &[
                "cell_gate_warnings_total 0",
                "cell_gate_dead_lettered_total{reason=\"poison\"} 0",
                "cell_gate_fetched_total{from=\"north\"} 0",
            ],
        ),
        (
            regions.cluster.router_admin(),
            &["cell_router_refused_total{reason=\"moving\"} 0", "# HELP cell_router_requests_total "],
        ),
    ] {
        let page = page(admin).await;
        lines.iter().for_each(|line| assert!(page.contains(line), "{line} in\n{page}"));
    }
    let (_, printed, _) = run(&["order", "explain", &order]);
    let document: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let versions = ["north", "east", "south"].map(|region| document[region]["version"].as_str().unwrap());
    assert!(
        versions.iter().all(|version| *version == versions[0] && version.starts_with("north-0.")),
        "{printed}"
    );

    regions.cluster.kill(Role::Agent, "south").await.unwrap();
    regions.cluster.kill(Role::Node, "south").await.unwrap();
    for args in commands {
        let (code, printed, said) = run(args);
        assert_eq!(code, Some(1), "{args:?}: {said}");
        assert!(said.starts_with("cellctl: south: ") && said.contains("does not answer"), "{args:?}: {said}");
        assert!(serde_json::from_str::<serde_json::Value>(&printed).is_ok(), "{args:?}: {printed}");
    }
    let (_, printed, _) = run(&["region", "status"]);
    let rows: serde_json::Value = serde_json::from_str(&printed).unwrap();
    let row = |name: &str| rows.as_array().unwrap().iter().find(|row| row["region"] == name).unwrap();
    assert!(row("north")["node"]["durable_position"].is_u64(), "{printed}");
    assert!(row("south")["node"]["unreachable"].is_string(), "{printed}");
    let (code, _, said) = run(&["order", "explain", "ord_zzz"]);
    assert_eq!((code, said.lines().count()), (Some(2), 1), "{said}");
    regions.cluster.stop().await.unwrap();
}

/// The node's log and view on disk.
fn node_folder(regions: &Regions, region: &str) -> PathBuf {
    regions.cluster.data_folder().join(region).join("node")
}

/// Flips one bit in the middle of the log's records.
fn damage_log(node: &std::path::Path) {
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

#[tokio::test(flavor = "multi_thread")]
async fn what_a_damaged_log_lost_is_never_denied_and_comes_back_from_the_peers() {
    let mut regions = Regions::start().await;
    let mut orders = Vec::new();
    for i in 0..30 {
        orders.push(regions.place(&format!("k{i}")).await);
    }
    for region in ["east", "south"] {
        until("peers have all of them", async || regions.sees(region, orders.last().unwrap()).await).await;
    }
    let before = regions.frontier("east").await;
    regions.cluster.kill(Role::Agent, "north").await.unwrap();
    regions.cluster.kill(Role::Node, "north").await.unwrap();
    let folder = node_folder(&regions, "north");
    damage_log(&folder);
    std::fs::remove_dir_all(folder.join("view")).unwrap();
    regions.cluster.data_into("north", LinkState::Cut);
    regions.cluster.restart(Role::Node, "north").await.unwrap();
    regions.cluster.restart(Role::Agent, "north").await.unwrap();
    let status_of = async |order: &str| {
        let at = regions.cluster.node_http("north").unwrap();
        regions.api.get(at, &format!("/v1/orders/{order}"), &regions.buyer).await.unwrap().status
    };
    let mut lost = 0;
    for order in &orders {
        let status = status_of(order).await;
        assert!(status == 200 || status == 503, "{order}: {status}");
        lost += usize::from(status == 503);
    }
    assert!(lost > 0, "the damage hit no order");
    // Nothing is decided on what may be half known.
    let cancel = format!("/v1/orders/{}/cancel", orders[0]);
    let at = regions.cluster.node_http("north").unwrap();
    let refused = regions.api.call(at, "POST", &cancel, &regions.buyer, "c", &json!({})).await.unwrap();
    assert_eq!(refused.status, 503, "{}", refused.body);
    regions.cluster.data_into("north", LinkState::Open);
    for order in &orders {
        until("what was lost is back", async || status_of(order).await == 200).await;
    }
    until("it decides again", async || {
        let answer = regions.api.call(at, "POST", &cancel, &regions.buyer, "c", &json!({})).await.unwrap();
        answer.status == 201 || answer.status == 200
    })
    .await;
    let of_north = |frontier: &[(String, u64, u64)]| {
        let first = frontier.iter().find(|(region, start, _)| region == "north" && *start == 1).unwrap();
        first.2
    };
    assert!(of_north(&regions.frontier("north").await) >= of_north(&before), "without a gap");
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_comes_back_from_its_peers_as_the_home_it_was() {
    let mut regions = Regions::start().await;
    let mut orders = Vec::new();
    for i in 0..60 {
        orders.push(regions.place(&format!("k{i}")).await);
    }
    until("south has them", async || regions.sees("south", &orders[59]).await).await;
    until("east has them", async || regions.sees("east", &orders[59]).await).await;
    regions.cluster.kill(Role::Node, "north").await.unwrap();
    std::fs::remove_dir_all(node_folder(&regions, "north")).unwrap();
    regions.cluster.restart(Role::Node, "north").await.unwrap();
    // Writes go on meanwhile; a repeat of what was lost is the same order.
    let again = regions.place_answer("k7").await;
    assert!(matches!(again.status, 200 | 201), "{}", again.body);
    assert_eq!(again.body["id"], orders[7].as_str());
    regions.cluster.ready(Role::Node, "north").await.unwrap();
    for order in &orders {
        until("what was wiped is back", async || regions.sees("north", order).await).await;
    }
    // It decides on what it knew before, and the others agree.
    let cancel = format!("/v1/orders/{}/cancel", orders[3]);
    let router = regions.cluster.router();
    let done = regions.api.call(router, "POST", &cancel, &regions.buyer, "c", &json!({})).await.unwrap();
    assert_eq!(done.status, 201, "{}", done.body);
    for region in ["east", "south"] {
        until("the cancel is everywhere", async || {
            let at = regions.cluster.node_http(region).unwrap();
            let seen = regions.api.get(at, &format!("/v1/orders/{}", orders[3]), &regions.buyer).await;
            seen.is_ok_and(|seen| seen.body["status"] == "Cancelled")
        })
        .await;
    }
    // It is another actor than the one that was wiped.
    let actors = regions.frontier("east").await.into_iter().filter(|(region, ..)| region == "north").count();
    assert!(actors >= 2, "{actors}");
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_that_hears_nobody_denies_nothing() {
    let mut regions = Regions::start_with(&["recovery_wait_ms = 300"], &[]).await;
    let order = regions.place("k").await;
    let neighbour = regions.cluster.user_of("south", &["carol"]);
    let body = json!({ "content": { "currency": "CNY",
        "lines": [{ "sku": "tea", "quantity": 1, "unit_minor": 900 }] } });
    let router = regions.cluster.router();
    let answer = regions.api.call(router, "POST", "/v1/orders", &neighbour, "k", &body).await.unwrap();
    let of_south = answer.body["id"].as_str().unwrap().to_owned();
    let north = regions.cluster.node_http("north").unwrap();
    until("north has south's", async || {
        let seen = regions.api.get(north, &format!("/v1/orders/{of_south}"), &neighbour).await;
        seen.is_ok_and(|seen| seen.status == 200)
    })
    .await;
    until("south has it", async || regions.sees("south", &order).await).await;
    for region in ["north", "east"] {
        regions.cluster.kill(Role::Agent, region).await.unwrap();
    }
    regions.cluster.kill(Role::Node, "south").await.unwrap();
    std::fs::remove_dir_all(node_folder(&regions, "south")).unwrap();
    regions.cluster.restart(Role::Node, "south").await.unwrap();
    regions.cluster.ready(Role::Node, "south").await.unwrap();
    let (at, admin) = (regions.cluster.node_http("south"), regions.cluster.node_admin("south").unwrap());
    let at = at.unwrap();
    until("it decides", async || {
        regions.api.get(admin, "/readyz", "nobody").await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
    let paths = ["/v1/orders", "/v1/notifications", "/v1/pay-requests?role=payer", "/v1/events"];
    for path in paths.map(str::to_owned).into_iter().chain([format!("/v1/orders/{order}")]) {
        let answer = regions.api.get(at, &path, &regions.buyer).await.unwrap();
        assert_eq!(answer.status, 503, "{path}: {}", answer.body);
    }
    // Nor of its own, which it knows nothing of any more; what is new it takes.
    let answer = regions.api.get(at, &format!("/v1/orders/{of_south}"), &neighbour).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    let answer = regions.api.get(at, "/v1/orders", &neighbour).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    let body = json!({ "content": { "currency": "CNY",
        "lines": [{ "sku": "tea", "quantity": 1, "unit_minor": 700 }] } });
    let placed = regions.api.call(at, "POST", "/v1/orders", &neighbour, "new", &body).await.unwrap();
    assert_eq!(placed.status, 201, "{}", placed.body);
    regions.cluster.restart(Role::Agent, "north").await.unwrap();
    until("it is back", async || regions.sees("south", &order).await).await;
    until("and so are lists", async || {
        let answer = regions.api.get(at, "/v1/orders", &regions.buyer).await;
        answer.is_ok_and(|answer| answer.body["items"][0]["id"] == order.as_str())
    })
    .await;
    until("its own, too", async || {
        let answer = regions.api.get(at, "/v1/orders", &neighbour).await;
        answer.is_ok_and(|answer| answer.body["items"].as_array().is_some_and(|items| items.len() == 2))
    })
    .await;
    regions.cluster.stop().await.unwrap();
}

/// What a region's node says of itself.
async fn node_status(regions: &Regions, region: &str) -> v1::StatusReply {
    let address = format!("http://{}", regions.cluster.node_grpc(region).unwrap());
    let mut node = NodeClient::connect(address).await.unwrap();
    node.status(v1::StatusRequest::default()).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_takes_over_state_where_no_log_reaches_back_while_writes_go_on() {
    let node = ["log = { segment_kib = 64, keep_mib = 0 }"];
    let mut regions = Regions::start_with(&node, &["upkeep_every_ms = 100", "compare_every_ms = 500"]).await;
    let mut orders = Vec::new();
    let trimmed = async |regions: &Regions| {
        let mut all = true;
        for region in ["north", "east", "south"] {
            all &= node_status(regions, region).await.first_position > 300;
        }
        all
    };
    while !trimmed(&regions).await {
        assert!(orders.len() < 5_000, "no log is trimmed");
        for _ in 0..50 {
            orders.push(regions.place(&format!("k{}", orders.len())).await);
        }
    }
    let last = orders.last().unwrap().clone();
    for region in ["south", "east"] {
        until("peers have all of them", async || regions.sees(region, &last).await).await;
    }
    // One peer is enough.
    regions.cluster.kill(Role::Agent, "south").await.unwrap();
    regions.cluster.kill(Role::Node, "south").await.unwrap();
    regions.cluster.kill(Role::Node, "north").await.unwrap();
    std::fs::remove_dir_all(node_folder(&regions, "north")).unwrap();
    regions.cluster.restart(Role::Node, "north").await.unwrap();
    let at = regions.cluster.node_http("north").unwrap();
    let mut placed = 0;
    until("north decides again", async || {
        // What is not here yet is not denied.
        let first = regions.api.get(at, &format!("/v1/orders/{}", orders[0]), &regions.buyer).await.unwrap();
        assert!(matches!(first.status, 200 | 503), "{}", first.body);
        let answer = regions.place_answer(&format!("meanwhile{placed}")).await;
        placed += usize::from(answer.status == 201);
        !node_status(&regions, "north").await.recovering
    })
    .await;
    for order in &orders {
        until("what was wiped is back", async || regions.sees("north", order).await).await;
    }
    let admin = regions.cluster.node_admin("north").unwrap();
    let metrics = regions.api.text(admin, "/metrics").await.unwrap();
    assert!(metrics.contains("cell_baselines_adopted_total 1"), "it came by another way");
    // It decides on what it knew before, and whoever comes back learns of it all.
    regions.cluster.restart(Role::Node, "south").await.unwrap();
    regions.cluster.restart(Role::Agent, "south").await.unwrap();
    let cancel = format!("/v1/orders/{}/cancel", orders[3]);
    let done = regions.api.call(at, "POST", &cancel, &regions.buyer, "c", &json!({})).await.unwrap();
    assert_eq!(done.status, 201, "{}", done.body);
    for region in ["east", "south"] {
        until("the cancel is everywhere", async || {
            let at = regions.cluster.node_http(region).unwrap();
            let seen = regions.api.get(at, &format!("/v1/orders/{}", orders[3]), &regions.buyer).await;
            seen.is_ok_and(|seen| seen.body["status"] == "Cancelled")
        })
        .await;
    }
    until("a comparison agrees", async || regions.peer("north", "east").await.agreed_ms.is_some()).await;
    let (known, digit) = orders[0].split_at(orders[0].len() - 1);
    let unknown = format!("/v1/orders/{known}{}", if digit == "0" { "1" } else { "0" });
    until("what is unknown is denied again", async || {
        regions.api.get(at, &unknown, &regions.buyer).await.unwrap().status == 404
    })
    .await;
    // So it is where the log is there and the view is not: what is left of the log makes no whole view.
    regions.cluster.kill(Role::Node, "east").await.unwrap();
    std::fs::remove_dir_all(node_folder(&regions, "east").join("view")).unwrap();
    regions.cluster.restart(Role::Node, "east").await.unwrap();
    let at = regions.cluster.node_http("east").unwrap();
    for order in &orders {
        until("what the view lost is back", async || {
            let seen = regions.api.get(at, &format!("/v1/orders/{order}"), &regions.buyer).await.unwrap();
            assert!(matches!(seen.status, 200 | 503), "{}", seen.body);
            seen.status == 200
        })
        .await;
    }
    regions.cluster.ready(Role::Node, "east").await.unwrap();
    // Two that lack the same do not confirm each other that there is nothing more: the third one has it.
    regions.cluster.kill(Role::Agent, "north").await.unwrap();
    for region in ["east", "south"] {
        regions.cluster.kill(Role::Node, region).await.unwrap();
        std::fs::remove_dir_all(node_folder(&regions, region).join("view")).unwrap();
    }
    for region in ["east", "south"] {
        regions.cluster.restart(Role::Node, region).await.unwrap();
    }
    for (region, peer) in [("east", "south"), ("south", "east")] {
        // Half a second apart: time enough for a start that waits for nobody else, too.
        let enough = regions.compared(region, peer).await + 6;
        until("they are compared again and again", async || {
            let status = node_status(&regions, region).await;
            let (lacking, recovering) = (status.lacking, status.recovering);
            assert!(lacking && recovering, "{region} without what north has: {lacking}, {recovering}");
            let at = regions.cluster.node_http(region).unwrap();
            let seen =
                regions.api.get(at, &format!("/v1/orders/{}", orders[0]), &regions.buyer).await.unwrap();
            assert!(matches!(seen.status, 200 | 503), "{}", seen.body);
            regions.compared(region, peer).await >= enough
        })
        .await;
    }
    regions.cluster.restart(Role::Agent, "north").await.unwrap();
    for region in ["east", "south"] {
        until("it has what north had", async || {
            let status = node_status(&regions, region).await;
            !status.lacking && !status.recovering && regions.sees(region, &orders[0]).await
        })
        .await;
    }
    regions.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn restarts_make_no_frontier_longer() {
    let mut regions = Regions::start_with(&[], &["upkeep_every_ms = 100", "close_after_ms = 0"]).await;
    for start in 0..4 {
        regions.place(&format!("k{start}")).await;
        regions.cluster.kill(Role::Node, "north").await.unwrap();
        regions.cluster.restart(Role::Node, "north").await.unwrap();
        regions.cluster.ready(Role::Node, "north").await.unwrap();
    }
    for region in ["north", "east", "south"] {
        until("ended actors are closed", async || {
            let status = node_status(&regions, region).await;
            let closed = |front: &v1::ActorFrontier| {
                let actor = front.actor.as_ref();
                status.closed.iter().any(|it| it.actor.as_ref() == actor && it.last == front.seq)
            };
            let named = status.frontier.iter().filter(|front| !closed(front)).count();
            named == 3 && status.frontier.len() >= 7 && status.lives.len() == 3
        })
        .await;
    }
    // Who does not know what the stamp stands for is told everything: nothing of it is lost with a disk.
    let order = regions.place("last").await;
    until("east has the last", async || regions.sees("east", &order).await).await;
    regions.cluster.kill(Role::Node, "east").await.unwrap();
    std::fs::remove_dir_all(node_folder(&regions, "east")).unwrap();
    regions.cluster.restart(Role::Node, "east").await.unwrap();
    regions.cluster.ready(Role::Node, "east").await.unwrap();
    for start in 0..4 {
        let again = regions.place_answer(&format!("k{start}")).await;
        let order = again.body["id"].as_str().unwrap().to_owned();
        until("east has what was written long ago", async || regions.sees("east", &order).await).await;
    }
    until("east folds again", async || node_status(&regions, "east").await.closed.len() >= 4).await;
    regions.cluster.stop().await.unwrap();
}
