//! Rehearsing disasters before they happen.
//!
//! It stands beside the road, in two ways: [`sim`] drives the same pure kernel as the services through a simulated world
//! in which everything that can go wrong does, decided by one seed, without I/O or clocks; [`harness`] starts the real
//! processes, holds the links between them, kills and restarts them, and looks at what clients and the gateway saw. [`real`]
//! is what is rehearsed on it: files damaged in every way, and kills by the thousand.

pub mod harness;
#[cfg(feature = "real")]
pub mod real;
#[cfg(feature = "sim")]
pub mod sim;
