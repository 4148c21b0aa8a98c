//! The service as a process: arguments, configuration, telemetry, signals.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use service_kit::{Exit, Shutdown, announce, config_is_valid, main_exit, telemetry, watch_signals};

use crate::config::Config;
use crate::run::{BuildError, Router};

/// Steers each request to the region where its user, order or payment is at home.
#[derive(Parser)]
#[command(name = "router", version)]
struct Arguments {
    /// Configuration file, TOML.
    #[arg(long, env = "CELL_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Overrides one key, over file and environment (CELL_SECTION__KEY), e.g. `--set timeouts.response_ms=5000`. May be
    /// repeated.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Reads the configuration, says what is wrong with it, and ends.
    #[arg(long)]
    check_config: bool,
}

/// Runs the router until it is told to stop; `args` begin with the program's name. For `main` functions.
pub fn process(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = Arguments::parse_from(args);
    main_exit("router", || run(arguments))
}

fn run(arguments: Arguments) -> Result<(), Exit> {
    let (config, origins) = Config::load(arguments.config.as_deref(), &arguments.overrides)?;
    if arguments.check_config {
        Router::check(&config, &origins)?;
        config_is_valid(arguments.config.as_deref());
        return Ok(());
    }
    telemetry::init("router", &config.region, &config.telemetry)?;
    tokio::runtime::Runtime::new()?.block_on(async {
        let shutdown = Shutdown::new();
        watch_signals(&shutdown)?;
        let router = Router::build(config, &origins).await.map_err(exit_of)?;
        announce("router", &[("http", router.http_addr()?), ("admin", router.admin_addr()?)])?;
        router.run(shutdown).await.map_err(|error| Exit::failed(&error))
    })
}

fn exit_of(error: BuildError) -> Exit {
    match error {
        BuildError::Config(error) => error.into(),
        BuildError::Bind(error) => error.into(),
        BuildError::Metrics(_) | BuildError::Entropy(_) | BuildError::Listener(_) => Exit::failed(&error),
    }
}
