//! What two cells make of each other.

mod conflicts;
mod reached;
mod support;
