//! D3: a node's frontier for an actor means that 1..w are applied, but for what is quarantined and seen to be. That w never
//! goes back, and that nothing is logged out of order, is watched at every sync.

use std::collections::BTreeSet;

use cell_core::cell::View;
use cell_core::event::{Body, Change, Entry};
use cell_core::version::Dot;

use super::{Invariant, ensure};
use crate::sim::node::Node;
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
        applied(node)?;
    }
    Ok(())
}

/// Every change is applied, or quarantined and kept whole.
fn applied(node: &Node) -> Result<(), String> {
    let holes: BTreeSet<Dot> = node.cell.quarantined().map(|(dot, _)| *dot).collect();
    let kept: BTreeSet<Dot> = node.quarantined().iter().map(|kept| kept.entry.dot).collect();
    ensure(holes == kept, || format!("{}: holes {holes:?}, and kept are {kept:?}", node.region))?;
    for entry in
        node.durable.values().flat_map(|held| &held.entries).filter(|entry| !holes.contains(&entry.dot))
    {
        let change = Change::decode(&entry.bytes).map_err(|error| format!("{}: {error}", entry.dot))?;
        for event in &change.events {
            let of_entity =
                matches!(event.body, None | Some(Body::Record(_) | Body::Decided(_) | Body::Fact(_)));
            for id in event.entities.iter().filter(|_| of_entity) {
                let entity = node.shelf.entity(*id).map_err(|error| error.to_string())?;
                let there = entity.is_some_and(|entity| entity.contains(&entry.dot));
                ensure(there, || format!("{}: {} is passed and not in {id}", node.region, entry.dot))?;
            }
        }
    }
    Ok(())
}
