//! Real processes rehearsed: a deployment of two regions, clients who remember what they were told, and what becomes of
//! that when files are damaged ([`damage`]) or processes killed ([`kills`]).
//!
//! This program plays all their roles itself ([`play_role`]), so that one build is what is rehearsed.

mod book;
mod checks;
pub mod damage;
mod deployment;
pub mod kills;
mod roles;

pub use roles::play_role;
