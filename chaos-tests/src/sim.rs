//! The simulator: several regions, their disks, the network between them, a payment gateway and impatient users, in
//! virtual time, all decided by one seed.
//!
//! A run has two parts. In the first a script of user operations and faults is played while the safety invariants are
//! checked; then everything is healed and the world is left alone until it comes to rest, where liveness is checked.

mod agent;
mod client;
mod compare;
mod coverage;
mod disk;
mod exchange;
mod fault;
mod gateway;
mod invariants;
mod journal;
mod log;
mod museum;
mod net;
mod node;
mod operator;
mod post;
mod reader;
mod rng;
mod run;
mod schedules;
mod script;
mod stream;
mod work;
mod world;

pub use coverage::{Coverage, RARE, SEEDS_THAT_COVER};
pub use invariants::{ALL as INVARIANTS, Invariant, Violation};
pub use museum::{Caught, Exhibit};
pub(crate) use rng::Rng;
pub use run::{Outcome, run_script, run_seed};
pub use schedules::{ALL as SCHEDULES, Schedule};
pub use script::{Line, Op, Script};
pub use world::World;
