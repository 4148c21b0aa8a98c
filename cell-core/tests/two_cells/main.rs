//! What two cells make of each other.

mod conflicts;
mod quarantine;
mod reached;
mod support;
