//! A deployment to measure: real processes on loopback, one region of which is under load.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use anyhow::{Context, Result};
use cell_core::id::{SLOT_COUNT, UserId};
use cell_proto::v1;
use cell_proto::v1::node_client::NodeClient;
use chaos_tests::harness::{Api, Cluster, Kind, Latency, Plan, Role};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

use super::figure::{Figure, middle};
use super::load::{self, Keys, Load, Phase};
use super::machine::cpu_seconds;
use super::{EngineArg, RunsArgs};
use crate::demo::program;

/// The region that is home of every slot, and under load.
pub(super) const ORIGIN: &str = "north";
/// The region that gets what is written there.
pub(super) const FAR: &str = "east";
/// Larger than any batch.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// A folder for what a benchmark writes: the disk under it is what is measured.
pub(super) fn folder_in(data: Option<&Path>) -> Result<TempDir> {
    Ok(match data {
        Some(folder) => {
            let named = || format!("folder {}", folder.display());
            std::fs::create_dir_all(folder).with_context(named)?;
            tempfile::tempdir_in(folder).with_context(named)?
        }
        None => tempfile::tempdir()?,
    })
}

/// Measures a new deployment in each run, in a folder of its own, and takes the middle of each figure.
pub(super) async fn each_run(
    args: &RunsArgs,
    start: impl AsyncFn(&Path) -> Result<Served>,
    measure: impl AsyncFn(&mut Served) -> Result<Vec<Figure>>,
) -> Result<Vec<Figure>> {
    let folder = folder_in(args.data.as_deref())?;
    middle(usize::from(args.runs), async || {
        let folder = tempfile::tempdir_in(folder.path())?;
        let mut served = start(folder.path()).await?;
        let figures = measure(&mut served).await;
        served.cluster.stop().await?;
        figures
    })
    .await
}

#[derive(Debug)]
pub(super) struct Served {
    pub(super) cluster: Cluster,
    pub(super) api: Api,
    numbers: Arc<AtomicU64>,
    keys: Arc<Keys>,
    users: Arc<[String]>,
}

fn plan(engine: EngineArg, regions: &[&str], folder: &Path) -> Plan {
    Plan {
        ask_every_ms: 60_000,
        levels: "warn".to_owned(),
        engine: engine.as_str().to_owned(),
        // Whoever the load places orders for is at home in the first.
        all_in_first: true,
        ..Plan::new(regions, folder, program)
    }
}

impl Served {
    pub(super) async fn start(engine: EngineArg, regions: &[&str], folder: &Path) -> Result<Served> {
        Served::of(plan(engine, regions, folder), load::users()).await
    }

    /// Slots shared out among the regions, and these lines in the configuration of every agent's gate.
    pub(super) async fn shared_out(
        engine: EngineArg,
        regions: &[&str],
        folder: &Path,
        gate: Vec<String>,
    ) -> Result<Served> {
        let plan = Plan { all_in_first: false, gate, ..plan(engine, regions, folder) };
        let home = 0..SLOT_COUNT / u16::try_from(regions.len())?;
        let at_home =
            |name: &&String| UserId::new(name).is_ok_and(|user| home.contains(&user.slot().number()));
        let users = load::users().iter().filter(at_home).cloned().collect();
        Served::of(plan, users).await
    }

    /// A home whose log keeps nothing that the others have, and regions that take state over as fast as they can.
    pub(super) async fn trimmed(
        engine: EngineArg,
        regions: &[&str],
        latency: Latency,
        folder: &Path,
    ) -> Result<Served> {
        let node = vec!["log = { segment_kib = 1024, keep_mib = 0 }".to_owned()];
        let limits = ["upkeep_every_ms = 500", "compare_every_ms = 1000", "take_over_per_s = 1000000"];
        let limits = limits.map(str::to_owned).into();
        Served::of(Plan { node, limits, latency, ..plan(engine, regions, folder) }, load::users()).await
    }

    async fn of(plan: Plan, users: Arc<[String]>) -> Result<Served> {
        let cluster = Cluster::start(plan).await?;
        Ok(Served { cluster, api: Api::default(), numbers: Arc::default(), keys: Arc::default(), users })
    }

    /// A load on the first region, and what begins and ends its counting.
    pub(super) fn load(&self) -> Result<(Load, Phase)> {
        let phase = Phase::default();
        let load = Load {
            address: self.cluster.node_http(ORIGIN)?,
            numbers: self.numbers.clone(),
            keys: self.keys.clone(),
            users: self.users.clone(),
            phase: phase.clone(),
            below: u64::MAX,
            notes: false,
        };
        Ok((load, phase))
    }

    /// Processor seconds of one process so far.
    pub(super) fn cpu_of(&self, role: Role, region: &str) -> f64 {
        self.cluster.pid(role, region).map_or(0.0, cpu_seconds)
    }

    /// Bytes that have passed between two regions, both channels, there and back.
    pub(super) fn wire_bytes(&self, one: &str, other: &str) -> Result<u64> {
        let mut bytes = 0;
        for (from, to) in [(one, other), (other, one)] {
            for kind in [Kind::Data, Kind::Messages] {
                bytes += self.cluster.link(from, to, kind)?.bytes();
            }
        }
        Ok(bytes)
    }

    /// The internal port of a region's node.
    pub(super) async fn node(&self, region: &str) -> Result<NodeClient<Channel>> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.cluster.node_grpc(region)?))?;
        let channel = endpoint.tcp_nodelay(true).initial_stream_window_size(4 << 20).connect().await?;
        Ok(NodeClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX))
    }

    /// The actor of the origin that writes now, and how far it is.
    pub(super) async fn written(&self) -> Result<(v1::ActorId, u64)> {
        let status = self.node(ORIGIN).await?.status(v1::StatusRequest::default()).await?.into_inner();
        let actor = status.actor.unwrap_or_default();
        let front = status.frontier.iter().find(|front| front.actor.as_ref() == Some(&actor));
        Ok((actor, front.map_or(0, |front| front.seq)))
    }
}
