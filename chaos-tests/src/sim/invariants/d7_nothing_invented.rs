//! D7: nothing is invented: every order was placed, every command asked, every fact is in the gateway's ledger.

use cell_core::event::Fact;

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "D7 nothing-invented", during: None, at_rest: Some(check) };

fn check(world: &World) -> Result<(), String> {
    world.each_order(0, |id, reading| {
        ensure(reading.record.is_none() || world.journal.placed.contains(&id), || {
            format!("{id} was never placed")
        })?;
        for link in reading.history.iter().chain(&reading.strays) {
            let asked = link.command().is_none_or(|command| world.journal.asked.contains(&command.id));
            ensure(asked, || format!("{id}: nobody gave the command of {:?}", link.body))?;
        }
        for (_, fact) in reading.known_facts() {
            let known = match fact {
                Fact::Capture(capture) => world
                    .gateway
                    .intents
                    .get(&capture.intent)
                    .is_some_and(|intent| intent.captured_minor() == capture.amount_minor),
                Fact::Refund(refund) => world.gateway.refunds.get(&refund.case) == Some(refund),
                Fact::Failure(failure) => world
                    .gateway
                    .intents
                    .get(&failure.intent)
                    .is_some_and(|intent| intent.captured_minor() == 0),
                Fact::Barred(_) => true,
            };
            ensure(known, || format!("{id}: {fact:?} is not in the gateway's ledger"))?;
        }
        Ok(())
    })
}
