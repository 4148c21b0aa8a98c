//! Folders as version 1 left them: every later version has to open them and to go on from there.
//!
//! `GOLDEN_WRITE=1 cargo test -p cellctl --test golden` makes those that are missing; none is ever written again.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cell_proto::v1;
use cell_proto::v1::agent_admin_client::AgentAdminClient;
use cell_proto::v1::node_client::NodeClient;
use chaos_tests::harness::{self, Api, Cluster, LinkState, Plan, Role};
use serde_json::{Value, json};

const WITHIN: Duration = Duration::from_secs(60);
const LOOK_AGAIN: Duration = Duration::from_millis(20);
/// What was known when the folders were left.
const KNOWN: &str = "known.json";

fn program(role: Role) -> (PathBuf, Vec<String>) {
    (env!("CARGO_BIN_EXE_cellctl").into(), vec!["role".to_owned(), role.program().to_owned()])
}

fn plan(folder: &Path, engine: &str) -> Plan {
    Plan { engine: engine.to_owned(), ..Plan::new(&["north", "east"], folder, program) }
}

async fn until(what: &str, mut is: impl AsyncFnMut() -> bool) {
    let so = harness::until(WITHIN, LOOK_AGAIN, async || is().await.then_some(()).ok_or(()));
    so.await.unwrap_or_else(|()| panic!("{what}: not within {WITHIN:?}"));
}

/// Everything a region knows of an order or payment.
async fn explained(cluster: &Cluster, region: &str, id: &str) -> Value {
    let node = format!("http://{}", cluster.node_grpc(region).unwrap());
    let mut node = NodeClient::connect(node).await.unwrap();
    let reply = node.explain(v1::ExplainRequest { id: id.to_owned() }).await;
    reply.map_or(Value::Null, |reply| serde_json::from_str(&reply.into_inner().json).unwrap_or(Value::Null))
}

async fn held(cluster: &Cluster, region: &str) -> usize {
    let agent = format!("http://{}", cluster.agent_grpc(region).unwrap());
    let mut agent = AgentAdminClient::connect(agent).await.unwrap();
    agent.list_held(v1::ListHeldRequest::default()).await.unwrap().into_inner().messages.len()
}

// === a folder in one file ===

/// `path length, path; length; then (zeros, length, bytes) until it is full`: most of an engine's file is zeros. Numbers
/// are 4 bytes, big-endian.
fn pack(folder: &Path, files: &[PathBuf]) -> Vec<u8> {
    fn put(out: &mut Vec<u8>, number: usize) {
        out.extend(u32::try_from(number).unwrap().to_be_bytes());
    }
    let mut out = Vec::new();
    for file in files {
        let (name, bytes) = (file.to_str().unwrap(), std::fs::read(folder.join(file)).unwrap());
        put(&mut out, name.len());
        out.extend(name.as_bytes());
        put(&mut out, bytes.len());
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            let zeros = rest.iter().take_while(|byte| **byte == 0).count();
            rest = &rest[zeros..];
            // Up to where more zeros stand together than a new run costs.
            let full = rest.windows(9).position(|window| window.iter().all(|byte| *byte == 0));
            let full = full.unwrap_or(rest.len());
            put(&mut out, zeros);
            put(&mut out, full);
            out.extend(&rest[..full]);
            rest = &rest[full..];
        }
    }
    out
}

fn unpack(mut packed: &[u8], folder: &Path) {
    fn number(packed: &mut &[u8]) -> usize {
        let (number, rest) = packed.split_first_chunk::<4>().unwrap();
        *packed = rest;
        u32::from_be_bytes(*number) as usize
    }
    fn take<'a>(packed: &mut &'a [u8], len: usize) -> &'a [u8] {
        let (taken, rest) = packed.split_at(len);
        *packed = rest;
        taken
    }
    while !packed.is_empty() {
        let len = number(&mut packed);
        let name = std::str::from_utf8(take(&mut packed, len)).unwrap();
        let len = number(&mut packed);
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            bytes.resize(bytes.len() + number(&mut packed), 0);
            let full = number(&mut packed);
            bytes.extend(take(&mut packed, full));
        }
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, bytes).unwrap();
    }
}

fn files_under(folder: &Path, below: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder.join(below)).unwrap().map(|entry| entry.unwrap()) {
        let path = below.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => files_under(folder, &path, found),
            false if entry.file_name() == "lock" => {}
            false => found.push(path),
        }
    }
}

// === written once ===

