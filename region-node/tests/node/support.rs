//! Real nodes, the real sandbox gateway, and an agent in a few lines.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use cell_core::id::EntityId;
use cell_proto::v1;
use cell_proto::v1::node_client::NodeClient;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use region_node::{Config, EngineName, GatewayConfig, Listen, RulesConfig};
use serde_json::{Value, json};
use service_kit::{Origins, Shutdown};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

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

pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) grpc: SocketAddr,
    /// The gateway's, for its ledger.
    pub(crate) gateway: SocketAddr,
    pub(crate) shutdown: Shutdown,
    pub(crate) running: JoinHandle<()>,
}

pub(crate) const SECRET: &[u8] = b"callback-secret";

/// The sandbox gateway, as real as the node; its ledger outlives a restart of the node.
pub(crate) async fn start_gateway(folder: &Path) -> SocketAddr {
    std::fs::write(folder.join("secret"), SECRET).unwrap();
    let config = sandbox_gateway::Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        secret_file: service_kit::SecretFile::new(folder.join("secret")),
        ledger_path: None,
    };
    let gateway = sandbox_gateway::build(config, &Origins::default()).await.unwrap();
    let address = gateway.local_addr().unwrap();
    tokio::spawn(gateway.run(Shutdown::new()));
    address
}

pub(crate) fn config(folder: &Path, engine: EngineName, gateway: SocketAddr, region: &str) -> Config {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    Config {
        region: region.to_owned(),
        node_index: 0,
        listen: Listen { http: any, grpc: any, admin: any },
        data_dir: folder.join(region),
        engine,
        low_water_mib: 0,
        recovery_wait_ms: 0,
        session_wait_ms: 1_000,
        change_bytes_max: 8 << 20,
        connections_max: 1_000,
        scrub_every_ms: 3_600_000,
        scrub_per_s: 20_000,
        allow_damage: false,
        placement_file: folder.join("placement.toml"),
        gateway: GatewayConfig {
            url: format!("http://{gateway}"),
            secret_file: service_kit::SecretFile::new(folder.join("secret")),
            callback_urls: Vec::new(),
            timeout_ms: 1_000,
            ask_every_ms: 100,
        },
        log: region_node::LogSettings::default(),
        rules: RulesConfig::default(),
        telemetry: service_kit::TelemetryConfig::default(),
    }
}

pub(crate) async fn start(folder: &Path, engine: EngineName) -> Service {
    let gateway = start_gateway(folder).await;
    start_in(folder, engine, gateway, "north").await
}

pub(crate) async fn start_in(
    folder: &Path,
    engine: EngineName,
    gateway: SocketAddr,
    region: &str,
) -> Service {
    std::fs::write(folder.join("placement.toml"), PLACEMENT).unwrap();
    Service::of(config(folder, engine, gateway, region)).await
}

impl Service {
    pub(crate) async fn of(config: Config) -> Service {
        let gateway = config.gateway.url.trim_start_matches("http://").parse().unwrap();
        let shutdown = Shutdown::new();
        let node = region_node::build(config, &Origins::default(), None, shutdown.clone()).await.unwrap();
        let [(_, address), (_, grpc), _] = node.listen().unwrap();
        let running = node.run();
        let running = tokio::spawn(async move { running.await.unwrap() });
        Service { address, grpc, gateway, shutdown, running }
    }

