//! Changes that regions cannot apply, real processes and `cellctl quarantine`.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::time::Duration;

use bytes::Bytes;
use cell_core::canon::Message;
use cell_core::clock::Hlc;
use cell_core::event::{Beat, Body, Change, ChangeShape, Entry, Event, EventAddress};
use cell_core::id::{ActorId, EntityId, Hash, NodeId};
use cell_core::version::Dot;
use cell_proto::v1;
use cell_proto::v1::node_client::NodeClient;
use chaos_tests::harness::{self, Answer, Api, Cluster, Plan, Role};
use serde_json::{Value, json};
use tonic::transport::Channel;

const WITHIN: Duration = Duration::from_secs(30);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const REGIONS: [&str; 3] = ["north", "east", "south"];

fn program(role: Role) -> (PathBuf, Vec<String>) {
    (env!("CARGO_BIN_EXE_cellctl").into(), vec!["role".to_owned(), role.program().to_owned()])
}

struct Stage {
    cluster: Cluster,
    api: Api,
    buyer: String,
    _folder: tempfile::TempDir,
}

impl Stage {
    async fn start(node: &[&str]) -> Stage {
        Stage::start_with(node, &[]).await
    }

    async fn start_with(node: &[&str], limits: &[&str]) -> Stage {
        let folder = tempfile::tempdir().unwrap();
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
        let plan =
            Plan { node: lines(node), limits: lines(limits), ..Plan::new(&REGIONS, folder.path(), program) };
        let cluster = Cluster::start(plan).await.unwrap();
        let buyer = cluster.user_of("north", &["bob"]);
        Stage { cluster, api: Api::default(), buyer, _folder: folder }
    }

    /// One of more than 300 bytes.
    async fn place(&self, key: &str) -> String {
        self.place_titled(key, &"t".repeat(240)).await
    }

    async fn place_titled(&self, key: &str, title: &str) -> String {
        let body = json!({ "content": { "currency": "CNY",
            "lines": [{ "sku": "tea", "title": title, "quantity": 1, "unit_minor": 700 }] } });
        let router = self.cluster.router();
        let answer = self.api.call(router, "POST", "/v1/orders", &self.buyer, key, &body).await.unwrap();
        assert_eq!(answer.status, 201, "{}", answer.body);
        answer.body["id"].as_str().unwrap().to_owned()
    }

    async fn get(&self, region: &str, path: &str, user: &str) -> Option<Answer> {
        let at = self.cluster.node_http(region).unwrap();
        self.api.get(at, path, user).await.ok()
    }

    async fn order_status(&self, region: &str, order: &str) -> u16 {
        self.get(region, &format!("/v1/orders/{order}"), &self.buyer).await.map_or(0, |answer| answer.status)
    }

    async fn node(&self, region: &str) -> NodeClient<Channel> {
        let address = format!("http://{}", self.cluster.node_grpc(region).unwrap());
        NodeClient::connect(address).await.unwrap()
    }

    fn cellctl(&self, args: &[&str]) -> (Option<i32>, Value) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cellctl"));
        command.args(["-o", "json", "--cluster"]).arg(self.cluster.cluster_file()).args(args);
        let Output { status, stdout, stderr } = command.output().unwrap();
        let said = serde_json::from_slice(&stdout);
        (status.code(), said.unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&stderr).into_owned())))
    }

    /// (region, cause) of everything that is quarantined.
    fn quarantined(&self) -> Vec<(String, String)> {
        let (_, listed) = self.cellctl(&["quarantine", "list"]);
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let pair = |it: &Value| (text(&it["region"]), text(&it["cause"]));
        let mut all: Vec<(String, String)> = listed.as_array().unwrap().iter().map(pair).collect();
        all.sort();
        all
    }

    /// From its next start on it takes changes of every size.
    fn takes_all(&self, region: &str) {
        let settings = self.cluster.data_folder().join(format!("{region}/node.toml"));
        let text = std::fs::read_to_string(&settings).unwrap();
        assert!(text.contains("change_bytes_max = 300\n"));
        std::fs::write(&settings, text.replace("change_bytes_max = 300\n", "")).unwrap();
    }

    /// North loses its disk, and starts with a software that takes changes of every size.
    async fn wipe_north(&mut self) {
        for placed in 0.. {
            let mut trimmed = true;
            for region in ["east", "south"] {
                let status = self.node(region).await.status(v1::StatusRequest::default()).await;
                trimmed &= status.unwrap().into_inner().first_position > 100;
            }
            if trimmed {
                break;
            }
            assert!(placed < 100, "no log is trimmed");
            for i in 0..50 {
                self.place_titled(&format!("f{placed}-{i}"), "").await;
            }
        }
        self.cluster.kill(Role::Node, "north").await.unwrap();
        self.takes_all("north");
        std::fs::remove_dir_all(self.cluster.data_folder().join("north/node")).unwrap();
        self.cluster.restart(Role::Node, "north").await.unwrap();
    }

    async fn metric(&self, region: &str, name: &str) -> Option<f64> {
        let at = self.cluster.node_admin(region).unwrap();
        self.api.metrics(at).await.unwrap().get(name).copied()
    }
}

