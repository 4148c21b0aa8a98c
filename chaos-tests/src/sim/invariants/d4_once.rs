//! D4: applying a change again changes nothing; one dot has one hash (watched at every sync).

use cell_core::cell::Incoming;
use cell_core::entity::Entity;

use super::{Invariant, ensure, size};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant = Invariant { name: "D4 once", during: None, at_rest: Some(check) };

fn check(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        let mut cell = node.cell.clone();
        let now_ms = node.local(world.now_ms);
        for entry in node.durable.values().flat_map(|held| &held.entries) {
            let again = cell
                .replicate(&node.shelf, &Incoming::read(entry.clone()), now_ms)
                .map_err(|error| error.to_string())?;
            let nothing =
                again.as_ref().is_ok_and(|step| step.entries.is_empty() && step.entities.is_empty());
            ensure(nothing, || format!("{}: {} applied again does something", node.region, entry.dot))?;
        }
        for entity in node.shelf.entities.values() {
            let mut twice: Entity = (**entity).clone();
            ensure(!twice.join(entity), || format!("{} of {} events merges twice", entity.id, size(entity)))?;
        }
    }
    Ok(())
}
