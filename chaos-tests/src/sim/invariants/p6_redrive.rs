//! P6: redrive is idempotent: any message ever sent, delivered again at rest, changes nothing.

use cell_core::cell::Delivery;
use cell_core::id::EntityId;
use cell_core::order::Order;
use cell_core::payment::Payment;

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant = Invariant { name: "P6 redrive", during: None, at_rest: Some(check) };

fn check(world: &World) -> Result<(), String> {
    for envelope in world.journal.envelopes.values() {
        // A message about what went down with a disk tells something new, if it ever comes: also where the gateway told
        // a fact of it. No gate keeps one, since nothing is kept at rest.
        if !is_known(world, envelope.subject) {
            ensure(!world.journal.disks_lost.is_empty(), || {
                format!("nobody knows {}, of which {} {} told", envelope.subject, envelope.kind, envelope.id)
            })?;
            continue;
        }
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

/// Whether it is known what it is, and not only that something happened to it.
fn is_known(world: &World, id: EntityId) -> bool {
    let entity = world.nodes[0].shelf.entities.get(&id);
    entity.is_some_and(|entity| entity.record::<Order>().is_some() || entity.record::<Payment>().is_some())
}