/// Asks again until it is so.
async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let so = harness::until(WITHIN, LOOK_AGAIN, async || is().await.then_some(()).ok_or(()));
    so.await.unwrap_or_else(|()| panic!("{what}: not within {WITHIN:?}"));
}

/// Two changes of another node of south: one whose event on the order nobody can read, and an ordinary one.
fn poison(order: &str) -> Vec<Entry> {
    let actor = ActorId { node: NodeId { region: "south".parse().unwrap(), index: 1 }, start: 1, nonce: 1 };
    let entity: EntityId = order.parse().unwrap();
    let mut event = EventAddress { entities: vec![entity] }.to_canon();
    // Field 2, the body, whose record ends early.
    event.extend([0x12, 2, 0x0a, 9]);
    let dot = Dot { actor, seq: 1 };
    let shape = ChangeShape { dot, at: Hlc::default(), trace: String::new(), events: vec![event.into()] };
    let bytes = Bytes::from(shape.to_canon());
    let first = Entry { dot, hash: Entry::chain(&Hash::ZERO, &dot, &bytes), bytes };
    let events = vec![Event::new(Vec::new(), Body::Beat(Beat { wall_ms: 1 })).into()];
    let dot = Dot { actor, seq: 2 };
    let second = Change { dot, at: Hlc::default(), trace: String::new(), events }.seal(&first.hash);
    vec![first, second]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisonous_change_is_a_hole_that_everybody_sees_and_everything_else_flows() {
    let mut stage = Stage::start(&[]).await;
    let order = stage.place("k1").await;
    for region in REGIONS {
        until("the order is there", async || stage.order_status(region, &order).await == 200).await;
    }
    let entries = poison(&order);
    let dot = entries[0].dot.to_string();
    // It reaches north only, beside an entry that is none; the others have it from there.
    let nonsense = v1::Entry { dot: Some(entries[1].dot.into()), ..v1::Entry::default() };
    let wire = entries.iter().cloned().map(v1::Entry::from).chain([nonsense]).collect();
    let batches = tokio_stream::iter([v1::ApplyBatch { batch: 1, entries: wire }]);
    let mut replies = stage.node("north").await.apply(batches).await.unwrap().into_inner();
    let reply = replies.message().await.unwrap().unwrap();
    let refused: Vec<&str> = reply.refusals.iter().map(|refusal| refusal.reason.as_str()).collect();
    assert_eq!(refused, ["malformed"], "the nonsense alone");
    let everywhere = ["east", "north", "south"].map(|region| (region.to_owned(), "malformed".to_owned()));
    until("every region has the hole", async || stage.quarantined() == everywhere).await;
    for region in REGIONS {
        assert_eq!(stage.order_status(region, &order).await, 503, "{region} does not pretend");
        assert_eq!(stage.metric(region, "cell_quarantined_changes").await, Some(1.0));
        let status =
            stage.node(region).await.status(v1::StatusRequest::default()).await.unwrap().into_inner();
        let of_it = |front: &&v1::ActorFrontier| front.quarantined == [1];
        assert_eq!(status.frontier.iter().find(of_it).unwrap().seq, 2, "what follows it is applied");
    }
    let cancel = format!("/v1/orders/{order}/cancel");
    let north = stage.cluster.node_http("north").unwrap();
    let answer = stage.api.call(north, "POST", &cancel, &stage.buyer, "c1", &Value::Null).await.unwrap();
    assert_eq!(answer.status, 503, "{}", answer.body);
    let second = stage.place("k2").await;
    until("other orders go round", async || stage.order_status("south", &second).await == 200).await;
    // Its bytes came as they were written.
    let (code, shown) = stage.cellctl(&["quarantine", "show", &dot, "--region", "east"]);
    let hex: String = entries[0].bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!((code, &shown["bytes"], &shown["entities"]), (Some(0), &json!(hex), &json!([order])));
    let (_, status) = stage.cellctl(&["region", "status"]);
    assert_eq!(
        (&status[0]["agent"]["quarantined"], &status[0]["agent"]["node_protocol"]),
        (&json!(1), &json!(1))
    );
    // A start changes nothing, and trying again does not help.
    stage.cluster.kill(Role::Node, "east").await.unwrap();
    stage.cluster.restart(Role::Node, "east").await.unwrap();
    until("east has the hole after a start", async || {
        stage.quarantined() == everywhere && stage.order_status("east", &order).await == 503
    })
    .await;
    let (code, tried) = stage.cellctl(&["quarantine", "retry", "--region", "east", "--as", "ann"]);
    assert_eq!((code, &tried[0]["outcome"]), (Some(1), &json!("kept")), "{tried}");
    // Somebody does without it, in one region.
    let discard = ["quarantine", "discard", &dot, "--region", "north", "--reason", "nobody can read it"];
    let (code, would) = stage.cellctl(&[&discard[..], &["--dry-run"]].concat());
    assert_eq!((code, &would[0]["outcome"]), (Some(0), &json!("would be given up")));
    assert_eq!(stage.order_status("north", &order).await, 503);
    let (code, gone) = stage.cellctl(&discard);
    assert_eq!((code, &gone[0]["outcome"]), (Some(0), &json!("given up")), "{gone}");
    until("north shows the order", async || stage.order_status("north", &order).await == 200).await;
    assert_eq!(stage.order_status("east", &order).await, 503, "nobody else decided that");
    let answer = stage.api.call(north, "POST", &cancel, &stage.buyer, "c2", &Value::Null).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
    stage.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_older_software_cannot_apply_comes_as_state_to_who_waits_and_is_applied_by_a_newer_one() {
    let mut stage = Stage::start(&["change_bytes_max = 300"]).await;
    let payer = stage.cluster.user_of("east", &["eve"]);
    let order = stage.place("k1").await;
    let too_large = ("east".to_owned(), "too-large".to_owned());
    until("east cannot take it", async || stage.quarantined().contains(&too_large)).await;
    assert_eq!(stage.order_status("east", &order).await, 503, "and does not deny it");
    let buyer = stage.buyer.clone();
    let list = stage.get("east", "/v1/orders", &buyer).await.unwrap();
    assert_eq!(list.status, 503, "nor lists the buyer's orders without it: {}", list.body);
    let router = stage.cluster.router();
    let path = format!("/v1/orders/{order}/pay-requests");
    let ask = json!({ "payer": payer });
    let asked = stage.api.call(router, "POST", &path, &stage.buyer, "a1", &ask).await.unwrap();
    let payment = asked.body.pointer("/payment/id").or_else(|| asked.body.pointer("/open_payment"));
    let payment = payment.and_then(Value::as_str).unwrap_or_else(|| panic!("{}", asked.body));
    let pay_request = format!("/v1/pay-requests/{payment}");
    until("the payer has the request", async || {
        stage.get("east", &pay_request, &payer).await.is_some_and(|answer| answer.status == 200)
    })
    .await;
    assert_eq!(stage.order_status("east", &order).await, 200, "what was waited for was fetched");
    assert!(stage.quarantined().contains(&too_large), "the change is still to be applied");
    // East gets a software that can take larger changes.
    stage.cluster.kill(Role::Node, "east").await.unwrap();
    stage.takes_all("east");
    stage.cluster.restart(Role::Node, "east").await.unwrap();
    until("east shows the order", async || stage.order_status("east", &order).await == 200).await;
    let of_east = |stage: &Stage| stage.quarantined().iter().any(|(region, _)| region == "east");
    until("nothing is quarantined in east any more", async || !of_east(&stage)).await;
    stage.cluster.stop().await.unwrap();
}

const TRIMS: [&str; 2] = ["change_bytes_max = 300", "log = { segment_kib = 16, keep_mib = 0 }"];

#[tokio::test(flavor = "multi_thread")]
async fn a_home_that_lost_its_disk_tries_what_its_peers_could_not_apply_and_did_without() {
    let limits = ["upkeep_every_ms = 100", "compare_every_ms = 3600000"];
    let mut stage = Stage::start_with(&TRIMS, &limits).await;
    let order = stage.place("k").await;
    for region in ["east", "south"] {
        let here = |stage: &Stage| stage.quarantined().iter().any(|(of, _)| of == region);
        until("it cannot be applied", async || here(&stage)).await;
        let (_, listed) = stage.cellctl(&["quarantine", "list", "--region", region]);
        assert_eq!(listed[0]["state"], "withheld");
        let dot = listed[0]["dot"].as_str().unwrap();
        let discard = ["quarantine", "discard", dot, "--region", region, "--reason", "it is not ours"];
        let (code, gone) = stage.cellctl(&discard);
        assert_eq!((code, &gone[0]["state"]), (Some(0), &json!("given up")), "{gone}");
    }
    stage.wipe_north().await;
    until("its own order is back", async || stage.order_status("north", &order).await == 200).await;
    let of_north = |stage: &Stage| stage.quarantined().iter().any(|(region, _)| region == "north");
    until("it could apply all of it", async || !of_north(&stage)).await;
    stage.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_peer_cannot_apply_leaves_nobody_else_in_doubt() {
    let limits = ["upkeep_every_ms = 100", "compare_every_ms = 200"];
    let mut stage = Stage::start_with(&TRIMS, &limits).await;
    let order = stage.place("k").await;
    for region in REGIONS {
        until("it came as state", async || stage.order_status(region, &order).await == 200).await;
    }
    assert!(stage.quarantined().iter().any(|(region, _)| region == "east"), "and the change is kept");
    let (_, listed) = stage.cellctl(&["quarantine", "list", "--region", "east"]);
    assert!(listed.as_array().unwrap().iter().any(|it| it["state"] == "made good"), "{listed}");
    stage.wipe_north().await;
    until("it has everything, and denies what never was", async || {
        let buyer = stage.buyer.clone();
        let list = stage.get("north", "/v1/orders?limit=10", &buyer).await;
        list.is_some_and(|list| list.status == 200) && stage.order_status("north", &order).await == 200
    })
    .await;
    stage.cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_who_moves_on_from_behind_a_hole_is_told_elsewhere_what_it_hid() {
    let mut stage = Stage::start_with(&["change_bytes_max = 300"], &["compare_every_ms = 4000"]).await;
    stage.cluster.kill(Role::Node, "south").await.unwrap();
    stage.takes_all("south");
    stage.cluster.restart(Role::Node, "south").await.unwrap();
    let (hidden, shown) = (stage.place_titled("k1", "").await, stage.place_titled("k2", "").await);
    for region in ["east", "south"] {
        until("both are there", async || stage.order_status(region, &shown).await == 200).await;
        until("nothing is in doubt there", async || {
            stage.get(region, "/v1/notifications", &stage.buyer).await.is_some_and(|it| it.status == 200)
        })
        .await;
    }
    let north = stage.cluster.node_http("north").unwrap();
    let ask = async |order: &str, op: &str, body: Value| {
        let path = format!("/v1/orders/{order}/{op}");
        let answer = stage.api.call(north, "POST", &path, &stage.buyer, op, &body).await.unwrap();
        assert!(answer.status < 300, "{}", answer.body);
    };
    let large = json!({ "currency": "CNY",
        "lines": [{ "sku": "tea", "title": "t".repeat(250), "quantity": 1, "unit_minor": 800 }] });
    ask(&hidden, "amend", large).await;
    ask(&hidden, "cancel", Value::Null).await;
    let path = format!("/v1/orders/{shown}/cancel");
    let answer = stage.api.call(north, "POST", &path, &stage.buyer, "c2", &Value::Null).await.unwrap();
    assert_eq!(answer.status, 201, "{}", answer.body);
    // Orders that a reader is told are cancelled, and where they go on.
    let read = async |region: &str, after: &str| {
        let path = format!("/v1/notifications?after={after}");
        let answer = stage.get(region, &path, &stage.buyer).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.body);
        let told = answer.body["items"].as_array().unwrap().iter();
        let orders: Vec<String> = told.map(|told| told["order"].as_str().unwrap().to_owned()).collect();
        (orders, answer.body["next"].as_str().unwrap().to_owned())
    };
    until("east tells of the one that it shows", async || !read("east", "1").await.0.is_empty()).await;
    // The other is behind the hole, until a comparison brings it after some seconds.
    let (in_east, after) = read("east", "1").await;
    until("south has both", async || read("south", "1").await.0.len() == 2).await;
    let (in_south, after) = read("south", &after).await;
    assert!(in_east.contains(&shown), "{in_east:?}");
    assert!(in_east.contains(&hidden) || in_south.contains(&hidden), "{in_east:?} {in_south:?}");
    assert_eq!(read("south", &after).await.0, [] as [String; 0], "and no more than once there");
    stage.cluster.stop().await.unwrap();
}
