//! `421 Misdirected Request`: moved, never failed.

use std::net::SocketAddr;

use axum::body::Body;
use http::StatusCode;
use http_body_util::BodyExt;
use serde_json::json;

use crate::edge::{Edge, echo, region, written};

type Misdirected = (StatusCode, [(&'static str, &'static str); 1], String);

fn misdirected(home: &str) -> Misdirected {
    let body = json!({ "type": "https://homecell.dev/problems/misdirected", "status": 421, "home": home });
    let content_type = ("content-type", "application/problem+json");
    (StatusCode::MISDIRECTED_REQUEST, [content_type], body.to_string())
}

/// Reads all of the request, then says that it belongs to `home`.
async fn moved_to(home: &'static str) -> SocketAddr {
    region(async move |body: Body| {
        body.collect().await.unwrap();
        misdirected(home)
    })
    .await
}

#[tokio::test]
async fn a_move_is_followed_with_the_whole_request() {
    let (north, east) = (moved_to("east").await, echo("east").await);
    let edge = Edge::start(&[("north", north), ("east", east)]).await;
    let mut request = edge.post("alice", "/v1/orders?dry=1", "order");
    request.headers_mut().insert("idempotency-key", "k1".parse().unwrap());
    let answer = edge.send(request).await;
    assert_eq!(answer.headers["cell-region"], "east");
    let seen = answer.json();
    assert_eq!((&seen["body"], &seen["path"]), (&"order".into(), &"/v1/orders?dry=1".into()));
    assert!(seen["headers"].as_array().unwrap().contains(&json!(["idempotency-key", "k1"])));
}

#[tokio::test]
async fn a_move_told_before_the_body_was_read_is_followed_with_all_of_it() {
    let north = region(async || misdirected("east")).await;
    let edge = Edge::start(&[("north", north), ("east", echo("east").await)]).await;
    let (sender, body) = written();
    sender.send("first ".into()).await.unwrap();
    let rest = async move {
        for piece in ["second ", "third"] {
            sender.send(piece.into()).await.unwrap();
        }
    };
    let (answer, ()) = tokio::join!(edge.send(edge.request("POST", "alice", "/v1/orders", body)), rest);
    let seen = answer.json();
    assert_eq!((&seen["region"], &seen["body"]), (&"east".into(), &"first second third".into()));
}

#[tokio::test]
async fn a_move_is_followed_once() {
    let (north, east) = (moved_to("east").await, moved_to("north").await);
    let edge = Edge::start(&[("north", north), ("east", east)]).await;
    let answer = edge.send(edge.post("alice", "/v1/orders", "order")).await;
    assert_eq!(answer.problem(), (503, "moving".to_owned(), true));
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn a_region_that_names_itself_is_a_move_under_way() {
    let edge = Edge::start(&[("north", moved_to("north").await)]).await;
    let answer = edge.send(edge.get("alice", "/v1/orders")).await;
    assert_eq!(answer.problem(), (503, "moving".to_owned(), true));
}

#[tokio::test]
async fn a_move_to_a_region_without_an_address_is_503() {
    let edge = Edge::start(&[("north", moved_to("west").await)]).await;
    let answer = edge.send(edge.get("alice", "/v1/orders")).await;
    assert_eq!(answer.problem(), (503, "no-upstream".to_owned(), true));
}

#[tokio::test]
async fn a_move_that_names_no_home_is_passed_on() {
    let north = region(async || (StatusCode::MISDIRECTED_REQUEST, "elsewhere")).await;
    let edge = Edge::start(&[("north", north)]).await;
    let answer = edge.send(edge.get("alice", "/v1/orders")).await;
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (421, &b"elsewhere"[..]));
    assert_eq!(answer.headers["cell-region"], "north");
}

#[tokio::test]
async fn a_move_of_a_body_too_long_to_keep_is_passed_on() {
    let (north, east) = (moved_to("east").await, echo("east").await);
    let edge = Edge::start_with(&[("north", north), ("east", east)], |config| {
        config.limits.body_bytes_max = 128 * 1024;
    })
    .await;
    let answer = edge.send(edge.post("alice", "/v1/orders", vec![b'x'; 64 * 1024 + 1])).await;
    assert_eq!((answer.status.as_u16(), &answer.json()["home"]), (421, &"east".into()));
    let answer = edge.send(edge.post("alice", "/v1/orders", vec![b'x'; 64 * 1024])).await;
    assert_eq!(answer.json()["body"].as_str().unwrap().len(), 64 * 1024);
}
