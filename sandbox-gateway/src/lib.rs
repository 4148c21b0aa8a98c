//! A small real payment gateway for the demo, for tests and for integrators.
//!
//! It stands outside the road: nodes call it and are called back. It keeps books, takes money once per key, never after
//! an intent's time, and misbehaves on request. It knows nothing of orders beyond the metadata it is handed.

mod behaviour;
mod callback;
mod gateway;
mod http;
mod journal;
mod ledger;
mod process;

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::Duration;

use serde::Deserialize;
use service_kit::{
    ConfigError, Exit, Origins, PortLimits, Problems, Routes, SecretFile, Shutdown, Validate, bind,
    serve_http,
};
use tokio::net::TcpListener;

pub use behaviour::{Behaviour, MAGIC_AMOUNTS, MagicAmount};
pub use callback::{SIGNATURE_HEADER, signature};
pub use ledger::{Entry, Intent, IntentStatus, NewIntent, NewRefund, Overview, Refund, Refusal, Total};
pub use process::process;

/// How long requests and tasks under way may take once the shutdown has begun, each.
const DRAIN_WITHIN: Duration = Duration::from_secs(3);

/// Configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub listen: SocketAddr,
    /// The secret that callbacks are signed with.
    pub secret_file: SecretFile,
    /// Where the ledger is kept; in memory only if absent.
    #[serde(default)]
    pub ledger_path: Option<PathBuf>,
}

impl Validate for Config {
    fn validate(&self, problems: &mut Problems) {
        if let Err(error) = self.secret_file.load() {
            problems.push("secret_file", error);
        }
        if let Some(path) = &self.ledger_path {
            problems.check(path.file_name().is_some(), "ledger_path", "names no file");
        }
    }

    fn locate(&mut self, folder: &Path) {
        self.secret_file = self.secret_file.located(folder);
        self.ledger_path = self.ledger_path.as_ref().map(|path| folder.join(path));
    }
}

/// A gateway ready to run.
#[derive(Debug)]
pub struct SandboxGateway {
    listener: TcpListener,
    ledger: ledger::Ledger,
    journal: Option<journal::Journal>,
    secret: Vec<u8>,
}

/// Opens the listener and the ledger.
///
/// # Errors
/// One line that names the key: a port in use, a secret or a ledger that cannot be read, a ledger of another process.
pub async fn build(config: Config, origins: &Origins) -> Result<SandboxGateway, Exit> {
    let at = |key: &str, error: &dyn std::fmt::Display| Exit::from(ConfigError::at(key, error, origins));
    let secret = config.secret_file.load().map_err(|error| at("secret_file", &error))?;
    let (journal, ledger) = match config.ledger_path {
        Some(path) => {
            let shown = path.display().to_string();
            let opened = journal::Journal::open(path);
            let (journal, ledger) =
                opened.map_err(|error| at("ledger_path", &format_args!("{shown}: {error}")))?;
            (Some(journal), ledger)
        }
        None => (None, ledger::Ledger::default()),
    };
    let listener = bind("listen", config.listen, origins).await?;
    Ok(SandboxGateway { listener, ledger, journal, secret: secret.expose().to_vec() })
}

impl SandboxGateway {
    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the shutdown begins, then lets open requests end; those that take too long are cut off.
    #[must_use]
    pub fn run(self, shutdown: Shutdown) -> Pin<Box<dyn Future<Output = Result<(), Exit>> + Send>> {
        Box::pin(async move {
            let gateway = gateway::Gateway::new(self.ledger, self.journal, self.secret, shutdown.clone());
            shutdown.spawn("clock", gateway.clone().keep_time());
            let limits = PortLimits { drain_within: DRAIN_WITHIN, ..PortLimits::default() }.beside_files();
            serve_http(self.listener, Routes::new(http::router(gateway)), limits, shutdown.begun()).await;
            shutdown.drain(DRAIN_WITHIN).await?;
            Ok(())
        })
    }
}
