//! A running router, regions for it, and a client. Users alice (slot 434) and bob (118) are at home in north, carol (669)
//! in east.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;

use axum::body::Body as RegionBody;
use futures::StreamExt;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use router::{AdminConfig, Config, Identity, Limits, Router, RunError, Timeouts};
use serde_json::Value;
use service_kit::{Origins, Shutdown, TelemetryConfig};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub(crate) const PLACEMENT: &str = r#"
version = 1
regions = ["north", "east"]
slots = [{ from = 0, to = 511, home = "north" }, { from = 512, to = 1023, home = "east" }]
"#;

pub(crate) type ClientBody = BoxBody<Bytes, Infallible>;

/// A router that runs until it is stopped or dropped.
pub(crate) struct Edge {
    pub(crate) address: SocketAddr,
    pub(crate) admin: SocketAddr,
    shutdown: Shutdown,
    running: JoinHandle<Result<(), RunError>>,
    client: Client<HttpConnector, ClientBody>,
    _folder: TempDir,
}

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Edge {
    pub(crate) async fn start(regions: &[(&str, SocketAddr)]) -> Self {
        Self::start_with(regions, |_| {}).await
    }

    pub(crate) async fn start_with(regions: &[(&str, SocketAddr)], change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let placement = folder.path().join("placement.toml");
        std::fs::write(&placement, PLACEMENT).unwrap();
        let mut config = config(placement, regions);
        change(&mut config);
        let router = Router::build(config, &Origins::default()).await.unwrap();
        let (address, admin) = (router.http_addr().unwrap(), router.admin_addr().unwrap());
        let shutdown = Shutdown::new();
        let running = tokio::spawn(router.run(shutdown.clone()));
        let client = Client::builder(TokioExecutor::new()).build_http();
        Self { address, admin, shutdown, running, client, _folder: folder }
    }

    pub(crate) fn get(&self, user: &str, path: &str) -> Request<ClientBody> {
        self.request("GET", user, path, empty())
    }

    pub(crate) fn post(&self, user: &str, path: &str, body: impl Into<Bytes>) -> Request<ClientBody> {
        self.request("POST", user, path, full(body))
    }

    pub(crate) fn request(
        &self,
        method: &str,
        user: &str,
        path: &str,
        body: ClientBody,
    ) -> Request<ClientBody> {
        let uri = format!("http://{}{path}", self.address);
        let request = Request::builder().method(method).uri(uri);
        request.header("x-user-id", user).body(body).unwrap()
    }

    /// The head of the answer; the body is still to come.
    pub(crate) async fn open(&self, request: Request<ClientBody>) -> Response<Incoming> {
        self.client.request(request).await.unwrap()
    }

    pub(crate) async fn send(&self, request: Request<ClientBody>) -> Answer {
        Answer::of(self.open(request).await).await
    }

    pub(crate) fn begin_shutdown(&self) {
        self.shutdown.begin();
    }

    pub(crate) async fn stopped(self) -> Result<(), RunError> {
        self.running.await.unwrap()
    }
}

impl Answer {
    pub(crate) async fn of(response: Response<Incoming>) -> Self {
        let (parts, body) = response.into_parts();
        Self { status: parts.status, headers: parts.headers, body: body.collect().await.unwrap().to_bytes() }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Status, problem name and `retryable`, after checking that it is a problem.
    pub(crate) fn problem(&self) -> (u16, String, bool) {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], self.status.as_u16());
        assert!(problem["title"].is_string() && problem["detail"].is_string(), "{problem}");
        let name = problem["type"].as_str().unwrap().strip_prefix("https://homecell.dev/problems/");
        (self.status.as_u16(), name.unwrap().to_owned(), problem["retryable"].as_bool().unwrap())
    }
}

pub(crate) fn config(placement: PathBuf, regions: &[(&str, SocketAddr)]) -> Config {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let upstreams: BTreeMap<_, _> =
        regions.iter().map(|(name, address)| (name.to_string(), address.to_string())).collect();
    Config {
        listen: any_port,
        region: "north".to_owned(),
        placement_file: placement,
        identity: Identity::Header,
        admin: AdminConfig { listen: any_port },
        upstreams,
        timeouts: Timeouts::default(),
        limits: Limits::default(),
        telemetry: TelemetryConfig::default(),
    }
}

/// A region that answers by `handler` whatever it is asked.
pub(crate) async fn region<H, T>(handler: H) -> SocketAddr
where
    H: axum::handler::Handler<T, ()>,
    T: 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = axum::Router::new().fallback(handler);
    tokio::spawn(async move { axum::serve(listener, service).await });
    address
}

/// A region that says who it is, and what it was sent.
pub(crate) async fn echo(name: &'static str) -> SocketAddr {
    region(async move |request: axum::extract::Request| {
        let (parts, body) = request.into_parts();
        let headers: Vec<(String, String)> = parts
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
            .collect();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        axum::Json(serde_json::json!({
            "region": name,
            "method": parts.method.as_str(),
            "path": parts.uri.to_string(),
            "headers": headers,
            "body": String::from_utf8_lossy(&body),
        }))
    })
    .await
}

/// A region whose event stream is written by the test.
pub(crate) async fn events(content_type: &'static str) -> (SocketAddr, mpsc::Sender<Bytes>) {
    let (sender, receiver) = mpsc::channel::<Bytes>(4);
    let receiver = std::sync::Arc::new(std::sync::Mutex::new(Some(receiver)));
    let address = region(async move || {
        let receiver = receiver.lock().unwrap().take().unwrap();
        let body = RegionBody::from_stream(pieces(receiver).map(Ok::<_, Infallible>));
        ([("content-type", content_type)], body)
    })
    .await;
    (address, sender)
}

/// A port that is taken and that nobody listens on; it stays so while the socket is held.
pub(crate) fn nobody() -> (SocketAddr, tokio::net::TcpSocket) {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
    (socket.local_addr().unwrap(), socket)
}

pub(crate) fn empty() -> ClientBody {
    Empty::new().boxed()
}

pub(crate) fn full(body: impl Into<Bytes>) -> ClientBody {
    Full::new(body.into()).boxed()
}

/// A body of unknown length that the test writes piece by piece.
pub(crate) fn written() -> (mpsc::Sender<Bytes>, ClientBody) {
    let (sender, receiver) = mpsc::channel(4);
    let frames = pieces(receiver).map(|piece| Ok(Frame::data(piece)));
    (sender, BodyExt::boxed(StreamBody::new(frames)))
}

pub(crate) async fn next_piece(body: &mut Incoming) -> Option<Bytes> {
    body.frame().await.map(|frame| frame.unwrap().into_data().unwrap())
}

fn pieces(receiver: mpsc::Receiver<Bytes>) -> impl futures::Stream<Item = Bytes> + Send + Sync {
    futures::stream::unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)))
}
