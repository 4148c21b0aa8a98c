//! The gate (being written).
mod envelope;
pub use envelope::{Envelope, MessageId, MessageKind, Requirement};
