//! Leaving.

use std::sync::Arc;

use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::net::TcpStream;
use tokio::sync::Notify;

use crate::edge::{Answer, Edge, events, next_piece, region};

#[tokio::test]
async fn a_request_under_way_is_answered_after_the_router_stopped_accepting() {
    let (arrived, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (arriving, going_on) = (Arc::clone(&arrived), Arc::clone(&go_on));
    let north = region(async move || {
        arriving.notify_one();
        going_on.notified().await;
        "done"
    })
    .await;
    let edge = Edge::start(&[("north", north)]).await;
    let address = edge.address;
    let request = async {
        let answer = edge.send(edge.get("alice", "/v1/orders")).await;
        assert_eq!(&answer.body[..], b"done");
    };
    let leave = async {
        arrived.notified().await;
        edge.begin_shutdown();
        // Refused once the listener is closed, which is when the drain has begun.
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        go_on.notify_one();
    };
    tokio::join!(request, leave);
    edge.stopped().await.unwrap();
}

#[tokio::test]
async fn event_streams_end_cleanly_so_that_clients_come_back_elsewhere() {
    let (north, sender) = events("text/event-stream").await;
    let edge = Edge::start(&[("north", north)]).await;
    let mut response = edge.open(edge.get("alice", "/v1/events")).await;
    sender.send("data: 1\n\n".into()).await.unwrap();
    assert_eq!(next_piece(response.body_mut()).await.unwrap(), "data: 1\n\n");
    edge.begin_shutdown();
    assert!(Answer::of(response).await.body.is_empty());
    edge.stopped().await.unwrap();
}

#[tokio::test]
async fn what_does_not_end_is_cut_off_at_the_deadline() {
    let arrived = Arc::new(Notify::new());
    let arriving = Arc::clone(&arrived);
    let north = region(async move || {
        arriving.notify_one();
        std::future::pending::<()>().await
    })
    .await;
    let edge = Edge::start_with(&[("north", north)], |config| config.timeouts.drain_ms = 100).await;
    let client = Client::builder(TokioExecutor::new()).build_http();
    let (answered, ()) = tokio::join!(client.request(edge.get("alice", "/v1/orders")), async {
        arrived.notified().await;
        edge.begin_shutdown();
    });
    assert!(answered.is_err());
    edge.stopped().await.unwrap();
}
