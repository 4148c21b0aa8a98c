//! Rehearsing what goes wrong: a simulator on the pure kernel, and a harness for real processes.
//!
//! It stands beside the road and uses every part of it; nothing but `cellctl` depends on it. It holds no production
//! logic: what it drives is what runs.

pub mod harness;
