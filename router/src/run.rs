//! The service: open the ports, accept, and leave without cutting anybody off.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::time::Duration;

use cell_core::id::RegionId;
use cell_core::placement::Placement;
use cell_proto::placement_file;
use service_kit::{
    Admin, BindError, ConfigError, Http2Limits, MetricsError, MetricsHandle, Origins, PortLimits, Readiness,
    Shutdown, Version, bind, serve_http,
};
use tokio::net::TcpListener;
use tokio::task::JoinError;

use crate::config::{Config, read_address};
use crate::decide::Upstreams;
use crate::metrics::METRICS;
use crate::proxy::Proxy;

const LISTENING: &str = "listening";

/// A router with its ports open, answering nothing yet.
#[derive(Debug)]
pub struct Router {
    config: Config,
    placement: Placement,
    upstreams: Upstreams,
    seed: u64,
    http: TcpListener,
    admin: TcpListener,
    metrics: MetricsHandle,
}

/// Why a router could not be built; nothing was started.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A value that only turned out wrong when it was used, the placement file among them.
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    #[error("the system gave no randomness: {0}")]
    Entropy(#[from] getrandom::Error),
    #[error("a listener has no address: {0}")]
    Listener(#[from] io::Error),
}

/// The router ended otherwise than by being told to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the admin task died: {0}")]
    Panicked(#[from] JoinError),
}

impl Router {
    /// Reads the placement file and opens both ports. `origins` says where keys were set, for error messages; its default
    /// does where nobody knows.
    ///
    /// # Errors
    /// See [`BuildError`].
    pub async fn build(config: Config, origins: &Origins) -> Result<Self, BuildError> {
        let (placement, upstreams) = resolve(&config, origins)?;
        let metrics = MetricsHandle::install()?;
        metrics.declare(METRICS, &[]);
        Ok(Self {
            seed: getrandom::u64()?,
            metrics,
            http: bind("listen", config.listen, origins).await?,
            admin: bind("admin.listen", config.admin.listen, origins).await?,
            placement,
            upstreams,
            config,
        })
    }

    /// Everything [`Router::build`] checks short of opening ports.
    ///
    /// # Errors
    /// What is wrong with the placement file or an address.
    pub fn check(config: &Config, origins: &Origins) -> Result<(), ConfigError> {
        resolve(config, origins).map(|_| ())
    }

    /// Where clients connect, port 0 resolved.
    ///
    /// # Errors
    /// The system does not know the listener any more.
    pub fn http_addr(&self) -> io::Result<SocketAddr> {
        self.http.local_addr()
    }

    /// Where the admin port is, port 0 resolved.
    ///
    /// # Errors
    /// The system does not know the listener any more.
    pub fn admin_addr(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Serves until `shutdown` begins, then finishes the requests under way, ends event streams, and returns; what is left
    /// after `timeouts.drain_ms` is cut off.
    #[must_use]
    pub fn run(self, shutdown: Shutdown) -> Pin<Box<dyn Future<Output = Result<(), RunError>> + Send>> {
        Box::pin(self.serve(shutdown))
    }

    async fn serve(self, shutdown: Shutdown) -> Result<(), RunError> {
        let readiness = Readiness::new(&[LISTENING]);
        let admin = Admin {
            readiness: readiness.clone(),
            metrics: Some(self.metrics),
            version: Version {
                service: "router",
                version: env!("CARGO_PKG_VERSION"),
                formats: [("placement", placement_file::VERSION)].into(),
            },
            operations: Default::default(),
        };
        // Outlives the drain, so that probes see "not ready" instead of nothing.
        let admin_end = Shutdown::new();
        let admin = tokio::spawn(admin.serve(self.admin, shutdown.token(), admin_end.token()));

        let limits = PortLimits {
            connections_max: self.config.limits.connections_max,
            idle_makes_way: false,
            head_within: Duration::from_millis(self.config.timeouts.head_ms),
            idle_within: Duration::from_millis(self.config.timeouts.head_ms),
            drain_within: Duration::from_millis(self.config.timeouts.drain_ms),
            http2: Http2Limits { streams_max: self.config.limits.streams_max, ..Http2Limits::default() },
        };
        let proxy = Proxy::new(
            self.placement,
            self.upstreams,
            self.config.identity,
            self.config.timeouts,
            self.config.limits,
            self.seed,
            shutdown.clone(),
        );
        readiness.set(LISTENING, true);
        serve_http(self.http, proxy, limits, shutdown.begun()).await;
        admin_end.begin();
        admin.await?;
        Ok(())
    }
}

/// What the configuration names outside of itself.
fn resolve(config: &Config, origins: &Origins) -> Result<(Placement, Upstreams), ConfigError> {
    let at = |key: &str, error: &dyn std::fmt::Display| ConfigError::at(key, error, origins);
    let region_of = |key: &str, name: &str| RegionId::new(name).map_err(|error| at(key, &error));

    let placement =
        placement_file::load(&config.placement_file).map_err(|error| at("placement_file", &error))?;
    let local = region_of("region", &config.region)?;
    if !placement.members().contains(&local) {
        return Err(at("region", &format!("'{local}' is no member of the placement")));
    }
    let mut addresses = Vec::with_capacity(config.upstreams.len());
    for (name, address) in &config.upstreams {
        let key = format!("upstreams.{name}");
        let region = region_of(&key, name)?;
        if !placement.members().contains(&region) {
            return Err(at(&key, &format!("'{region}' is no member of the placement")));
        }
        addresses.push((region, read_address(address).map_err(|error| at(&key, &error))?));
    }
    let upstreams = Upstreams::new(local, addresses).map_err(|error| at("upstreams", &error))?;
    for region in placement.members() {
        if upstreams.of(*region).is_none() {
            tracing::warn!(%region, "no upstream is configured: requests that are at home there are answered 503");
        }
    }
    Ok((placement, upstreams))
}
