//! Real processes on loopback ports: start, hold links, kill, restart, look. The tour of `cellctl demo` is its first user.

mod link;
mod process;

pub use link::{Latency, Link, LinkState};
pub use process::{ENDS_WITHIN, Process, ProcessError, READY_WITHIN, Spec, tail};
