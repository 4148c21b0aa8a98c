//! Regions as real processes, their links held, cut and healed; processes killed and started again.

mod damage;
mod links;
mod messages;
mod operators;
mod stage;
mod starts;
