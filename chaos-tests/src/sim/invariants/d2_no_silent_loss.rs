//! D2: at rest every acknowledged change is in every region; if a disk died, the report bounds what is missing.

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "D2 no-silent-loss", during: None, at_rest: Some(check) };

fn check(world: &World) -> Result<(), String> {
    world.journal.acked.iter().try_for_each(|dot| {
        let range = world.journal.lost.get(&dot.actor);
        let reported = range.is_some_and(|(from, to)| (*from..=*to).contains(&dot.seq));
        let everywhere = world.nodes.iter().all(|node| node.durable_seq(&dot.actor) >= dot.seq);
        ensure(reported || everywhere, || {
            format!("{dot} was acknowledged, is not everywhere and not reported lost")
        })
    })
}
