//! O2: at rest a region waits for a sign of life of nobody but who lives: each actor that ended was followed, and all of it
//! is here. Every lag is measured from what is waited for.

use std::collections::BTreeSet;

use cell_core::id::{ActorId, NodeId};
use cell_core::lives::ActorLife;

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "O2 fresh-by-itself", during: None, at_rest: Some(check) };

fn check(world: &World) -> Result<(), String> {
    let living: BTreeSet<ActorId> = world.nodes.iter().map(|node| node.cell.me()).collect();
    let nodes: BTreeSet<NodeId> = living.iter().map(|actor| actor.node).collect();
    // Of whom no sign of life was ever heard, none is missed; and nobody follows what a schedule made up.
    let is_waited_for = |life: &&ActorLife| {
        life.beat_ms > 0 && nodes.contains(&life.actor.node) && !living.contains(&life.actor)
    };
    for node in &world.nodes {
        for life in node.cell.lives().iter().filter(|life| is_waited_for(life)) {
            let known = node.cell.fronts().seq(&life.actor);
            ensure(life.last.is_some_and(|last| known >= last), || {
                format!(
                    "{} waits for {}, which ended at {:?}, and has {known}",
                    node.region, life.actor, life.last
                )
            })?;
        }
    }
    Ok(())
}
