//! What comes from elsewhere: replicated changes, merged state, and messages.

use super::draft::Draft;
use super::quarantine::Cause;
use super::{Cell, Step, Unavailable, View};
use crate::canon::{Malformed, Message};
use crate::duty::MessageBody;
use crate::entity::{Blocked, Entity};
use crate::event::{Body, Change, Entry, Event, Record};
use crate::gate::Envelope;
use crate::id::EntityId;
use crate::order::{Order, OrderDecision, Stalled, Why};
use crate::payment::{Payment, PaymentPhase, Permit};
use crate::settle;
use crate::version::EventId;

/// Why a replicated entry was not applied. Nothing was touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It is not the next of its actor: ask again from the frontier.
    #[error("a gap: {have} is the last known")]
    Gap { have: u64 },
    /// Another content stands under its dot, or its chain does not fit: stop that stream and alarm.
    #[error("two contents for one dot")]
    Conflict,
    #[error("its actor belongs to no member region")]
    NotAMember,
    /// It cannot be applied, and there is no room to keep it: stop that stream and alarm.
    #[error("it cannot be applied, nor kept")]
    NotKept,
}

/// Why a message is handed to the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// What it requires is present.
    Ready,
    /// It waited past its `until`.
    Expired,
    /// An operator discarded it.
    Discarded,
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    Done,
    /// An outcome, never a failure.
    Refused(String),
    /// Another cell owns the slot by now.
    Moved,
    /// Not now: ask again later.
    Busy,
    Failed(String),
}

/// A change on its way in, read: most of what it costs to take one, and needs no cell.
#[derive(Clone, Debug)]
pub struct Incoming {
    pub entry: Entry,
    pub(super) change: Result<Change, Malformed>,
}

impl Incoming {
    #[must_use]
    pub fn read(entry: Entry) -> Incoming {
        let change = Change::decode(&entry.bytes);
        Incoming { entry, change }
    }
}

