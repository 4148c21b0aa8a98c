//! The gateway as a process: arguments, configuration, telemetry, signals.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use service_kit::{
    Exit, LogFormat, Shutdown, TelemetryConfig, config, config_is_valid, main_exit, telemetry,
};

use crate::Config;

/// A small payment gateway for tests and demos. It takes no real money.
#[derive(Debug, Parser)]
#[command(name = "sandbox-gateway", version)]
struct Cli {
    /// Configuration file, TOML.
    #[arg(long, env = "GATEWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one key, over file and environment (GATEWAY_SECTION__KEY), e.g. `--set listen=127.0.0.1:7901`. May be repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Reads the configuration, says what is wrong with it, and ends.
    #[arg(long)]
    check_config: bool,
}

/// Runs the gateway until it is told to stop; `args` begin with the program's name. For `main` functions.
pub fn process(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let cli = Cli::parse_from(args);
    main_exit("sandbox-gateway", || {
        let (config, origins) =
            config::load_traced::<Config>(cli.config.as_deref(), "GATEWAY", &cli.overrides)?;
        if cli.check_config {
            config_is_valid(cli.config.as_deref());
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
            service_kit::watch_signals(&shutdown)?;
            let gateway = crate::build(config, &origins).await?;
            service_kit::announce("sandbox-gateway", &[("http", gateway.local_addr()?)])?;
            gateway.run(shutdown).await.map_err(|error: Exit| error)
        })
    })
}
