//! The JSON API, and the internal port behind it.

use cell_core::id::{EntityId, OrderId, Slot};
use cell_proto::v1;
use cell_proto::v1::node_client::NodeClient;
use cell_store::Batch;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use region_node::{EngineName, now_ms};
use serde_json::{Value, json};
use service_kit::{Origins, Shutdown};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;

use crate::support::{SECRET, Service, carry, config, order_body, start, start_gateway, start_in, user_of};

#[tokio::test(flavor = "multi_thread")]
async fn an_order_is_placed_once_read_by_its_owner_only_and_found_again_after_a_restart() {
    for engine in [EngineName::Sled, EngineName::Fjall, EngineName::Memory] {
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
    let detail = "'ask' cannot be done to this order: somebody was asked to pay for it, or is paying; withdraw that, or wait for its end";
    assert_eq!(second["detail"], detail);
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
    // Where it is, also deep inside; an array of the members is not the object.
    let mut positional = order_body();
    positional["content"]["lines"][0] = json!(["tea", "", 1, 100]);
    let pointers = [
        (with("/content/lines/0/quantity", json!("two")), "/content/lines/0/quantity"),
        (with("/content/currency", json!("XYZ")), "/content/currency"),
        (with("/content/lines", json!([])), "/content/lines"),
        (positional, "/content/lines/0"),
        (json!([order_body()["content"]]), ""),
    ];
    for (body, pointer) in pointers {
        let (status, problem) = node.call("POST", "/v1/orders", &a, "k", body).await;
        assert_eq!((status, problem["pointer"].as_str()), (400, Some(pointer)), "{problem}");
    }
    // In words for whoever wrote it.
    let mut surprised = order_body();
    surprised["content"]["surprise"] = json!(1);
    for (body, said) in [
        (with("/content/lines/0/quantity", json!("two")), "must be a whole number from 0 on, not \"two\""),
        (with("/content/lines/0/unit_minor", json!(-1)), "must be a whole number from 0 on, not -1"),
        (surprised, "unknown member `surprise`; known are `currency`, "),
        (json!({}), "`content` is missing"),
        (
            with("/content/lines/0/unit_minor", json!(u64::MAX)),
            "with lines/0 the total is above 1000000000000",
        ),
    ] {
        let (_, problem) = node.call("POST", "/v1/orders", &a, "k", body).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with(said) && !detail.contains(" at line "), "{problem}");
    }
    let half = hyper::Request::post(format!("http://{}/v1/orders", node.address))
        .header("x-user-id", &a)
        .header("idempotency-key", "k");
    let answer = node.send(half, "{\"content\":".to_owned()).await;
    assert_eq!(answer.0, 400);
    assert!(answer.1["detail"].as_str().unwrap().starts_with("the body is not JSON: "), "{}", answer.1);
    // Said twice, or in another alphabet.
    let request = || hyper::Request::post(format!("http://{}/v1/orders", node.address));
    let twice = request().header("x-user-id", &a).header("x-user-id", &a).header("idempotency-key", "k");
    assert_eq!(node.send(twice, order_body().to_string()).await.0, 401);
    let twice =
        request().header("x-user-id", &a).header("idempotency-key", "k").header("idempotency-key", "l");
    assert_eq!(node.send(twice, order_body().to_string()).await.0, 400);
    let chinese = (0..).map(|i| format!("用户{i}")).find(|user| Slot::of_user(user).number() < 512).unwrap();
    let theirs = request().header("x-user-id", chinese.as_bytes()).header("idempotency-key", "k");
    assert_eq!(node.send(theirs, order_body().to_string()).await.0, 201);
    // Less than was announced.
    let mut short = tokio::net::TcpStream::connect(node.address).await.unwrap();
    let head = format!("POST /v1/orders HTTP/1.1\r\nhost: n\r\nx-user-id: {a}\r\nidempotency-key: k\r\n");
    let chunked = format!("{head}transfer-encoding: chunked\r\n\r\nnonsense\r\n");
    short.write_all(chunked.as_bytes()).await.unwrap();
    let mut answer = String::new();
    short.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("problem+json") && answer.contains("bad-body"), "{answer}");
    let (_, misdirected) = node.call("POST", "/v1/orders", &east, "k", order_body()).await;
    assert_eq!(misdirected["home"], "east");
    let huge = with("/content/lines/0/sku", json!("x".repeat(70_000)));
    assert_eq!(node.call("POST", "/v1/orders", &a, "k", huge).await.0, 413);
    assert_eq!(node.call("GET", "/v1/orders/ord_nonsense", &a, "", Value::Null).await.0, 400);
    let (status, bytes) = node.call("GET", "/v1/orders/%ff", &a, "", Value::Null).await;
    assert_eq!((status, bytes["detail"].as_str()), (400, Some("the id in the path is not UTF-8")));
    assert_eq!(node.call("GET", "/nowhere", &a, "", Value::Null).await.0, 404);
    // What is not there is not there in the same words, whatever is asked of it.
    let nobodys = "/v1/orders/ord_00000000000000000000000000";
    let (status, read) = node.call("GET", nobodys, &a, "", Value::Null).await;
    let (_, cancelled) = node.call("POST", &format!("{nobodys}/cancel"), &a, "n", Value::Null).await;
    assert_eq!((status, &read["detail"]), (404, &cancelled["detail"]));
    let (_, listed) = node.call("GET", "/v1/orders", &a, "", Value::Null).await;
    assert_eq!(listed["items"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_held_by_another_node_is_refused_in_one_line_that_names_it() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), EngineName::Sled).await;
    let config = config(folder.path(), EngineName::Sled, node.gateway, "north");
    let refused = region_node::build(config, &Origins::default(), None, Shutdown::new()).await.unwrap_err();
    let message = format!("{refused:?}");
    assert!(message.contains("data_dir") && message.contains("in use"), "{message}");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn paying_charges_the_gateway_once_whatever_it_answers_and_a_cancel_gives_the_money_back() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), EngineName::Sled).await;
    let a = user_of("north", 0);
    // Captured at once; without a callback; with a broken answer; with an answer that comes too late.
    for (i, unit_minor) in [5_000, 5_094, 5_097, 5_096].into_iter().enumerate() {
        let order = node.place_of(&a, &format!("o{i}"), unit_minor).await;
        let path = format!("/v1/orders/{order}");
        let card = json!({ "card_token": "visa" });
        let (status, _) = node.call("POST", &format!("{path}/pay"), &a, &format!("p{i}"), card.clone()).await;
        assert_eq!(status, 201);
        node.until(&path, &a, "Paid").await;
        let (status, _) = node.call("POST", &format!("{path}/pay"), &a, &format!("p{i}"), card).await;
        assert_eq!(status, 200, "a repeat is the same command");
        assert_eq!(node.ledger(&order).await, (unit_minor, 0));
        for (amount, said) in [
            (json!(0), "a refund is of 1 or more"),
            (json!(unit_minor + 1), "more than was captured and is not refunded yet"),
        ] {
            let (refund, key) = (json!({ "amount_minor": amount }), format!("r{i}"));
            let (status, problem) = node.call("POST", &format!("{path}/refunds"), &a, &key, refund).await;
            assert_eq!((status, problem["detail"].as_str()), (400, Some(said)));
        }
        assert_eq!(
            node.call("POST", &format!("{path}/cancel"), &a, &format!("c{i}"), Value::Null).await.0,
            201
        );
        node.until(&path, &a, "Cancelled").await;
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
        while node.ledger(&order).await != (unit_minor, unit_minor) {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", node.ledger(&order).await);
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn somebody_else_pays_or_does_not_and_each_end_is_one_end() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), EngineName::Memory).await;
    let (a, b) = (user_of("north", 0), user_of("north", 1));
    for (i, (unit_minor, accept, end, order_is)) in [
        (5_000, true, "captured", "Paid"),
        (5_000, false, "declined", "PendingPayment"),
        (5_091, true, "failed", "PendingPayment"),
        (5_092, true, "try-again", "PendingPayment"),
    ]
    .into_iter()
    .enumerate()
    {
        let order = node.place_of(&a, &format!("o{i}"), unit_minor).await;
        let ask = format!("/v1/orders/{order}/pay-requests");
        let (_, asked) = node.call("POST", &ask, &a, &format!("q{i}"), json!({ "payer": b })).await;
        let payment = asked["payment"]["id"].as_str().unwrap().to_owned();
        let path = format!("/v1/payments/{payment}");
        let (verb, body) =
            if accept { ("accept", json!({ "card_token": "visa" })) } else { ("decline", Value::Null) };
        let act = format!("/v1/pay-requests/{payment}/{verb}");
        let (status, seen) = node.call("POST", &act, &b, &format!("a{i}"), body).await;
        assert!(status == 202 || status == 201, "{status} {seen}");
        node.until(&path, &b, end).await;
        node.until(&format!("/v1/orders/{order}"), &a, order_is).await;
        if end == "try-again" {
            let again = json!({ "card_token": "master" });
            assert_eq!(node.call("POST", &act, &b, "again", again).await.0, 202);
            node.until(&path, &b, "captured").await;
            assert_eq!(node.ledger(&order).await, (5_092, 0));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_stale_and_malformed_callbacks_change_nothing_and_a_replay_has_no_second_effect() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), EngineName::Memory).await;
    let send = async |signature: String, body: String| {
        let client = Client::builder(TokioExecutor::new()).build_http();
        let request = hyper::Request::post(format!("http://{}/v1/payments/callback", node.address))
            .header("x-gateway-signature", signature)
            .body(Full::new(Bytes::from(body)))
            .unwrap();
        client.request(request).await.unwrap().status().as_u16()
    };
    let sign =
        |t: u64, body: &str| format!("t={t},v1={}", sandbox_gateway::signature(SECRET, t, body.as_bytes()));
    let body = "{}".to_owned();
    assert_eq!(send(String::new(), body.clone()).await, 400);
    assert_eq!(send(format!("t={},v1=00", now_ms()), body.clone()).await, 401);
    assert_eq!(send(sign(now_ms() - 600_000, &body), body.clone()).await, 400);
    assert_eq!(send(sign(now_ms(), &body), body.clone()).await, 400, "genuine, and cannot be understood");

    // A genuine one, twice; and the same intent under a permit that does not prove its payment.
    let a = user_of("north", 0);
    let order = node.place_of(&a, "o", 5_098).await;
    let (_, paid) =
        node.call("POST", &format!("/v1/orders/{order}/pay"), &a, "p", json!({ "card_token": "visa" })).await;
    let payment = paid["payment"]["id"].as_str().unwrap();
    let books = Service {
        address: node.gateway,
        grpc: node.gateway,
        gateway: node.gateway,
        shutdown: Shutdown::new(),
        running: tokio::spawn(async {}),
    };
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let mut intent = loop {
        let (_, listed) =
            books.call("GET", &format!("/v1/intents?reference={payment}"), "", "", Value::Null).await;
        if let Some(intent) = listed.get(0) {
            break intent.clone();
        }
        assert!(tokio::time::Instant::now() < deadline, "no intent");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    };
    intent["status"] = json!("captured");
    intent["captured_minor"] = intent["amount_minor"].clone();
    let mut wrong = intent.clone();
    wrong["reference"] = json!(format!("{}0", &payment[..29]));
    let wrong = json!({ "event_id": "e0", "kind": "capture", "intent": wrong }).to_string();
    assert_eq!(send(sign(now_ms(), &wrong), wrong).await, 400);
    let genuine = json!({ "event_id": "e1", "kind": "capture", "intent": intent }).to_string();
    for at in [now_ms() - 600_000, now_ms() + 600_000] {
        assert_eq!(send(sign(at, &genuine), genuine.clone()).await, 400, "genuine, and not of now");
    }
    for _ in 0..2 {
        assert_eq!(send(sign(now_ms(), &genuine), genuine.clone()).await, 204);
    }
    let seen = node.until(&format!("/v1/orders/{order}"), &a, "Paid").await;
    let (_, events) = node.call("GET", &format!("/v1/orders/{order}/events"), &a, "", Value::Null).await;
    let settled =
        events.as_array().unwrap().iter().filter(|event| event["what"] == "capture-settled").count();
    assert_eq!((settled, &seen["cases"]), (1, &json!([])));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_of_one_region_is_paid_for_in_another_over_the_internal_port() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start_gateway(folder.path()).await;
    let north = start_in(folder.path(), EngineName::Sled, gateway, "north").await;
    let east = start_in(folder.path(), EngineName::Memory, gateway, "east").await;
    carry(north.grpc, east.grpc, watch::Sender::new(false).subscribe()).await;
    carry(east.grpc, north.grpc, watch::Sender::new(false).subscribe()).await;
    let (a, b) = (user_of("north", 0), user_of("east", 0));
    let order = north.place_of(&a, "o", 5_000).await;
    let ask = format!("/v1/orders/{order}/pay-requests");
    let (status, asked) = north.call("POST", &ask, &a, "q", json!({ "payer": b })).await;
    assert_eq!((status, asked["payment"]["status"].as_str()), (201, Some("requested")));
    let payment = asked["payment"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/payments/{payment}");
    east.until(&path, &b, "received").await;
    let accept = format!("/v1/pay-requests/{payment}/accept");
    let card = json!({ "card_token": "visa" });
    assert_eq!(north.call("POST", &accept, &b, "a", card.clone()).await.0, 421, "the payer's home decides");
    assert_eq!(east.call("POST", &accept, &b, "a", card).await.0, 202);
    for node in [&north, &east] {
        node.until(&format!("/v1/orders/{order}"), &a, "Paid").await;
        node.until(&path, &b, "captured").await;
    }
    assert_eq!(north.ledger(&order).await, (5_000, 0));
    // Both regions hold the same sets, and nothing is owed any more.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        let mut seen = Vec::new();
        for node in [&north, &east] {
            let mut client = NodeClient::connect(format!("http://{}", node.grpc)).await.unwrap();
            for id in [&order, &payment] {
                let reply = client.explain(v1::ExplainRequest { id: id.clone() }).await.unwrap().into_inner();
                let document: Value = serde_json::from_str(&reply.json).unwrap();
                seen.push((document["digest"].clone(), document["pending"].clone()));
            }
        }
        let equal = seen[0].0 == seen[2].0 && seen[1].0 == seen[3].0;
        if equal && seen.iter().all(|(_, pending)| *pending == json!([])) {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{seen:?}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_orders_that_met_under_one_key_are_both_known_by_it_also_after_a_restart() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let gateway = start_gateway(folder.path()).await;
    start_gateway(other.path()).await;
    let node = start_in(folder.path(), EngineName::Sled, gateway, "north").await;
    // The same region's node on another disk, as it was before a failover.
    let before = start_in(other.path(), EngineName::Sled, gateway, "north").await;
    let a = user_of("north", 0);
    let mut second = order_body();
    second["content"]["lines"][0]["quantity"] = json!(3);
    let first = node.place(&a, "k").await;
    let (status, placed) = before.call("POST", "/v1/orders", &a, "k", second.clone()).await;
    assert_eq!(status, 201);
    carry(before.grpc, node.grpc, watch::Sender::new(false).subscribe()).await;
    let path = format!("/v1/orders/{}", placed["id"].as_str().unwrap());
    // The later one is cancelled, since nothing was paid.
    node.until(&path, &a, "Cancelled").await;
    before.stop().await;
    node.stop().await;
    let node = start_in(folder.path(), EngineName::Sled, gateway, "north").await;
    assert_eq!(node.place(&a, "k").await, first);
    let (status, again) = node.call("POST", "/v1/orders", &a, "k", second.clone()).await;
    assert_eq!((status, &again["id"]), (200, &placed["id"]));
    second["content"]["lines"][0]["quantity"] = json!(4);
    assert_eq!(node.call("POST", "/v1/orders", &a, "k", second).await.0, 422);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_order_with_a_long_history_is_closed_to_requests_and_never_stops_the_node() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), EngineName::Sled).await;
    let a = user_of("north", 0);
    let order = node.place(&a, "o").await;
    let line = json!({ "sku": "s".repeat(256), "title": "t".repeat(256), "quantity": 1, "unit_minor": 1 });
    let amend = format!("/v1/orders/{order}/amend");
    let mut refused = None;
    for i in 0..30 {
        let content = json!({ "currency": "CNY", "lines": vec![line.clone(); 100], "duty_minor": i });
        let (status, answer) = node.call("POST", &amend, &a, &format!("m{i}"), content).await;
        if status != 201 {
            refused = Some((status, answer["type"].as_str().unwrap().to_owned()));
            break;
        }
    }
    let expected = (409, "https://homecell.dev/problems/too-many-decisions".to_owned());
    assert_eq!(refused, Some(expected));
    let gateway = node.gateway;
    node.stop().await;
    // The next start is a new actor: its first decision carries all of it.
    let node = Service::of(config(folder.path(), EngineName::Sled, gateway, "north")).await;
    let (status, seen) = node.call("GET", &format!("/v1/orders/{order}"), &a, "", Value::Null).await;
    assert_eq!((status, &seen["status"]), (200, &json!("PendingPayment")));
    let other = node.place(&a, "other").await;
    let cancel = format!("/v1/orders/{other}/cancel");
    assert_eq!(node.call("POST", &cancel, &a, "c", Value::Null).await.0, 201, "everything else goes on");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_under_way_at_a_stop_is_taken_up_at_the_next_start() {
    let folder = tempfile::tempdir().unwrap();
    let real = start(folder.path(), EngineName::Sled).await;
    let gateway = real.gateway;
    real.stop().await;
    // A gateway that takes connections and never answers.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let of = |gateway| config(folder.path(), EngineName::Sled, gateway, "north");
    let node = Service::of(of(silent.local_addr().unwrap())).await;
    let a = user_of("north", 0);
    let order = node.place(&a, "o").await;
    let path = format!("/v1/orders/{order}");
    let card = json!({ "card_token": "visa" });
    assert_eq!(node.call("POST", &format!("{path}/pay"), &a, "p", card).await.0, 201);
    node.stop().await;
    let node = Service::of(of(gateway)).await;
    node.until(&path, &a, "Paid").await;
    node.stop().await;
}

