//! The conflict journal of real nodes, and a human case from its opening to its end.

use std::time::Duration;

use cell_proto::v1;
use cell_proto::v1::node_client::NodeClient;
use serde_json::{Value, json};
use tonic::Code;
use tonic::transport::Channel;

use crate::support::{Regions, SECRET, Service, user_of};

async fn internal(node: &Service) -> NodeClient<Channel> {
    NodeClient::connect(format!("http://{}", node.grpc)).await.unwrap()
}

async fn list(node: &Service, request: v1::ConflictsRequest) -> (Vec<Value>, bytes::Bytes) {
    let reply = internal(node).await.list_conflicts(request).await.unwrap().into_inner();
    (reply.json.iter().map(|json| serde_json::from_str(json).unwrap()).collect(), reply.next)
}

/// The journal, once it has this many entries that fit.
async fn listed(node: &Service, request: v1::ConflictsRequest, count: usize) -> Vec<Value> {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    loop {
        let (found, _) = list(node, request.clone()).await;
        if found.len() == count {
            return found;
        }
        assert!(tokio::time::Instant::now() < deadline, "{found:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn at_gateway(node: &Service, method: &str, path: &str, body: String) -> Value {
    let request = hyper::Request::builder()
        .method(method)
        .uri(format!("http://{}{path}", node.gateway))
        .header("content-type", "application/json");
    let (status, answer, _) = node.send(request, body).await;
    assert_eq!(status, 200, "{answer}");
    answer
}

/// Somebody gives a part back at the gateway's own console, and the gateway says so.
async fn refund_by_hand(node: &Service, order: &str, payment: &str, key: char, amount_minor: u64) {
    let intents = format!("/v1/intents?reference={payment}");
    let intent = at_gateway(node, "GET", &intents, String::new()).await[0].clone();
    let refund = json!({ "key": String::from(key).repeat(32), "intent_id": intent["id"],
        "amount_minor": amount_minor, "reference": payment, "metadata": { "order": order } });
    let refund = at_gateway(node, "POST", "/v1/refunds", refund.to_string()).await;
    let intent = at_gateway(node, "GET", &intents, String::new()).await[0].clone();
    let body = json!({ "event_id": "e", "kind": "refund", "intent": intent, "refund": refund }).to_string();
    let t = region_node::now_ms();
    let signature = format!("t={t},v1={}", sandbox_gateway::signature(SECRET, t, body.as_bytes()));
    let request = hyper::Request::post(format!("http://{}/v1/payments/callback", node.address))
        .header("x-gateway-signature", signature);
    assert_eq!(node.send(request, body).await.0, 204);
}

async fn paid(node: &Service, user: &str, key: &str) -> (String, String) {
    let order = node.place_of(user, key, 5_000).await;
    let pay = format!("/v1/orders/{order}/pay");
    let (_, paid) = node.call("POST", &pay, user, &format!("p{key}"), json!({ "card_token": "visa" })).await;
    node.until(&format!("/v1/orders/{order}"), user, "Paid").await;
    (order, paid["payment"]["id"].as_str().unwrap().to_owned())
}

async fn paid_by(node: &Service, buyer: &str, payer: &str, key: &str) -> (String, String) {
    let order = node.place_of(buyer, key, 5_000).await;
    let ask = format!("/v1/orders/{order}/pay-requests");
    let (_, asked) = node.call("POST", &ask, buyer, &format!("q{key}"), json!({ "payer": payer })).await;
    let payment = asked["payment"]["id"].as_str().unwrap().to_owned();
    let accept = format!("/v1/pay-requests/{payment}/accept");
    let (status, seen) =
        node.call("POST", &accept, payer, &format!("a{key}"), json!({ "card_token": "visa" })).await;
    assert_eq!(status, 202, "{seen}");
    node.until(&format!("/v1/orders/{order}"), buyer, "Paid").await;
    (order, payment)
}

fn resolution(id: &Value, with: &str) -> v1::ResolveRequest {
    v1::ResolveRequest {
        id: id.as_str().unwrap().to_owned(),
        with: with.to_owned(),
        identity: "mo".to_owned(),
        reason: "the shop agreed".to_owned(),
        dry_run: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_human_case_is_seen_in_every_region_and_resolved_at_its_home_with_the_money_back() {
    let regions = Regions::start().await;
    let (north, east) = (regions.node("north"), regions.node("east"));
    let a = user_of("north", 0);
    let (order, payment) = paid(north, &a, "o").await;
    refund_by_hand(north, &order, &payment, 'a', 1_000).await;
    let open = v1::ConflictsRequest { open_only: true, ..v1::ConflictsRequest::default() };
    let at_home = listed(north, open.clone(), 1).await;
    assert_eq!(listed(east, open.clone(), 1).await, at_home, "derived, so the same everywhere");
    let case = &at_home[0];
    assert_eq!(
        (&case["kind"], &case["class"], &case["order"]),
        (&json!("case"), &json!("unasked"), &json!(order))
    );
    assert_eq!(case["remedies"], json!(["keep", "refund", "cancel"]));
    let told = case["commands"][1].as_str().unwrap();
    assert!(told.starts_with("cellctl conflict resolve ord_") && told.contains("--with refund"), "{told}");
    let path = format!("/v1/orders/{order}");
    let (_, seen) = north.call("GET", &path, &a, "", Value::Null).await;
    assert_eq!(seen["cases"].as_array().map(Vec::len), Some(1), "{seen}");

    let resolve = async |node: &Service, request| {
        internal(node).await.resolve_conflict(request).await.map(tonic::Response::into_inner)
    };
    let elsewhere = resolve(east, resolution(&case["id"], "refund")).await.unwrap();
    assert_eq!((elsewhere.home.as_str(), elsewhere.json.as_str()), ("north", ""));
    let dry = v1::ResolveRequest { dry_run: true, ..resolution(&case["id"], "refund") };
    assert!(resolve(north, dry).await.unwrap().json.contains("\"open\":true"));
    let why = v1::ResolveRequest { reason: String::new(), ..resolution(&case["id"], "keep") };
    for bad in [why, resolution(&case["id"], "burn"), resolution(&json!("x"), "keep")] {
        assert_eq!(resolve(north, bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let unknown = resolution(&json!(format!("{order}:0000000000000000")), "keep");
    assert_eq!(resolve(north, unknown).await.unwrap_err().code(), Code::NotFound);
    let done = resolve(north, resolution(&case["id"], "refund")).await.unwrap();
    let done: Value = serde_json::from_str(&done.json).unwrap();
    assert_eq!((&done["open"], &done["ruling"]), (&json!(false), &json!("refund")));
    assert!(done["why"].as_str().unwrap().contains("mo resolved it: the shop agreed"), "{done}");
    // Again is the same; something else is too late.
    resolve(north, resolution(&case["id"], "refund")).await.unwrap();
    let late = resolve(north, resolution(&case["id"], "keep")).await.unwrap_err();
    assert_eq!(late.code(), Code::Aborted, "{late}");
    for node in [north, east] {
        node.until(&path, &a, "Refunded").await;
        listed(node, open.clone(), 0).await;
    }
    assert_eq!(north.ledger(&order).await, (5_000, 5_000), "the part by hand, and the rest once");
    regions.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_is_filtered_and_paged_newest_first() {
    let regions = Regions::start().await;
    let (north, east) = (regions.node("north"), regions.node("east"));
    let [a, other, payer] = [0, 1, 2].map(|nth| user_of("north", nth));
    let mut orders = Vec::new();
    for (nth, user) in [&a, &a, &other].into_iter().enumerate() {
        let (order, payment) = match nth {
            2 => paid_by(north, user, &payer, &format!("o{nth}")).await,
            _ => paid(north, user, &format!("o{nth}")).await,
        };
        refund_by_hand(north, &order, &payment, ['a', 'b', 'c'][nth], 100).await;
        orders.push(order);
    }
    let all = v1::ConflictsRequest::default();
    let found = listed(north, all.clone(), 3).await;
    let of: Vec<&str> = found.iter().map(|entry| entry["order"].as_str().unwrap()).collect();
    assert_eq!(of, orders.iter().rev().map(String::as_str).collect::<Vec<_>>());
    let cases: [(v1::ConflictsRequest, usize); 10] = [
        (v1::ConflictsRequest { kind: "case".to_owned(), ..all.clone() }, 3),
        (v1::ConflictsRequest { kind: "stray".to_owned(), ..all.clone() }, 0),
        (v1::ConflictsRequest { class: "paid-versus-cancelled".to_owned(), ..all.clone() }, 0),
        (v1::ConflictsRequest { about: orders[1].clone(), ..all.clone() }, 1),
        (v1::ConflictsRequest { user: a.clone(), ..all.clone() }, 2),
        (v1::ConflictsRequest { user: other, ..all.clone() }, 1),
        (v1::ConflictsRequest { user: payer, ..all.clone() }, 1),
        (v1::ConflictsRequest { region: "north".to_owned(), ..all.clone() }, 3),
        (v1::ConflictsRequest { region: "east".to_owned(), ..all.clone() }, 0),
        (v1::ConflictsRequest { since_ms: u64::MAX, ..all.clone() }, 0),
    ];
    for (request, count) in cases {
        let (fits, _) = list(north, request.clone()).await;
        assert_eq!(fits.len(), count, "{request:?}");
    }
    let (mut paged, mut request) = (Vec::new(), v1::ConflictsRequest { limit: 2, ..all.clone() });
    loop {
        let (page, next) = list(north, request.clone()).await;
        assert!(page.len() <= 2);
        paged.extend(page);
        if next.is_empty() {
            break;
        }
        request.after = next;
    }
    assert_eq!(paged, found, "nothing twice, nothing left out");
    assert_eq!(listed(east, all, 3).await, found);
    let bad = v1::ConflictsRequest { kind: "quarrel".to_owned(), ..v1::ConflictsRequest::default() };
    let bad = internal(north).await.list_conflicts(bad).await.unwrap_err();
    assert_eq!(bad.code(), Code::InvalidArgument);
    regions.stop().await;
}
