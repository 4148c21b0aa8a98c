//! The operator's tool. It asks nodes and agents over gRPC and prints tables for people or JSON for scripts.
//!
//! Exit codes: 0 done, 1 failed, 2 usage or configuration, 3 refused as unsafe.

mod bench;
mod cluster;
mod compare;
mod demo;
mod dlq;
mod explain;
mod output;
mod status;
mod store;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use cluster::Cluster;
use output::{Format, Refused};
use service_kit::{Exit, main_exit};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Debug, Parser)]
#[command(name = "cellctl", version, about = "Operate a Homecell cluster")]
struct Cli {
    /// The file that names the regions and where their nodes and agents answer.
    #[arg(long, global = true, env = "CELLCTL_CLUSTER", default_value = "cluster.toml")]
    cluster: PathBuf,
    /// Tables for people, or JSON for scripts.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    output: Format,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Debug, Subcommand)]
enum Noun {
    /// Three regions, a router and a payment gateway on this machine, to look at or to be guided through.
    Demo(demo::DemoArgs),
    /// What things cost here.
    #[command(subcommand)]
    Bench(bench::Verb),
    /// Orders as every region knows them.
    #[command(subcommand)]
    Order(explain::Verb),
    /// Payments as every region knows them.
    #[command(subcommand)]
    Payment(explain::Verb),
    /// Messages that could not be delivered.
    #[command(subcommand)]
    Dlq(dlq::Verb),
    /// Regions: how far they know each other.
    #[command(subcommand)]
    Region(status::Verb),
    /// Compare what two regions have of what both should have.
    Diff(compare::DiffArgs),
    /// Compare two regions, and let both take over what they lack.
    Repair(compare::RepairArgs),
    /// A node's folder on this machine.
    #[command(subcommand)]
    Store(store::Verb),
}

async fn run(cli: Cli) -> Result<(), Refused> {
    let cluster = || Cluster::load(&cli.cluster);
    match cli.noun {
        Noun::Demo(args) => demo::run(args).await,
        Noun::Bench(verb) => bench::run(verb, cli.output).await,
        Noun::Order(verb) => explain::run(&cluster()?, "ord_", verb, cli.output).await,
        Noun::Payment(verb) => explain::run(&cluster()?, "pay_", verb, cli.output).await,
        Noun::Dlq(verb) => dlq::run(&cluster()?, verb, cli.output).await,
        Noun::Region(verb) => status::run(&cluster()?, verb, cli.output).await,
        Noun::Diff(args) => compare::diff(&cluster()?, args, cli.output).await,
        Noun::Repair(args) => compare::repair(&cluster()?, args, cli.output).await,
        Noun::Store(verb) => store::run(verb, cli.output),
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
            eprintln!("cellctl: refused as unsafe: {message}");
            ExitCode::from(3)
        }
        None => code,
    }
}
