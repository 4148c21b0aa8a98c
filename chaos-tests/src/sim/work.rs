//! Duties: looked at whenever their entity changed, acted upon with a pause that grows, for as long as they show.

use std::collections::{BTreeMap, BTreeSet};

use cell_core::duty::{Act, Charge, Duty};
use cell_core::event::{Fact, FailureKind};
use cell_core::gate::MessageKind;
use cell_core::id::{OrderId, PaymentId, Slot};
use cell_core::order::RefundCase;

use super::gateway::Created;
use super::museum::Exhibit;
use super::node::Pace;
use super::world::{Event, World};

/// A call to the gateway.
#[derive(Clone, Debug)]
pub(crate) enum Call {
    Charge(Box<Charge>),
    Close { payment: PaymentId, order: OrderId },
    Refund { case: RefundCase, order: OrderId },
    AskRefund { case: RefundCase },
    List { slots: BTreeSet<Slot> },
}

/// What came back.
#[derive(Clone, Debug, Default)]
pub(crate) struct Found {
    pub(crate) facts: Vec<Fact>,
    /// This attempt is not known and can never be created any more.
    pub(crate) never: Option<(PaymentId, u64)>,
    /// A listing that was asked for at this time.
    pub(crate) listed_at_ms: Option<u64>,
}

impl World {
    /// Computes the duties of what changed. Only while the log is synced: nothing undurable may show in them.
    pub(crate) fn refresh(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        if !node.up {
            return;
        }
        let dirty = std::mem::take(&mut node.dirty);
        let around: BTreeSet<_> = dirty.into_iter().flat_map(|id| node.shelf.around(id)).collect();
        for id in around {
            match node.cell.duties(&node.shelf, id) {
                Ok(duties) if !duties.is_empty() => node.duties.insert(id, duties),
                _ => node.duties.remove(&id),
            };
        }
    }

    /// Acts on what is due, and sets the alarm for what is due next.
    pub(crate) fn work(&mut self, i: usize) {
        let node = &mut self.nodes[i];
        if !node.up || !(node.is_synced() || self.bug == Some(Exhibit::AttemptNotDurable)) {
            return;
        }
        let now_ms = node.local(self.now_ms);
        let mut paces = BTreeMap::new();
        let mut due = Vec::new();
        let mut next_ms = u64::MAX;
        for duty in node.duties.values().flatten() {
            if is_over(&duty.act, now_ms) {
                continue;
            }
            let fresh = Pace::default();
            let mut pace = node.paces.get(&duty.id).copied().unwrap_or(fresh);
            let at_ms = pace.next_ms.max(duty.due_ms);
            if at_ms <= now_ms {
                let (base, cap) = rhythm(&duty.act);
                pace.last_ms = now_ms;
                pace.next_ms = now_ms + (base << pace.times.min(8)).min(cap);
                pace.times += 1;
                due.push(duty.clone());
                next_ms = next_ms.min(pace.next_ms);
            } else {
                next_ms = next_ms.min(at_ms);
            }
            paces.insert(duty.id, pace);
        }
        node.paces = paces;
        if !node.listing.is_empty() {
            if node.list_next_ms <= now_ms {
                node.list_next_ms = now_ms + 6_000;
                let slots = node.listing.clone();
                self.call_gateway(i, Call::List { slots });
            }
            next_ms = next_ms.min(self.nodes[i].list_next_ms);
        }
        self.set_alarm(i, next_ms);
        for duty in due {
            self.act(i, duty, now_ms);
        }
    }

    fn set_alarm(&mut self, i: usize, local_ms: u64) {
        if local_ms == u64::MAX {
            return;
        }
        let due_ms = self.true_time(i, local_ms).max(self.now_ms + 1);
        let node = &mut self.nodes[i];
        if node.work_at_ms.is_none_or(|at_ms| due_ms < at_ms || at_ms <= self.now_ms) {
            node.work_at_ms = Some(due_ms);
            let life = node.life;
            self.at(due_ms, Event::Work { node: i, life, due_ms });
        }
    }

    fn act(&mut self, i: usize, duty: Duty, now_ms: u64) {
        match duty.act {
            Act::Decide => self.wake(i, duty.entity, now_ms),
            Act::Send(envelope) => {
                let home = self.nodes[i].cell.placement().home(envelope.to_slot).node.region;
                if let Some(place) = self.place_of(home) {
                    self.post(i, *envelope, place);
                }
            }
            Act::Charge(charge) => self.call_gateway(i, Call::Charge(charge)),
            Act::CloseAtGateway { payment, order } => self.call_gateway(i, Call::Close { payment, order }),
            Act::Refund { case, order } => {
                self.watch_refund(i, &case, order);
                self.call_gateway(i, Call::Refund { case, order });
            }
            Act::AskRefund { case, .. } => self.call_gateway(i, Call::AskRefund { case }),
        }
    }

