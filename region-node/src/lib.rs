//! A cell's node: owns its slots' entities and is the only writer of their decisions.
//!
//! It stands between the router and the log: HTTP in, one durable group, a reply; and between its sync-agent and the
//! log: changes and messages in and out over gRPC. It never talks to another region.

mod config;
mod conflict;
mod contain;
mod desk;
mod doubt;
mod explain;
mod gateway;
mod grpc;
mod http;
mod keys;
mod known;
mod metrics;
mod node;
mod notice;
mod own;
mod process;
mod quarantine;
mod record;
mod scrub;
mod service;
mod session;
mod stopped;
mod traces;
mod upkeep;
mod view;
mod working;
mod writer;

pub use config::{Config, EngineName, GatewayConfig, Listen, LogSettings, RulesConfig, load_placement};
pub use http::{BODY_BYTES_MAX, document as openapi};
pub use metrics::METRICS;
pub use node::{Identity, Node, OpenError, Running};
pub use notice::Notice;
pub use process::process;
pub use service::{RegionNode, build};
pub use stopped::{StoppedError, StoppedNode};
pub use writer::{NodeError, now_ms};
