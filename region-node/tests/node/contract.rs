//! What the OpenAPI document promises: routes, problems, conditions, filters.

use std::collections::BTreeSet;

use cell_core::id::{Hash, OrderId, PublicId, UserId};
use region_node::EngineName;
use serde_json::{Value, json};

use crate::support::{Regions, Service, config, order_body, start, start_gateway, user_of};

fn type_of(problem: &Value) -> &str {
    problem["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_in_the_document_is_served_and_everything_else_is_a_problem() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), EngineName::Memory).await;
    let (status, document) = node.call("GET", "/openapi.json", "", "", Value::Null).await;
    assert_eq!((status, &document["openapi"]), (200, &json!("3.1.0")));
    for (path, operations) in document["paths"].as_object().unwrap() {
        let path = path.replace("{order}", "ord_x").replace("{payment}", "pay_x");
        for method in operations.as_object().unwrap().keys() {
            let (status, answer) = node.call(&method.to_uppercase(), &path, "", "", Value::Null).await;
            let served = type_of(&answer) != "unknown-route" && status != 405;
            assert!(served, "{method} {path}: {status} {answer}");
        }
        let (status, problem) = node.call("DELETE", &path, "u", "k", Value::Null).await;
        assert_eq!((status, type_of(&problem)), (405, "method-not-allowed"), "{path}");
    }
    let (status, problem) = node.call("GET", "/v2/orders", "u", "", Value::Null).await;
    assert_eq!((status, type_of(&problem)), (404, "unknown-route"));
    let huge = json!({ "content": "x".repeat(70_000) });
    let (status, problem) = node.call("POST", "/v1/orders", "u", "k", huge).await;
    assert_eq!((status, type_of(&problem)), (413, "too-large"));
    // Every reference leads somewhere.
    let text = document.to_string();
    let schemas: BTreeSet<&String> = document["components"]["schemas"].as_object().unwrap().keys().collect();
    for reference in text.split("#/components/schemas/").skip(1) {
        let name = reference.split('"').next().unwrap().to_owned();
        assert!(schemas.contains(&name), "{name} is not among {schemas:?}");
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_the_members_the_document_names() {
    let regions = Regions::start().await;
    let (a, b) = (user_of("north", 0), user_of("east", 0));
    let order = regions.place("north", &a, "o").await;
    let path = format!("/v1/orders/{order}");
    let ask = format!("{path}/pay-requests");
    regions.call("north", "POST", &ask, &a, "q", json!({ "payer": b })).await;
    let document = region_node::openapi();
    let members = |name: &str| -> BTreeSet<String> {
        document["components"]["schemas"][name]["properties"].as_object().unwrap().keys().cloned().collect()
    };
    let of = |value: &Value| -> BTreeSet<String> { value.as_object().unwrap().keys().cloned().collect() };
    let (_, seen) = regions.call("north", "GET", &path, &a, "", Value::Null).await;
    assert!(of(&seen).is_subset(&members("Order")), "{seen}");
    assert!(of(&seen["content"]).is_subset(&members("Content")), "{seen}");
    let payment = seen["open_payment"].as_str().unwrap();
    regions.until("east", &format!("/v1/payments/{payment}"), &b, "received").await;
    let (_, seen) =
        regions.call("east", "GET", &format!("/v1/payments/{payment}"), &b, "", Value::Null).await;
    assert_eq!(of(&seen), members("Payment").into_iter().filter(|name| name != "code").collect(), "{seen}");
    regions.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tag_saves_a_second_reading_and_guards_a_command() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), EngineName::Sled).await;
    let a = user_of("north", 0);
    let order = node.place(&a, "o").await;
    let path = format!("/v1/orders/{order}");
    let (status, _, tag) = node.get_if(&path, &a, "").await;
    assert_eq!(status, 200);
    assert_eq!(node.get_if(&path, &a, &tag).await.0, 304);
    assert_eq!(node.get_if(&path, &a, &format!("\"other\", {tag}")).await.0, 304);
    assert_eq!(node.get_if(&path, &a, "\"other\"").await.0, 200);
    let cancel = format!("{path}/cancel");
    let (status, problem) = node.post_if(&cancel, &a, "c1", "\"0123456789ab\"").await;
    assert_eq!((status, type_of(&problem)), (412, "changed"));
    assert_eq!(node.get_if(&path, &a, &tag).await.0, 304, "nothing was done");
    assert_eq!(node.post_if(&cancel, &a, "c2", &tag).await.0, 201);
    assert_eq!(node.get_if(&path, &a, &tag).await.0, 200, "another state, another tag");
    assert_eq!(node.post_if(&cancel, &a, "c3", &tag).await.0, 412);
    // A repeat is answered as what it repeats, whatever the tag; what is not there or not here is that first.
    assert_eq!(node.post_if(&cancel, &a, "c2", &tag).await.0, 200);
    let other = user_of("north", 1);
    assert_eq!(node.post_if(&cancel, &other, "c4", "\"0123456789ab\"").await.0, 404);
    let east = user_of("east", 0);
    let elsewhere = PublicId::new(1, UserId::new(&east).unwrap().slot(), &Hash::of(b"of nobody"));
    let elsewhere = OrderId(elsewhere);
    let (status, problem) =
        node.post_if(&format!("/v1/orders/{elsewhere}/cancel"), &east, "c5", "\"0123456789ab\"").await;
    assert_eq!((status, type_of(&problem)), (421, "misdirected"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_names_its_trace_and_keeps_the_one_it_was_given() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), EngineName::Memory).await;
    let a = user_of("north", 0);
    let order = node.place(&a, "o").await;
    let cases = [
        ("GET", format!("/v1/orders/{order}"), 200),
        ("GET", "/v1/orders".to_owned(), 200),
        ("GET", "/nowhere".to_owned(), 404),
        ("POST", format!("/v1/orders/{order}/withdraw"), 404),
        ("POST", "/v1/payments/callback".to_owned(), 400),
    ];
    for (method, path, expected) in cases {
        let (status, _, trace) = node.call_traced(method, &path, &a, "k", Value::Null).await;
        assert_eq!((status, trace.len()), (expected, 55), "{method} {path}: {trace}");
    }
    let given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = hyper::Request::get(format!("http://{}/v1/orders/{order}", node.address))
        .header("x-user-id", &a)
        .header("traceparent", given);
    assert_eq!(node.trace_of_answer(request).await.split('-').nth(1), given.split('-').nth(1));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_paged_without_losing_or_repeating() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(folder.path(), EngineName::Sled).await;
    let (a, other) = (user_of("north", 0), user_of("north", 1));
    let mut orders = Vec::new();
    for i in 0..12u64 {
        let mut body = order_body();
        body["content"]["lines"][0]["unit_minor"] = json!(1_000 + i);
        body["external_ref"] = json!(if i % 3 == 0 { "SHOP-7" } else { "SHOP-8" });
        let (status, placed) = node.call("POST", "/v1/orders", &a, &format!("o{i}"), body).await;
        assert_eq!(status, 201, "{placed}");
        orders.push(placed["id"].as_str().unwrap().to_owned());
    }
    for i in [2, 5] {
        let cancel = format!("/v1/orders/{}/cancel", orders[i]);
        assert_eq!(node.call("POST", &cancel, &a, &format!("c{i}"), Value::Null).await.0, 201);
    }
    let ask = format!("/v1/orders/{}/pay-requests", orders[7]);
    assert_eq!(node.call("POST", &ask, &a, "q", json!({ "payer": other })).await.0, 201);
    let expect = |of: &[usize]| of.iter().map(|i| orders[*i].clone()).collect::<BTreeSet<_>>();
    let cases: [(&str, BTreeSet<String>); 6] = [
        ("status=Cancelled", expect(&[2, 5])),
        ("external_ref=SHOP-7", expect(&[0, 3, 6, 9])),
        ("external_ref=SHOP-7&min_total_minor=2106", expect(&[3, 6, 9])),
        ("min_total_minor=2104&max_total_minor=2108", expect(&[2, 3, 4])),
        (&format!("counterparty={other}"), expect(&[7])),
        ("created_from_ms=0&created_to_ms=1", expect(&[])),
    ];
    for (filter, expected) in cases {
        node.lists(&format!("/v1/orders?limit=2&{filter}"), &a, &expected).await;
    }
    for (bad, said) in [
        ("limit=x", "must be a whole number from 0 on"),
        ("limit=0", "a page has 1 to 100 items, not 0"),
        ("limit=101", "a page has 1 to 100 items, not 101"),
        ("colour=red", "unknown parameter `colour`; known are `limit`, `cursor`, `status`"),
        (
            "status=Foo",
            "no order is 'Foo'; they are PendingPayment, Paid, Refunding, Refunded, Cancelled, Expired",
        ),
        ("cursor=zz", ""),
        ("cursor=00", ""),
        ("min_total_minor=-1", "must be a whole number from 0 on"),
        ("counterparty=", ""),
    ] {
        let (status, problem) = node.call("GET", &format!("/v1/orders?{bad}"), &a, "", Value::Null).await;
        let detail = problem["detail"].as_str().unwrap();
        assert!(status == 400 && detail.starts_with(said), "{bad}: {problem}");
    }
    for status in cell_core::order::OrderState::LABELS {
        let (code, _) = node.call("GET", &format!("/v1/orders?status={status}"), &a, "", Value::Null).await;
        assert_eq!(code, 200, "{status}");
    }
    for path in ["/v1/pay-requests?limit=0", "/v1/notifications?limit=0", "/v1/events?limit=1"] {
        let (status, problem) = node.call("GET", path, &a, "", Value::Null).await;
        assert_eq!((status, problem["pointer"].as_str()), (400, Some("/limit")), "{path}: {problem}");
    }
    let (_, foreign) = node.call("GET", "/v1/orders?external_ref=SHOP-7", &other, "", Value::Null).await;
    assert_eq!(foreign["items"], json!([]), "another user's");
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_nearly_full_refuses_new_orders_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let gateway = start_gateway(folder.path()).await;
    let node = crate::support::start_in(folder.path(), EngineName::Sled, gateway, "north").await;
    let a = user_of("north", 0);
    let order = node.place(&a, "o").await;
    node.stop().await;
    let mut config = config(folder.path(), EngineName::Sled, gateway, "north");
    config.low_water_mib = u64::MAX;
    let node = Service::of(config).await;
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    loop {
        let key = format!("{:?}", tokio::time::Instant::now());
        let (status, problem) = node.call("POST", "/v1/orders", &a, &key, order_body()).await;
        if status == 503 {
            assert_eq!((type_of(&problem), &problem["retryable"]), ("low-disk", &json!(true)));
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "{status} {problem}");
    }
    let pay = format!("/v1/orders/{order}/pay");
    assert_eq!(node.call("POST", &pay, &a, "p", json!({ "card_token": "visa" })).await.0, 201);
    node.until(&format!("/v1/orders/{order}"), &a, "Paid").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_genuine_callback_for_an_unknown_payment_is_kept_as_an_orphan() {
    let regions = Regions::start().await;
    let a = user_of("north", 0);
    // North pays; its callback is also given to east, which knows nothing of the order yet.
    regions.hold("north").await;
    let order = regions.place("north", &a, "o").await;
    let pay = format!("/v1/orders/{order}/pay");
    let (_, paid) = regions.call("north", "POST", &pay, &a, "p", json!({ "card_token": "visa" })).await;
    let payment = paid["payment"]["id"].as_str().unwrap().to_owned();
    regions.until("north", &format!("/v1/orders/{order}"), &a, "Paid").await;
    assert_eq!(regions.call_back("east", &payment).await, 204);
    let (status, _) = regions.call("east", "GET", &format!("/v1/orders/{order}"), &a, "", Value::Null).await;
    assert_eq!(status, 404, "nothing is decided on what nobody has here");
    let kept = regions.explain("east", &payment).await;
    assert_eq!(kept["facts"].as_array().map(Vec::len), Some(1), "{kept}");
    regions.release("north").await;
    regions.until("east", &format!("/v1/orders/{order}"), &a, "Paid").await;
    regions.stop().await;
}
