//! The gateway over real HTTP, behaviour by behaviour.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::routing::post;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use sandbox_gateway::{Config, SIGNATURE_HEADER, signature};
use serde_json::{Value, json};
use service_kit::{Origins, SecretFile, Shutdown};
use tokio::sync::mpsc;

const SECRET: &[u8] = b"sandbox-secret";

struct Bench {
    address: SocketAddr,
    callback_url: String,
    callbacks: mpsc::Receiver<(HeaderMap, Bytes)>,
    shutdown: Shutdown,
    folder: tempfile::TempDir,
    running: tokio::task::JoinHandle<()>,
}

type Sender = Arc<Mutex<mpsc::Sender<(HeaderMap, Bytes)>>>;

async fn hear(State(sender): State<Sender>, headers: HeaderMap, body: Bytes) {
    let sender = sender.lock().unwrap().clone();
    sender.send((headers, body)).await.unwrap();
}

async fn bench(ledger: bool) -> Bench {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let (sender, callbacks) = mpsc::channel(100);
    let heard = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let callback_url = format!("http://{}/callback", heard.local_addr().unwrap());
    let app = Router::new().route("/callback", post(hear)).with_state(Arc::new(Mutex::new(sender)));
    tokio::spawn(async move { axum::serve(heard, app).await.unwrap() });
    let (address, shutdown, running) = start(&folder, ledger).await;
    Bench { address, callback_url, callbacks, shutdown, folder, running }
}

async fn start(
    folder: &tempfile::TempDir,
    ledger: bool,
) -> (SocketAddr, Shutdown, tokio::task::JoinHandle<()>) {
    let config = Config {
        listen: "127.0.0.1:0".parse().unwrap(),
        secret_file: SecretFile::new(folder.path().join("secret")),
        ledger_path: ledger.then(|| folder.path().join("ledger.json")),
    };
    let gateway = sandbox_gateway::build(config, &Origins::default()).await.unwrap();
    let (address, shutdown) = (gateway.local_addr().unwrap(), Shutdown::new());
    let running = gateway.run(shutdown.clone());
    let running = tokio::spawn(async move { running.await.unwrap() });
    (address, shutdown, running)
}

fn now_ms() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()).unwrap()
}

impl Bench {
    async fn call(&self, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request = hyper::Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.map(|body| body.to_string()).unwrap_or_default())))
            .unwrap();
        let response = client.request(request).await.unwrap();
        let status = response.status().as_u16();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    fn intent(&self, key: &str, reference: &str, amount: u64) -> Value {
        json!({ "key": key, "reference": reference, "amount_minor": amount, "currency": "CNY",
            "expires_at_ms": now_ms() + 60_000, "card_token": "visa",
            "metadata": { "order": "ord_1", "payer_slot": "7" }, "callback_urls": [self.callback_url] })
    }

    async fn create(&self, key: &str, reference: &str, amount: u64) -> (u16, Value) {
        self.call("POST", "/v1/intents", Some(self.intent(key, reference, amount))).await
    }

    /// The same gateway after an end and a new start.
    async fn restarted(self) -> Bench {
        self.shutdown.begin();
        self.running.await.unwrap();
        let (address, shutdown, running) = start(&self.folder, true).await;
        let Bench { callback_url, callbacks, folder, .. } = self;
        Bench { address, callback_url, callbacks, shutdown, folder, running }
    }

    async fn until_captured(&self, key: &str) -> Value {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let (_, intent) = self.call("GET", &format!("/v1/intents/by-key/{key}"), None).await;
            if intent["status"] == "captured" {
                return intent;
            }
            assert!(tokio::time::Instant::now() < deadline, "captured within ten seconds: {intent}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    async fn callback(&mut self) -> Value {
        let heard = tokio::time::timeout(Duration::from_secs(10), self.callbacks.recv()).await;
        let (headers, body) = heard.expect("a callback within ten seconds").unwrap();
        let sent = headers[SIGNATURE_HEADER].to_str().unwrap().to_owned();
        let t: u64 = sent.split(',').next().unwrap().trim_start_matches("t=").parse().unwrap();
        assert_eq!(sent, format!("t={t},v1={}", signature(SECRET, t, &body)));
        serde_json::from_slice(&body).unwrap()
    }

    async fn total(&self, reference: &str) -> (u64, u64) {
        let (_, ledger) = self.call("GET", "/control/ledger", None).await;
        let total = &ledger["by_reference"][reference];
        (total["captured_minor"].as_u64().unwrap_or(0), total["refunded_minor"].as_u64().unwrap_or(0))
    }
}

