//! The operator's tool. It asks nodes and agents over gRPC and prints tables for people or JSON for scripts.
//!
//! Exit codes: 0 done, and everybody asked has answered; 1 failed, or somebody did not answer; 2 usage or configuration;
//! 3 refused as unsafe. What was learnt is printed also where the code is 1.

mod bench;
mod cluster;
mod compare;
mod conflict;
mod demo;
mod dlq;
mod explain;
mod output;
mod quarantine;
mod status;
mod store;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use cluster::Cluster;
use output::{Format, Refused};
use service_kit::{Exit, main_exit};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The cluster file that is read if none is named.
const CLUSTER: &str = "cluster.toml";
const CODES: &str = "Exit codes: 0 done, and everybody asked has answered; 1 failed, or somebody did not answer (what was \
                     learnt is printed all the same); 2 usage or configuration; 3 refused as unsafe.";

#[derive(Debug, Parser)]
#[command(name = "cellctl", version, about = "Operate a Homecell cluster", after_help = CODES)]
struct Cli {
    // Both stand before or behind the noun, and only where they mean something.
    /// The file that names the regions and where their nodes and agents answer: for order, payment, dlq, conflict, quarantine, region, diff, repair and verify [env:
    /// CELLCTL_CLUSTER] [default: cluster.toml].
    #[arg(long, value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Tables for people, or JSON for scripts: for all but the demo [default: table].
    #[arg(short, long, value_enum)]
    output: Option<Format>,
    #[command(subcommand)]
    noun: Noun,
}

/// What asks a cluster.
#[derive(Debug, Args)]
struct Asking<V: Subcommand> {
    /// The file that names the regions and where their nodes and agents answer [default: cluster.toml].
    #[arg(long, global = true, env = "CELLCTL_CLUSTER", value_name = "FILE")]
    cluster: Option<PathBuf>,
    #[command(flatten)]
    printing: Printing<V>,
}

/// The same for a question that has no verb.
#[derive(Debug, Args)]
struct AskingFor<A: Args> {
    /// The file that names the regions and where their nodes and agents answer [default: cluster.toml].
    #[arg(long, env = "CELLCTL_CLUSTER", value_name = "FILE")]
    cluster: Option<PathBuf>,
    /// Tables for people, or JSON for scripts [default: table].
    #[arg(short, long, value_enum)]
    output: Option<Format>,
    #[command(flatten)]
    args: A,
}

#[derive(Debug, Args)]
struct Printing<V: Subcommand> {
    /// Tables for people, or JSON for scripts [default: table].
    #[arg(short, long, global = true, value_enum)]
    output: Option<Format>,
    #[command(subcommand)]
    verb: V,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Three regions, a router and a payment gateway on this machine, to look at or to be guided through.
    Demo(demo::DemoArgs),
    /// What things cost here.
    Bench(Printing<bench::Verb>),
    /// Orders as every region knows them.
    Order(Asking<explain::Verb>),
    /// Payments as every region knows them.
    Payment(Asking<explain::Verb>),
    /// Messages that could not be delivered.
    Dlq(Asking<dlq::Verb>),
    /// Where two homes, or the world outside and a decision, said different things.
    Conflict(Asking<conflict::Verb>),
    /// Changes that a region could not apply.
    Quarantine(Asking<quarantine::Verb>),
    /// Regions: how far they know each other.
    Region(Asking<status::Verb>),
    /// Compare what two regions have of what both should have.
    Diff(AskingFor<compare::DiffArgs>),
    /// Compare two regions, and let both take over what they lack.
    Repair(AskingFor<compare::RepairArgs>),
    /// Read all that regions wrote, now, and say whether it is still what was written: the log from the disk, the view as its
    /// engine gives it, which may have it in memory still (what only its files lost shows when it starts).
    Verify(AskingFor<verify::VerifyArgs>),
    /// A node's folder on this machine.
    Store(Printing<store::Verb>),
}

