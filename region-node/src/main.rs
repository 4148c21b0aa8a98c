//! A cell's node as a process of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use region_node::Config;
use service_kit::{EXIT_WITH_STDIN_ENV, MetricsHandle, Shutdown, config, main_exit, telemetry};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A cell's node: owns its slots' orders and payments.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[arg(long)]
    config: Option<PathBuf>,
    /// `section.key=value`, over file and environment.
    #[arg(long = "set")]
    overrides: Vec<String>,
    /// Read the configuration, say what is wrong with it, and stop.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    main_exit("region-node", || {
        let cli = Cli::parse();
        let (config, origins) = config::load_traced::<Config>(cli.config.as_deref(), "CELL", &cli.overrides)?;
        if cli.check_config {
            return Ok(());
        }
        telemetry::init("region-node", &config.region, &config.telemetry)?;
        let metrics = MetricsHandle::install().map_err(|error| service_kit::Exit::failed(&error))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let shutdown = Shutdown::new();
            service_kit::watch_signals(&shutdown, std::env::var_os(EXIT_WITH_STDIN_ENV).is_some())?;
            let node = region_node::build(config, &origins, Some(metrics), shutdown).await?;
            service_kit::announce("region-node", &node.listen()?)?;
            node.run().await
        })
    })
}
