//! Moves changes and messages between regions, and runs the gate.
//!
//! It stands between its own region's node and the agents of other regions: it tails the node's durable log and streams
//! it to whoever subscribes, applies what peers stream to its node, carries the node's messages to the regions they are
//! for, and holds back, in the gate, those that arrive before the data they speak of.
//!
//! What it deliberately does not do: it does not read the node's files, know orders, decide anything about them, or
//! repair by comparing states; it keeps nothing of its own but the gate's records, and what it loses of those their
//! senders send again.

mod admin;
mod backoff;
mod board;
mod compare;
mod config;
mod exchange;
mod gate;
mod hints;
mod holes;
mod inbox;
mod metrics;
mod node;
mod outbox;
mod pack;
mod placement;
mod positions;
mod process;
mod recovery;
mod replication;
mod service;
mod subscriber;
mod transport;
mod upkeep;

pub use config::{Config, GateConfig, Limits, Listen, PeerConfig};
pub use metrics::METRICS;
pub use process::process;
pub use service::{SyncAgent, build};
