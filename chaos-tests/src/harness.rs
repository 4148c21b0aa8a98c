//! Real processes on loopback ports: start, hold links, kill, restart, look. The tour of `cellctl demo` is its first user.

mod api;
mod cluster;
mod link;
mod patience;
mod process;

pub use api::{Answer, Api, ApiError, Event, Events};
pub use cluster::{CLAIM, Cluster, ClusterError, Kind, Plan, Role};
pub use link::{Latency, Link, LinkState};
pub use patience::until;
pub use process::{ENDS_WITHIN, Process, ProcessError, READY_WITHIN, Spec, tail};
