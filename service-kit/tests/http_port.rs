//! A port that nobody can exhaust.

use std::net::SocketAddr;
use std::time::Duration;

use axum::routing::get;
use service_kit::{Http2Limits, PortLimits, Routes, Shutdown, serve_http};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
const GET: [u8; 19] = [0, 0, 10, 1, 5, 0, 0, 0, 1, 0x82, 0x86, 0x84, 0x41, 5, b'k', b'i', b't', b':', b'1'];
const HEAD: &[u8] = b"GET / HTTP/1.1\r\nHost: kit\r\n\r\n";

async fn start(limits: PortLimits) -> (SocketAddr, Shutdown, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, shutdown) = (listener.local_addr().unwrap(), Shutdown::new());
    let slow = async || {
        tokio::time::sleep(Duration::from_millis(300)).await;
        "at last"
    };
    let never = async || std::future::pending::<&str>().await;
    let router = axum::Router::new().route("/", get(async || "hello"));
    let routes = Routes::new(router.route("/slow", get(slow)).route("/never", get(never)));
    let stop = shutdown.clone();
    let served = tokio::spawn(async move { serve_http(listener, routes, limits, stop.begun()).await });
    (address, shutdown, served)
}

async fn connect(address: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    stream
}

/// What comes until `end` is there, or the other side closes.
async fn answer(stream: &mut TcpStream, end: &str) -> String {
    let mut answer = Vec::new();
    let mut piece = [0; 1_024];
    while !answer.ends_with(end.as_bytes()) || end.is_empty() {
        // A connection that is refused may be reset.
        match stream.read(&mut piece).await {
            Ok(0) | Err(_) => break,
            Ok(read) => answer.extend_from_slice(&piece[..read]),
        }
    }
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn one_connection_too_many_is_told_so_until_another_one_goes() {
    let (address, ..) = start(PortLimits { connections_max: 2, ..PortLimits::default() }).await;
    let mut kept = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(address, HEAD).await;
        assert!(answer(&mut stream, "hello").await.starts_with("HTTP/1.1 200"));
        kept.push(stream);
    }
    let refused = answer(&mut connect(address, HEAD).await, "").await;
    assert!(refused.starts_with("HTTP/1.1 503") && refused.contains("connection: close"), "{refused}");
    let mut stays = kept.pop().unwrap();
    stays.write_all(HEAD).await.unwrap();
    assert!(answer(&mut stays, "hello").await.starts_with("HTTP/1.1 200"));
    drop(kept);
    while !answer(&mut connect(address, HEAD).await, "hello").await.starts_with("HTTP/1.1 200") {}
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let soon = Duration::from_millis(100);
    let limits = PortLimits { head_within: soon, idle_within: soon, ..PortLimits::default() };
    let (address, ..) = start(limits).await;
    let answered = [PREFACE, &SETTINGS, &GET].concat();
    for begun in [&b""[..], b"GET / HT", b"GET / HTTP/1.1\r\nHost: k", PREFACE, &answered, HEAD] {
        // Of what is said in time the end is awaited, and then it is closed.
        answer(&mut connect(address, begun).await, "").await;
    }
}

#[tokio::test]
async fn who_has_asked_once_may_be_silent_at_an_internal_port() {
    let internal = PortLimits::internal(Duration::from_secs(1), Http2Limits::default());
    assert!(internal.connections_max >= 32, "{internal:?}");
    let (address, ..) = start(PortLimits { head_within: Duration::from_millis(50), ..internal }).await;
    let mut asked = connect(address, &[PREFACE, &SETTINGS, &GET].concat()).await;
    assert!(answer(&mut asked, "hello").await.ends_with("hello"));
    let silent = answer(&mut connect(address, PREFACE).await, "").await;
    assert!(!silent.contains("pingpong"), "its settings, and then the end: {silent}");
    tokio::time::sleep(Duration::from_millis(200)).await;
    asked.write_all(b"\0\0\x08\x06\0\0\0\0\0pingpong").await.unwrap();
    assert!(answer(&mut asked, "pingpong").await.ends_with("pingpong"), "it is open still");
}

#[tokio::test]
async fn who_is_idle_at_an_internal_port_makes_way_and_who_waits_for_an_answer_does_not() {
    let internal = PortLimits::internal(Duration::from_secs(1), Http2Limits::default());
    let (address, ..) = start(PortLimits { connections_max: 2, ..internal }).await;
    let mut idle = connect(address, HEAD).await;
    assert!(answer(&mut idle, "hello").await.starts_with("HTTP/1.1 200"));
    let mut busy = connect(address, b"GET /never HTTP/1.1\r\nHost: kit\r\n\r\n").await;
    let refused = answer(&mut connect(address, HEAD).await, "").await;
    assert!(refused.starts_with("HTTP/1.1 503"), "who has just asked is not idle yet: {refused}");
    // Idle for long enough to make way, then.
    while !answer(&mut connect(address, HEAD).await, "hello").await.starts_with("HTTP/1.1 200") {}
    assert_eq!(answer(&mut idle, "").await, "", "the idle one was closed");
    let nothing = tokio::time::timeout(Duration::from_millis(50), answer(&mut busy, "")).await;
    assert!(nothing.is_err(), "the busy one is open: {nothing:?}");
}

#[tokio::test]
async fn what_is_under_way_ends_and_what_takes_too_long_is_cut_off() {
    for (drain_ms, whole) in [(10_000, true), (10, false)] {
        let drain_within = Duration::from_millis(drain_ms);
        let (address, shutdown, served) = start(PortLimits { drain_within, ..PortLimits::default() }).await;
        let mut slow = connect(address, b"GET /slow HTTP/1.1\r\nHost: kit\r\n\r\n").await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        shutdown.begin();
        assert_eq!(answer(&mut slow, "").await.ends_with("at last"), whole);
        served.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    }
}

#[tokio::test]
async fn who_has_said_everything_and_closes_that_side_is_answered() {
    let (address, ..) = start(PortLimits::default()).await;
    let mut half = connect(address, b"GET /slow HTTP/1.1\r\nHost: kit\r\n\r\n").await;
    half.shutdown().await.unwrap();
    assert!(answer(&mut half, "").await.ends_with("at last"));
}
