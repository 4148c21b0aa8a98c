//! D3: a node's frontier for an actor means that 1..w are applied. That w never goes back, and that nothing is logged
//! out of order, is watched at every sync.

use cell_core::event::Entry;

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "D3 prefix", during: Some(during), at_rest: Some(at_rest) };

fn during(world: &World) -> Result<(), String> {
    for node in world.nodes.iter().filter(|node| node.up) {
        for (actor, held) in &node.durable {
            let front = node.cell.fronts().seq(actor);
            ensure(front >= held.seq(), || {
                format!("{}: frontier {front} of {actor} is behind its own log", node.region)
            })?;
        }
    }
    Ok(())
}

fn at_rest(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        for (actor, held) in &node.durable {
            let mut previous = held.trimmed.hash;
            for (at, entry) in (held.trimmed.seq..).zip(&held.entries) {
                let fits = entry.dot.seq == at + 1
                    && entry.hash == Entry::chain(&previous, &entry.dot, &entry.bytes);
                ensure(fits, || format!("{}: {actor} has a hole or a broken chain at {at}", node.region))?;
                previous = entry.hash;
            }
        }
    }
    Ok(())
}
