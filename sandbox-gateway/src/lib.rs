//! A small real payment gateway for the demo, for tests and for integrators.
//!
//! It stands outside the road: nodes call it and are called back. It keeps books, takes money once per key, never after
//! an intent's time, and misbehaves on request. It knows nothing of orders beyond the metadata it is handed.

mod behaviour;
mod callback;
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
use service_kit::{Exit, Origins, Problems, SecretFile, Shutdown, Validate, bind, nodelay};
use tokio::net::TcpListener;

pub use behaviour::{Behaviour, MAGIC_AMOUNTS, MagicAmount};
pub use callback::{SIGNATURE_HEADER, signature};
pub use ledger::{Intent, IntentStatus, NewIntent, NewRefund, Refund, Refusal, Total, Totals};
pub use process::process;

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
    fn validate(&self, _: &mut Problems) {}

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
/// The port is in use, or the secret or the ledger cannot be read.
pub async fn build(config: Config, origins: &Origins) -> Result<SandboxGateway, Exit> {
    let secret = config.secret_file.load()?.expose().to_vec();
    let (journal, ledger) = match config.ledger_path {
        Some(path) => {
            let shown = path.display().to_string();
            let opened = journal::Journal::open(path);
            let (journal, ledger) =
                opened.map_err(|error| Exit::Usage(format!("ledger_path: {shown}: {error}")))?;
            (Some(journal), ledger)
        }
        None => (None, ledger::Ledger::default()),
    };
    let listener = bind("listen", config.listen, origins).await?;
    Ok(SandboxGateway { listener, ledger, journal, secret })
}

impl SandboxGateway {
    /// Where it listens.
    ///
    /// # Errors
    /// The system does not say.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until the shutdown begins, then lets open requests end.
    #[must_use]
    pub fn run(self, shutdown: Shutdown) -> Pin<Box<dyn Future<Output = Result<(), Exit>> + Send>> {
        Box::pin(async move {
            let gateway = http::Gateway::new(self.ledger, self.journal, self.secret, shutdown.clone());
            shutdown.spawn("expiry", gateway.clone().expire_forever());
            let stop = shutdown.token();
            axum::serve(nodelay(self.listener), http::router(gateway))
                .with_graceful_shutdown(async move { stop.cancelled().await })
                .await?;
            shutdown.drain(Duration::from_secs(3)).await?;
            Ok(())
        })
    }
}
