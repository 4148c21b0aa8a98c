//! Regions that do not answer.

use std::time::Duration;

use axum::body::Body;
use http_body_util::BodyExt;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::edge::{Edge, echo, events, next_piece, nobody, region, written};

fn problem(status: u16, name: &str) -> (u16, String, bool) {
    (status, name.to_owned(), true)
}

#[tokio::test]
async fn a_region_that_takes_no_connection_is_502() {
    let (north, _held) = nobody();
    let edge = Edge::start(&[("north", north)]).await;
    let answer = edge.send(edge.post("alice", "/v1/orders", "{}")).await;
    assert_eq!(answer.problem(), problem(502, "upstream-unreachable"));
    assert_eq!(answer.headers["retry-after"], "1");
}

#[tokio::test]
async fn a_region_that_hangs_up_is_502_and_is_not_asked_twice() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = Edge::start(&[("north", listener.local_addr().unwrap())]).await;
    let region = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap();
        drop(stream);
        listener
    });
    let answer = edge.send(edge.post("alice", "/v1/orders", "{}")).await;
    assert_eq!(answer.problem(), problem(502, "upstream-reset"));
    let listener = region.await.unwrap().into_std().unwrap();
    let again = listener.accept().map(drop).map_err(|error| error.kind());
    assert_eq!(again, Err(std::io::ErrorKind::WouldBlock), "a request that was sent must not be repeated");
}

#[tokio::test]
async fn a_region_that_never_answers_is_504() {
    let north = region(std::future::pending::<()>).await;
    let edge = Edge::start_with(&[("north", north)], |config| config.timeouts.response_ms = 100).await;
    let answer = edge.send(edge.post("alice", "/v1/orders", "{}")).await;
    assert_eq!(answer.problem(), problem(504, "upstream-timeout"));
}

#[tokio::test]
async fn a_region_that_lets_connections_wait_is_504() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let north = listener.local_addr().unwrap();
    // Fills the queue of a listener that accepts nothing, until the system lets the next one wait.
    let mut queued = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(north)).await {
        queued.push(stream.unwrap());
    }
    let edge = Edge::start_with(&[("north", north)], |config| config.timeouts.connect_ms = 50).await;
    let answer = edge.send(edge.post("alice", "/v1/orders", "{}")).await;
    assert_eq!(answer.problem(), problem(504, "upstream-timeout"));
    assert!(answer.json()["detail"].as_str().unwrap().contains("was not sent"));
}

#[tokio::test]
async fn a_home_without_an_address_is_503() {
    let edge = Edge::start(&[("north", echo("north").await)]).await;
    let answer = edge.send(edge.get("carol", "/v1/orders")).await;
    assert_eq!(answer.problem(), problem(503, "no-upstream"));
    assert!(answer.headers.contains_key("retry-after"));
}

#[tokio::test]
async fn a_connection_that_failed_is_tried_again_with_the_whole_body() {
    let (north, socket) = nobody();
    let edge = Edge::start_with(&[("north", north)], |config| config.limits.connect_attempts = 10).await;
    let open_late = async {
        // After the first attempt, long before the tenth (450 ms): the port opens in between.
        tokio::time::sleep(Duration::from_millis(75)).await;
        let listener = socket.listen(8).unwrap();
        let service = axum::Router::new().fallback(async |body: Body| body);
        tokio::spawn(async move { axum::serve(listener, service).await });
    };
    let (answer, ()) = tokio::join!(edge.send(edge.post("alice", "/v1/orders", "order")), open_late);
    assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, &b"order"[..]));
}

#[tokio::test]
async fn what_any_region_can_answer_goes_elsewhere_when_the_nearest_is_down() {
    let (north, _held) = nobody();
    let edge = Edge::start(&[("north", north), ("east", echo("east").await)]).await;
    for _ in 0..2 {
        let answer = edge.send(edge.post("alice", "/v1/payments/callback", "signed")).await;
        assert_eq!(answer.headers["cell-region"], "east");
        assert_eq!(answer.json()["body"], "signed");
    }
    let keyed = edge.send(edge.get("alice", "/v1/orders")).await;
    assert_eq!(keyed.problem(), problem(502, "upstream-unreachable"));
}

#[tokio::test]
async fn when_no_region_takes_connections_any_is_502_too() {
    let ((north, _n), (east, _e)) = (nobody(), nobody());
    let edge = Edge::start(&[("north", north), ("east", east)]).await;
    let answer = edge.send(edge.get("alice", "/openapi.json")).await;
    assert_eq!(answer.problem(), problem(502, "upstream-unreachable"));
}

#[tokio::test]
async fn an_answer_that_stops_halfway_is_broken_off_but_a_silent_event_stream_is_not() {
    for (content_type, lasts) in [("application/json", false), ("text/event-stream", true)] {
        let (north, sender) = events(content_type).await;
        let edge = Edge::start_with(&[("north", north)], |config| config.timeouts.body_idle_ms = 50).await;
        let mut response = edge.open(edge.get("alice", "/v1/events")).await;
        sender.send("1".into()).await.unwrap();
        assert_eq!(next_piece(response.body_mut()).await.unwrap(), "1");
        let silence = Duration::from_millis(250);
        match tokio::time::timeout(silence, response.body_mut().frame()).await {
            Ok(frame) => assert!(!lasts && frame.unwrap().is_err(), "{content_type} ended"),
            Err(_) => assert!(lasts, "{content_type} was not broken off"),
        }
    }
}

#[tokio::test]
async fn a_client_that_stops_sending_is_408_and_a_long_upload_is_not() {
    let edge =
        Edge::start_with(&[("north", echo("north").await)], |config| config.timeouts.response_ms = 200).await;
    let (sender, body) = written();
    sender.send("half".into()).await.unwrap();
    let answer = edge.send(edge.request("POST", "alice", "/v1/orders", body)).await;
    assert_eq!(answer.problem(), problem(408, "body-too-slow"));

    let (sender, body) = written();
    let slowly = async move {
        for _ in 0..8 {
            sender.send("x".into()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let (answer, ()) = tokio::join!(edge.send(edge.request("POST", "alice", "/v1/orders", body)), slowly);
    assert_eq!(answer.json()["body"], "xxxxxxxx");
}

#[tokio::test]
async fn a_body_that_drips_for_ever_is_408_although_it_never_stops() {
    let edge = Edge::start_with(&[("north", echo("north").await)], |config| {
        (config.timeouts.response_ms, config.timeouts.upload_ms) = (60_000, 300);
    })
    .await;
    let (sender, body) = written();
    tokio::spawn(async move {
        while sender.send("x".into()).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let answer = edge.send(edge.request("POST", "alice", "/v1/orders", body)).await;
    assert_eq!(answer.problem(), problem(408, "body-too-slow"));
}
