//! What an observer outside of all regions saw: the invariants compare it with what the regions say.

use std::collections::{BTreeMap, BTreeSet};

use cell_core::event::{Body, Change, Decision, Entry, Record};
use cell_core::gate::{Envelope, MessageId};
use cell_core::id::{ActorId, Hash, OrderId, PaymentId};
use cell_core::order::OrderDecision;
use cell_core::payment::{PaymentDecision, Permit};
use cell_core::version::Dot;

use super::invariants::Violation;

/// A change that became durable at its author.
#[derive(Debug)]
pub(crate) struct Born {
    pub(crate) change: Change,
}

#[derive(Debug, Default)]
pub(crate) struct Journal {
    /// Changes whose success a client was told.
    pub(crate) acked: Vec<Dot>,
    /// Answers that showed less than their reader had seen.
    pub(crate) stale: Vec<String>,
    pub(crate) started: BTreeSet<ActorId>,
    pub(crate) hashes: BTreeMap<Dot, Hash>,
    pub(crate) born: Vec<Born>,
    pub(crate) durable_at_author: BTreeMap<ActorId, u64>,
    pub(crate) permits: BTreeMap<PaymentId, Permit>,
    pub(crate) attempts: BTreeSet<(PaymentId, u64)>,
    pub(crate) asked: BTreeSet<[u8; 16]>,
    pub(crate) placed: BTreeSet<OrderId>,
    pub(crate) envelopes: BTreeMap<MessageId, Envelope>,
    /// Per actor, from where on changes went down with a disk.
    pub(crate) lost: BTreeMap<ActorId, (u64, u64)>,
    /// Places of which a disk was lost, or replaced by an older one.
    pub(crate) disks_lost: BTreeSet<usize>,
    pub(crate) violations: Vec<Violation>,
}

impl Journal {
    pub(crate) fn violate(&mut self, invariant: &'static str, detail: String) {
        if self.violations.iter().all(|violation| violation.invariant != invariant) {
            self.violations.push(Violation { invariant, detail });
        }
    }

    /// An entry became durable somewhere; `own` where it was written.
    pub(crate) fn synced(&mut self, entry: &Entry, own: bool) {
        let known = *self.hashes.entry(entry.dot).or_insert(entry.hash);
        if known != entry.hash {
            self.violate("D4 once", format!("{} has two hashes", entry.dot));
        }
        if !own {
            let written = self.durable_at_author.get(&entry.dot.actor).copied().unwrap_or(0);
            if entry.dot.seq > written {
                self.violate(
                    "D7 nothing-invented",
                    format!("{} is durable elsewhere before at home", entry.dot),
                );
            }
            return;
        }
        let written = self.durable_at_author.entry(entry.dot.actor).or_default();
        *written = entry.dot.seq.max(*written);
        let Ok(change) = Change::decode(&entry.bytes) else {
            self.violate("D4 once", format!("{} cannot be read", entry.dot));
            return;
        };
        for event in &change.events {
            match &event.body {
                Some(Body::Record(Record::Permit(permit))) => {
                    self.permits.insert(permit.payment_id(), permit.clone());
                }
                Some(Body::Decided(decided)) => match &decided.body {
                    Decision::Order(OrderDecision::PermitOpened(opened)) => {
                        self.permits.insert(opened.permit.payment_id(), opened.permit.clone());
                    }
                    Decision::Payment(PaymentDecision::AttemptStarted(started)) => {
                        if let Some(payment) = event.entities.first().and_then(|id| id.payment()) {
                            self.attempts.insert((payment, started.k));
                        }
                    }
                    _ => {}
                },
                _ => {}
            }
        }
        self.born.push(Born { change });
    }
}
