//! Building and running a node as a service.

use std::future::Future;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cell_core::cell::Ability;
use cell_core::id::NodeId;
use cell_proto::v1::node_server::NodeServer;
use cell_store::Store;
use service_kit::{
    Admin, ConfigError, Exit, Http2Limits, MetricsHandle, Origins, PortLimits, Readiness, Routes, Shutdown,
    Version, bind, serve_http,
};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, load_placement};
use crate::desk::Desk;
use crate::gateway::{Callbacks, Gateway, HttpGateway};
use crate::grpc::Grpc;
use crate::http;
use crate::node::{Identity, Node, OpenError, Running};
use crate::scrub::{self, Pace};

/// How long open requests have when the node is asked to stop.
const DRAIN_WITHIN: Duration = Duration::from_secs(10);
/// The same for calls at the internal port.
const INTERNAL_DRAIN_WITHIN: Duration = Duration::from_secs(5);
/// For a request's head, and between two requests; a router keeps its connections for less.
const HEAD_WITHIN: Duration = Duration::from_secs(60);
/// Requests, or calls, at a time on one HTTP/2 connection.
const STREAMS_OF_ONE_MAX: u32 = 256;
/// Tails of the log at a time: some megabytes are on their way to each. The agent has one, and one for each peer that is
/// behind.
const TAILS_MAX: usize = 64;
/// Largest message taken from the agent.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
const STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// A node ready to serve.
#[derive(Debug)]
pub struct RegionNode {
    node: Node,
    running: Running,
    http: TcpListener,
    grpc: TcpListener,
    admin: TcpListener,
    readiness: Readiness,
    metrics: Option<MetricsHandle>,
    shutdown: Shutdown,
    gateway: Arc<dyn Gateway>,
    callbacks: Callbacks,
    data_dir: PathBuf,
    low_water_bytes: u64,
    ask_every_ms: u64,
    pace: Pace,
    may_damage: bool,
    session_wait: Duration,
    limits: PortLimits,
}

/// That the node could start on its folder: nobody else's, a folder, and of its engine. Changes nothing.
///
/// # Errors
/// One line that names the key.
pub(crate) fn check_folder(config: &Config, origins: &Origins) -> Result<(), ConfigError> {
    let dir = &config.data_dir;
    if dir.join("gate").exists() {
        let of_agent = format!("{} is a sync-agent's: it has a gate", dir.display());
        return Err(ConfigError::at("data_dir", of_agent, origins));
    }
    if let Ok(region) = config.region.parse() {
        let node = NodeId { region, index: config.node_index };
        cell_store::may_claim(dir, &node.to_string())
            .map_err(|error| ConfigError::at("data_dir", &error, origins))?;
    }
    Node::fits(dir, config.engine).map_err(|error| ConfigError::at("engine", &error, origins))
}

/// Opens listeners and data, and starts the storage threads. Must be called inside a runtime.
///
/// # Errors
/// One line that names the key: a port in use, a folder held by another process, damage.
pub async fn build(
    config: Config,
    origins: &Origins,
    metrics: Option<MetricsHandle>,
    shutdown: Shutdown,
) -> Result<RegionNode, Exit> {
    let at = |key: &str, error: &dyn std::fmt::Display| Exit::from(ConfigError::at(key, error, origins));
    let http = bind("listen.http", config.listen.http, origins).await?;
    let grpc = bind("listen.grpc", config.listen.grpc, origins).await?;
    let admin = bind("listen.admin", config.listen.admin, origins).await?;
    let placement = load_placement(&config.placement_file).map_err(|error| at("placement_file", &error))?;
    let region = config.region.parse().map_err(|error| at("region", &error))?;
    if !placement.members().contains(&region) {
        return Err(at("region", &format!("'{region}' is no member of the placement")));
    }
    check_folder(&config, origins)?;
    let secret = config.gateway.secret_file.load()?.expose().to_vec();
    let timeout = Duration::from_millis(config.gateway.timeout_ms);
    let gateway = Arc::new(HttpGateway::new(config.gateway.url, config.gateway.callback_urls, timeout));
    let callbacks = Callbacks::new(secret);
    let ask_every_ms = config.gateway.ask_every_ms;
    let rules = config.rules.rules();
    let recovery_wait = Duration::from_millis(config.recovery_wait_ms);
    let change_bytes_max = config.change_bytes_max;
    // Other limits can take other changes: what was quarantined is tried once more.
    let software = format!("{} {change_bytes_max}", env!("CARGO_PKG_VERSION"));
    let ability = Ability { software, change_bytes_max, ..Ability::default() };
    let (index, log) = (config.node_index, config.log);
    let identity = Identity { region, index, placement, rules, ability, recovery_wait, log };
    let (node, running) =
        Node::open(identity, &config.data_dir, config.engine, &shutdown).map_err(|error| match error {
            OpenError::Engine(_) => at("engine", &error),
            OpenError::Folder(_) | OpenError::Damaged(_) | OpenError::View(_) => at("data_dir", &error),
        })?;
    let readiness = Readiness::new(&["storage", "view", "predecessors"]);
    readiness.set("storage", true);
    Ok(RegionNode {
        node,
        running,
        http,
        grpc,
        admin,
        readiness,
        metrics,
        shutdown,
        gateway,
        callbacks,
        data_dir: config.data_dir,
        low_water_bytes: config.low_water_mib.saturating_mul(1 << 20),
        ask_every_ms,
        pace: Pace { every: Duration::from_millis(config.scrub_every_ms), per_s: config.scrub_per_s },
        may_damage: config.allow_damage,
        session_wait: Duration::from_millis(config.session_wait_ms),
        limits: PortLimits {
            connections_max: config.connections_max,
            idle_makes_way: false,
            head_within: HEAD_WITHIN,
            idle_within: HEAD_WITHIN,
            drain_within: DRAIN_WITHIN,
            http2: Http2Limits { streams_max: STREAMS_OF_ONE_MAX, ..Http2Limits::default() },
        }
        .beside_files(),
    })
}

