//! Clients that want too much, or give too little.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::edge::{Edge, echo, written};

const KEPT_ALIVE: &[u8] = b"GET /openapi.json HTTP/1.1\r\nHost: h\r\n\r\n";

#[tokio::test]
async fn a_body_over_the_limit_is_413_whether_its_length_was_told_or_not() {
    let edge =
        Edge::start_with(&[("north", echo("north").await)], |config| config.limits.body_bytes_max = 10).await;
    let fits = edge.send(edge.post("alice", "/v1/orders", "0123456789")).await;
    assert_eq!(fits.json()["body"], "0123456789");

    let told = edge.send(edge.post("alice", "/v1/orders", "0123456789a")).await;
    assert_eq!(told.problem(), (413, "too-large".to_owned(), false));

    let (sender, body) = written();
    for piece in ["012345", "6789a"] {
        sender.send(piece.into()).await.unwrap();
    }
    drop(sender);
    let untold = edge.send(edge.request("POST", "alice", "/v1/orders", body)).await;
    assert_eq!(untold.problem(), (413, "too-large".to_owned(), false));
}

#[tokio::test]
async fn a_client_that_sends_no_whole_head_in_time_is_disconnected() {
    let edge =
        Edge::start_with(&[("north", echo("north").await)], |config| config.timeouts.head_ms = 100).await;
    // Nothing, half a request, the letter that begins POST as well as the preface of HTTP/2, and half of that preface.
    for sent in ["", "GET /v1/orders HTT", "P", "PRI * HTTP/2.0\r\n"] {
        let mut client = TcpStream::connect(edge.address).await.unwrap();
        client.write_all(sent.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let closed = tokio::time::timeout(Duration::from_secs(10), client.read_to_end(&mut answer)).await;
        assert!(closed.is_ok(), "still open after {sent:?}");
    }
}

#[tokio::test]
async fn a_connection_over_the_limit_is_told_so_and_a_closed_one_makes_room() {
    let edge =
        Edge::start_with(&[("north", echo("north").await)], |config| config.limits.connections_max = 1).await;
    let mut first = TcpStream::connect(edge.address).await.unwrap();
    assert_eq!(ask(&mut first).await, "200");

    let mut second = TcpStream::connect(edge.address).await.unwrap();
    assert_eq!(ask(&mut second).await, "503");
    let mut rest = String::new();
    second.read_to_string(&mut rest).await.unwrap();
    assert!(rest.contains("connection: close") && rest.contains("/problems/overloaded"), "{rest}");

    assert_eq!(ask(&mut first).await, "200", "the first one is not disturbed");
    drop(first);
    // The router sees the end of the first connection some time after this side does.
    let room = async {
        loop {
            let mut next = TcpStream::connect(edge.address).await.unwrap();
            if ask(&mut next).await == "200" {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), room).await.unwrap();
}

/// Sends a request and reads the status; the body of a 200 is read too, so that the connection can be used again.
async fn ask(stream: &mut TcpStream) -> String {
    stream.write_all(KEPT_ALIVE).await.unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).await.unwrap();
    let status = String::from_utf8_lossy(&head[9..]).into_owned();
    if status == "200" {
        let mut rest = Vec::new();
        while !rest.ends_with(b"\r\n\r\n") {
            rest.push(stream.read_u8().await.unwrap());
        }
        let rest = String::from_utf8(rest).unwrap().to_lowercase();
        let (_, length) = rest.split_once("content-length: ").unwrap();
        let length: usize = length.split("\r\n").next().unwrap().parse().unwrap();
        stream.read_exact(&mut vec![0; length]).await.unwrap();
    }
    status
}
