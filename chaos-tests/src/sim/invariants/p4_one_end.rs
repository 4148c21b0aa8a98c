//! P4: at rest every permit ever opened has exactly one ended payment, counted on payments, never on gates.

use cell_core::payment::PaymentDecision;

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant = Invariant { name: "P4 one-end", during: None, at_rest: Some(check) };

fn check(world: &World) -> Result<(), String> {
    world.each_order(0, |id, reading| {
        let permits: Vec<_> = cell_core::duty::every_permit(reading).map(|(payment, _)| payment).collect();
        permits.into_iter().try_for_each(|payment| {
            let ended = world.nodes[0].payment(payment, |reading| {
                let ends =
                    reading.history.iter().filter(|link| matches!(link.body, PaymentDecision::Ended(_)));
                (reading.state.as_ref().and_then(|state| state.ended()), ends.count())
            });
            ensure(matches!(ended, Some((Some(_), 1))), || {
                format!("{id}: permit {payment} ended as {ended:?}")
            })
        })?;
        let open = reading.state.as_ref().and_then(|state| state.open_permit());
        ensure(open.is_none(), || format!("{id} has a permit open at rest"))
    })?;
    world.each_payment(0, |id, reading| {
        let going = reading.state.as_ref().is_some_and(|state| state.ended().is_none());
        ensure(!going, || format!("{id} never ended"))
    })
}