    pub(crate) async fn send(
        &self,
        request: hyper::http::request::Builder,
        body: String,
    ) -> (u16, Value, String) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let tag = response.headers().get("etag").map(|tag| tag.to_str().unwrap().to_owned());
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null), tag.unwrap_or_default())
    }

    pub(crate) async fn trace_of_answer(&self, request: hyper::http::request::Builder) -> String {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let response = client.request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        let trace = response.headers().get("traceparent").and_then(|trace| trace.to_str().ok());
        trace.unwrap_or_default().to_owned()
    }

    /// Status, body and tag of a `GET` with `If-None-Match`, if one is given.
    pub(crate) async fn get_if(&self, path: &str, user: &str, tag: &str) -> (u16, Value, String) {
        let mut request =
            hyper::Request::get(format!("http://{}{path}", self.address)).header("x-user-id", user);
        if !tag.is_empty() {
            request = request.header("if-none-match", tag);
        }
        self.send(request, String::new()).await
    }

    pub(crate) async fn post_if(&self, path: &str, user: &str, key: &str, tag: &str) -> (u16, Value) {
        let request = hyper::Request::post(format!("http://{}{path}", self.address))
            .header("x-user-id", user)
            .header("idempotency-key", key)
            .header("if-match", tag);
        let (status, body, _) = self.send(request, String::new()).await;
        (status, body)
    }

    /// Reads a whole list, page by page, again until it is what is expected: the view is right behind the log.
    pub(crate) async fn lists(&self, path: &str, user: &str, expected: &BTreeSet<String>) {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        loop {
            let (mut listed, mut cursor) = (Vec::new(), String::new());
            loop {
                let (status, page) =
                    self.call("GET", &format!("{path}{cursor}"), user, "", Value::Null).await;
                assert_eq!(status, 200, "{path}: {page}");
                let ids = page["items"].as_array().unwrap().iter().map(|it| it["id"].as_str().unwrap());
                listed.extend(ids.map(str::to_owned));
                match page["next"].as_str() {
                    Some(next) => cursor = format!("&cursor={next}"),
                    None => break,
                }
            }
            let all: BTreeSet<String> = listed.iter().cloned().collect();
            assert_eq!(all.len(), listed.len(), "{path}: something is listed twice");
            if all == *expected {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "{path}: {listed:?} and not {expected:?}");
            tokio::task::yield_now().await;
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.begin();
        self.running.await.unwrap();
    }

    pub(crate) async fn call(
        &self,
        method: &str,
        path: &str,
        user: &str,
        key: &str,
        body: Value,
    ) -> (u16, Value) {
        let (status, body, _) = self.call_traced(method, path, user, key, body).await;
        (status, body)
    }

    pub(crate) async fn call_traced(
        &self,
        method: &str,
        path: &str,
        user: &str,
        key: &str,
        body: Value,
    ) -> (u16, Value, String) {
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
        let trace = response.headers().get("traceparent").and_then(|trace| trace.to_str().ok());
        let trace = trace.unwrap_or_default().to_owned();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null), trace)
    }

    pub(crate) async fn place(&self, user: &str, key: &str) -> String {
        let (status, order) = self.call("POST", "/v1/orders", user, key, order_body()).await;
        assert!(status == 201 || status == 200, "{status} {order}");
        order["id"].as_str().unwrap().to_owned()
    }
}

pub(crate) fn order_body() -> Value {
    json!({ "content": { "currency": "CNY", "lines": [{ "sku": "tea", "quantity": 2, "unit_minor": 4500 }],
        "duty_minor": 100 }, "attributes": { "gift": true } })
}

/// The `nth` user whose home is `region`.
pub(crate) fn user_of(region: &str, nth: usize) -> String {
    let fits = |user: &String| {
        let slot = cell_core::id::UserId::new(user).unwrap().slot().number();
        (slot < 512) == (region == "north")
    };
    (0..).map(|i| format!("user{i}")).filter(fits).nth(nth).unwrap()
}

