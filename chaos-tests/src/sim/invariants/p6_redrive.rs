//! P6: redrive is idempotent: any message ever sent, delivered again at rest, changes nothing.

use cell_core::cell::Delivery;

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant = Invariant { name: "P6 redrive", during: None, at_rest: Some(check) };

fn check(world: &World) -> Result<(), String> {
    // A message about what went down with a disk tells something new, if it ever comes.
    let known = |id| world.nodes[0].shelf.entities.contains_key(&id);
    for envelope in world.journal.envelopes.values().filter(|envelope| known(envelope.subject)) {
        for node in &world.nodes {
            // Nor one that speaks for a decree which went down with its disk unheard.
            let home = node.cell.placement().home(envelope.from_slot);
            let epoch = &envelope.epoch;
            if (epoch.term, epoch.step, Some(epoch.actor)) > (home.term, home.step, home.actor) {
                continue;
            }
            for why in [Delivery::Ready, Delivery::Expired, Delivery::Discarded] {
                let mut cell = node.cell.clone();
                let (step, _) = cell
                    .deliver(&node.shelf, envelope, why, node.local(world.now_ms))
                    .map_err(|error| error.to_string())?;
                ensure(step.entries.is_empty(), || {
                    format!("{} {} of {} has an effect at rest", envelope.kind, envelope.id, envelope.subject)
                })?;
            }
        }
    }
    Ok(())
}
