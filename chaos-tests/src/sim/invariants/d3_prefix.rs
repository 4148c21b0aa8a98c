//! D3: a node's frontier for an actor means that 1..w are applied. That w never goes back, and that nothing is logged
//! out of order, is watched at every sync.

use cell_core::event::Entry;
use cell_core::id::Hash;

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "D3 prefix", during: Some(during), at_rest: Some(at_rest) };

fn during(world: &World) -> Result<(), String> {
    for node in world.nodes.iter().filter(|node| node.up) {
        for (actor, entries) in &node.durable {
            let front = node.cell.frontier().get(actor).map_or(0, |front| front.seq);
            ensure(front >= entries.len() as u64, || {
                format!("{}: frontier {front} of {actor} is behind its own log", node.region)
            })?;
        }
    }
    Ok(())
}

fn at_rest(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        for (actor, entries) in &node.durable {
            let mut previous = Hash::ZERO;
            for (at, entry) in entries.iter().enumerate() {
                let fits = entry.dot.seq == at as u64 + 1
                    && entry.hash == Entry::chain(&previous, &entry.dot, &entry.bytes);
                ensure(fits, || format!("{}: {actor} has a hole or a broken chain at {at}", node.region))?;
                previous = entry.hash;
            }
        }
    }
    Ok(())
}
