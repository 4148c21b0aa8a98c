//! P2: in the gateway's own ledger, captured − refunded is what is shown as paid.

use cell_core::order::OrderPhase;

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "P2 books-agree", during: None, at_rest: Some(check) };

fn check(world: &World) -> Result<(), String> {
    let orders = world.gateway.intents.values().map(|intent| intent.charge.permit.order);
    let orders: std::collections::BTreeSet<_> = orders.collect();
    for order in orders {
        let held = world.gateway.balance_minor(order);
        let shown = world.nodes[0].order(order, |reading| {
            let state = reading.state.as_ref()?;
            let applied = state.applied.as_ref().filter(|_| state.phase == OrderPhase::Paid)?;
            let back = reading.known_facts().filter_map(|(_, fact)| match fact {
                cell_core::event::Fact::Refund(refund) if refund.intent == applied.intent => {
                    Some(refund.amount_minor)
                }
                _ => None,
            });
            Some(applied.amount_minor.saturating_sub(back.sum()))
        });
        let shown = shown.flatten().unwrap_or(0);
        ensure(held == shown, || {
            let label =
                world.nodes[0].order(order, |reading| reading.state.as_ref().map(|state| state.label()));
            format!("{order}: the gateway holds {held}, shown as paid {shown} ({label:?})")
        })?;
    }
    Ok(())
}
