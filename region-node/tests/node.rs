//! A real node over real HTTP, on real files.

use std::net::SocketAddr;
use std::path::Path;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use region_node::{Config, EngineName, Listen, RulesConfig};
use serde_json::{Value, json};
use service_kit::{Origins, Shutdown};
use tokio::task::JoinHandle;

const PLACEMENT: &str = r#"
version = 1
regions = ["north", "east"]
[[slots]]
from = 0
to = 511
home = "north"
[[slots]]
from = 512
to = 1023
home = "east"
"#;

struct Service {
    address: SocketAddr,
    shutdown: Shutdown,
    running: JoinHandle<()>,
}

async fn start(folder: &Path, engine: EngineName) -> Service {
    let placement_file = folder.join("placement.toml");
    std::fs::write(&placement_file, PLACEMENT).unwrap();
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = Config {
        region: "north".to_owned(),
        node_index: 0,
        listen: Listen { http: any, admin: any },
        data_dir: folder.join("data"),
        engine,
        placement_file,
        rules: RulesConfig::default(),
        telemetry: service_kit::TelemetryConfig::default(),
    };
    let shutdown = Shutdown::new();
    let node = region_node::build(config, &Origins::default(), None, shutdown.clone()).await.unwrap();
    let address = node.listen().unwrap()[0].1;
    let running = node.run();
    Service { address, shutdown, running: tokio::spawn(async move { running.await.unwrap() }) }
}

impl Service {
    async fn stop(self) {
        self.shutdown.begin();
        self.running.await.unwrap();
    }

    async fn call(&self, method: &str, path: &str, user: &str, key: &str, body: Value) -> (u16, Value) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut request =
            hyper::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        if !user.is_empty() {
            request = request.header("x-user-id", user);
        }
        if !key.is_empty() {
            request = request.header("idempotency-key", key);
        }
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let response = client.request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    async fn place(&self, user: &str, key: &str) -> String {
        let (status, order) = self.call("POST", "/v1/orders", user, key, order_body()).await;
        assert!(status == 201 || status == 200, "{status} {order}");
        order["id"].as_str().unwrap().to_owned()
    }
}

fn order_body() -> Value {
    json!({ "content": { "currency": "CNY", "lines": [{ "sku": "tea", "quantity": 2, "unit_minor": 4500 }],
        "duty_minor": 100 }, "attributes": { "gift": true } })
}

