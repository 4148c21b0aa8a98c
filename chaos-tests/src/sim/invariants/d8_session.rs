//! D8: a reader presenting version v sees at least v, or an explicit refusal; and nobody waits for ever: at rest every
//! version that a client was ever told is here, or known to be lost.

use cell_core::cell::Reached;

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "D8 session", during: Some(during), at_rest: Some(at_rest) };

fn during(world: &World) -> Result<(), String> {
    world.journal.stale.first().map_or(Ok(()), |detail| Err(detail.clone()))
}

fn at_rest(world: &World) -> Result<(), String> {
    for node in &world.nodes {
        for dot in &world.journal.acked {
            let reached = node.cell.reached(&node.shelf, None, dot).map_err(|error| error.to_string())?;
            let held = node.durable_seq(&dot.actor) >= dot.seq;
            let whole = node.whole_seq(&dot.actor) >= dot.seq;
            let expected = match (held, whole) {
                (true, true) => Reached::Here,
                (true, false) => Reached::NotYet,
                (false, _) => Reached::Never,
            };
            ensure(reached == expected, || format!("{}: {dot} is {reached:?}, held: {held}", node.region))?;
        }
    }
    Ok(())
}
