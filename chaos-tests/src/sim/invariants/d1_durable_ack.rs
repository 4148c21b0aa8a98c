//! D1: what a client was told is stored survives any kill, power cut and restart while the disk survives; and the
//! loss of a view, since what was trimmed is elsewhere.

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "D1 durable-ack", during: Some(check), at_rest: None };

fn check(world: &World) -> Result<(), String> {
    world.journal.acked.iter().try_for_each(|dot| {
        let lost = world.journal.lost.get(&dot.actor).is_some_and(|(from, _)| *from <= dot.seq);
        let held =
            world.nodes.iter().any(|node| node.durable.get(&dot.actor).is_some_and(|held| held.has(dot.seq)));
        ensure(lost || held, || format!("{dot} was acknowledged and is on no disk"))
    })
}