    /// Being present is not being authorised: only the effective history owes refunds.
    fn watch_refund(&mut self, i: usize, case: &RefundCase, order: OrderId) {
        let node = &self.nodes[i];
        let owed = node.order(order, |reading| {
            reading.state.as_ref().is_some_and(|state| state.refunds.contains_key(&case.case))
        });
        let orphan = node.payment(case.payment, |reading| {
            reading.state.as_ref().is_some_and(|state| state.orphan_refunds.contains_key(&case.case))
        });
        if owed != Some(true) && orphan != Some(true) {
            let detail = format!("a refund of {} for {order} that no effective history owes", case.intent);
            self.journal.violate("P3 only-what-was-named", detail);
        }
    }

    pub(crate) fn wake(&mut self, i: usize, id: cell_core::id::EntityId, now_ms: u64) {
        let node = &mut self.nodes[i];
        if let Ok(step) = node.cell.wake(&node.shelf, id, now_ms) {
            self.commit(i, step, None);
        }
    }

    /// Whoever becomes a home looks at everything in its slots: nobody hands anything over.
    pub(crate) fn wake_all(&mut self, i: usize) {
        let now_ms = self.nodes[i].local(self.now_ms);
        let ids: Vec<_> = self.nodes[i].shelf.entities.keys().copied().collect();
        self.nodes[i].dirty.extend(ids.iter().copied());
        ids.into_iter().for_each(|id| self.wake(i, id, now_ms));
        if self.nodes[i].is_synced() {
            self.refresh(i);
            self.work(i);
        }
    }

    /// From now until past the last `until`, ask the gateway what is known of the slots.
    pub(crate) fn list_for_a_while(&mut self, i: usize, slots: BTreeSet<Slot>) {
        let longest_ms = self.rules.permit_window_ms + self.rules.close_margin_ms + 5_000;
        let now_ms = self.nodes[i].local(self.now_ms);
        let node = &mut self.nodes[i];
        node.listing.extend(slots);
        node.list_until_ms = now_ms + longest_ms;
        node.list_next_ms = now_ms + 50;
        self.set_alarm(i, now_ms + 50);
    }

    // === the gateway ===

    fn call_gateway(&mut self, i: usize, call: Call) {
        self.note(|| format!("{i} calls {call:?}"));
        if self.rng.chance(self.gateway_loss) {
            self.coverage.fault("gateway-call-lost");
            return;
        }
        let life = self.nodes[i].life;
        let delay_ms = if self.calm { 5 } else { self.rng.between(2, 60) };
        let at_ms = self.nodes[i].local(self.now_ms);
        self.after(delay_ms, Event::GatewayCalled { node: i, life, at_ms, call });
    }

    pub(crate) fn gateway_called(&mut self, i: usize, life: u64, at_ms: u64, call: Call) {
        let mut found = Found::default();
        match call {
            Call::Charge(charge) => self.charge(&charge, &mut found),
            Call::Close { payment, order } => found.facts = self.gateway.close(payment, order, self.now_ms),
            Call::Refund { case, order } => {
                found.facts.extend(self.gateway.refund(&case, order, self.now_ms));
            }
            Call::AskRefund { case } => found.facts.extend(self.gateway.refund_by_key(&case.case)),
            Call::List { slots } => {
                found.facts = self.gateway.list_slots(&slots, self.now_ms);
                found.listed_at_ms = Some(at_ms);
            }
        }
        let mut delay_ms = if self.calm { 5 } else { self.rng.between(2, 80) };
        if self.rng.chance(self.gateway_loss) {
            self.coverage.fault("gateway-answer-lost");
            return;
        }
        if self.rng.chance(self.gateway_loss) {
            self.coverage.fault("gateway-answer-late");
            delay_ms = self.rng.between(5_000, 40_000);
        }
        self.after(delay_ms, Event::GatewayAnswered { node: i, life, found });
    }