impl Cell {
    /// A change of another actor, read before. `Ok(Ok(step))` with nothing in it if it was known already. One that is
    /// what its actor wrote, and cannot be applied here, is quarantined: what comes behind it is not held up.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn replicate(
        &mut self,
        view: &dyn View,
        incoming: &Incoming,
        now_ms: u64,
    ) -> Result<Result<Step, Refused>, Unavailable> {
        let entry = &incoming.entry;
        let dot = entry.dot;
        let front = self.front(&dot.actor);
        if !self.placement.members().contains(&dot.actor.region()) {
            return Ok(Err(Refused::NotAMember));
        }
        if dot.seq <= front.seq {
            let conflict = dot.seq == front.seq && entry.hash != front.hash;
            return Ok(if conflict { Err(Refused::Conflict) } else { Ok(Step::default()) });
        }
        if dot.seq != front.seq + 1 {
            return Ok(Err(Refused::Gap { have: front.seq }));
        }
        if entry.hash != Entry::chain(&front.hash, &dot, &entry.bytes) || dot.actor == self.me {
            return Ok(Err(Refused::Conflict));
        }
        self.apply_or_hold(view, incoming, now_ms)
    }

    /// State that was fetched because something waits for it. Logged as it is; its events keep their origins.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn merge(
        &mut self,
        view: &dyn View,
        entities: Vec<Entity>,
        now_ms: u64,
    ) -> Result<Step, Unavailable> {
        let mut draft = Draft::new(self, view, now_ms, "");
        for entity in &entities {
            draft.join(entity)?;
        }
        draft.settle_touched()?;
        let mut step = draft.finish(Vec::new())?;
        // What brought nothing new is not written down.
        step.merged = entities.into_iter().filter(|entity| step.entities.contains_key(&entity.id)).collect();
        Ok(step)
    }

    /// Applies what the log holds, without deciding anything: replay after a restart. What stands behind a hole of the
    /// log counts, but the frontier stays in front of it: the missing changes are asked for again. A change that this
    /// software cannot read, though another could, is quarantined; one that was quarantined and stands here again was
    /// applied after all.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn replay(&mut self, view: &dyn View, entry: &Entry, now_ms: u64) -> Result<Step, Unavailable> {
        let change = match Change::decode(&entry.bytes) {
            Ok(change) => change,
            Err(error) => return self.hold(view, entry, (Cause::Malformed, error.to_string()), now_ms),
        };
        let _ = self.clock.observe(change.at, now_ms);
        let mut draft = Draft::new(self, view, now_ms, &change.trace);
        for (place, event) in change.events.iter().enumerate() {
            draft.place(event, EventId { dot: entry.dot, place: place as u64 }, change.at)?;
        }
        draft.cell.pass(entry);
        draft.cell.miss_ends(&change);
        let released = draft.cell.quarantine.remove(&entry.dot).map(|_| entry.dot);
        let mut step = draft.finish(Vec::new())?;
        step.released.extend(released);
        Ok(step)
    }

    /// Merges fetched state that the log holds, without deciding anything: replay after a restart.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn replay_merged(
        &mut self,
        view: &dyn View,
        entities: &[Entity],
        now_ms: u64,
    ) -> Result<Step, Unavailable> {
        let mut draft = Draft::new(self, view, now_ms, "");
        for entity in entities {
            draft.join(entity)?;
        }
        draft.finish(Vec::new())
    }

    /// A message from the gate.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched, and the gate asks again.
    pub fn deliver(
        &mut self,
        view: &dyn View,
        envelope: &Envelope,
        why: Delivery,
        now_ms: u64,
    ) -> Result<(Step, Answer), Unavailable> {
        let slot = envelope.to_slot;
        if self.held_back && self.is_home(slot) || self.is_outranked(slot) {
            return Ok((Step::default(), Answer::Busy));
        }
        if self.owned(slot).is_none() {
            return Ok((Step::default(), Answer::Moved));
        }
        let body = match MessageBody::decode(&envelope.body) {
            Ok(body) => body,
            Err(error) => return Ok((Step::default(), Answer::Failed(error.to_string()))),
        };
        let decided_on = match &body {
            MessageBody::PayRequest(request) => request.permit.payment_id().into(),
            MessageBody::Withdrawal(withdrawal) => withdrawal.permit.payment_id().into(),
            MessageBody::Stalled(stalled) => stalled.order.into(),
            MessageBody::Result(_) | MessageBody::RefundOrder(_) => envelope.subject,
        };
        if decided_on.slot() != slot {
            let why = format!("it is about {decided_on}, which is of another slot than it was sent to");
            return Ok((Step::default(), Answer::Failed(why)));
        }
        // Nobody is answered by what is known to be incomplete.
        for about in envelope.requires.iter().map(|need| need.entity).chain([envelope.subject]) {
            if self.withheld_by(view, about)?.is_some() {
                return Ok((Step::default(), Answer::Busy));
            }
        }
        let mut draft = Draft::new(self, view, now_ms, &envelope.trace);
        draft.contact_by_message(envelope.from_slot, &envelope.epoch)?;
        if draft.cell.owned(slot).is_none() {
            // A notice's sender speaks for the slot that it is sent to, and may know of another home.
            let answer = if draft.cell.is_outranked(slot) { Answer::Busy } else { Answer::Moved };
            return Ok((draft.finish(Vec::new())?, answer));
        }
        let answer = match (&body, why) {
            (MessageBody::PayRequest(request), _) => draft.pay_request(&request.permit, why)?,
            (MessageBody::Withdrawal(withdrawal), _) => {
                draft.withdrawal(&withdrawal.permit, withdrawal.why)?
            }
            (MessageBody::Stalled(stalled), _) => draft.stalled(stalled)?,
            (MessageBody::Result(_) | MessageBody::RefundOrder(_), _) => {
                // The data says it all; the message only made it be looked at.
                draft.touch(envelope.subject);
                draft.settle_touched()?;
                Answer::Done
            }
        };
        Ok((draft.finish(Vec::new())?, answer))
    }
}