#[tokio::test]
async fn money_is_taken_once_per_key_and_the_callback_is_signed() {
    let mut bench = bench(false).await;
    let (status, intent) = bench.create("k1", "pay_1", 1_000).await;
    assert_eq!((status, intent["status"].as_str()), (200, Some("captured")));
    assert_eq!(bench.callback().await["kind"], "capture");
    let (_, mut same) = (0, bench.intent("k1", "pay_1", 1_000));
    same["expires_at_ms"] = intent["expires_at_ms"].clone();
    let (status, again) = bench.call("POST", "/v1/intents", Some(same.clone())).await;
    assert_eq!((status, &again["id"]), (200, &intent["id"]));
    same["amount_minor"] = json!(2_000);
    let (status, problem) = bench.call("POST", "/v1/intents", Some(same)).await;
    assert_eq!((status, problem["type"].as_str()), (409, Some("key-reused")));
    assert_eq!(bench.total("pay_1").await, (1_000, 0));
    let (_, found) = bench.call("GET", "/v1/intents/by-key/k1", None).await;
    assert_eq!(found["id"], intent["id"]);
    let (_, listed) = bench.call("GET", "/v1/intents?slot=7&reference=pay_1", None).await;
    assert_eq!(listed.as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn refusals_pending_and_broken_answers_follow_the_table() {
    let mut bench = bench(false).await;
    assert_eq!(bench.create("a", "pay_a", 91).await.1["failure"]["code"], "card_declined");
    assert_eq!(bench.callback().await["kind"], "failure");
    assert_eq!(bench.create("b1", "pay_b", 92).await.1["failure"]["retryable"], true);
    assert_eq!(bench.create("b2", "pay_b", 92).await.1["status"], "captured");
    for _ in 0..2 {
        bench.callback().await;
    }
    assert_eq!(bench.create("c", "pay_c", 93).await.1["status"], "pending");
    assert_eq!(bench.callback().await["intent"]["status"], "captured");
    assert_eq!(bench.create("d", "pay_d", 97).await.0, 500);
    assert_eq!(bench.callback().await["intent"]["reference"], "pay_d");
    assert_eq!(bench.create("e", "pay_e", 95).await.0, 200);
    let ids: Vec<Value> = [bench.callback().await, bench.callback().await, bench.callback().await]
        .iter()
        .map(|callback| callback["event_id"].clone())
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "one event, three deliveries");
    assert_eq!(bench.create("f", "pay_f", 99).await.1["next_action"]["kind"], "redirect");
    assert_eq!(
        bench.call("POST", "/control/complete", Some(json!({"reference": "pay_f"}))).await.1["done"],
        true
    );
    assert_eq!(bench.total("pay_f").await, (99, 0));
}

#[tokio::test]
async fn a_closed_reference_takes_no_money_any_more() {
    let bench = bench(false).await;
    assert_eq!(bench.create("k", "pay_1", 98).await.1["status"], "pending");
    let (_, closed) = bench.call("POST", "/v1/intents/close", Some(json!({"reference": "pay_1"}))).await;
    assert_eq!(closed[0]["status"], "closed");
    let (status, problem) = bench.create("k2", "pay_1", 1_000).await;
    assert_eq!((status, problem["type"].as_str()), (409, Some("reference-closed")));
    bench.call("POST", "/control/complete", Some(json!({"reference": "pay_1"}))).await;
    assert_eq!(bench.total("pay_1").await, (0, 0));
    let mut late = bench.intent("k3", "pay_2", 1_000);
    late["expires_at_ms"] = json!(now_ms() - 1);
    assert_eq!(bench.call("POST", "/v1/intents", Some(late)).await.0, 410);
}

#[tokio::test]
async fn refunds_happen_once_per_key_and_never_exceed_the_capture() {
    let mut bench = bench(false).await;
    let (_, intent) = bench.create("k", "pay_1", 1_000).await;
    bench.callback().await;
    let refund = |key: &str, amount: u64| {
        json!({ "key": key, "intent_id": intent["id"], "amount_minor": amount, "reference": "pay_1",
            "callback_urls": [bench.callback_url] })
    };
    let (status, first) = bench.call("POST", "/v1/refunds", Some(refund("r1", 600))).await;
    assert_eq!((status, first["status"].as_str()), (200, Some("done")));
    assert_eq!(bench.call("POST", "/v1/refunds", Some(refund("r1", 600))).await.1["id"], first["id"]);
    let (status, problem) = bench.call("POST", "/v1/refunds", Some(refund("r2", 401))).await;
    assert_eq!((status, problem["type"].as_str()), (409, Some("over-refund")));
    assert_eq!(bench.total("pay_1").await, (1_000, 600));
    assert_eq!(bench.callback().await["kind"], "refund");
}

#[tokio::test]
async fn an_intent_expires_by_itself_and_a_forgotten_key_is_unknown() {
    let mut bench = bench(false).await;
    let mut short = bench.intent("k", "pay_1", 98);
    short["expires_at_ms"] = json!(now_ms() + 300);
    bench.call("POST", "/v1/intents", Some(short)).await;
    assert_eq!(bench.callback().await["intent"]["status"], "expired");
    assert_eq!(bench.call("POST", "/control/forget", Some(json!({"key": "k"}))).await.1["done"], true);
    assert_eq!(bench.call("GET", "/v1/intents/by-key/k", None).await.0, 404);
}

#[tokio::test]
async fn bad_requests_are_problems_that_say_what_is_wrong() {
    let bench = bench(false).await;
    for (path, body) in [
        ("/v1/intents", json!({"key": "k"})),
        ("/v1/intents", json!({"key": "k", "unknown": 1})),
        ("/v1/refunds", json!("text")),
        ("/control/behaviour", json!({"of": "x", "behaviour": "dance"})),
    ] {
        let (status, problem) = bench.call("POST", path, Some(body)).await;
        assert_eq!((status, problem["type"].as_str()), (400, Some("bad-request")), "{path}");
        assert!(!problem["detail"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn the_ledger_shows_every_entry_beside_the_totals() {
    let bench = bench(false).await;
    let (_, taken) = bench.create("k1", "pay_1", 1_000).await;
    let (_, refused) = bench.create("k2", "pay_2", 91).await;
    let refund = json!({ "key": "r1", "intent_id": taken["id"], "amount_minor": 600, "reference": "pay_1",
        "metadata": { "order": "ord_1" } });
    let (_, refund) = bench.call("POST", "/v1/refunds", Some(refund)).await;
    bench
        .call(
            "POST",
            "/control/behaviour",
            Some(json!({"of": "pay_3", "behaviour": "capture-later",
        "delay_ms": 60_000})),
        )
        .await;
    let (_, later) = bench.create("k3", "pay_3", 1_000).await;
    bench.call("POST", "/control/forget", Some(json!({"key": "k1"}))).await;
    let (_, books) = bench.call("GET", "/control/ledger", None).await;
    let intent = |intent: &Value, key: &str, reference: &str, refunded: u64| {
        let mut entry = json!({ "kind": "intent", "id": intent["id"], "key": key, "reference": reference,
            "order": "ord_1", "status": intent["status"], "amount_minor": intent["amount_minor"],
            "captured_minor": intent["captured_minor"], "refunded_minor": refunded, "currency": "CNY",
            "created_at_ms": intent["created_at_ms"], "expires_at_ms": intent["expires_at_ms"] });
        for optional in ["failure", "captured_at_ms"] {
            if !intent[optional].is_null() {
                entry[optional] = intent[optional].clone();
            }
        }
        entry
    };
    let mut last = intent(&later, "k3", "pay_3", 0);
    last["capture_at_ms"] = json!(later["created_at_ms"].as_u64().unwrap() + 60_000);
    let given_back = json!({ "kind": "refund", "id": refund["id"], "intent_id": taken["id"], "key": "r1",
        "reference": "pay_1", "order": "ord_1", "status": "done", "amount_minor": 600, "currency": "CNY",
        "created_at_ms": refund["created_at_ms"] });
    let all = [intent(&taken, "k1", "pay_1", 600), intent(&refused, "k2", "pay_2", 0), given_back, last];
    assert_eq!(books["entries"], json!(all));
    assert_eq!(books["by_order"]["ord_1"]["captured_minor"], 1_000);
    assert_eq!(books["by_order"]["ord_1"]["refunded_minor"], 600);
    assert_eq!(books["by_reference"]["pay_3"]["captures"], 0);
}

#[tokio::test]
async fn the_ledger_survives_a_restart() {
    let bench = bench(true).await;
    bench.create("k", "pay_1", 1_000).await;
    // To be captured in 1.5 s: by then it is another process.
    assert_eq!(bench.create("later", "pay_2", 1_093).await.1["status"], "pending");
    assert_eq!(bench.create("redirected", "pay_3", 1_099).await.1["status"], "pending");
    let again = bench.restarted().await;
    assert_eq!(again.total("pay_1").await, (1_000, 0));
    assert_eq!(again.call("GET", "/v1/intents/by-key/k", None).await.1["status"], "captured");
    let (_, redirected) = again.call("GET", "/v1/intents/by-key/redirected", None).await;
    assert_eq!(redirected["next_action"]["kind"], "redirect");
    again.until_captured("later").await;
}

#[tokio::test]
async fn a_restart_goes_by_what_was_decided_with_the_intent_and_not_by_its_amount() {
    let mut bench = bench(true).await;
    let set =
        |behaviour: &str, delay_ms: u64| json!({ "of": "*", "behaviour": behaviour, "delay_ms": delay_ms });
    bench.call("POST", "/control/behaviour", Some(set("stay-pending", 0))).await;
    assert_eq!(bench.create("stays", "pay_1", 1_093).await.1["status"], "pending");
    bench.call("POST", "/control/behaviour", Some(set("capture-later", 2_000))).await;
    assert_eq!(bench.create("later", "pay_2", 1_000).await.1["status"], "pending");
    bench = bench.restarted().await;
    let later = bench.until_captured("later").await;
    let time = |name: &str| later[name].as_u64().unwrap();
    assert!(time("captured_at_ms") >= time("created_at_ms") + 2_000, "{later}");
    let callback = bench.callback().await;
    assert_eq!((&callback["kind"], &callback["intent"]["key"]), (&json!("capture"), &json!("later")));
    assert_eq!(bench.call("GET", "/v1/intents/by-key/stays", None).await.1["status"], "pending");
}

#[tokio::test]
async fn what_cannot_be_written_has_not_happened() {
    let bench = bench(true).await;
    bench.create("k1", "pay_1", 1_000).await;
    // Where the next ledger would be written stands a folder.
    let next = bench.folder.path().join("ledger.json.next");
    std::fs::create_dir(&next).unwrap();
    let body = bench.intent("k2", "pay_2", 1_000);
    let (status, problem) = bench.call("POST", "/v1/intents", Some(body.clone())).await;
    assert_eq!((status, problem["type"].as_str()), (503, Some("ledger-unavailable")));
    assert_eq!(bench.call("GET", "/v1/intents/by-key/k2", None).await.0, 404);
    let closing = Some(json!({"reference": "pay_1"}));
    assert_eq!(bench.call("POST", "/v1/intents/close", closing).await.0, 503);
    std::fs::remove_dir(&next).unwrap();
    assert_eq!(bench.call("POST", "/v1/intents", Some(body)).await.1["status"], "captured");
    assert_eq!(bench.create("k3", "pay_1", 1_000).await.0, 200, "pay_1 was not closed");
    let again = bench.restarted().await;
    assert_eq!((again.total("pay_1").await, again.total("pay_2").await), ((2_000, 0), (1_000, 0)));
}

#[tokio::test]
async fn a_late_answer_does_not_keep_the_gateway_from_ending() {
    let bench = bench(false).await;
    let hour = json!({ "of": "*", "behaviour": "answer-late", "delay_ms": 3_600_000 });
    bench.call("POST", "/control/behaviour", Some(hour)).await;
    let (answered, ()) = tokio::join!(bench.create("k", "pay_1", 1_000), async {
        bench.until_captured("k").await;
        bench.shutdown.begin();
    });
    assert_eq!((answered.0, &answered.1["status"]), (200, &json!("captured")));
    bench.running.await.unwrap();
}
