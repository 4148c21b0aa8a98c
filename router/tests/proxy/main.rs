//! The router between real clients and real regions, all on loopback.

mod drain;
mod edge;
mod failures;
mod limits;
mod moves;
mod passing;
mod refusals;
mod setup;
