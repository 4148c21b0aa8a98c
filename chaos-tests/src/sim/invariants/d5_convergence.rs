//! D5: equal sets of events mean equal state, and at rest all sets are equal; the disk rebuilds them.

use std::collections::BTreeMap;

use cell_core::canon::Message;
use cell_core::cell::Cell;
use cell_core::digest::Digest;
use cell_core::entity::Entity;
use cell_core::id::Slot;
use cell_core::version::VersionVector;

use super::{Invariant, ensure};
use crate::sim::node::Node;
use crate::sim::world::{World, placement};

pub(super) const INVARIANT: Invariant =
    Invariant { name: "D5 convergence", during: None, at_rest: Some(check) };

fn check(world: &World) -> Result<(), String> {
    let first = &world.nodes[0];
    for node in &world.nodes {
        ensure(node.durable_front() == first.durable_front(), || {
            format!("{} and {} know different changes", node.region, first.region)
        })?;
        for (id, entity) in &node.shelf.entities {
            let other = first.shelf.entities.get(id);
            ensure(other == Some(entity), || {
                format!("{id} differs in {} and {}", node.region, first.region)
            })?;
        }
        let more = first.shelf.entities.keys().find(|id| !node.shelf.entities.contains_key(id));
        ensure(more.is_none(), || format!("{more:?} is missing in {}", node.region))?;
        rebuilt(world, node)?;
        counted(world, first, node)?;
    }
    for entity in first.shelf.entities.values() {
        let copy = Entity::decode(&entity.to_shape().to_canon()).map_err(|error| error.to_string())?;
        ensure(copy == **entity, || format!("{} does not survive its own bytes", entity.id))?;
    }
    Ok(())
}

/// The digests kept step by step are those of what is there, and equal everywhere, also as of the other's version.
fn counted(world: &World, first: &Node, node: &Node) -> Result<(), String> {
    let mut there: BTreeMap<Slot, Digest> = BTreeMap::new();
    for (id, entity) in &node.shelf.entities {
        let of_slot = there.entry(id.slot()).or_default();
        *of_slot = of_slot.plus(entity.digest());
    }
    for slot in Slot::all() {
        let (kept, found) = (node.cell.digests().of(slot), there.get(&slot).copied().unwrap_or_default());
        ensure(kept == found, || format!("{}: {slot:?} is counted {kept}, and holds {found}", node.region))?;
    }
    let at = |of: &Node, version: Option<&VersionVector>| of.cell.digests_at(version, of.local(world.now_ms));
    let (mine, theirs) = (at(node, None), at(node, Some(&first.cell.version())));
    ensure(mine == at(first, None) && mine == theirs, || {
        format!("{} and {} differ by their digests alone", node.region, first.region)
    })
}

fn rebuilt(world: &World, node: &Node) -> Result<(), String> {
    let cell = Cell::new(node.cell.me(), placement(), world.rules.clone());
    let restored = node.disk.restore(cell, world.now_ms, false);
    let (cell, shelf) = restored.map_err(|error| error.to_string())?;
    let holes = |cell: &Cell| cell.quarantined().map(|(dot, _)| *dot).collect::<Vec<_>>();
    ensure(holes(&cell) == holes(&node.cell), || format!("{}: its disk has other holes", node.region))?;
    let differs = node.shelf.entities.iter().find(|(id, entity)| shelf.entities.get(id) != Some(entity));
    ensure(differs.is_none(), || {
        format!(
            "{}: {} is not what its disk says",
            node.region,
            differs.map_or(String::new(), |(id, _)| id.to_string())
        )
    })
}
