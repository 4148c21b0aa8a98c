//! P5: no message waits past its deadline, nor for something that is there; and whatever is owed is sent again.
//! That nothing is handed over before what it requires is watched at every delivery.

use cell_core::duty::Act;
use cell_core::gate::{Filter, Stage};

use super::{Invariant, ensure};
use crate::sim::world::World;

pub(super) const INVARIANT: Invariant =
    Invariant { name: "P5 no-endless-wait", during: Some(check), at_rest: None };

/// What processes may need to react, in milliseconds.
const GRACE_MS: u64 = 8_000;
/// Longest pause between two sendings of what is owed, with grace.
const RESEND_MS: u64 = 20_000;

fn check(world: &World) -> Result<(), String> {
    for node in world.nodes.iter().filter(|node| node.up) {
        let now_ms = node.local(world.now_ms);
        if node.linked && node.agent.up {
            // Whenever the link comes up everything waits anew for an answer, also what had been handed over and came back busy.
            let asked = world.now_ms > node.linked_at_ms + GRACE_MS;
            let filter = Filter { older_than_ms: Some(GRACE_MS), ..Filter::default() };
            for entry in node.agent.gate.list(now_ms, &filter, None, 64) {
                let Some(message) = entry.message.filter(|_| entry.stage == Stage::Waiting) else { continue };
                let late = asked && message.deadline_ms > 0 && message.deadline_ms + GRACE_MS < now_ms;
                ensure(!late, || format!("{}: {} waits past its deadline", node.region, entry.id))?;
                let quiet = node.is_synced() && world.now_ms > node.slow_until_ms + GRACE_MS;
                let there = !message.missing.is_empty()
                    && quiet
                    && asked
                    && message.missing.iter().all(|need| node.whole_seq(&need.dot.actor) >= need.dot.seq);
                ensure(!there, || format!("{}: {} waits for what is there", node.region, entry.id))?;
            }
        }
        for duty in node.duties.values().flatten().filter(|duty| matches!(duty.act, Act::Send(_))) {
            let pace = node.paces.get(&duty.id);
            let stale = pace.is_some_and(|pace| pace.last_ms > 0 && pace.last_ms + RESEND_MS < now_ms);
            ensure(!(stale && node.is_synced()), || {
                format!("{}: {} is owed and not sent any more", node.region, duty.entity)
            })?;
        }
    }
    Ok(())
}
