//! D2: at rest every acknowledged change is in every region; if a disk died, the report bounds what is missing. What stood
//! behind a hole that was given up is there as state.

use cell_core::version::Dot;

use super::{Invariant, ensure};
use crate::sim::node::Node;
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "D2 no-silent-loss", during: None, at_rest: Some(check) };

fn check(world: &World) -> Result<(), String> {
    world.journal.acked.iter().try_for_each(|dot| {
        let range = world.journal.lost.get(&dot.actor);
        let reported = range.is_some_and(|(from, to)| (*from..=*to).contains(&dot.seq));
        let everywhere =
            world.nodes.iter().all(|node| node.durable_seq(&dot.actor) >= dot.seq || has_as_state(node, dot));
        ensure(reported || everywhere, || {
            format!("{dot} was acknowledged, is not everywhere and not reported lost")
        })
    })
}

/// Whether its actor is closed in front of the change, and what it did is in the view.
fn has_as_state(node: &Node, dot: &Dot) -> bool {
    let closed = node.cell.fronts().closed().get(&dot.actor);
    closed.is_some_and(|last| *last < dot.seq)
        && node.shelf.entities.values().any(|entity| {
            entity.items().any(|(_, item)| item.origins.iter().any(|origin| origin.dot == *dot))
        })
}