/// Orders in each state that lasts, one under way, and a message that waits for its data; then everybody is killed.
async fn write(engine: &str, to: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(plan(folder.path(), engine)).await.unwrap();
    let (api, router) = (Api::default(), cluster.router());
    let (buyer, payer) = (cluster.user_of("north", &["bob"]), cluster.user_of("east", &["alice"]));
    let content = json!({ "content": { "currency": "CNY",
        "lines": [{ "sku": "tea", "quantity": 1, "unit_minor": 700 }] } });
    let post = async |user: &str, path: String, key: &str, body: Value| {
        let answer = api.call(router, "POST", &path, user, key, &body).await.unwrap();
        assert!((200..300).contains(&answer.status), "{path}: {} {}", answer.status, answer.body);
        answer.body
    };
    let place = async |key: &str| {
        let order = post(&buyer, "/v1/orders".to_owned(), key, content.clone()).await;
        order["id"].as_str().unwrap().to_owned()
    };
    let ask = async |order: &str, key: &str| {
        let path = format!("/v1/orders/{order}/pay-requests");
        let asked = post(&buyer, path, key, json!({ "payer": payer })).await;
        asked["payment"]["id"].as_str().unwrap().to_owned()
    };
    let (waiting, cancelled, paid) = (place("k1").await, place("k2").await, place("k3").await);
    post(&buyer, format!("/v1/orders/{cancelled}/cancel"), "c2", Value::Null).await;
    let payment = ask(&paid, "a3").await;
    until("alice is asked", async || explained(&cluster, "east", &payment).await["status"] == "received")
        .await;
    let card = json!({ "card_token": "visa" });
    post(&payer, format!("/v1/pay-requests/{payment}/accept"), "y3", card).await;
    let mut known = BTreeMap::new();
    for (id, status) in [(&waiting, ""), (&cancelled, "Cancelled"), (&paid, "Paid"), (&payment, "captured")] {
        for region in ["north", "east"] {
            until("it is in both regions", async || {
                let seen = explained(&cluster, region, id).await;
                !seen.is_null() && (status.is_empty() || seen["status"] == status)
            })
            .await;
        }
        // What has ended does not change any more.
        if !status.is_empty() {
            known.insert(id.clone(), explained(&cluster, "north", id).await["digest"].clone());
        }
    }
    cluster.data_into("east", LinkState::Held);
    let under_way = place("k4").await;
    ask(&under_way, "a4").await;
    until("a message waits in east", async || held(&cluster, "east").await == 1).await;
    for region in ["north", "east"] {
        cluster.kill(Role::Node, region).await.unwrap();
        cluster.kill(Role::Agent, region).await.unwrap();
    }
    let document = json!({ "ended": known, "open": [waiting, under_way], "buyer": buyer });
    std::fs::write(folder.path().join(KNOWN), document.to_string()).unwrap();
    let mut files = vec![PathBuf::from(KNOWN)];
    for part in ["north/node", "north/agent", "east/node", "east/agent"] {
        files_under(folder.path(), Path::new(part), &mut files);
    }
    files.sort();
    std::fs::write(to, pack(folder.path(), &files)).unwrap();
    cluster.stop().await.unwrap();
}

// === read for ever ===

async fn is_opened_and_gone_on_with(engine: &str) {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/golden/v1-{engine}.pack"));
    if !file.exists() {
        assert!(std::env::var_os("GOLDEN_WRITE").is_some(), "{}: missing; see above", file.display());
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        write(engine, &file).await;
    }
    let folder = tempfile::tempdir().unwrap();
    unpack(&std::fs::read(&file).unwrap(), folder.path());
    let known: Value = serde_json::from_slice(&std::fs::read(folder.path().join(KNOWN)).unwrap()).unwrap();
    let cluster = Cluster::start(plan(folder.path(), engine)).await.unwrap();
    for region in ["north", "east"] {
        for (id, digest) in known["ended"].as_object().unwrap() {
            let seen = explained(&cluster, region, id).await;
            assert_eq!((&seen["digest"], &seen["blocked"]), (digest, &Value::Null), "{region}: {id}: {seen}");
        }
    }
    // What was under way goes on: the data comes, the message is delivered, and what nobody pays expires.
    for order in known["open"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()) {
        for region in ["north", "east"] {
            until("it is in both regions", async || {
                let seen = explained(&cluster, region, order).await;
                ["PendingPayment", "Expired"].iter().any(|status| seen["status"] == *status)
            })
            .await;
        }
    }
    until("nothing waits in east any more", async || held(&cluster, "east").await == 0).await;
    let buyer = known["buyer"].as_str().unwrap();
    let listed = Api::default().get(cluster.node_http("north").unwrap(), "/v1/orders", buyer).await.unwrap();
    assert_eq!(listed.body["items"].as_array().map(Vec::len), Some(4), "{}", listed.body);
    cluster.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_version_1_left_on_sled_are_opened_and_gone_on_with() {
    is_opened_and_gone_on_with("sled").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn folders_that_version_1_left_on_fjall_are_opened_and_gone_on_with() {
    is_opened_and_gone_on_with("fjall").await;
}

#[test]
fn what_is_packed_is_unpacked_unchanged() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bytes = [&[0; 100][..], b"abc", &[0; 5], b"d", &[0; 9], b"e", &[0; 3000]].concat();
    let files = [("a/zeros", vec![0; 10]), ("b", bytes), ("c/empty", Vec::new())];
    for (name, bytes) in &files {
        std::fs::create_dir_all(from.path().join(name).parent().unwrap()).unwrap();
        std::fs::write(from.path().join(name), bytes).unwrap();
    }
    let packed = pack(from.path(), &files.iter().map(|(name, _)| PathBuf::from(name)).collect::<Vec<_>>());
    assert!(packed.len() < 150);
    unpack(&packed, to.path());
    for (name, bytes) in &files {
        assert_eq!(std::fs::read(to.path().join(name)).unwrap(), *bytes);
    }
}
