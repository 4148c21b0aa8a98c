//! Logs: one line per event on stderr, as text for people or as JSON for machines, each naming service and region.

mod line;

use std::io::IsTerminal;

use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{ParseError, Targets};
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Layer, Registry};

use crate::config::{Problems, Validate};
use line::{JsonLine, Named};

/// How a log line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// The `[telemetry]` section every binary shares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TelemetryConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// Level directives, the most specific wins: `info,region_node=debug,h2=warn`.
    pub levels: String,
}

/// Logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level directives cannot be read.
    #[error("telemetry.levels: {0}")]
    Levels(#[from] ParseError),
    /// Something in this process logs already; it goes on as it was.
    #[error("telemetry: {0}")]
    Installed(#[from] TryInitError),
}

impl Default for TelemetryConfig {
    fn default() -> Self {
        Self { format: LogFormat::Text, levels: "info".to_owned() }
    }
}

impl Validate for TelemetryConfig {
    fn validate(&self, problems: &mut Problems) {
        if let Err(error) = self.levels.parse::<Targets>() {
            problems.push("levels", error);
        }
    }
}

/// Installs the process's log subscriber. Call it once, first.
///
/// # Errors
/// See [`TelemetryError`].
pub fn init(service: &str, region: &str, config: &TelemetryConfig) -> Result<(), TelemetryError> {
    let targets: Targets = config.levels.parse()?;
    Registry::default().with(layer(service, region, config.format).with_filter(targets)).try_init()?;
    Ok(())
}

fn layer(service: &str, region: &str, format: LogFormat) -> Box<dyn Layer<Registry> + Send + Sync> {
    // The fields of spans are coloured by the layer, the rest by the format.
    let colours = std::io::stderr().is_terminal();
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(colours);
    match format {
        LogFormat::Text => {
            let inner = tracing_subscriber::fmt::format().with_ansi(colours);
            layer.event_format(Named::new(service, region, inner)).boxed()
        }
        LogFormat::Json => {
            layer.fmt_fields(JsonFields::new()).event_format(JsonLine::new(service, region)).boxed()
        }
    }
}