impl Draft<'_> {
    /// A creation record brought by a message or the gateway: any member region may write it down; its id proves it.
    pub(super) fn learn_permit(&mut self, permit: &Permit) -> Result<EntityId, Unavailable> {
        let payment = EntityId::from(permit.payment_id());
        // One record is enough: copies may differ in an `until` that the id does not cover.
        let known = self.read::<Payment, _>(payment, |reading| reading.record.is_some())?;
        if known != Some(true) {
            self.push(Event::new(vec![payment], Body::Record(Record::Permit(permit.clone()))))?;
        }
        self.touch(payment);
        Ok(payment)
    }

    fn pay_request(&mut self, permit: &Permit, why: Delivery) -> Result<Answer, Unavailable> {
        let payment = self.learn_permit(permit)?;
        self.settle_touched()?;
        if why == Delivery::Discarded {
            self.end_idle(payment, "discarded")?;
            return Ok(Answer::Done);
        }
        let phase = self.read::<Payment, _>(payment, |reading| {
            reading.state.as_ref().map(|state| state.phase).ok_or(reading.blocked)
        })?;
        Ok(match phase {
            // The gate's clock runs ahead of this node's: the deadline is decided here.
            Some(Ok(phase)) if why == Delivery::Expired && !matches!(phase, PaymentPhase::Ended(_)) => {
                let open = self.read::<Payment, _>(payment, |reading| {
                    reading.state.as_ref().is_some_and(|state| state.open_attempt().is_some())
                })?;
                if open == Some(true) { Answer::Done } else { Answer::Busy }
            }
            Some(Ok(PaymentPhase::Known)) if why == Delivery::Ready => {
                Answer::Refused("the order's history does not hold this permit as open".to_owned())
            }
            Some(Ok(_)) => Answer::Done,
            Some(Err(Some(Blocked::Newer))) => Answer::Failed("needs a newer version".to_owned()),
            Some(Err(_)) | None => Answer::Failed("the payment's record does not prove its id".to_owned()),
        })
    }

    fn end_idle(&mut self, payment: EntityId, code: &str) -> Result<(), Unavailable> {
        let Some(id) = payment.payment() else {
            return Ok(());
        };
        let idle = self.read::<Payment, _>(payment, |reading| {
            reading
                .state
                .as_ref()
                .is_some_and(|state| state.ended().is_none() && state.open_attempt().is_none())
        })?;
        if idle == Some(true) {
            let ended = crate::payment::Ended { how: crate::order::How::Failed, code: code.to_owned() };
            self.decide_payment(id, crate::payment::PaymentDecision::Ended(ended), None)?;
            self.settle_touched()?;
        }
        Ok(())
    }

    /// Requires nothing: on a payment not seen yet it is written ended as its first decision.
    fn withdrawal(&mut self, permit: &Permit, why: Why) -> Result<Answer, Unavailable> {
        let payment = self.learn_permit(permit)?;
        self.settle_touched()?;
        let next = self.read::<Payment, _>(payment, |reading| {
            let state = reading.state.as_ref().filter(|_| reading.blocked.is_none())?;
            settle::withdraw(state, why)
        })?;
        if let (Some(next), Some(id)) = (next.flatten(), payment.payment()) {
            for decision in next.decisions {
                self.decide_payment(id, decision, None)?;
            }
            self.settle_touched()?;
        }
        Ok(Answer::Done)
    }

    fn stalled(&mut self, stalled: &crate::duty::StalledBody) -> Result<Answer, Unavailable> {
        let order = EntityId::from(stalled.order);
        self.touch(order);
        self.settle_touched()?;
        let waits = self.read::<Order, _>(order, |reading| {
            let state = reading.state.as_ref().filter(|_| reading.blocked.is_none())?;
            let open = state.open_permit().is_some_and(|(payment, _)| *payment == stalled.payment);
            Some(open && !state.stalled.contains(&stalled.payment))
        })?;
        match waits.flatten() {
            Some(true) => {
                let decision = Stalled { payment: stalled.payment, missing: stalled.missing.clone() };
                self.decide_order(stalled.order, OrderDecision::Stalled(decision), None)?;
                Ok(Answer::Done)
            }
            Some(false) => Ok(Answer::Done),
            None => Ok(Answer::Refused("the order is not known here".to_owned())),
        }
    }
}