    fn charge(&mut self, charge: &Charge, found: &mut Found) {
        if !self.journal.attempts.contains(&(charge.payment, charge.k)) {
            let detail = format!(
                "attempt {} of {} reached the gateway before it was durable",
                charge.k, charge.payment
            );
            self.journal.violate("P3 only-what-was-named", detail);
        }
        match self.gateway.create(charge, self.now_ms) {
            Created::New(id) => self.run_intent(&id, charge),
            Created::Known(id) | Created::OtherBody(id) => found.facts.extend(self.gateway.fact(&id)),
            Created::TooLate => {
                found.facts = self.gateway.list(|intent| intent.charge.payment == charge.payment);
                let known = self.gateway.intents.values().any(|intent| intent.charge.key == charge.key);
                found.never = (!known).then_some((charge.payment, charge.k));
            }
            Created::Closed => {
                let order = charge.permit.order;
                found.facts = self.gateway.close(charge.payment, order, self.now_ms);
            }
        }
    }

    /// What becomes of a new intent is in its card.
    fn run_intent(&mut self, id: &str, charge: &Charge) {
        let soon_ms = if self.calm { 50 } else { self.rng.between(5, 900) };
        let last_ms = charge.expires_at_ms.saturating_sub(self.now_ms);
        let (delay_ms, failure) = match charge.card.as_str() {
            "refused" => (soon_ms, Some(FailureKind::Refused)),
            "retry" if charge.k == 1 => (soon_ms, Some(FailureKind::Retryable)),
            "slow" => (soon_ms * 10, None),
            "late" => (last_ms.saturating_sub(if self.calm { 1 } else { self.rng.between(1, 900) }), None),
            "hang" => return,
            _ => (soon_ms, None),
        };
        self.after(delay_ms, Event::IntentDone { intent: id.to_owned(), failure });
    }

    pub(crate) fn intent_done(&mut self, id: &str, failure: Option<FailureKind>) {
        if !self.gateway.complete(id, failure, self.now_ms) {
            return;
        }
        self.note(|| format!("gateway: {id} {failure:?}"));
        let copies = if self.calm { u64::from(self.callbacks) } else { self.rng.below(3) };
        if copies == 0 {
            self.coverage.fault("callback-lost");
        } else if copies > 1 {
            self.coverage.fault("callback-duplicated");
        }
        for _ in 0..copies {
            let Some(fact) = self.gateway.fact(id) else { return };
            let node = match self.callbacks_at {
                Some(node) => node,
                None => self.rng.index(self.nodes.len()),
            };
            let delay_ms = if self.calm { 5 } else { self.rng.between(5, 4_000) };
            self.after(delay_ms, Event::Callback { node, fact });
        }
    }

    /// A verified callback, at any region.
    pub(crate) fn callback(&mut self, i: usize, fact: Fact) {
        if self.nodes[i].up {
            if self.nodes[i].cell.owned(fact.concerns().1.slot()).is_none() {
                self.coverage.fault("callback-elsewhere");
            }
            self.learn(i, vec![fact]);
        }
    }

    pub(crate) fn learn(&mut self, i: usize, facts: Vec<Fact>) {
        let now_ms = self.nodes[i].local(self.now_ms);
        let node = &mut self.nodes[i];
        if let Ok(step) = node.cell.facts(&node.shelf, facts, "", now_ms) {
            self.commit(i, step, None);
        }
    }

    pub(crate) fn gateway_answered(&mut self, i: usize, found: Found) {
        if !found.facts.is_empty() {
            self.learn(i, found.facts);
        }
        let now_ms = self.nodes[i].local(self.now_ms);
        let node = &mut self.nodes[i];
        if found.listed_at_ms.is_some_and(|at_ms| at_ms >= node.list_until_ms) {
            node.listing.clear();
        }
        if let Some((payment, k)) = found.never
            && let Ok(step) = node.cell.never_started(&node.shelf, payment, k, now_ms)
        {
            self.commit(i, step, None);
        }
    }
}

/// First pause and longest pause between two tries of an act, in milliseconds.
fn rhythm(act: &Act) -> (u64, u64) {
    match act {
        Act::Decide => (300, 5_000),
        Act::Send(_) => (400, 6_400),
        Act::Charge(_) | Act::CloseAtGateway { .. } | Act::Refund { .. } => (1_000, 8_000),
        Act::AskRefund { .. } => (2_000, 30_000),
    }
}

/// Whether nobody can do any more about it.
pub(crate) fn is_over(act: &Act, now_ms: u64) -> bool {
    match act {
        Act::AskRefund { give_up_at_ms, .. } => now_ms > *give_up_at_ms,
        Act::Send(envelope) => {
            envelope.kind == MessageKind::Result && envelope.until_ms > 0 && now_ms > envelope.until_ms
        }
        _ => false,
    }
}
