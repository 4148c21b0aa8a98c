//! What every binary needs to be a good citizen of a machine, and nothing else.
//!
//! On the road this crate stands beside every step and on none of them: it reads the configuration, opens the
//! listeners, bounds what comes through them, installs logs and metrics, answers the admin port and winds the process down. A binary is
//! `load → validate → build → run(shutdown)` and reads in a minute.
//!
//! Deliberately absent: domain types, request handling, retries, TLS, clocks and randomness (callers supply bytes).

#![forbid(unsafe_code)]

mod admin;
mod announce;
mod bind;
pub mod config;
mod drain;
mod exit;
mod http_port;
mod metrics;
mod print;
mod secret;
mod signals;
pub mod telemetry;
mod trace_parent;
mod words;

pub use admin::{Admin, Readiness, Version};
pub use announce::{Announcement, announce};
pub use bind::{BindError, bind};
pub use config::{ConfigError, Origins, Problems, Validate};
pub use drain::{DrainError, Shutdown};
pub use exit::{Exit, config_is_valid, main_exit};
pub use http_port::{Answers, Http2Limits, PortLimits, Routes, serve_http};
pub use metrics::{Metric, MetricKind, MetricsError, MetricsHandle};
pub use print::{line, remark};
pub use secret::{Secret, SecretError, SecretFile};
pub use signals::{EXIT_WITH_STDIN_ENV, watch_signals};
pub use telemetry::{LogFormat, TelemetryConfig, TelemetryError};
pub use trace_parent::{TraceParent, TraceParentError};
pub use words::Words;
