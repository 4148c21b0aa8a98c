//! The Prometheus recorder behind the `metrics` macros. No listener of its own: the admin port renders it.

use std::sync::{Mutex, OnceLock, PoisonError};

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds in seconds for every histogram whose name ends in `_seconds`: from a memory access to a stuck link.
const SECONDS_BUCKETS: [f64; 16] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

static INSTALLED: OnceLock<MetricsHandle> = OnceLock::new();
static INSTALLING: Mutex<()> = Mutex::new(());

/// Renders what was recorded. Clones are cheap.
#[derive(Clone)]
pub struct MetricsHandle(PrometheusHandle);

/// The recorder could not be installed.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// Something else in the process installed a recorder; its numbers could not be rendered here.
    #[error("another metrics recorder is installed in this process")]
    OtherRecorder,
    /// The fixed bucket list was refused.
    #[error("histogram buckets: {0}")]
    Buckets(String),
}

impl MetricsHandle {
    /// Installs the process's recorder, or returns it if it is there already: services that share a process (tests, the
    /// demo) share their numbers.
    ///
    /// # Errors
    /// See [`MetricsError`].
    pub fn install() -> Result<Self, MetricsError> {
        let _one_at_a_time = INSTALLING.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(handle) = INSTALLED.get() {
            return Ok(handle.clone());
        }
        let recorder = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &SECONDS_BUCKETS)
            .map_err(|error| MetricsError::Buckets(error.to_string()))?
            .build_recorder();
        let handle = Self(recorder.handle());
        ::metrics::set_global_recorder(recorder).map_err(|_| MetricsError::OtherRecorder)?;
        Ok(INSTALLED.get_or_init(|| handle).clone())
    }

    /// The Prometheus text format.
    pub fn render(&self) -> String {
        self.0.render()
    }

    /// Folds raw histogram samples into their buckets; without it they grow until somebody scrapes.
    pub(crate) fn run_upkeep(&self) {
        self.0.run_upkeep();
    }
}

impl std::fmt::Debug for MetricsHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MetricsHandle")
    }
}
