//! A real node over real HTTP, on real files.

mod api;
mod conflicts;
mod contract;
mod engine;
mod events;
mod session;
mod support;
