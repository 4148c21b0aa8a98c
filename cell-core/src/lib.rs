//! The pure kernel of Homecell: what an order is, how two copies merge, who may decide what, and what is owed.
//!
//! It stands under everything else on the road and does nothing by itself: no I/O, no clock, no randomness, no tasks.
//! Time and entropy are arguments; what has to happen outside comes back as values.

pub mod canon;
pub mod cell;
pub mod clock;
pub mod conflict;
pub mod digest;
pub mod duty;
pub mod entity;
pub mod event;
pub mod fronts;
pub mod gate;
pub mod graph;
pub mod id;
pub mod lives;
pub mod money;
pub mod museum;
pub mod order;
pub mod payment;
pub mod placement;
pub mod rules;
pub mod session;
pub mod settle;
pub mod version;
