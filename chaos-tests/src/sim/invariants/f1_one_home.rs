//! F1: every decision was written by the actor its epoch names; at rest each slot has one home.

use cell_core::event::Body;

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "F1 one-epoch-one-home", during: Some(during), at_rest: Some(at_rest) };

fn during(world: &World) -> Result<(), String> {
    for born in &world.journal.born[world.checked..] {
        for event in &born.change.events {
            if let Some(Body::Decided(decided)) = &event.body {
                ensure(decided.epoch.actor == born.change.dot.actor, || {
                    format!("{} decided under {}", born.change.dot, decided.epoch)
                })?;
            }
        }
    }
    Ok(())
}

fn at_rest(world: &World) -> Result<(), String> {
    world.slots.iter().try_for_each(|slot| {
        let homes = world.nodes.iter().filter(|node| node.cell.owned(*slot).is_some()).count();
        ensure(homes == 1, || {
            let views = world.nodes.iter().map(|node| {
                let home = node.cell.placement().home(*slot);
                let actor = home.actor.map_or("nobody yet".to_owned(), |actor| actor.to_string());
                format!("{} says {}.{}@{actor}", node.cell.me(), home.term, home.step)
            });
            format!("{slot:?} has {homes} homes: {}", views.collect::<Vec<_>>().join("; "))
        })
    })
}
