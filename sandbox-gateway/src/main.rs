//! The sandbox gateway as a process of its own.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use sandbox_gateway::Config;
use service_kit::{
    EXIT_WITH_STDIN_ENV, Exit, LogFormat, Shutdown, TelemetryConfig, config, main_exit, telemetry,
};

/// A small payment gateway for tests and demos. It takes no real money.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[arg(long)]
    config: Option<PathBuf>,
    /// `key=value`, over file and environment.
    #[arg(long = "set")]
    overrides: Vec<String>,
    /// Read the configuration, say what is wrong with it, and stop.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    main_exit("sandbox-gateway", || {
        let cli = Cli::parse();
        let (config, origins) =
            config::load_traced::<Config>(cli.config.as_deref(), "GATEWAY", &cli.overrides)?;
        if cli.check_config {
            return Ok(());
        }
        telemetry::init(
            "sandbox-gateway",
            "",
            &TelemetryConfig { format: LogFormat::Text, ..Default::default() },
        )?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(async {
            let shutdown = Shutdown::new();
            service_kit::watch_signals(&shutdown, std::env::var_os(EXIT_WITH_STDIN_ENV).is_some())?;
            let gateway = sandbox_gateway::build(config, &origins).await?;
            service_kit::announce("sandbox-gateway", &[("http", gateway.local_addr()?)])?;
            gateway.run(shutdown).await.map_err(|error: Exit| error)
        })
    })
}
