//! A region's sync-agent as a process of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use service_kit::{EXIT_WITH_STDIN_ENV, Exit, MetricsHandle, Shutdown, config, main_exit, telemetry};
use sync_agent::Config;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Moves changes and messages between regions; parks what arrives before its data.
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
    main_exit("sync-agent", || {
        let cli = Cli::parse();
        let (config, origins) = config::load_traced::<Config>(cli.config.as_deref(), "CELL", &cli.overrides)?;
        if cli.check_config {
            return Ok(());
        }
        telemetry::init("sync-agent", &config.region, &config.telemetry)?;
        let metrics = MetricsHandle::install().map_err(|error| Exit::failed(&error))?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let shutdown = Shutdown::new();
            service_kit::watch_signals(&shutdown, std::env::var_os(EXIT_WITH_STDIN_ENV).is_some())?;
            let agent = sync_agent::build(config, &origins, Some(metrics), shutdown).await?;
            service_kit::announce("sync-agent", &agent.listen()?)?;
            agent.run().await
        })
    })
}
