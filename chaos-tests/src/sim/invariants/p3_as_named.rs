//! P3: a payment executes only on the content and amount named. That an attempt is durable before the gateway hears of
//! it is watched at every call.

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "P3 only-what-was-named", during: Some(during), at_rest: Some(at_rest) };

fn during(world: &World) -> Result<(), String> {
    world.gateway.intents.values().try_for_each(|intent| {
        let named = world.journal.permits.get(&intent.charge.payment);
        ensure(named.is_some_and(|permit| permit.amount_minor == intent.charge.permit.amount_minor), || {
            format!(
                "{} charges {} on no durable permit of that amount",
                intent.id, intent.charge.permit.amount_minor
            )
        })
    })
}

fn at_rest(world: &World) -> Result<(), String> {
    world.each_order(0, |id, reading| {
        let Some((state, applied)) =
            reading.state.as_ref().and_then(|state| Some((state, state.applied.as_ref()?)))
        else {
            return Ok(());
        };
        let exact = world.gateway.intents.get(&applied.intent).is_some_and(|intent| {
            intent.charge.permit.content == state.content.hash()
                && Ok(intent.captured_minor()) == state.content.total_minor()
        });
        ensure(exact, || format!("{id} counts as paid by {} with another content", applied.intent))
    })
}