/// Twenty orders, and the node stopped.
async fn twenty(folder: &std::path::Path, engine: EngineName) -> (Vec<String>, std::net::SocketAddr) {
    let node = start(folder, engine).await;
    let a = user_of("north", 0);
    let mut orders = Vec::new();
    for i in 0..20 {
        orders.push(node.place(&a, &format!("o{i}")).await);
    }
    let gateway = node.gateway;
    node.stop().await;
    (orders, gateway)
}

async fn all_there(node: &Service, orders: &[String]) {
    let a = user_of("north", 0);
    for order in orders {
        node.until(&format!("/v1/orders/{order}"), &a, "PendingPayment").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_view_is_put_aside_and_made_anew_from_the_log() {
    for engine in [EngineName::Sled, EngineName::Fjall] {
        let folder = tempfile::tempdir().unwrap();
        let (orders, gateway) = twenty(folder.path(), engine).await;
        let data = folder.path().join("north");
        // The largest file of the view loses its end, and whatever names the others.
        for entry in walk(&data.join("view")) {
            let name = entry.file_name().unwrap().to_string_lossy().into_owned();
            if ["db", "conf", "current"].contains(&name.as_str()) {
                let bytes = std::fs::read(&entry).unwrap();
                std::fs::write(&entry, &bytes[..bytes.len() / 3]).unwrap();
            }
        }
        let node = Service::of(config(folder.path(), engine, gateway, "north")).await;
        all_there(&node, &orders).await;
        node.stop().await;
        assert!(data.join("view.damaged-1").exists(), "{engine:?}: it was not noticed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_view_that_the_log_cannot_go_on_from_is_put_aside_and_made_anew() {
    for engine in [EngineName::Sled, EngineName::Fjall] {
        let folder = tempfile::tempdir().unwrap();
        let (orders, gateway) = twenty(folder.path(), engine).await;
        let (view, behind) = (folder.path().join("north/view"), folder.path().join("behind"));
        copy(&view, &behind);
        let id = EntityId::from(orders[3].parse::<OrderId>().unwrap());
        let store = cell_store::open(engine.into(), &behind).unwrap();
        let key = [b"e", &id.to_bytes()[..], &[0; 2]].concat();
        let mut value = store.get(&key).unwrap().unwrap().to_vec();
        let middle = value.len() / 2;
        value[middle] ^= 1;
        let mut batch = Batch::new();
        batch.put(key, value);
        store.write(batch).unwrap();
        store.sync().unwrap();
        drop(store);
        let of = || config(folder.path(), engine, gateway, "north");
        let node = Service::of(of()).await;
        let (a, path) = (user_of("north", 0), format!("/v1/orders/{}", orders[3]));
        assert_eq!(node.call("POST", &format!("{path}/cancel"), &a, "c", json!({})).await.0, 201);
        node.stop().await;
        // As after a power cut: the view is of an earlier moment, and what the log changes next is damaged in it.
        std::fs::remove_dir_all(&view).unwrap();
        copy(&behind, &view);
        let node = Service::of(of()).await;
        node.until(&path, &a, "Cancelled").await;
        all_there(&node, &[&orders[..3], &orders[4..]].concat()).await;
        node.stop().await;
        assert!(folder.path().join("north/view.damaged-1").exists(), "{engine:?}: it was not noticed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_reads_on_after_a_backup_was_restored_is_told_what_is_new() {
    for engine in [EngineName::Sled, EngineName::Fjall] {
        let folder = tempfile::tempdir().unwrap();
        let (orders, gateway) = twenty(folder.path(), engine).await;
        let (data, backup) = (folder.path().join("north"), folder.path().join("backup"));
        copy(&data, &backup);
        let of = async || Service::of(config(folder.path(), engine, gateway, "north")).await;
        let a = user_of("north", 0);
        let cancel = async |node: &Service, order: &str| {
            let path = format!("/v1/orders/{order}/cancel");
            assert_eq!(node.call("POST", &path, &a, "c", json!({})).await.0, 201);
        };
        let told = async |node: &Service, cursor: &str, upto: &[String]| loop {
            let path = format!("/v1/notifications?after={cursor}");
            let (_, listed) = node.call("GET", &path, &a, "", Value::Null).await;
            let items = listed["items"].as_array().unwrap();
            let found = |id: &String| items.iter().any(|item| item["order"] == id.as_str());
            if upto.iter().all(found) {
                break (items.len(), listed["next"].as_str().unwrap().to_owned());
            }
        };
        let node = of().await;
        for order in &orders[..12] {
            cancel(&node, order).await;
        }
        let (count, cursor) = told(&node, "1", &orders[..12]).await;
        assert_eq!(count, 12);
        node.stop().await;
        let node = of().await;
        assert_eq!(told(&node, &cursor, &[]).await.0, 0, "{engine:?}: a place stands over a restart");
        node.stop().await;
        std::fs::remove_dir_all(&data).unwrap();
        copy(&backup, &data);
        let node = of().await;
        for order in &orders[15..18] {
            cancel(&node, order).await;
        }
        // In time, or not at all: what came once does not go again.
        let within = std::time::Duration::from_secs(20);
        let found = tokio::time::timeout(within, told(&node, &cursor, &orders[15..18])).await;
        assert_eq!(found.expect("it is told what is new").0, 3, "{engine:?}");
        node.stop().await;
    }
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    for file in walk(from) {
        let copied = to.join(file.strip_prefix(from).unwrap());
        std::fs::create_dir_all(copied.parent().unwrap()).unwrap();
        std::fs::copy(&file, copied).unwrap();
    }
}

fn walk(folder: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() { files.extend(walk(&path)) } else { files.push(path) }
    }
    files
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_gone_goes_on_behind_what_the_view_has() {
    let folder = tempfile::tempdir().unwrap();
    let (mut orders, gateway) = twenty(folder.path(), EngineName::Sled).await;
    for file in walk(&folder.path().join("north/log")) {
        std::fs::remove_file(file).unwrap();
    }
    let a = user_of("north", 0);
    for i in 0..2 {
        // Twice: what is written behind the loss is there after the next start, too.
        let node = Service::of(config(folder.path(), EngineName::Sled, gateway, "north")).await;
        all_there(&node, &orders).await;
        orders.push(node.place(&a, &format!("later{i}")).await);
        node.stop().await;
    }
    let node = Service::of(config(folder.path(), EngineName::Sled, gateway, "north")).await;
    all_there(&node, &orders).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_end_denies_nothing_and_decides_nothing_before_a_peer_was_heard() {
    let folder = tempfile::tempdir().unwrap();
    let (orders, gateway) = twenty(folder.path(), EngineName::Sled).await;
    let newest = walk(&folder.path().join("north/log")).into_iter().filter(|path| path.extension().is_some());
    let newest = std::fs::File::options().write(true).open(newest.max().unwrap()).unwrap();
    newest.set_len(newest.metadata().unwrap().len() / 2).unwrap();
    for _ in 0..2 {
        let mut config = config(folder.path(), EngineName::Sled, gateway, "north");
        config.recovery_wait_ms = 200;
        let node = Service::of(config).await;
        all_there(&node, &orders).await;
        // What the view did not have either may have been there.
        tokio::time::sleep(std::time::Duration::from_millis(1_000)).await;
        let a = user_of("north", 0);
        let missing = format!("/v1/orders/{}", orders[0].replace("ord_0", "ord_1"));
        assert_eq!(node.call("GET", &missing, &a, "", Value::Null).await.0, 503);
        let pay = format!("/v1/orders/{}/pay", orders[0]);
        assert_eq!(node.call("POST", &pay, &a, "p", json!({ "card_token": "visa" })).await.0, 503);
        node.stop().await;
    }
}

/// The view knew how far the log was; it left word when it was closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_lost_its_end_together_with_the_view_denies_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (orders, gateway) = twenty(folder.path(), EngineName::Sled).await;
    let data = folder.path().join("north");
    let newest = walk(&data.join("log")).into_iter().filter(|path| path.extension().is_some());
    let newest = std::fs::File::options().write(true).open(newest.max().unwrap()).unwrap();
    newest.set_len(newest.metadata().unwrap().len() / 2).unwrap();
    std::fs::remove_dir_all(data.join("view")).unwrap();
    for _ in 0..2 {
        let mut config = config(folder.path(), EngineName::Sled, gateway, "north");
        config.recovery_wait_ms = 200;
        let node = Service::of(config).await;
        tokio::time::sleep(std::time::Duration::from_millis(1_000)).await;
        let (a, mut lost) = (user_of("north", 0), 0);
        for order in &orders {
            let (status, said) = node.call("GET", &format!("/v1/orders/{order}"), &a, "", Value::Null).await;
            assert!(matches!(status, 200 | 503), "{status} {said}");
            lost += usize::from(status == 503);
        }
        assert!((1..20).contains(&lost), "{lost} of 20 were behind the cut");
        node.stop().await;
    }
}
