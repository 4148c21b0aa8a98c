//! A real node over real HTTP, on real files.

mod api;
mod events;
mod support;