async fn run(cli: Cli) -> Result<(), Refused> {
    let Cli { cluster, output, noun } = cli;
    match noun {
        Noun::Demo(_) if cluster.is_some() || output.is_some() => {
            Err(Refused::Usage("the demo takes neither --cluster nor --output".to_owned()))
        }
        Noun::Bench(_) | Noun::Store(_) if cluster.is_some() => {
            Err(Refused::Usage("no cluster is asked for this: it takes no --cluster".to_owned()))
        }
        Noun::Demo(args) => demo::run(args).await,
        Noun::Bench(Printing { output: its, verb }) => {
            bench::run(verb, its.or(output).unwrap_or_default()).await
        }
        Noun::Order(asking) => {
            let (cluster, verb, format) = asking.read(cluster, output)?;
            explain::run(&cluster, explain::Of::Orders, verb, format).await
        }
        Noun::Payment(asking) => {
            let (cluster, verb, format) = asking.read(cluster, output)?;
            explain::run(&cluster, explain::Of::Payments, verb, format).await
        }
        Noun::Dlq(asking) => {
            let (cluster, verb, format) = asking.read(cluster, output)?;
            dlq::run(&cluster, verb, format).await
        }
        Noun::Conflict(asking) => {
            let (cluster, verb, format) = asking.read(cluster, output)?;
            conflict::run(&cluster, verb, format).await
        }
        Noun::Quarantine(asking) => {
            let (cluster, verb, format) = asking.read(cluster, output)?;
            quarantine::run(&cluster, verb, format).await
        }
        Noun::Region(asking) => {
            let (cluster, verb, format) = asking.read(cluster, output)?;
            status::run(&cluster, verb, format).await
        }
        Noun::Diff(asking) => {
            let (cluster, args, format) = asking.read(cluster, output)?;
            compare::diff(&cluster, args, format).await
        }
        Noun::Repair(asking) => {
            let (cluster, args, format) = asking.read(cluster, output)?;
            compare::repair(&cluster, args, format).await
        }
        Noun::Verify(asking) => {
            let (cluster, args, format) = asking.read(cluster, output)?;
            verify::run(&cluster, args, format).await
        }
        Noun::Store(Printing { output: its, verb }) => store::run(verb, its.or(output).unwrap_or_default()),
    }
}

impl<V: Subcommand> Asking<V> {
    /// The cluster that is asked, what about, and how it is printed; what stands before the noun counts like what stands
    /// behind it, and more than the environment.
    fn read(self, cluster: Option<PathBuf>, output: Option<Format>) -> Result<(Cluster, V, Format), Refused> {
        let path = cluster.or(self.cluster).unwrap_or_else(|| CLUSTER.into());
        let Printing { output: its, verb } = self.printing;
        Ok((Cluster::load(&path)?, verb, its.or(output).unwrap_or_default()))
    }
}

impl<A: Args> AskingFor<A> {
    /// As [`Asking::read`].
    fn read(self, cluster: Option<PathBuf>, output: Option<Format>) -> Result<(Cluster, A, Format), Refused> {
        let path = cluster.or(self.cluster).unwrap_or_else(|| CLUSTER.into());
        Ok((Cluster::load(&path)?, self.args, self.output.or(output).unwrap_or_default()))
    }
}

fn main() -> ExitCode {
    if let Some(code) = demo::play_role(std::env::args_os()) {
        return code;
    }
    let mut unsafe_refusal = None;
    let code = main_exit("cellctl", || {
        let cli = Cli::parse();
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        match runtime.block_on(run(cli)) {
            Ok(()) => Ok(()),
            Err(Refused::Usage(message)) => Err(Exit::Usage(message)),
            Err(Refused::Failed(message)) => Err(Exit::Failed(message)),
            Err(Refused::Unsafe(message)) => {
                unsafe_refusal = Some(message);
                Ok(())
            }
        }
    });
    match unsafe_refusal {
        Some(message) => {
            output::remark(format_args!("cellctl: refused as unsafe: {message}"));
            ExitCode::from(3)
        }
        None => code,
    }
}
