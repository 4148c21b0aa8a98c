//! The Prometheus recorder behind the `metrics` macros. No listener of its own: the admin port renders it.

use std::fmt;
use std::sync::{Mutex, OnceLock, PoisonError};

use ::metrics::Label;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};

/// Upper bounds in seconds for every histogram whose name ends in `_seconds`: from a memory access to a stuck link.
const SECONDS_BUCKETS: [f64; 16] =
    [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

/// Label values beyond which the glossary does not list them.
const LISTED_MAX: usize = 8;

/// What a metric does over time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

/// One row of a service's table of metrics: what `/metrics` and the glossary say of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    pub name: &'static str,
    pub kind: MetricKind,
    /// Each label, and its values where they are known beforehand; else they are learnt at the start, or as they come.
    pub labels: &'static [(&'static str, &'static [&'static str])],
    /// One sentence.
    pub help: &'static str,
}

impl Metric {
    /// A row for a counter.
    pub const fn counter(
        name: &'static str,
        labels: &'static [(&'static str, &'static [&'static str])],
        help: &'static str,
    ) -> Self {
        Self { name, kind: MetricKind::Counter, labels, help }
    }

    /// A row for a gauge.
    pub const fn gauge(
        name: &'static str,
        labels: &'static [(&'static str, &'static [&'static str])],
        help: &'static str,
    ) -> Self {
        Self { name, kind: MetricKind::Gauge, labels, help }
    }

    /// A row for a histogram.
    pub const fn histogram(
        name: &'static str,
        labels: &'static [(&'static str, &'static [&'static str])],
        help: &'static str,
    ) -> Self {
        Self { name, kind: MetricKind::Histogram, labels, help }
    }

    /// Every combination of label values, those of `learnt` for labels without values of their own; none if a label's values
    /// are not known.
    fn series(&self, learnt: &[(&'static str, Vec<String>)]) -> Vec<Vec<Label>> {
        let mut series = vec![Vec::new()];
        for (name, values) in self.labels {
            let values: Vec<String> =
                match learnt.iter().find(|(learnt, _)| values.is_empty() && learnt == name) {
                    Some((_, learnt)) => learnt.clone(),
                    None => values.iter().map(|value| (*value).to_owned()).collect(),
                };
            let with = |labels: &Vec<Label>| -> Vec<Vec<Label>> {
                let one = |value: &String| [&labels[..], &[Label::new(*name, value.clone())]].concat();
                values.iter().map(one).collect()
            };
            series = series.iter().flat_map(with).collect();
        }
        series
    }
}

/// The metric's row in the glossary.
impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            MetricKind::Counter => "counter",
            MetricKind::Gauge => "gauge",
            MetricKind::Histogram => "histogram",
        };
        let labels = self.labels.iter().map(|(name, values)| match values.len() {
            1..=LISTED_MAX => format!("`{name}`: {}", values.join(", ")),
            _ => format!("`{name}`"),
        });
        write!(f, "| `{}` | {kind} | {} | {} |", self.name, labels.collect::<Vec<_>>().join("; "), self.help)
    }
}

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

    /// Describes a service's metrics, and begins its counters at zero, so that the first event is an increase that an alert
    /// can see. `learnt` has the values of labels that are known only now, the names of peers for one; a counter with a label
    /// that nobody knows the values of begins when it first counts.
    pub fn declare(&self, metrics: &[Metric], learnt: &[(&'static str, Vec<String>)]) {
        for metric in metrics {
            match metric.kind {
                MetricKind::Gauge => {
                    ::metrics::describe_gauge!(metric.name, metric.help);
                    // One with labels begins when there is something to say: a lag of nothing is no lag.
                    if metric.labels.is_empty() {
                        ::metrics::gauge!(metric.name).increment(0.0);
                    }
                }
                MetricKind::Histogram => ::metrics::describe_histogram!(metric.name, metric.help),
                MetricKind::Counter => {
                    ::metrics::describe_counter!(metric.name, metric.help);
                    for labels in metric.series(learnt) {
                        ::metrics::counter!(metric.name, labels).increment(0);
                    }
                }
            }
        }
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

impl fmt::Debug for MetricsHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsHandle")
    }
}
