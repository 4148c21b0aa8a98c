//! Requests that never reach a region.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::edge::{Edge, empty, region};

#[tokio::test]
async fn a_request_that_cannot_be_routed_is_refused_with_a_problem_and_reaches_no_region() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let north = region(async move || counted.fetch_add(1, Ordering::SeqCst).to_string()).await;
    let edge = Edge::start(&[("north", north)]).await;
    for (method, user, path, status, name) in [
        ("GET", Some("alice"), "/v2/orders", 404, "unknown-route"),
        ("GET", Some("alice"), "/v1/orders/", 404, "unknown-route"),
        ("DELETE", Some("alice"), "/v1/orders", 405, "method-not-allowed"),
        ("GET", None, "/v1/orders", 401, "unidentified"),
        ("GET", Some(""), "/v1/orders", 401, "unidentified"),
        ("GET", Some("alice"), "/v1/orders/7", 400, "bad-id"),
        ("GET", Some("alice"), "/v1/orders/ord_0000000000000000000000000%30", 400, "bad-id"),
        ("POST", Some("alice"), "/v1/pay-requests/ord_00000000000000000000000000/accept", 400, "bad-id"),
    ] {
        let mut request = edge.request(method, user.unwrap_or(""), path, empty());
        if user.is_none() {
            request.headers_mut().clear();
        }
        let answer = edge.send(request).await;
        assert_eq!(answer.problem(), (status, name.to_owned(), false), "{method} {path}");
        assert!(answer.headers.contains_key("x-request-id"));
        assert!(!answer.headers.contains_key("cell-region"), "no region answered this");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_wrong_method_is_told_the_right_ones() {
    let (north, _held) = crate::edge::nobody();
    let edge = Edge::start(&[("north", north)]).await;
    let answer = edge.send(edge.request("PUT", "alice", "/v1/orders", empty())).await;
    assert_eq!(answer.headers["allow"], "POST, GET, HEAD");
}

#[tokio::test]
async fn a_caller_named_twice_is_not_believed() {
    let (north, _held) = crate::edge::nobody();
    let edge = Edge::start(&[("north", north)]).await;
    let mut request = edge.get("alice", "/v1/orders");
    request.headers_mut().append("x-user-id", "carol".parse().unwrap());
    assert_eq!(edge.send(request).await.status.as_u16(), 401);
}
