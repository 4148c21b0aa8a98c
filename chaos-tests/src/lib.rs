//! Rehearsing disasters before they happen.
//!
//! It stands beside the road: the simulator drives the same pure kernel as the services, through a simulated world in
//! which everything that can go wrong does, decided by one seed. It does no I/O and measures no time.

pub mod sim;
