//! D10: at rest every fact that matters has exactly one decision, every stray is reconciled, and no duty is open that
//! somebody could do (that part is the definition of rest).

use cell_core::order::OrderDecision;
use cell_core::payment::PaymentDecision;

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant = Invariant { name: "D10 settled", during: None, at_rest: Some(check) };

fn check(world: &World) -> Result<(), String> {
    world.each_order(0, |id, reading| {
        let Some(state) = &reading.state else { return Ok(()) };
        ensure(reading.blocked.is_none(), || format!("{id} is blocked: {:?}", reading.blocked))?;
        for (key, fact) in reading.known_facts().filter(|(key, _)| key.kind <= 2) {
            let decided = reading.history.iter().filter(|link| match link.body {
                OrderDecision::CaptureSettled(settled) => key.kind == 1 && settled.intent == key.outside,
                OrderDecision::RefundSettled(settled) => key.kind == 2 && settled.refund == key.outside,
                _ => false,
            });
            let times = decided.count();
            ensure(times == 1, || format!("{id}: {fact:?} was settled {times} times"))?;
        }
        // Whoever decides it: the one automatic refund of a capture has one case.
        let mut cases = std::collections::BTreeMap::new();
        for link in reading.history.iter().chain(&reading.strays) {
            if let OrderDecision::RefundGranted(_) = link.body {
                continue;
            }
            if let Some(refund) = link.body.refund() {
                let case = cases.entry(refund.intent.clone()).or_insert(refund.case);
                ensure(*case == refund.case, || {
                    format!("{id}: {} is refunded under two cases", refund.intent)
                })?;
            }
        }
        let stray = reading.strays.iter().find(|stray| !state.reconciled.contains(&stray.hash));
        ensure(stray.is_none(), || format!("{id}: {stray:?} is not reconciled"))
    })?;
    world.each_payment(0, |id, reading| {
        let Some(state) = &reading.state else { return Ok(()) };
        for (key, fact) in reading.known_facts() {
            let noted = reading.history.iter().filter(|link| match link.body {
                PaymentDecision::FactNoted(noted) => {
                    noted.kind == u64::from(key.kind) && noted.outside == key.outside
                }
                _ => false,
            });
            let times = noted.count();
            ensure(times == 1, || format!("{id}: {fact:?} was noted {times} times"))?;
        }
        let stray = reading.strays.iter().find(|stray| !state.reconciled.contains(&stray.hash));
        ensure(stray.is_none(), || format!("{id}: {stray:?} is not reconciled"))
    })
}
