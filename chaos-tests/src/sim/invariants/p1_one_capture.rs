//! P1: at most one capture per payment, and at rest at most one unrefunded capture per order.

use std::collections::BTreeMap;

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "P1 one-capture", during: Some(during), at_rest: Some(at_rest) };

fn during(world: &World) -> Result<(), String> {
    let mut captured = BTreeMap::new();
    for intent in world.gateway.intents.values().filter(|intent| intent.captured_minor() > 0) {
        let times = captured.entry(intent.charge.payment).or_insert(0);
        *times += 1;
        ensure(*times == 1, || format!("{} was captured {times} times", intent.charge.payment))?;
    }
    Ok(())
}

fn at_rest(world: &World) -> Result<(), String> {
    let mut kept = BTreeMap::new();
    for intent in world.gateway.intents.values().filter(|i| i.captured_minor() > 0 && i.refunded_minor == 0) {
        let times = kept.entry(intent.charge.permit.order).or_insert(0);
        *times += 1;
        ensure(*times == 1, || format!("{} keeps {times} captures", intent.charge.permit.order))?;
    }
    Ok(())
}
