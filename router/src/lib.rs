//! The edge: whose request is it, where is that home, and on to the node there.
//!
//! On the road this crate stands first: *identify* the caller and the key of the route, *decide* the region (a pure
//! function of key, placement and reachability), *proxy* the bytes both ways. It knows the shape of public ids and
//! nothing of orders.
//!
//! Deliberately absent: business rules, caching, repeating of requests that may have been sent, knowledge of epochs (a
//! node answers `421` when a slot has moved, and the router follows it once), and session tokens.

mod config;
mod decide;
mod download;
mod headers;
mod identify;
mod metrics;
mod problem;
mod process;
mod proxy;
mod reachability;
mod routes;
mod run;
mod upload;

pub use config::{AdminConfig, Config, Identity, Limits, Timeouts};
pub use decide::{Health, Refusal, TooManyUpstreams, Upstream, Upstreams, decide};
pub use identify::{IdentifyError, Key};
pub use metrics::METRICS;
pub use problem::{PROBLEMS, Problem};
pub use process::process;
pub use routes::{KeyKind, ROUTES, Route, Verb};
pub use run::{BuildError, Router, RunError};
