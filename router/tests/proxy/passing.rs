//! What passes, and how.

use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::edge::{Answer, Edge, echo, events, next_piece, region, written};

const ORDER_IN_NORTH: &str = "/v1/orders/ord_00000000000000000000000000";

fn header<'a>(seen: &'a serde_json::Value, name: &str) -> Vec<&'a str> {
    let pairs = seen["headers"].as_array().unwrap().iter();
    pairs.filter(|pair| pair[0] == name).map(|pair| pair[1].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_request_goes_to_the_home_of_its_key_and_the_answer_names_the_region() {
    let (north, east) = (echo("north").await, echo("east").await);
    let edge = Edge::start(&[("north", north), ("east", east)]).await;
    let order = format!("{ORDER_IN_NORTH}/events");
    for (user, path, home) in [
        ("alice", "/v1/orders?status=open&limit=5", "north"),
        ("carol", "/v1/orders?status=open&limit=5", "east"),
        ("carol", order.as_str(), "north"),
        ("carol", "/openapi.json", "north"),
    ] {
        let answer = edge.send(edge.get(user, path)).await;
        assert_eq!(answer.headers["cell-region"], home, "{user} {path}");
        let seen = answer.json();
        assert_eq!((&seen["region"], &seen["path"]), (&home.into(), &path.into()));
    }
}

#[tokio::test]
async fn an_event_stream_passes_event_by_event() {
    let (north, sender) = events("text/event-stream; charset=utf-8").await;
    let edge = Edge::start(&[("north", north)]).await;
    let mut response = edge.open(edge.get("alice", "/v1/events")).await;
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        // The next one is written only when this one is here: a router that gathers would hang.
        sender.send(event.into()).await.unwrap();
        assert_eq!(next_piece(response.body_mut()).await.unwrap(), event);
    }
    drop(sender);
    assert_eq!(next_piece(response.body_mut()).await, None);
}

#[tokio::test]
async fn a_body_passes_piece_by_piece_both_ways_at_once() {
    let north = region(async |body: axum::body::Body| body).await;
    let edge = Edge::start(&[("north", north)]).await;
    let (sender, body) = written();
    sender.send("one".into()).await.unwrap();
    let mut response = edge.open(edge.request("POST", "alice", "/v1/orders", body)).await;
    assert_eq!(next_piece(response.body_mut()).await.unwrap(), "one");
    sender.send("two".into()).await.unwrap();
    assert_eq!(next_piece(response.body_mut()).await.unwrap(), "two");
    drop(sender);
    assert_eq!(next_piece(response.body_mut()).await, None);
}

#[tokio::test]
async fn a_long_body_arrives_whole() {
    let change = |config: &mut router::Config| config.limits.body_bytes_max = 256 * 1024;
    let edge = Edge::start_with(&[("north", echo("north").await)], change).await;
    let body = "0123456789abcdef".repeat(12 * 1024);
    let answer = edge.send(edge.post("alice", "/v1/orders", body.clone())).await;
    let seen = answer.json();
    assert!(seen["body"] == body.as_str(), "{} bytes arrived", seen["body"].as_str().unwrap().len());
    assert_eq!(header(&seen, "content-length"), [body.len().to_string()]);
}

#[tokio::test]
async fn a_post_without_a_body_stays_one() {
    let edge = Edge::start(&[("north", echo("north").await)]).await;
    let seen = edge.send(edge.post("alice", &format!("{ORDER_IN_NORTH}/cancel"), "")).await.json();
    assert_eq!((header(&seen, "content-length"), header(&seen, "transfer-encoding")), (vec!["0"], vec![]));
}

#[tokio::test]
async fn head_is_passed_on_as_it_is() {
    let edge = Edge::start(&[("north", echo("north").await)]).await;
    let answer = edge.send(edge.request("HEAD", "alice", "/v1/orders", crate::edge::empty())).await;
    assert_eq!((answer.status.as_u16(), answer.body.len()), (200, 0));
    assert_ne!(answer.headers["content-length"], "0");
}

#[tokio::test]
async fn http_2_clients_are_served_too() {
    let edge = Edge::start(&[("north", echo("north").await)]).await;
    let client = Client::builder(TokioExecutor::new()).http2_only(true).build_http();
    let response = client.request(edge.post("alice", "/v1/orders", "{}")).await.unwrap();
    assert_eq!(response.version(), http::Version::HTTP_2);
    let seen = Answer::of(response).await.json();
    assert_eq!((&seen["body"], header(&seen, "x-user-id")), (&"{}".into(), vec!["alice"]));
}

#[tokio::test]
async fn trace_request_id_and_peer_go_with_the_request_and_the_id_comes_back() {
    let edge = Edge::start(&[("north", echo("north").await)]).await;
    let answer = edge.send(edge.get("alice", "/v1/orders")).await;
    let seen = answer.json();
    let [trace] = header(&seen, "traceparent")[..] else { panic!("{seen}") };
    assert!(trace.parse::<service_kit::TraceParent>().is_ok(), "{trace}");
    assert_eq!(header(&seen, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(header(&seen, "x-request-id"), [answer.headers["x-request-id"].to_str().unwrap()]);

    let mut request = edge.get("alice", "/v1/orders");
    let sent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    request.headers_mut().insert("traceparent", sent.parse().unwrap());
    let seen = edge.send(request).await.json();
    let [trace] = header(&seen, "traceparent")[..] else { panic!("{seen}") };
    assert_eq!(trace[..36], sent[..36]);
}

#[tokio::test]
async fn headers_of_one_hop_end_at_the_router_in_both_directions() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let edge = Edge::start(&[("north", listener.local_addr().unwrap())]).await;
    let region = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = read_head(&mut stream).await;
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-of-region\r\nX-Of-Region: 1\r\n\
                      Keep-Alive: timeout=5\r\nETag: \"1\"\r\n\r\nok";
        stream.write_all(answer.as_bytes()).await.unwrap();
        head
    });
    let mut client = TcpStream::connect(edge.address).await.unwrap();
    let request = "GET /v1/orders HTTP/1.1\r\nHost: shop.example\r\nX-User-Id: alice\r\nConnection: close, x-of-client\r\n\
                   X-Of-Client: 1\r\nTE: trailers\r\nAccept: */*\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    let (answer, sent) = (answer.to_lowercase(), region.await.unwrap().to_lowercase());

    assert!(sent.contains("accept: */*") && answer.contains("etag: \"1\""), "{sent}\n{answer}");
    for gone in ["x-of-client", "\r\nte:", "connection: close"] {
        assert!(!sent.contains(gone), "{gone} in {sent}");
    }
    for gone in ["x-of-region", "keep-alive"] {
        assert!(!answer.contains(gone), "{gone} in {answer}");
    }
}

async fn read_head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn a_version_goes_with_the_request_and_comes_with_the_answer() {
    let north = region(async |headers: http::HeaderMap| {
        let presented = headers.get_all("cell-version").iter().cloned().collect::<Vec<_>>();
        assert_eq!(presented, ["1~north-0.1.00000000000000aa.7"]);
        ([("cell-version", "1~north-0.1.00000000000000aa.9")], "ok")
    });
    let edge = Edge::start(&[("north", north.await)]).await;
    let mut request = edge.get("alice", "/v1/orders");
    request.headers_mut().insert("cell-version", "1~north-0.1.00000000000000aa.7".parse().unwrap());
    let answer = edge.send(request).await;
    assert_eq!(answer.status.as_u16(), 200);
    assert_eq!(answer.headers["cell-version"], "1~north-0.1.00000000000000aa.9");
}