/// The `nth` user whose home is `region`.
fn user_of(region: &str, nth: usize) -> String {
    let fits = |user: &String| {
        let slot = cell_core::id::UserId::new(user).unwrap().slot().number();
        (slot < 512) == (region == "north")
    };
    (0..).map(|i| format!("user{i}")).filter(fits).nth(nth).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_placed_once_read_by_its_owner_only_and_found_again_after_a_restart() {
    for engine in [EngineName::Sled, EngineName::Memory] {
        let folder = tempfile::tempdir().unwrap();
        let node = start(folder.path(), engine).await;
        let (a, other) = (user_of("north", 0), user_of("north", 1));
        let order = node.place(&a, "k1").await;
        assert_eq!(node.place(&a, "k1").await, order, "a repeat is the same order");
        let path = format!("/v1/orders/{order}");
        let (status, seen) = node.call("GET", &path, &a, "", Value::Null).await;
        assert_eq!(
            (status, &seen["status"], &seen["total_minor"]),
            (200, &json!("PendingPayment"), &json!(9100))
        );
        assert_eq!(seen["attributes"], json!({ "gift": true }));
        assert_eq!(node.call("GET", &path, &other, "", Value::Null).await.0, 404);
        let mut changed = order_body();
        changed["content"]["lines"][0]["quantity"] = json!(3);
        let (status, problem) = node.call("POST", "/v1/orders", &a, "k1", changed).await;
        assert_eq!(
            (status, problem["type"].as_str()),
            (422, Some("https://homecell.dev/problems/key-reused"))
        );
        node.stop().await;

        let node = start(folder.path(), engine).await;
        let (status, again) = node.call("GET", &path, &a, "", Value::Null).await;
        assert_eq!((status, again), (200, seen), "{engine:?}");
        assert_eq!(node.place(&a, "k1").await, order);
        assert_eq!(node.call("POST", &format!("{path}/cancel"), &a, "k2", Value::Null).await.0, 201);
        let (_, events) = node.call("GET", &format!("{path}/events"), &a, "", Value::Null).await;
        assert_eq!(events[0]["what"], "cancelled");
        node.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_clients_at_once_get_their_own_orders_and_lists_page_through_them() {
    let folder = tempfile::tempdir().unwrap();
    let node = std::sync::Arc::new(start(folder.path(), EngineName::Sled).await);
    let a = user_of("north", 0);
    let mut placing = Vec::new();
    for i in 0..60 {
        let (node, a) = (node.clone(), a.clone());
        placing.push(tokio::spawn(async move { node.place(&a, &format!("key{i}")).await }));
    }
    let mut placed = Vec::new();
    for task in placing {
        placed.push(task.await.unwrap());
    }
    placed.sort();
    placed.dedup();
    assert_eq!(placed.len(), 60);
    // The view is applied right behind the answer; the list shows everything once it is.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let (mut listed, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/orders?limit=25{cursor}");
            let (status, page) = node.call("GET", &path, &a, "", Value::Null).await;
            assert_eq!(status, 200);
            let ids = page["items"]
                .as_array()
                .unwrap()
                .iter()
                .map(|order| order["id"].as_str().unwrap().to_owned());
            listed.extend(ids);
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        listed.sort();
        if listed == placed {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{} of 60 listed", listed.len());
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn asking_a_payer_opens_one_permit_and_withdrawing_closes_it_with_a_notice() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), EngineName::Memory).await;
    let (a, b) = (user_of("north", 0), user_of("north", 1));
    let order = node.place(&a, "k1").await;
    let ask = format!("/v1/orders/{order}/pay-requests");
    let (status, refused) = node.call("POST", &ask, &a, "k4", json!({ "payer": a })).await;
    assert_eq!((status, refused["pointer"].as_str()), (400, Some("/payer")), "the payer is the buyer");
    let (status, asked) = node.call("POST", &ask, &a, "k2", json!({ "payer": b })).await;
    assert_eq!((status, asked["payment"]["status"].as_str()), (201, Some("received")), "{asked}");
    let payment = asked["payment"]["id"].as_str().unwrap().to_owned();
    let (status, second) = node.call("POST", &ask, &a, "k3", json!({ "payer": b })).await;
    assert_eq!((status, second["type"].as_str()), (409, Some("https://homecell.dev/problems/state-forbids")));
    let (status, seen) = node.call("GET", &format!("/v1/pay-requests/{payment}"), &b, "", Value::Null).await;
    assert_eq!((status, seen["amount_minor"].as_u64()), (200, Some(9100)));
    let withdraw = format!("/v1/pay-requests/{payment}/withdraw");
    assert_eq!(
        node.call("POST", &withdraw, &b, "k5", Value::Null).await.0,
        404,
        "the payer does not withdraw"
    );
    let (status, done) = node.call("POST", &withdraw, &a, "k6", Value::Null).await;
    assert_eq!((status, done["payment"]["status"].as_str()), (202, Some("withdrawn")));
    assert_eq!(done["status"], "PendingPayment");
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let (_, told) = node.call("GET", "/v1/notifications", &b, "", Value::Null).await;
        let kinds: Vec<&str> =
            told["items"].as_array().unwrap().iter().map(|notice| notice["kind"].as_str().unwrap()).collect();
        if kinds == ["pay-request.received", "payment.withdrawn"] {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{kinds:?}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_input_is_a_clear_problem_and_touches_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), EngineName::Memory).await;
    let (a, east) = (user_of("north", 0), user_of("east", 0));
    let with = |pointer: &str, value: Value| {
        let mut body = order_body();
        *body.pointer_mut(pointer).unwrap() = value;
        body
    };
    let mut unknown = order_body();
    unknown["surprise"] = json!(1);
    let overflow = json!(u64::MAX);
    let cases = [
        ("no user", "", "k", order_body(), 401, "unidentified"),
        ("no key", &a, "", order_body(), 400, "idempotency-key-missing"),
        ("unknown field", &a, "k", unknown, 400, "invalid-request"),
        ("negative", &a, "k", with("/content/lines/0/unit_minor", json!(-1)), 400, "invalid-request"),
        ("overflow", &a, "k", with("/content/lines/0/unit_minor", overflow), 400, "invalid-request"),
        ("currency", &a, "k", with("/content/currency", json!("XYZ")), 400, "invalid-request"),
        ("no lines", &a, "k", with("/content/lines", json!([])), 400, "invalid-request"),
        ("not json", &a, "k", json!("text"), 400, "invalid-request"),
        ("elsewhere at home", &east, "k", order_body(), 421, "misdirected"),
    ];
    for (what, user, key, body, status, name) in cases {
        let (got, problem) = node.call("POST", "/v1/orders", user, key, body).await;
        assert_eq!(
            (got, problem["type"].as_str().unwrap()),
            (status, &*format!("https://homecell.dev/problems/{name}")),
            "{what}"
        );
        assert!(!problem["detail"].as_str().unwrap().is_empty(), "{what}");
    }
    let (_, misdirected) = node.call("POST", "/v1/orders", &east, "k", order_body()).await;
    assert_eq!(misdirected["home"], "east");
    let huge = with("/content/lines/0/sku", json!("x".repeat(70_000)));
    assert_eq!(node.call("POST", "/v1/orders", &a, "k", huge).await.0, 413);
    assert_eq!(node.call("GET", "/v1/orders/ord_nonsense", &a, "", Value::Null).await.0, 400);
    assert_eq!(node.call("GET", "/nowhere", &a, "", Value::Null).await.0, 404);
    let (_, listed) = node.call("GET", "/v1/orders", &a, "", Value::Null).await;
    assert_eq!(listed["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_held_by_another_node_is_refused_in_one_line_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), EngineName::Sled).await;
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let config = Config {
        region: "north".to_owned(),
        node_index: 0,
        listen: Listen { http: any, admin: any },
        data_dir: folder.path().join("data"),
        engine: EngineName::Sled,
        placement_file: folder.path().join("placement.toml"),
        rules: RulesConfig::default(),
        telemetry: service_kit::TelemetryConfig::default(),
    };
    let refused = region_node::build(config, &Origins::default(), None, Shutdown::new()).await.unwrap_err();
    let message = format!("{refused:?}");
    assert!(message.contains("data_dir") && message.contains("in use"), "{message}");
    node.stop().await;
}
