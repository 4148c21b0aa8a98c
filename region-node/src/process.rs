//! The service as a process: arguments, configuration, telemetry, signals.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use service_kit::{Exit, MetricsHandle, Shutdown, config, config_is_valid, main_exit, telemetry};

use crate::config::Config;
use crate::metrics::METRICS;
use crate::service;

/// A cell's node: owns its slots' orders and payments.
#[derive(Debug, Parser)]
#[command(name = "region-node", version)]
struct Cli {
    /// Configuration file, TOML.
    #[arg(long, env = "CELL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one key, over file and environment (CELL_SECTION__KEY), e.g. `--set rules.permit_window_ms=600000`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Reads the configuration, says what is wrong with it, and ends.
    #[arg(long)]
    check_config: bool,
}

/// Runs the service until it is told to stop; `args` begin with the program's name. For `main` functions.
pub fn process(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(args);
    main_exit("region-node", || {
        let (config, origins) = config::load_traced::<Config>(cli.config.as_deref(), "CELL", &cli.overrides)?;
        if cli.check_config {
            service::check_folder(&config, &origins)?;
            config_is_valid(cli.config.as_deref());
            return Ok(());
        }
        telemetry::init("region-node", &config.region, &config.telemetry)?;
        let metrics = MetricsHandle::install().map_err(|error| Exit::failed(&error))?;
        metrics.declare(METRICS, &[]);
        // The writer and the applier have threads of their own; a worker more than there are cores left only takes turns with
        // them, and a lone request then wakes two where one would do.
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let workers = cores.saturating_sub(1).max(1);
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(workers).enable_all().build()?;
        runtime.block_on(async {
            let shutdown = Shutdown::new();
            service_kit::watch_signals(&shutdown)?;
            let node = service::build(config, &origins, Some(metrics), shutdown).await?;
            service_kit::announce("region-node", &node.listen()?)?;
            node.run().await
        })
    })
}
