//! `Cell-Version`: who was answered in one region sees at least that in every other, or is told why not.

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use region_node::EngineName;
use serde_json::{Value, json};

use crate::support::{Regions, Service, order_body, start_gateway, start_in, user_of};

struct Answer {
    status: u16,
    body: Value,
    version: Option<String>,
    retry_after: Option<String>,
}

impl Answer {
    fn problem(&self) -> (u16, &str) {
        (self.status, self.body["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default())
    }
    fn version(&self) -> String {
        let version = self.version.clone().unwrap_or_else(|| panic!("{} {}", self.status, self.body));
        assert!(version.len() <= 256, "{version}");
        version
    }
}

/// A request that presents these versions.
async fn ask(node: &Service, line: (&str, &str), user: &str, versions: &[&str], body: Value) -> Answer {
    let address = format!("http://{}{}", node.address, line.1);
    let mut request = hyper::Request::builder().method(line.0).uri(address).header("idempotency-key", "k");
    if !user.is_empty() {
        request = request.header("x-user-id", user);
    }
    for version in versions {
        request = request.header("cell-version", *version);
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let client = Client::builder(TokioExecutor::new()).build_http();
    let response = client.request(request.body(Full::new(Bytes::from(body))).unwrap()).await.unwrap();
    let header = |name: &str| Some(response.headers().get(name)?.to_str().unwrap().to_owned());
    let (version, retry_after) = (header("cell-version"), header("retry-after"));
    let status = response.status().as_u16();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    Answer { status, body: serde_json::from_slice(&bytes).unwrap_or(Value::Null), version, retry_after }
}

async fn get(node: &Service, path: &str, user: &str, version: &str) -> Answer {
    ask(node, ("GET", path), user, &[version], Value::Null).await
}

/// (its path, its version)
async fn placed(node: &Service, user: &str) -> (String, String) {
    let answer = ask(node, ("POST", "/v1/orders"), user, &[], order_body()).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    (format!("/v1/orders/{}", answer.body["id"].as_str().unwrap()), answer.version())
}

/// Another seq of the one actor that the version names.
fn later(version: &str, by: u64) -> String {
    let (actor, seq) = version.rsplit_once('.').unwrap();
    format!("{actor}.{}", seq.parse::<u64>().unwrap() + by)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_waits_in_the_other_region_for_their_own_write_and_sees_it_in_lists_too() {
    let regions = Regions::start_with(|config| config.session_wait_ms = 20_000).await;
    let (north, east) = (regions.node("north"), regions.node("east"));
    let a = user_of("north", 0);
    regions.hold("north").await;
    let (path, version) = placed(north, &a).await;
    assert_eq!(ask(east, ("GET", &path), &a, &[], Value::Null).await.status, 404, "without a version");
    let both = async {
        tokio::join!(get(east, &path, &a, &version), get(east, "/v1/orders", &a, &version), async {
            // Others are served meanwhile, as they were.
            for _ in 0..20 {
                assert_eq!(ask(east, ("GET", &path), &a, &[], Value::Null).await.status, 404);
            }
            regions.release("north").await;
        })
    };
    let (order, list, ()) = both.await;
    assert_eq!((order.status, &order.body["status"]), (200, &json!("PendingPayment")));
    assert_eq!((list.status, list.body["items"].as_array().map(Vec::len)), (200, Some(1)), "{}", list.body);
    assert_eq!(order.version(), version, "the same is shown there");
    assert_eq!(list.version(), version);
    regions.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_fetched_past_the_stream_wakes_who_reads_it_and_nobody_else() {
    let regions = Regions::start_with(|config| config.session_wait_ms = 2_000).await;
    let (north, east) = (regions.node("north"), regions.node("east"));
    let a = user_of("north", 0);
    regions.hold("north").await;
    let (path, version) = placed(north, &a).await;
    let id = path.rsplit('/').next().unwrap().parse().unwrap();
    let merged = regions.merge("north", "east", id);
    let (order, list, ()) =
        tokio::join!(get(east, &path, &a, &version), get(east, "/v1/orders", &a, &version), merged);
    assert_eq!((order.status, order.version()), (200, version));
    assert_eq!(list.problem(), (503, "version-not-here"), "what else there is nobody knows");
    regions.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn past_the_bound_the_reader_is_told_to_come_back_and_a_command_was_not_carried_out() {
    let regions = Regions::start_with(|config| config.session_wait_ms = 50).await;
    let (north, east) = (regions.node("north"), regions.node("east"));
    let (a, b) = (user_of("north", 0), user_of("east", 0));
    regions.hold("north").await;
    let (path, version) = placed(north, &a).await;
    let answer = get(east, &path, &a, &version).await;
    assert_eq!(answer.problem(), (503, "version-not-here"));
    assert_eq!((answer.retry_after.as_deref(), &answer.body["retryable"]), (Some("1"), &json!(true)));
    let answer = ask(east, ("POST", "/v1/orders"), &b, &[&version], order_body()).await;
    assert_eq!(answer.problem(), (503, "version-not-here"));
    assert_eq!(ask(east, ("GET", "/v1/orders"), &b, &[], Value::Null).await.body["items"], json!([]));
    regions.release("north").await;
    regions.until("east", &path, &a, "PendingPayment").await;
    let answer = ask(east, ("POST", "/v1/orders"), &b, &[&version], order_body()).await;
    assert_eq!(answer.status, 201, "the key was not used up: {}", answer.body);
    // What was presented goes on being presented.
    let both = answer.version();
    assert!(both.contains("~north-0.") && both.contains("~east-0."), "{both}");
    regions.hold("east").await;
    let own = answer.body["id"].as_str().unwrap();
    let answer = ask(east, ("POST", &format!("/v1/orders/{own}/cancel")), &b, &[&both], Value::Null).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let answer = get(north, &path, &a, &answer.version()).await;
    assert_eq!(answer.problem(), (503, "version-not-here"), "a session is about everything that was seen");
    assert_eq!(get(north, &path, &a, &version).await.status, 200);
    regions.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_ended_start_did_not_write_is_lost_or_late_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start_gateway(folder.path()).await;
    let north = start_in(folder.path(), EngineName::Sled, gateway, "north").await;
    let a = user_of("north", 0);
    let (path, version) = placed(&north, &a).await;
    let never = get(&north, &path, &a, &later(&version, 1_000_000)).await;
    assert_eq!(never.problem(), (409, "lost-or-late"), "it is this very start, and did not write it");
    north.stop().await;
    let north = start_in(folder.path(), EngineName::Sled, gateway, "north").await;
    assert_eq!(get(&north, &path, &a, &version).await.status, 200);
    let asked = std::time::Instant::now();
    let lost = get(&north, &path, &a, &later(&version, 1_000_000)).await;
    assert_eq!((lost.problem(), &lost.body["retryable"]), ((409, "lost-or-late"), &json!(false)));
    assert!(asked.elapsed() < std::time::Duration::from_millis(900), "at once: {:?}", asked.elapsed());
    north.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_version_is_refused_and_only_what_is_shown_has_one() {
    let regions = Regions::start().await;
    let north = regions.node("north");
    let (a, other) = (user_of("north", 0), user_of("north", 1));
    let (path, version) = placed(north, &a).await;
    let long = "x".repeat(300);
    for bad in ["", "1", "abc", "1~north-0.1.zz.4", "2~north-0.1.0000000000000001.4", &long] {
        let answer = get(north, &path, &a, bad).await;
        assert_eq!((answer.problem(), &answer.version), ((400, "bad-version"), &None), "{bad}");
    }
    let twice = ask(north, ("GET", &path), &a, &[&version, &version], Value::Null).await;
    assert_eq!(twice.problem(), (400, "bad-version"));
    let nobody = ask(north, ("GET", &path), "", &[&later(&version, 9)], Value::Null).await;
    assert_eq!(nobody.problem(), (401, "unidentified"), "first who, and at once");
    // No capability: whoever presents it sees what they may see.
    let foreign = get(north, &path, &other, &version).await;
    assert_eq!((foreign.problem(), &foreign.version), ((404, "not-found"), &None));
    let none = ask(north, ("GET", "/v1/orders"), &other, &[], Value::Null).await;
    assert_eq!((none.status, none.version), (200, None), "nothing is shown");
    for shown in [&path, &format!("{path}/events"), &"/v1/orders".to_owned()] {
        assert_eq!(get(north, shown, &a, &version).await.version(), version, "{shown}");
    }
    let (_, _, tag) = north.get_if(&path, &a, "").await;
    let request = hyper::Request::get(format!("http://{}{path}", north.address))
        .header("x-user-id", &a)
        .header("if-none-match", tag);
    let client = Client::builder(TokioExecutor::new()).build_http();
    let unchanged = client.request(request.body(Full::<Bytes>::default()).unwrap()).await.unwrap();
    assert_eq!(unchanged.status(), 304);
    assert_eq!(unchanged.headers()["cell-version"], version.as_str());
    // A command's answer names the command's own change.
    let paid = ask(north, ("POST", &format!("{path}/pay")), &a, &[], json!({ "card_token": "visa" })).await;
    assert_eq!(paid.status, 201, "{}", paid.body);
    assert_ne!(paid.version(), version);
    let payment = format!("/v1/payments/{}", paid.body["payment"]["id"].as_str().unwrap());
    let seen = get(regions.node("east"), &payment, &a, &paid.version()).await;
    assert_eq!(seen.status, 200, "{}", seen.body);
    regions.stop().await;
}