impl Service {
    pub(crate) async fn place_of(&self, user: &str, key: &str, unit_minor: u64) -> String {
        let mut body = order_body();
        body["content"]["lines"] = json!([{ "sku": "tea", "quantity": 1, "unit_minor": unit_minor }]);
        body["content"]["duty_minor"] = json!(0);
        let (status, order) = self.call("POST", "/v1/orders", user, key, body).await;
        assert_eq!(status, 201, "{order}");
        order["id"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn until(&self, path: &str, user: &str, status: &str) -> Value {
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        loop {
            let (_, seen) = self.call("GET", path, user, "", Value::Null).await;
            if seen["status"] == status {
                return seen;
            }
            assert!(tokio::time::Instant::now() < deadline, "{path} is {} and not {status}", seen["status"]);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }

    /// (captured, refunded) of an order in the gateway's own books.
    pub(crate) async fn ledger(&self, order: &str) -> (u64, u64) {
        let at = Service {
            address: self.gateway,
            grpc: self.gateway,
            gateway: self.gateway,
            shutdown: Shutdown::new(),
            running: tokio::spawn(async {}),
        };
        let (_, books) = at.call("GET", "/control/ledger", "", "", Value::Null).await;
        let total = &books["by_order"][order];
        (total["captured_minor"].as_u64().unwrap_or(0), total["refunded_minor"].as_u64().unwrap_or(0))
    }
}

/// What a sync-agent does, in a few lines: one region's durable changes into the other, its messages delivered.
pub(crate) async fn carry(from: SocketAddr, to: SocketAddr, held: watch::Receiver<bool>) {
    let mut source = NodeClient::connect(format!("http://{from}")).await.unwrap();
    let mut target = NodeClient::connect(format!("http://{to}")).await.unwrap();
    let (batches, applying) = tokio::sync::mpsc::channel(8);
    let replies = target.apply(ReceiverStream::new(applying)).await.unwrap().into_inner();
    tokio::spawn(async move {
        let mut replies = replies;
        while let Ok(Some(reply)) = replies.message().await {
            assert_eq!(reply.refusals, []);
        }
    });
    let own = source.status(v1::StatusRequest::default()).await.unwrap().into_inner().region;
    let request = v1::TailRequest { tailer: "test".to_owned(), from_position: 0, rest_ms: 0 };
    let mut tail = source.tail(request).await.unwrap().into_inner();
    let mut deliver = target.clone();
    let (acks, acked) = tokio::sync::mpsc::channel(8);
    acks.send(v1::OutboxAck { message_id: Default::default(), accepted: false }).await.unwrap();
    let mut outbox = source.outbox(ReceiverStream::new(acked)).await.unwrap().into_inner();
    let mut open = held.clone();
    tokio::spawn(async move {
        while let Ok(Some(batch)) = tail.message().await {
            let _ = open.wait_for(|held| !held).await;
            let of_region = |entry: &v1::Entry| {
                let node = entry.dot.as_ref().and_then(|dot| dot.actor.as_ref()?.node.clone());
                node.is_some_and(|node| node.region == own)
            };
            let entries = batch.items.into_iter().filter_map(|item| item.entry).filter(of_region).collect();
            if batches.send(v1::ApplyBatch { batch: batch.next_position, entries }).await.is_err() {
                return;
            }
        }
    });
    tokio::spawn(async move {
        let mut open = held;
        while let Ok(Some(envelope)) = outbox.message().await {
            let _ = open.wait_for(|held| !held).await;
            let message_id = envelope.id.clone();
            let missing = deliver
                .present(v1::PresentRequest { requires: envelope.requires.clone() })
                .await
                .map(|reply| reply.into_inner().missing);
            let ready = missing.is_ok_and(|missing| missing.is_empty());
            if ready {
                let why = v1::deliver_request::Why::Ready.into();
                let request = v1::DeliverRequest { envelope: Some(envelope), why, reason: String::new() };
                let _ = deliver.deliver(request).await;
            }
            if acks.send(v1::OutboxAck { message_id, accepted: ready }).await.is_err() {
                return;
            }
        }
    });
}

/// North and east, whose changes and messages are carried to each other.
pub(crate) struct Regions {
    nodes: BTreeMap<&'static str, Service>,
    held: BTreeMap<&'static str, watch::Sender<bool>>,
    traces: Mutex<Vec<String>>,
    _folder: Arc<tempfile::TempDir>,
}

impl Regions {
    pub(crate) async fn start() -> Regions {
        Regions::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl Fn(&mut Config)) -> Regions {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let gateway = start_gateway(folder.path()).await;
        std::fs::write(folder.path().join("placement.toml"), PLACEMENT).unwrap();
        let config = |engine, region| {
            let mut config = config(folder.path(), engine, gateway, region);
            change(&mut config);
            config
        };
        let north = Service::of(config(EngineName::Sled, "north")).await;
        let east = Service::of(config(EngineName::Memory, "east")).await;
        let held =
            BTreeMap::from([("north", watch::Sender::new(false)), ("east", watch::Sender::new(false))]);
        carry(north.grpc, east.grpc, held["north"].subscribe()).await;
        carry(east.grpc, north.grpc, held["east"].subscribe()).await;
        let nodes = BTreeMap::from([("north", north), ("east", east)]);
        Regions { nodes, held, traces: Mutex::default(), _folder: folder }
    }

    /// Nothing more of this region reaches the other.
    pub(crate) async fn hold(&self, region: &str) {
        self.held[region].send_replace(true);
    }

    pub(crate) async fn release(&self, region: &str) {
        self.held[region].send_replace(false);
    }

    pub(crate) async fn call(
        &self,
        region: &str,
        method: &str,
        path: &str,
        user: &str,
        key: &str,
        body: Value,
    ) -> (u16, Value) {
        let (status, body, trace) = self.nodes[region].call_traced(method, path, user, key, body).await;
        self.traces.lock().unwrap().push(trace);
        (status, body)
    }

    pub(crate) fn node(&self, region: &str) -> &Service {
        &self.nodes[region]
    }

    /// The `traceparent` of the last answer.
    pub(crate) fn last_trace(&self) -> String {
        self.traces.lock().unwrap().last().cloned().unwrap_or_default()
    }

    pub(crate) async fn place(&self, region: &str, user: &str, key: &str) -> String {
        self.nodes[region].place(user, key).await
    }

    pub(crate) async fn until(&self, region: &str, path: &str, user: &str, status: &str) -> Value {
        self.nodes[region].until(path, user, status).await
    }

    /// Merges what one region knows of an entity into another, past all changes.
    pub(crate) async fn merge(&self, from: &str, into: &str, id: EntityId) {
        let client = |region| NodeClient::connect(format!("http://{}", self.nodes[region].grpc));
        let (mut from, mut into) = (client(from).await.unwrap(), client(into).await.unwrap());
        let wanted = v1::EntitiesRequest {
            entities: vec![Bytes::copy_from_slice(&id.to_bytes())],
            ..Default::default()
        };
        let entities = from.read_entities(wanted).await.unwrap().into_inner().entities;
        assert_eq!(entities.len(), 1);
        let request = v1::MergeRequest { entities, from_region: "test".to_owned() };
        into.merge_entities(request).await.unwrap();
    }

    /// What the gateway reports of a payment, given to a region by its own callback, signed now.
    pub(crate) async fn call_back(&self, region: &str, payment: &str) -> u16 {
        let node = &self.nodes[region];
        let books = format!("http://{}/v1/intents?reference={payment}", node.gateway);
        let (_, intents, _) = node.send(hyper::Request::get(books), String::new()).await;
        let body = json!({ "event_id": "e", "kind": "capture", "intent": intents[0] }).to_string();
        let t = region_node::now_ms();
        let signature = format!("t={t},v1={}", sandbox_gateway::signature(SECRET, t, body.as_bytes()));
        let request = hyper::Request::post(format!("http://{}/v1/payments/callback", node.address))
            .header("x-gateway-signature", signature);
        node.send(request, body).await.0
    }

    /// Everything a region knows of an entity.
    pub(crate) async fn explain(&self, region: &str, id: &str) -> Value {
        let mut client = NodeClient::connect(format!("http://{}", self.nodes[region].grpc)).await.unwrap();
        let reply = client.explain(v1::ExplainRequest { id: id.to_owned() }).await.unwrap().into_inner();
        serde_json::from_str(&reply.json).unwrap_or(Value::Null)
    }

    pub(crate) async fn stream(&self, region: &str, user: &str, last: Option<&str>) -> Incoming {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let mut request = hyper::Request::get(format!("http://{}/v1/events", self.nodes[region].address))
            .header("x-user-id", user);
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = client.request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        response.into_body()
    }

    pub(crate) async fn stop(self) {
        for (_, node) in self.nodes {
            node.stop().await;
        }
    }
}