impl RegionNode {
    /// Where it listens, by name.
    ///
    /// # Errors
    /// The system does not say.
    pub fn listen(&self) -> std::io::Result<[(&'static str, SocketAddr); 3]> {
        Ok([
            ("http", self.http.local_addr()?),
            ("grpc", self.grpc.local_addr()?),
            ("admin", self.admin.local_addr()?),
        ])
    }

    /// Serves until the shutdown begins; then lets open requests end, and brings the view to the log.
    #[must_use]
    pub fn run(self) -> Pin<Box<dyn Future<Output = Result<(), Exit>> + Send>> {
        Box::pin(async move {
            let shutdown = self.shutdown;
            let store: Arc<dyn Store> = self.node.store().clone();
            let scrubbed = scrub::keep(
                self.node.clone(),
                self.node.scrub().clone(),
                self.pace,
                self.data_dir.clone(),
                shutdown.clone(),
            );
            shutdown.spawn("scrub", scrubbed);
            shutdown.spawn("timers", self.node.clone().keep_time(shutdown.clone()));
            shutdown.spawn("holes", self.node.clone().close_holes(shutdown.clone()));
            let desk = Desk {
                node: self.node.clone(),
                tray: self.node.tray().clone(),
                gateway: self.gateway.clone(),
                every_ms: self.ask_every_ms,
            };
            shutdown.spawn("desk", desk.work(shutdown.clone()));
            let version = Version {
                service: "region-node",
                version: env!("CARGO_PKG_VERSION"),
                formats: [("log", 1), ("wire", 1)].into(),
            };
            let operations = http::operations(self.node.clone(), &shutdown);
            let admin = Admin { readiness: self.readiness, metrics: self.metrics, version, operations };
            let (node, readiness) = (self.node.clone(), admin.readiness.clone());
            let stop = shutdown.clone();
            shutdown.spawn("readiness", async move {
                let ready = async {
                    node.decides().await;
                    readiness.set("predecessors", true);
                    node.working().verified().await;
                    readiness.set("view", true);
                };
                tokio::select! {
                    () = stop.begun() => {}
                    () = ready => {}
                }
            });
            // It answers until everything else has ended.
            let until = CancellationToken::new();
            let admin = tokio::spawn(admin.serve(self.admin, shutdown.token(), until.clone()));
            let (health, serving) = tonic_health::server::health_reporter();
            health.set_serving::<NodeServer<Grpc>>().await;
            let reflection = tonic_reflection::server::Builder::configure()
                .register_encoded_file_descriptor_set(cell_proto::FILE_DESCRIPTOR_SET)
                .build_v1()
                .map_err(|error| Exit::failed(&error))?;
            let service = NodeServer::new(Grpc {
                node: self.node.clone(),
                shutdown: shutdown.clone(),
                may_damage: self.may_damage,
                tails: Arc::new(Semaphore::new(TAILS_MAX)),
            })
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
            let internal = tonic::service::Routes::new(serving).add_service(reflection).add_service(service);
            let windows = Http2Limits {
                streams_max: STREAMS_OF_ONE_MAX,
                stream_window_bytes: STREAM_WINDOW_BYTES,
                connection_window_bytes: 2 * STREAM_WINDOW_BYTES,
                ..Http2Limits::default()
            };
            let internal = serve_http(
                self.grpc,
                Routes::grpc(internal.into_axum_router()),
                PortLimits::internal(INTERNAL_DRAIN_WITHIN, windows),
                shutdown.token().cancelled_owned(),
            );
            shutdown.spawn("grpc", internal);
            let watch = self.node.clone().watch_disk(self.data_dir, self.low_water_bytes, shutdown.clone());
            shutdown.spawn("disk", watch);
            let api = http::router(http::Api {
                node: self.node,
                gateway: self.callbacks,
                shutdown: shutdown.clone(),
                streams: Arc::new(Semaphore::new(http::STREAMS_MAX)),
                session_wait: self.session_wait,
            });
            let routes = Routes { router: api, refuse: http::too_many_connections };
            serve_http(self.http, routes, self.limits, shutdown.begun()).await;
            shutdown.drain(DRAIN_WITHIN).await?;
            let running = self.running;
            let joined = tokio::task::spawn_blocking(move || running.join(&store)).await;
            until.cancel();
            if let Err(error) = admin.await {
                tracing::error!(%error, "the admin port failed");
            }
            joined.map_err(|error| Exit::Failed(format!("storage: {error}")))
        })
    }
}
