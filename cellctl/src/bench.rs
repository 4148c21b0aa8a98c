//! `bench place`: what durable placement costs here, with the raw floor beside it.
//!
//! Absolute numbers of one machine mean little elsewhere; what is printed beside them can be compared: the same bytes
//! appended and synced in groups of the same size, in the same folder, in the same run. A run in which the host took more
//! than 3 % of the time is thrown away and repeated; of three runs the one in the middle is shown. One that seems to beat the
//! floor was disturbed and says so: the floor was measured in another moment than the run.

mod load;
mod machine;
mod place;
mod report;

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};

use crate::output::{Format, Refused};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Durable order placement on one node.
    Place(PlaceArgs),
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

pub(crate) async fn run(verb: Verb, format: Format) -> Result<(), Refused> {
    let Verb::Place(args) = verb;
    if args.clients.is_empty() || args.clients.contains(&0) || args.runs == 0 || args.rate == Some(0) {
        return Err(Refused::Usage("--clients, --runs and --rate are numbers above 0".to_owned()));
    }
    let failed = |error: anyhow::Error| Refused::Failed(format!("{error:#}"));
    let rows = place::run(&args).await.map_err(failed)?;
    report::show(format, &args, &rows);
    Ok(())
}
