//! Real processes rehearsed: a deployment of two regions, clients who remember what they were told, and what becomes of
//! that when files are damaged ([`damage`]), processes killed ([`kills`]) or a region falls behind ([`backlog`]).
//!
//! This program plays all their roles itself ([`play_role`]), so that one build is what is rehearsed.

pub mod backlog;
mod book;
mod checks;
pub mod damage;
mod deployment;
pub mod kills;
mod roles;

pub use roles::play_role;
