//! Building and running an agent as a service.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use cell_core::gate::{Gate, Output};
use cell_core::id::RegionId;
use cell_proto::v1::agent_admin_server::AgentAdminServer;
use cell_proto::v1::messages_server::MessagesServer;
use cell_proto::v1::replication_server::ReplicationServer;
use service_kit::{
    Admin, ConfigError, Exit, MetricsHandle, Origins, PortLimits, Readiness, Routes, Shutdown, Version, bind,
    serve_http,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes as Services;
use tonic::service::interceptor::InterceptedService;

use crate::admin::Operators;
use crate::board::{Board, now_ms};
use crate::compare::Comparer;
use crate::config::Config;
use crate::exchange::Exchange;
use crate::gate::{Courier, GateHandle, GateInbox, GateRunner, Shelf};
use crate::hints;
use crate::inbox::Inbox;
use crate::node::NodeLink;
use crate::outbox::{Post, Queue};
use crate::placement::{self, Homes};
use crate::recovery::Recovery;
use crate::replication::Publisher;
use crate::subscriber::{Channels, Peers, Subscriber};
use crate::transport::{self, MESSAGE_BYTES_MAX, PeerChannel};
use crate::upkeep::{self, Reports};

/// A batch of messages from another region; one has some hundred bytes. Less than fits into a frame of the gate's log.
const LETTERS_BYTES_MAX: usize = 8 << 20;

/// How long open streams have when the agent is asked to stop.
const STREAMS_DRAIN_WITHIN: Duration = Duration::from_secs(3);
/// How long all of the agent has.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// An agent ready to serve.
#[derive(Debug)]
pub struct SyncAgent {
    own: RegionId,
    members: Vec<RegionId>,
    config: Config,
    data: TcpListener,
    messages: TcpListener,
    grpc: TcpListener,
    admin: TcpListener,
    board: Board,
    node: NodeLink,
    peers: Peers,
    homes: Homes,
    post: Post,
    queues: Vec<(Queue, PeerChannel)>,
    handle: GateHandle,
    inbox: GateInbox,
    runner: GateRunner,
    first: Vec<Output>,
    readiness: Readiness,
    metrics: Option<MetricsHandle>,
    shutdown: Shutdown,
}

/// What its folder is marked with.
fn owner(own: RegionId) -> String {
    format!("sync-agent of {own}")
}

/// That the agent could start on its folder: nobody else's, and a folder. Changes nothing.
///
/// # Errors
/// One line that names the key.
pub(crate) fn check_folder(config: &Config, origins: &Origins) -> Result<(), ConfigError> {
    let dir = &config.data_dir;
    if dir.join("log").exists() {
        let of_node = format!("{} is a region-node's: it has a log", dir.display());
        return Err(ConfigError::at("data_dir", of_node, origins));
    }
    let own = config.region.parse::<RegionId>();
    own.map_or(Ok(()), |own| cell_store::may_claim(dir, &owner(own)))
        .map_err(|error| ConfigError::at("data_dir", error, origins))
}

/// Opens listeners and the gate's folder. Neither the node nor any peer needs to be there.
///
/// # Errors
/// One line that names the key: a port in use, a folder held by another process, a member without an address.
pub async fn build(
    config: Config,
    origins: &Origins,
    metrics: Option<MetricsHandle>,
    shutdown: Shutdown,
) -> Result<SyncAgent, Exit> {
    let at = |key: &str, error: &dyn std::fmt::Display| Exit::from(ConfigError::at(key, error, origins));
    let data = bind("listen.data", config.listen.data, origins).await?;
    let messages = bind("listen.messages", config.listen.messages, origins).await?;
    let grpc = bind("listen.grpc", config.listen.grpc, origins).await?;
    let admin = bind("listen.admin", config.listen.admin, origins).await?;
    let placed = placement::load(&config.placement_file).map_err(|error| at("placement_file", &error))?;
    let own: RegionId = config.region.parse().map_err(|error| at("region", &error))?;
    let members = placed.members().to_vec();
    let homes = Homes::new(placed);
    let mut channels = BTreeMap::new();
    let mut message_channels = BTreeMap::new();
    for peer in &config.peers {
        let region: RegionId = peer.region.parse().map_err(|error| at("peers", &error))?;
        let data = || transport::channel_to(region, &peer.data).map_err(|error| at("peers", &error));
        channels.insert(region, Channels { stream: data()?, awaited: data()? });
        message_channels.insert(
            region,
            transport::channel_to(region, &peer.messages).map_err(|error| at("peers", &error))?,
        );
    }
    let board = Board::new(own, channels.keys().copied());
    let peers = Peers::new(channels);
    let channel = transport::channel(&config.node).map_err(|error| at("node", &error))?;
    let node = NodeLink::new(own, channel, board.clone());
    let (handle, inbox) = GateHandle::new();
    let (post, queues) = Post::new(own, homes.clone(), handle.clone(), peers.regions());
    let queues = queues.into_iter().filter_map(|queue| {
        let channel = message_channels.remove(&queue.peer)?;
        Some((queue, channel))
    });
    let queues = queues.collect();
    check_folder(&config, origins)?;
    let shelf = Shelf::open(&config.data_dir, &owner(own)).map_err(|error| at("data_dir", &error))?;
    // Without entropy the pauses of two gates are merely the same.
    let seed = getrandom::u64().unwrap_or(0);
    let mut records = shelf.records();
    let (gate, first) = Gate::restore(own, config.gate.gate(), seed, now_ms(), records.by_ref());
    records.end().map_err(|error| at("data_dir", &error))?;
    let courier =
        Courier::new(own, handle.clone(), node.clone(), peers.clone(), post.clone(), shutdown.clone());
    let runner = GateRunner::new(gate, shelf, courier, board.clone());
    let readiness = Readiness::new(&["gate", "node"]);
    readiness.set("gate", true);
    Ok(SyncAgent {
        own,
        members,
        config,
        data,
        messages,
        grpc,
        admin,
        board,
        node,
        peers,
        homes,
        post,
        queues,
        handle,
        inbox,
        runner,
        first,
        readiness,
        metrics,
        shutdown,
    })
}

impl SyncAgent {
    /// Where it listens, by name.
    ///
    /// # Errors
    /// The system does not say.
    pub fn listen(&self) -> std::io::Result<[(&'static str, SocketAddr); 4]> {
        Ok([
            ("data", self.data.local_addr()?),
            ("messages", self.messages.local_addr()?),
            ("grpc", self.grpc.local_addr()?),
            ("admin", self.admin.local_addr()?),
        ])
    }

    /// Serves until the shutdown begins. What was under way goes on after the next start.
    #[must_use]
    pub fn run(self) -> Pin<Box<dyn Future<Output = Result<(), Exit>> + Send>> {
        Box::pin(async move {
            let shutdown = self.shutdown.clone();
            let version = Version {
                service: "sync-agent",
                version: env!("CARGO_PKG_VERSION"),
                formats: [("gate-log", 1), ("wire", 1)].into(),
            };
            let readiness = self.readiness.clone();
            let admin = Admin {
                readiness: self.readiness,
                metrics: self.metrics,
                version,
                operations: Default::default(),
            };
            let until = CancellationToken::new();
            let admin = tokio::spawn(admin.serve(self.admin, shutdown.token(), until.clone()));

            let begun = shutdown.clone();
            shutdown.spawn("readiness", ready_with_node(readiness, self.node.clone(), begun.clone()));
            shutdown.spawn("gate", self.runner.run(self.inbox, self.first, begun.clone()));
            shutdown.spawn("node", self.node.clone().follow(self.handle.clone(), begun.clone()));
            let hints = hints::follow(self.node.clone(), self.homes, self.handle.clone(), begun.clone());
            shutdown.spawn("hints", hints);
            shutdown.spawn("outbox", self.post.collect(self.node.clone(), begun.clone()));
            for (queue, channel) in self.queues {
                shutdown.spawn("messages", queue.send(self.own, channel, self.board.clone(), begun.clone()));
            }
            let (node, peers, board) = (self.node.clone(), self.peers.clone(), self.board.clone());
            let comparer = Comparer::new(node, peers, board, self.config.limits.repair_per_s);
            let exchange = Exchange::new(comparer.clone(), self.config.limits.take_over_per_s);
            shutdown.spawn("exchange", exchange.clone().keep(begun.clone()));
            let reports = Reports::default();
            let (members, own) = (self.members.clone(), self.own);
            let upkeep = upkeep::keep(
                self.node.clone(),
                reports.clone(),
                members,
                own,
                self.config.limits,
                begun.clone(),
            );
            shutdown.spawn("upkeep", upkeep);
            let recovery = Recovery::new(self.peers.regions());
            shutdown.spawn("recovery", recovery.clone().watch(self.node.clone(), begun.clone()));
            for peer in self.peers.regions() {
                let subscriber = Subscriber {
                    own: self.own,
                    peer,
                    members: self.members.clone(),
                    peers: self.peers.clone(),
                    node: self.node.clone(),
                    board: self.board.clone(),
                    recovery: recovery.clone(),
                    exchange: exchange.clone(),
                };
                shutdown.spawn("subscriber", subscriber.follow(begun.clone()));
            }
            let every = Duration::from_millis(self.config.limits.compare_every_ms);
            for peer in self.peers.regions() {
                shutdown.spawn("comparer", comparer.clone().keep(peer, every, begun.clone()));
            }
            shutdown.spawn("board", self.board.clone().publish(begun.clone()));

            let publisher = Publisher {
                own: self.own,
                members: self.members.clone(),
                node: self.node.clone(),
                limits: self.config.limits,
                reports,
                shutdown: begun.clone(),
            };
            let inbox = Inbox {
                own: self.own,
                members: self.members,
                gate: self.handle.clone(),
                board: self.board.clone(),
                shutdown: begun.clone(),
            };
            let operators = Operators { gate: self.handle, node: self.node, board: self.board, comparer };
            let publisher = ReplicationServer::new(publisher).max_encoding_message_size(MESSAGE_BYTES_MAX);
            let inbox = MessagesServer::new(inbox).max_decoding_message_size(LETTERS_BYTES_MAX);
            let served = [
                (
                    "data port",
                    self.data,
                    with_health::<ReplicationServer<Publisher>>()
                        .await?
                        .add_service(InterceptedService::new(publisher, transport::only_for(self.own))),
                ),
                (
                    "message port",
                    self.messages,
                    with_health::<MessagesServer<Inbox>>()
                        .await?
                        .add_service(InterceptedService::new(inbox, transport::only_for(self.own))),
                ),
                (
                    "operators' port",
                    self.grpc,
                    with_health::<AgentAdminServer<Operators>>()
                        .await?
                        .add_service(AgentAdminServer::new(operators)),
                ),
            ];
            for (name, listener, services) in served {
                let routes = Routes::grpc(services.into_axum_router());
                let limits = PortLimits::internal(STREAMS_DRAIN_WITHIN, transport::http2_limits());
                shutdown
                    .spawn(name, serve_http(listener, routes, limits, shutdown.token().cancelled_owned()));
            }
            shutdown.begun().await;
            let drained = shutdown.drain(DRAIN_WITHIN).await;
            until.cancel();
            if let Err(error) = admin.await {
                tracing::error!(%error, "the admin port failed");
            }
            drained.map_err(Exit::from)
        })
    }
}

/// It is ready while its node is there.
async fn ready_with_node(readiness: Readiness, node: NodeLink, shutdown: Shutdown) {
    let mut known = node.known();
    loop {
        let connected = known.borrow_and_update().connected;
        readiness.set("node", connected);
        tokio::select! {
            () = shutdown.begun() => return,
            changed = known.wait_for(|known| known.connected != connected) => if changed.is_err() { return },
        }
    }
}

/// Services that say how they are, and what they are.
async fn with_health<S: tonic::server::NamedService>() -> Result<Services, Exit> {
    let (health, serving) = tonic_health::server::health_reporter();
    health.set_serving::<S>().await;
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(cell_proto::FILE_DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Exit::failed(&error))?;
    Ok(Services::new(serving).add_service(reflection))
}
