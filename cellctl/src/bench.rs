//! `bench`: what things cost here, each figure beside something of the same run that it can be compared with.
//!
//! Absolute numbers of one machine mean little elsewhere; ratios within a run do. For placement it is the raw floor: the
//! same bytes appended and synced in groups of the same size, in the same folder. A run in which the host took more than
//! 3 % of the time is thrown away and repeated; of three runs the one in the middle is shown. A placement run that seems
//! to beat the floor was disturbed and says so: the floor was measured in another moment than the run.

mod apply;
mod arrivals;
mod bootstrap;
mod figure;
mod hops;
mod load;
mod long;
mod machine;
mod park;
mod place;
mod postgres;
mod replicate;
mod report;
mod served;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use region_node::EngineName;

use crate::output::{Format, Refused};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Durable order placement on one node.
    Place(PlaceArgs),
    /// How fast a node takes another region's changes, against how fast it places.
    Apply(ApplyArgs),
    /// Lag, catch-up, bytes and processor time from one region to another.
    Replicate(ReplicateArgs),
    /// How fast a region whose disk was lost gets a peer's state, and what limits it.
    Bootstrap(BootstrapArgs),
    /// Messages that wait in the gate, and how fast they go on when their orders come.
    Park(ParkArgs),
}

/// What placement is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Against {
    /// PostgreSQL behind a small HTTP service; Debian's package `postgresql` has to be installed.
    Postgres,
}

/// Which engine keeps the node's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineArg {
    Sled,
    Fjall,
    Memory,
}

impl EngineArg {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            EngineArg::Sled => "sled",
            EngineArg::Fjall => "fjall",
            EngineArg::Memory => "memory",
        }
    }
    pub(crate) fn name(self) -> EngineName {
        match self {
            EngineArg::Sled => EngineName::Sled,
            EngineArg::Fjall => EngineName::Fjall,
            EngineArg::Memory => EngineName::Memory,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct PlaceArgs {
    /// Concurrent clients, each with a connection of its own; a run for every number.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,128")]
    clients: Vec<usize>,
    /// Seconds of each run that count.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Runs of which the middle one is shown.
    #[arg(long, default_value_t = 3)]
    runs: usize,
    /// Besides, an open loop at this many orders per second, timed from when each was due.
    #[arg(long, value_name = "ORDERS_PER_S")]
    rate: Option<u64>,
    /// What keeps the node's view.
    #[arg(long, value_enum, default_value_t = EngineArg::Sled)]
    engine: EngineArg,
    /// Also with two peer regions attached that take every change.
    #[arg(long)]
    peers: bool,
    /// Beside it, in the same run, another service under the same load.
    #[arg(long, value_enum)]
    against: Option<Against>,
    /// Connections of that service to its database.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=250))]
    pool: u16,
    /// One long run of this many orders instead, at the last of --clients, with what becomes of rate and memory.
    #[arg(long, value_parser = clap::value_parser!(u64).range(10..))]
    orders: Option<u64>,
    /// Leave out placement inside the process, without HTTP.
    #[arg(long)]
    no_in_process: bool,
    /// Where the data goes; the disk under it is what is measured.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

impl PlaceArgs {
    fn time(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

/// What all have that measure whole deployments, several times.
#[derive(Debug, Args)]
pub(crate) struct RunsArgs {
    /// Runs of which the middle of each figure is shown.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    runs: u16,
    /// What keeps the nodes' views.
    #[arg(long, value_enum, default_value_t = EngineArg::Sled)]
    engine: EngineArg,
    /// Where the data goes; the disk under it is what is measured.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Orders whose changes are placed, and then applied.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    orders: u64,
    /// Concurrent clients that place them.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    #[command(flatten)]
    runs: RunsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ReplicateArgs {
    /// Orders that pile up before each catch-up; 0 leaves catching up out.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(..=10_000_000))]
    orders: u64,
    /// Concurrent clients where as many orders as possible are placed.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    /// Seconds of each part that has no end of its own.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Orders per second at which lag is measured, instead of half of what is sustained.
    #[arg(long, value_name = "ORDERS_PER_S", value_parser = clap::value_parser!(u64).range(1..))]
    rate: Option<u64>,
    /// Seconds in which nothing happens, to see what a peer costs then; 0 leaves it out.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(..=3_600))]
    idle_seconds: u64,
    /// Where the peer's data goes, so that the regions do not share a disk.
    #[arg(long, value_name = "DIR")]
    peer_data: Option<PathBuf>,
    #[command(flatten)]
    runs: RunsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct BootstrapArgs {
    /// Orders that the peer has; 5,000 at least, so that its log does not reach back.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(5_000..=10_000_000))]
    orders: u64,
    /// Concurrent clients that place them.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    /// Orders that are placed in a second meanwhile.
    #[arg(long, default_value_t = 0)]
    rate: u64,
    /// What a packet takes between the regions, one way.
    #[arg(long, value_name = "MS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1_000))]
    latency_ms: u64,
    #[command(flatten)]
    runs: RunsArgs,
}

#[derive(Debug, Args)]
pub(crate) struct ParkArgs {
    /// Messages parked; each takes some hundred bytes on the disk.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    messages: u64,
    /// Orders that come in a second, each of which wakes one.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..))]
    rate: u64,
    /// Seconds of idleness before and after parking, and of waking.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    #[command(flatten)]
    runs: RunsArgs,
}

pub(crate) async fn run(verb: Verb, format: Format) -> Result<(), Refused> {
    let failed = |error: anyhow::Error| Refused::Failed(format!("{error:#}"));
    match verb {
        Verb::Place(args) => {
            if args.clients.is_empty() || args.clients.contains(&0) || args.runs == 0 || args.rate == Some(0)
            {
                return Err(Refused::Usage("--clients, --runs and --rate are numbers above 0".to_owned()));
            }
            if let Some(orders) = args.orders {
                let figures = long::run(&args, orders).await.map_err(failed)?;
                figure::show(format, &note("many orders on one node", args.engine, 1), &figures);
                return Ok(());
            }
            let rows = place::run(&args).await.map_err(failed)?;
            report::show(format, &args, &rows);
        }
        Verb::Apply(args) => {
            let figures = apply::run(&args).await.map_err(failed)?;
            figure::show(format, &note("changes applied", args.runs.engine, args.runs.runs), &figures);
        }
        Verb::Park(args) => {
            let figures = park::run(&args).await.map_err(failed)?;
            figure::show(
                format,
                &note("messages parked in the gate", args.runs.engine, args.runs.runs),
                &figures,
            );
        }
        Verb::Bootstrap(args) => {
            let figures = bootstrap::run(&args).await.map_err(failed)?;
            figure::show(
                format,
                &note("a peer's state taken over", args.runs.engine, args.runs.runs),
                &figures,
            );
        }
        Verb::Replicate(args) => {
            let figures = replicate::run(&args).await.map_err(failed)?;
            figure::show(
                format,
                &note("from one region to another", args.runs.engine, args.runs.runs),
                &figures,
            );
        }
    }
    Ok(())
}

/// Whether this program is started in this role by a benchmark.
pub(crate) fn is_role(role: &str) -> bool {
    role == postgres::ROLE
}

pub(crate) fn play_role(args: impl Iterator<Item = OsString>) -> ExitCode {
    postgres::play(args)
}

fn note(what: &str, engine: EngineArg, runs: u16) -> String {
    format!(
        "{what}, views on {}, everything on the same {} processors; middle of {runs} runs",
        engine.as_str(),
        std::thread::available_parallelism().map_or(0, usize::from),
    )
}
