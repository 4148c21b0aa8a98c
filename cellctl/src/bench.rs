//! `bench`: what things cost here, each figure beside something of the same run that it can be compared with.
//!
//! Absolute numbers of one machine mean little elsewhere; ratios within a run do. For placement it is the raw floor: the
//! same bytes appended and synced in groups of the same size, in the same folder. A run in which the host took more than
//! 3 % of the time is thrown away and repeated; of three runs the one in the middle is shown. A placement run that seems
//! to beat the floor was disturbed and says so: the floor was measured in another moment than the run.

mod apply;
mod arrivals;
mod figure;
mod load;
mod machine;
mod place;
mod replicate;
mod report;
mod served;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::output::{Format, Refused};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Durable order placement on one node.
    Place(PlaceArgs),
    /// How fast a node takes another region's changes, against how fast it places.
    Apply(ApplyArgs),
    /// Lag, catch-up, bytes and processor time from one region to another.
    Replicate(ReplicateArgs),
}

/// Which engine keeps the node's view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineArg {
    Sled,
    Fjall,
    Memory,
}

impl EngineArg {
    fn as_str(self) -> &'static str {
        match self {
            EngineArg::Sled => "sled",
            EngineArg::Fjall => "fjall",
            EngineArg::Memory => "memory",
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

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    /// Orders whose changes are placed, and then applied.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    orders: u64,
    /// Concurrent clients that place them.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
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
pub(crate) struct ReplicateArgs {
    /// Orders that pile up before each catch-up.
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    orders: u64,
    /// Concurrent clients where as many orders as possible are placed.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    /// Seconds of each part that has no end of its own.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// Seconds in which nothing happens, to see what a peer costs then; 0 leaves it out.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(..=3_600))]
    idle_seconds: u64,
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

pub(crate) async fn run(verb: Verb, format: Format) -> Result<(), Refused> {
    let failed = |error: anyhow::Error| Refused::Failed(format!("{error:#}"));
    match verb {
        Verb::Place(args) => {
            if args.clients.is_empty() || args.clients.contains(&0) || args.runs == 0 || args.rate == Some(0)
            {
                return Err(Refused::Usage("--clients, --runs and --rate are numbers above 0".to_owned()));
            }
            let rows = place::run(&args).await.map_err(failed)?;
            report::show(format, &args, &rows);
        }
        Verb::Apply(args) => {
            let figures = apply::run(&args).await.map_err(failed)?;
            figure::show(format, &note("changes applied", args.engine, args.runs), &figures);
        }
        Verb::Replicate(args) => {
            let figures = replicate::run(&args).await.map_err(failed)?;
            figure::show(format, &note("from one region to another", args.engine, args.runs), &figures);
        }
    }
    Ok(())
}

fn note(what: &str, engine: EngineArg, runs: u16) -> String {
    format!(
        "{what}, views on {}, everything on the same {} processors; middle of {runs} runs",
        engine.as_str(),
        std::thread::available_parallelism().map_or(0, usize::from),
    )
}
