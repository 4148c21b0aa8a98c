//! Server-sent events of a real node over real HTTP.

use std::time::Duration;

use cell_core::id::OrderId;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::{Value, json};

use crate::support::{Regions, user_of};

/// An open stream, read event by event.
struct Stream {
    body: Incoming,
    text: String,
}

/// (cursor, kind, notice)
type Heard = (String, String, Value);

impl Stream {
    async fn next(&mut self) -> Heard {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let field = |name: &str| {
                    let line = block.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    line.unwrap_or_default().to_owned()
                };
                let data = serde_json::from_str(&field("data")).unwrap_or(Value::Null);
                if !block.starts_with(':') {
                    return (field("id"), field("event"), data);
                }
                continue;
            }
            let frame = tokio::time::timeout(Duration::from_secs(20), self.body.frame()).await;
            let frame = frame.expect("an event within 20 s").expect("the stream goes on").unwrap();
            self.text.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
        }
    }

    /// Up to the first of this kind about the order.
    async fn until(&mut self, kind: &str, order: &str) -> Vec<Heard> {
        let mut heard = Vec::new();
        loop {
            let event = self.next().await;
            let found = event.1 == kind && event.2["order"] == order;
            heard.push(event);
            if found {
                return heard;
            }
        }
    }
}

async fn listen(regions: &Regions, region: &str, user: &str, last: Option<&str>) -> Stream {
    let body = regions.stream(region, user, last).await;
    Stream { body, text: String::new() }
}

/// An order in north that its buyer asks the payer in east to pay.
async fn asked(regions: &Regions, n: usize) -> (String, String) {
    let (a, b) = (user_of("north", 0), user_of("east", 0));
    let order = regions.place("north", &a, &format!("o{n}")).await;
    let path = format!("/v1/orders/{order}/pay-requests");
    let (status, asked) =
        regions.call("north", "POST", &path, &a, &format!("q{n}"), json!({ "payer": b })).await;
    assert_eq!(status, 201, "{asked}");
    (order, asked["payment"]["id"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_hears_at_once_resumes_after_a_break_and_loses_nothing() {
    let regions = Regions::start().await;
    let b = user_of("east", 0);
    let mut stream = listen(&regions, "east", &b, None).await;
    let (start, kind, notice) = stream.next().await;
    assert_eq!((kind.as_str(), notice), ("", Value::Null), "first only where it begins");
    let (first, _) = asked(&regions, 1).await;
    let heard = stream.until("pay-request.received", &first).await;
    let cursor = heard.last().unwrap().0.clone();
    drop(stream);
    // While nobody listens: two more.
    let (second, _) = asked(&regions, 2).await;
    let (third, _) = asked(&regions, 3).await;
    let mut stream = listen(&regions, "east", &b, Some(&cursor)).await;
    let mut orders: Vec<String> = Vec::new();
    for event in stream.until("pay-request.received", &third).await {
        orders.extend(event.2["order"].as_str().map(str::to_owned));
    }
    assert!(orders.contains(&second) && !orders.contains(&first), "{orders:?}");
    // From where the first stream began everything is told again, with the same ids.
    let mut again = listen(&regions, "east", &b, Some(&start)).await;
    let told = again.until("pay-request.received", &third).await;
    let same = told.iter().find(|event| event.2["order"] == first.as_str()).unwrap();
    assert_eq!(same.2["id"], heard.last().unwrap().2["id"]);
    regions.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_arrives_late_is_told_although_its_time_is_long_past() {
    let regions = Regions::start().await;
    let (a, b) = (user_of("north", 0), user_of("east", 0));
    let (first, payment) = asked(&regions, 1).await;
    regions.until("east", &format!("/v1/payments/{payment}"), &b, "received").await;
    // East declines, and north does not hear of it; meanwhile things happen in north, and A reads all of them.
    regions.hold("east").await;
    let decline = format!("/v1/pay-requests/{payment}/decline");
    assert_eq!(regions.call("east", "POST", &decline, &b, "d", Value::Null).await.0, 201);
    let later = regions.place("north", &a, "later").await;
    let cancel = format!("/v1/orders/{later}/cancel");
    assert_eq!(regions.call("north", "POST", &cancel, &a, "c", Value::Null).await.0, 201);
    let mut stream = listen(&regions, "north", &a, Some("1")).await;
    let cursor = stream.until("order.cancelled", &later).await.last().unwrap().0.clone();
    let mut page = format!("?after={cursor}");
    let (_, listed) =
        regions.call("north", "GET", &format!("/v1/notifications{page}"), &a, "", Value::Null).await;
    assert_eq!(listed["items"], json!([]), "everything was read");
    // Now the older change comes. A resumes from the cursor behind the newer one.
    regions.release("east").await;
    drop(stream);
    let mut stream = listen(&regions, "north", &a, Some(&cursor)).await;
    let heard = stream.until("payment.declined", &first).await;
    let declined = heard.last().unwrap().2["at_ms"].as_u64().unwrap();
    // The list gives it from the same cursor, a page at a time.
    let mut kinds = Vec::new();
    for _ in 0..20 {
        let path = format!("/v1/notifications{page}&limit=1");
        let (_, listed) = regions.call("north", "GET", &path, &a, "", Value::Null).await;
        let items = listed["items"].as_array().unwrap();
        assert!(items.len() <= 1);
        kinds.extend(items.iter().map(|notice| notice["kind"].as_str().unwrap().to_owned()));
        page = format!("?after={}", listed["next"].as_str().unwrap());
        if kinds.contains(&"payment.declined".to_owned()) {
            break;
        }
    }
    assert!(kinds.contains(&"payment.declined".to_owned()), "{kinds:?} at {declined}");
    regions.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_belongs_to_its_user_and_a_cursor_to_its_list() {
    let regions = Regions::start().await;
    let (b, other) = (user_of("east", 0), user_of("east", 1));
    let (order, _) = asked(&regions, 1).await;
    let mut stream = listen(&regions, "east", &b, Some("1")).await;
    stream.until("pay-request.received", &order).await;
    let (_, listed) = regions.call("east", "GET", "/v1/notifications", &other, "", Value::Null).await;
    assert_eq!(listed["items"], json!([]));
    for path in ["/v1/notifications?after=nonsense", "/v1/events?after=nonsense", "/v1/events?after=1~x"] {
        let (status, problem) = regions.call("east", "GET", path, &b, "", Value::Null).await;
        assert_eq!(
            (status, &problem["type"]),
            (400, &json!("https://homecell.dev/problems/bad-cursor")),
            "{path}"
        );
    }
    assert_eq!(regions.call("east", "GET", "/v1/events", "", "", Value::Null).await.0, 401);
    // Open streams do not hold up the end.
    regions.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_trace_of_a_request_reaches_the_one_who_is_told() {
    let regions = Regions::start().await;
    let b = user_of("east", 0);
    let mut stream = listen(&regions, "east", &b, None).await;
    let (order, _) = asked(&regions, 1).await;
    let trace = regions.last_trace();
    let heard = stream.until("pay-request.received", &order).await;
    let told = heard.last().unwrap().2["trace"].as_str().unwrap_or_default().to_owned();
    assert_eq!(told.split('-').nth(1), trace.split('-').nth(1), "{told} and {trace}");
    // What is asked of it later is told under traces of its own; what was told keeps the one that brought it.
    let payment = heard.last().unwrap().2["payment"].as_str().unwrap().to_owned();
    let decline = format!("/v1/pay-requests/{payment}/decline");
    assert_eq!(regions.call("east", "POST", &decline, &b, "d", Value::Null).await.0, 201);
    let (_, listed) = regions.call("east", "GET", "/v1/notifications", &b, "", Value::Null).await;
    assert_eq!(listed["items"][0]["trace"].as_str(), Some(told.as_str()), "{listed}");
    regions.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_came_as_state_and_not_as_changes_is_told_once_where_it_came() {
    let regions = Regions::start().await;
    let a = user_of("north", 0);
    regions.hold("north").await;
    let order = regions.place("north", &a, "o").await;
    let cancel = format!("/v1/orders/{order}/cancel");
    assert_eq!(regions.call("north", "POST", &cancel, &a, "c", Value::Null).await.0, 201);
    let mut stream = listen(&regions, "east", &a, None).await;
    let (start, ..) = stream.next().await;
    regions.merge("north", "east", order.parse::<OrderId>().unwrap().into()).await;
    let cursor = stream.until("order.cancelled", &order).await.last().unwrap().0.clone();
    // East's frontier does not cover it, and may never; still the reader is through with it here.
    for cursor in [&cursor, &cursor] {
        let path = format!("/v1/notifications?after={cursor}");
        let (_, listed) = regions.call("east", "GET", &path, &a, "", Value::Null).await;
        assert_eq!(listed["items"], json!([]));
    }
    let path = format!("/v1/notifications?after={start}");
    let (_, listed) = regions.call("east", "GET", &path, &a, "", Value::Null).await;
    assert_eq!(listed["items"].as_array().unwrap().len(), 1, "{listed}");
    // From another region's place it goes on by the frontier, and is through there, too.
    let path = format!("/v1/notifications?after={cursor}");
    let (_, listed) = regions.call("north", "GET", &path, &a, "", Value::Null).await;
    assert_eq!(listed["items"][0]["kind"], "order.cancelled");
    let path = format!("/v1/notifications?after={}", listed["next"].as_str().unwrap());
    let (_, listed) = regions.call("north", "GET", &path, &a, "", Value::Null).await;
    assert_eq!(listed["items"], json!([]));
    regions.stop().await;
}
