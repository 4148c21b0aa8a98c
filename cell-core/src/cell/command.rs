//! What users ask for: settle first, then validate against the effective history, then decide.

use std::sync::Arc;

use super::draft::Draft;
use super::{Cell, Step, Unavailable, View};
use crate::entity::{Blocked, DECISIONS_MAX, Entity, REQUEST_BYTES_MAX, REQUEST_DECISIONS_MAX, Reading};
use crate::event::{Body, CommandRef, Event, Op, Record};
use crate::graph::{Verdict, order_admits, order_status, payment_admits, payment_status};
use crate::id::{EntityId, OrderId, PaymentId, UserId};
use crate::money::MoneyError;
use crate::order::{
    Amended, Cancelled, How, LINES_MAX, Order, OrderContent, OrderDecision, OrderPhase, OrderRecord,
    OrderState, PermitClosing, PermitOpened, RefundCase, RefundGranted, Why, uuid7_time_ms,
};
use crate::payment::{Accepted, Ended, Payment, PaymentDecision, PaymentState, Permit, Received};
use crate::placement::Home;
use crate::settle::expires_at_ms;

/// How far the time in a key may be from now to be used, at most.
const KEY_OFF_MAX_MS: u64 = 60_000;

/// Longest idempotency key, in bytes.
pub(super) const KEY_BYTES_MAX: usize = 255;

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    Place {
        record: Box<OrderRecord>,
    },
    Amend {
        order: OrderId,
        content: Arc<OrderContent>,
    },
    /// Pay one's own order.
    Pay {
        order: OrderId,
        card: String,
    },
    /// Ask somebody else to pay.
    AskPayer {
        order: OrderId,
        payer: UserId,
        until_ms: Option<u64>,
        window_ms: Option<u64>,
    },
    Withdraw {
        payment: PaymentId,
    },
    Cancel {
        order: OrderId,
    },
    /// Give back a part, or what is left.
    Refund {
        order: OrderId,
        amount_minor: Option<u64>,
    },
    Accept {
        payment: PaymentId,
        card: String,
    },
    Decline {
        payment: PaymentId,
    },
}

impl Ask {
    #[must_use]
    pub fn op(&self) -> Op {
        match self {
            Ask::Place { .. } => Op::Place,
            Ask::Amend { .. } => Op::Amend,
            Ask::Pay { .. } => Op::Pay,
            Ask::AskPayer { .. } => Op::Ask,
            Ask::Withdraw { .. } => Op::Withdraw,
            Ask::Cancel { .. } => Op::Cancel,
            Ask::Refund { .. } => Op::Refund,
            Ask::Accept { .. } => Op::Accept,
            Ask::Decline { .. } => Op::Decline,
        }
    }
    /// What the command is about; nothing yet where it creates it.
    #[must_use]
    pub fn entity(&self) -> Option<EntityId> {
        match self {
            Ask::Place { .. } => None,
            Ask::Amend { order, .. }
            | Ask::Pay { order, .. }
            | Ask::AskPayer { order, .. }
            | Ask::Cancel { order }
            | Ask::Refund { order, .. } => Some((*order).into()),
            Ask::Withdraw { payment } | Ask::Accept { payment, .. } | Ask::Decline { payment } => {
                Some((*payment).into())
            }
        }
    }
}

/// A command: who asks for what, under which idempotency key, with which body bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    pub user: UserId,
    pub key: String,
    /// The request body as it is compared on a repeat.
    pub body: Vec<u8>,
    pub trace: String,
    pub ask: Ask,
}

/// What must be true, at the moment of the command, of what it is about: settled, and as every repeat would find it.
pub type Precondition<'a> = &'a dyn Fn(&Entity) -> bool;

/// What a command was answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    pub order: OrderId,
    pub payment: Option<PaymentId>,
    /// What was asked follows later (202).
    pub pending: bool,
    /// The command had been carried out before.
    pub repeated: bool,
}

/// The stable names of refusals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// 404, also where it exists but is not the caller's.
    NotFound,
    /// 421: another cell decides here.
    Misdirected,
    /// 409: the command is known only as a void stray.
    Superseded,
    /// 422: the same key came with another body.
    KeyReused,
    /// 412: the precondition does not hold.
    Changed,
    /// 409: the status graph forbids it.
    Forbidden,
    /// 400.
    Invalid,
    /// 409: too many decisions on one entity.
    TooMany,
    /// 503: the node has just started; come back at once.
    Recovering,
    /// 503: damaged, or written by a newer version.
    Blocked,
}

/// Why a command was refused. Nothing was touched by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub problem: Problem,
    /// What, where, and what to do.
    pub detail: String,
    /// JSON pointer into the request, if a field is at fault.
    pub pointer: Option<&'static str>,
    /// The home to go to instead.
    pub home: Option<Box<Home>>,
}

impl Refusal {
    pub(super) fn new(problem: Problem, detail: impl Into<String>) -> Refusal {
        Refusal { problem, detail: detail.into(), pointer: None, home: None }
    }
    fn invalid(pointer: &'static str, detail: impl Into<String>) -> Refusal {
        Refusal { pointer: Some(pointer), ..Refusal::new(Problem::Invalid, detail) }
    }
    fn not_found() -> Refusal {
        Refusal::new(Problem::NotFound, NOT_FOUND)
    }
    fn forbidden(what: &str, op: Op, verdict: Verdict) -> Refusal {
        let why = match verdict {
            Verdict::Allowed => "it is being looked at",
            Verdict::PermitIsOpen => {
                "somebody was asked to pay for it, or is paying; withdraw that, or wait for its end"
            }
            Verdict::NothingOpen => "nobody is asked to pay for it",
            Verdict::AlreadyPaid => "it is paid",
            Verdict::AlreadyCancelled => "it is cancelled",
            Verdict::AlreadyExpired => "its time to be paid is over",
            Verdict::CancelIsPending => "it is being cancelled",
            Verdict::NotPaid => "it is not paid",
            Verdict::NotReceived => "the request has not come to the payer yet",
            Verdict::AlreadyAccepted => "it is accepted already",
            Verdict::AlreadyEnded => "it has ended",
            Verdict::IsClosing => "it is being closed; wait for its end",
            Verdict::WrongKind => "it is not meant for that",
        };
        Refusal::new(Problem::Forbidden, format!("'{op}' cannot be done to this {what}: {why}"))
    }
}

impl From<MoneyError> for Refusal {
    fn from(error: MoneyError) -> Refusal {
        let pointer = if matches!(error, MoneyError::Currency(_)) { "/currency" } else { "/lines" };
        Refusal::invalid(pointer, error.to_string())
    }
}

/// What somebody is told of what is not there, or not theirs.
pub const NOT_FOUND: &str = "there is no such order or payment of yours";

type Outcome = Result<Result<Reply, Refusal>, Unavailable>;

impl Cell {
    /// Carries a command out, or says why not. The step may hold settling decisions also where the command is refused.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn command(
        &mut self,
        view: &dyn View,
        command: &Command,
        now_ms: u64,
    ) -> Result<(Step, Result<Reply, Refusal>), Unavailable> {
        self.command_if(view, command, None, now_ms)
    }

    /// The same, only if the precondition holds. A repeat is answered as what it repeats, whatever has changed since; and
    /// somebody else's thing, or one of another home, is that first.
    ///
    /// # Errors
    /// As [`Cell::command`].
    pub fn command_if(
        &mut self,
        view: &dyn View,
        command: &Command,
        precondition: Option<Precondition<'_>>,
        now_ms: u64,
    ) -> Result<(Step, Result<Reply, Refusal>), Unavailable> {
        let mut draft = Draft::new(self, view, now_ms, &command.trace);
        let reply = draft.carry_out(command, precondition)?;
        draft.settle_touched()?;
        let step = draft.finish(Vec::new())?;
        let reply = match reply {
            // What is not found may be what was lost.
            Err(refusal) if refusal.problem == Problem::NotFound && self.holes().next().is_some() => {
                Err(Refusal::new(Problem::Blocked, "a part of the log is damaged here and not back yet"))
            }
            Err(refusal) if refusal.problem == Problem::NotFound && self.is_obscured() => Err(Refusal::new(
                Problem::Blocked,
                "a change could not be read here: an operator has to look",
            )),
            reply => reply,
        };
        Ok((step, reply))
    }
}

impl Draft<'_> {
    /// Nothing is decided here on what is known to be incomplete.
    pub(super) fn withheld(&self, id: EntityId) -> Result<Option<Refusal>, Unavailable> {
        if !self.cell.is_home(id.slot()) {
            return Ok(None);
        }
        let refusal = |dot| {
            Refusal::new(
                Problem::Blocked,
                format!("the change {dot} could not be applied here: an operator has to look"),
            )
        };
        Ok(self.withheld_by(id)?.map(refusal))
    }

    fn carry_out(&mut self, command: &Command, precondition: Option<Precondition<'_>>) -> Outcome {
        if command.key.is_empty() || command.key.len() > KEY_BYTES_MAX {
            return Ok(Err(Refusal::new(Problem::Invalid, "an idempotency key has 1 to 255 bytes")));
        }
        if self.cell.is_held_back() && command.ask.entity().is_some() {
            let detail = "the node has just started and asks its peers what they hold of it";
            return Ok(Err(Refusal::new(Problem::Recovering, detail)));
        }
        match &command.ask {
            Ask::Place { record } => self.place_order(command, record),
            Ask::Withdraw { payment } => match self.order_of(*payment)? {
                Some(order) => self.on_order(command, precondition, order),
                None => Ok(Err(Refusal::not_found())),
            },
            Ask::Amend { order, .. }
            | Ask::Pay { order, .. }
            | Ask::AskPayer { order, .. }
            | Ask::Cancel { order }
            | Ask::Refund { order, .. } => self.on_order(command, precondition, *order),
            Ask::Accept { payment, .. } | Ask::Decline { payment } => {
                self.on_payment(command, precondition, *payment)
            }
        }
    }

    fn order_of(&self, payment: PaymentId) -> Result<Option<OrderId>, Unavailable> {
        let record = self.read::<Payment, _>(payment.into(), |reading| reading.record.cloned())?;
        Ok(record.flatten().map(|permit| permit.order))
    }

    fn changed(
        &self,
        command: &Command,
        precondition: Option<Precondition<'_>>,
    ) -> Result<Option<Refusal>, Unavailable> {
        let (Some(holds), Some(about)) = (precondition, command.ask.entity()) else { return Ok(None) };
        let holds = self.entity(about)?.is_some_and(|entity| holds(&entity));
        Ok((!holds)
            .then(|| Refusal::new(Problem::Changed, "it is not as the precondition says; read it again")))
    }

    fn place_order(&mut self, command: &Command, record: &OrderRecord) -> Outcome {
        let order = record.order_id();
        if let Some(refusal) = self.cell.misdirected(order.into()).or_else(|| check_record(command, record)) {
            return Ok(Err(refusal));
        }
        let margin_ms = self.cell.rules.attempt_margin_ms;
        if record.pay_window_ms <= margin_ms {
            let detail =
                format!("an order can be paid for longer than {margin_ms} ms: an attempt takes so long");
            return Ok(Err(Refusal::invalid("/pay_window_s", detail)));
        }
        let reply = |repeated| Ok(Ok(Reply { order, payment: None, pending: false, repeated }));
        let placed = self.twins(order, record)?;
        if placed.contains(&order) {
            return reply(true);
        }
        if let Some(other) = placed.first() {
            let detail = format!("the key was used for {other} with another body");
            return Ok(Err(Refusal::new(Problem::KeyReused, detail)));
        }
        self.push(Event::new(vec![order.into()], Body::Record(Record::Order(record.clone()))))?;
        reply(false)
    }

    // === on orders ===

    fn on_order(
        &mut self,
        command: &Command,
        precondition: Option<Precondition<'_>>,
        order: OrderId,
    ) -> Outcome {
        if let Some(refusal) = self.withheld(order.into())? {
            return Ok(Err(refusal));
        }
        let Some(entity) = self.entity(order.into())? else {
            // Unknown here: the home may know it.
            return Ok(Err(self.cell.misdirected(order.into()).unwrap_or_else(Refusal::not_found)));
        };
        let owner = entity.record::<Order>().map(|(record, _)| record.user.clone());
        if owner.as_ref() != Some(&command.user) {
            return Ok(Err(Refusal::not_found()));
        }
        if let Some(refusal) = self.cell.misdirected(order.into()) {
            return Ok(Err(refusal));
        }
        // The tail first, then a true answer.
        self.touch(order.into());
        self.settle_touched()?;
        let Some(entity) = self.entity(order.into())? else {
            return Ok(Err(Refusal::not_found()));
        };
        let reading = Reading::<Order>::of(&entity);
        let Some(state) = reading.state.as_ref().filter(|_| reading.blocked.is_none()) else {
            return Ok(Err(blocked(reading.blocked)));
        };
        let reference = reference(command);
        if let Some(answer) = repeated(&reference, &state.commands, &state.superseded) {
            return Ok(answer.map(|()| Reply {
                order,
                payment: permit_of(state, &reference),
                pending: state.open_permit().is_some_and(|(_, permit)| permit.closing.is_some()),
                repeated: true,
            }));
        }
        if let Some(refusal) = self.changed(command, precondition)? {
            return Ok(Err(refusal));
        }
        if state.decisions >= REQUEST_DECISIONS_MAX {
            return Ok(Err(Refusal::new(Problem::TooMany, "the order has too many decisions")));
        }
        if entity.bytes() + command.body.len() > REQUEST_BYTES_MAX {
            let detail = format!("the order's history would have more than {REQUEST_BYTES_MAX} bytes");
            return Ok(Err(Refusal::new(Problem::TooMany, detail)));
        }
        let op = command.ask.op();
        let status = order_status(state);
        match order_admits(status, op) {
            Verdict::Allowed => {}
            verdict => return Ok(Err(Refusal::forbidden("order", op, verdict))),
        }
        self.decide_command(command, reference, order, &reading, state)
    }

    fn decide_command(
        &mut self,
        command: &Command,
        reference: CommandRef,
        order: OrderId,
        reading: &Reading<'_, Order>,
        state: &OrderState,
    ) -> Outcome {
        let mut reply = Reply { order, payment: None, pending: false, repeated: false };
        match &command.ask {
            Ask::Amend { content, .. } => {
                if let Some(refusal) = check_content(content) {
                    return Ok(Err(refusal));
                }
                if content.currency != state.content.currency {
                    return Ok(Err(Refusal::invalid(
                        "/currency",
                        "the currency of an order does not change",
                    )));
                }
                let amended = OrderDecision::Amended(Amended { content: content.clone() });
                self.decide_order(order, amended, Some(reference))?;
            }
            Ask::Pay { card, .. } => {
                let window = Some(self.cell.rules.permit_window_ms);
                let permit =
                    match self.permit(command, reading, state, &command.user, None, window, &reference) {
                        Ok(permit) => permit,
                        Err(refusal) => return Ok(Err(refusal)),
                    };
                let payment = permit.payment_id();
                reply.payment = Some(payment);
                let opened = OrderDecision::PermitOpened(PermitOpened { permit });
                self.decide_order(order, opened, Some(reference.clone()))?;
                self.accept_own(payment, card, &reference)?;
            }
            Ask::AskPayer { payer, until_ms, window_ms, .. } => {
                if *payer == command.user {
                    let detail = "the payer is the buyer: pay the order instead";
                    return Ok(Err(Refusal::invalid("/payer", detail)));
                }
                let window = window_ms.or(Some(self.cell.rules.permit_window_ms));
                let permit = match self.permit(command, reading, state, payer, *until_ms, window, &reference)
                {
                    Ok(permit) => permit,
                    Err(refusal) => return Ok(Err(refusal)),
                };
                reply.payment = Some(permit.payment_id());
                let opened = OrderDecision::PermitOpened(PermitOpened { permit });
                self.decide_order(order, opened, Some(reference))?;
            }
            Ask::Withdraw { payment } => {
                let open = state.open_permit().filter(|(open, _)| *open == payment);
                if open.is_none() {
                    return Ok(Err(Refusal::forbidden("order", Op::Withdraw, Verdict::NothingOpen)));
                }
                self.close_permit(order, *payment, Why::Withdrawal, reference)?;
                (reply.payment, reply.pending) = (Some(*payment), true);
            }
            Ask::Cancel { .. } => match state.open_permit() {
                Some((payment, _)) => {
                    self.close_permit(order, *payment, Why::Cancel, reference)?;
                    (reply.payment, reply.pending) = (Some(*payment), true);
                }
                None => {
                    let refund = remaining(state);
                    if state.phase == OrderPhase::Paid && refund.is_none() {
                        let detail = "'cancel' cannot be done to this order: it is refunded in part or whole";
                        return Ok(Err(Refusal::new(Problem::Forbidden, detail)));
                    }
                    let cancelled = OrderDecision::Cancelled(Cancelled { refund });
                    self.decide_order(order, cancelled, Some(reference))?;
                }
            },
            Ask::Refund { amount_minor, .. } => {
                let Some(refund) = granted(state, *amount_minor, &reference) else {
                    let detail = match amount_minor {
                        Some(0) => "a refund is of 1 or more",
                        Some(_) => "more than was captured and is not refunded yet",
                        None => "all that was captured is refunded",
                    };
                    return Ok(Err(Refusal::invalid("/amount_minor", detail)));
                };
                let granted = OrderDecision::RefundGranted(RefundGranted { refund });
                self.decide_order(order, granted, Some(reference))?;
                reply.pending = true;
            }
            Ask::Place { .. } | Ask::Accept { .. } | Ask::Decline { .. } => {
                return Ok(Err(Refusal::new(Problem::Forbidden, "not a command of an order")));
            }
        }
        self.touch(order.into());
        Ok(Ok(reply))
    }

    fn close_permit(
        &mut self,
        order: OrderId,
        payment: PaymentId,
        why: Why,
        reference: CommandRef,
    ) -> Result<(), Unavailable> {
        let closing = OrderDecision::PermitClosing(PermitClosing { payment, why });
        self.decide_order(order, closing, Some(reference))?;
        self.touch(payment.into());
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "one permit is made of all of these")]
    fn permit(
        &self,
        command: &Command,
        reading: &Reading<'_, Order>,
        state: &OrderState,
        payer: &UserId,
        until_ms: Option<u64>,
        window_ms: Option<u64>,
        reference: &CommandRef,
    ) -> Result<Permit, Refusal> {
        let now = self.now_ms;
        let window = window_ms.unwrap_or(self.cell.rules.permit_window_ms);
        let expires = expires_at_ms(reading);
        // A key's time is used only where it can be about now: the clock of a client moves no window by more than a tenth.
        let off_max = KEY_OFF_MAX_MS.min(window / 10);
        let from_key = uuid7_time_ms(&command.key).filter(|time| time.abs_diff(now) <= off_max);
        let (until, from_command) = match (until_ms, from_key) {
            (Some(until), _) => (until, true),
            (None, Some(time)) => (time.saturating_add(window), true),
            (None, None) => (now.saturating_add(window), false),
        };
        // Cut to the order's own window, which is the same in every region that holds the order.
        let until = until.min(expires);
        let margin_ms = self.cell.rules.attempt_margin_ms;
        if until <= now.saturating_add(margin_ms) {
            return Err(if expires <= now.saturating_add(margin_ms) {
                // An attempt begun now could outlive the order.
                Refusal::forbidden("order", command.ask.op(), Verdict::AlreadyExpired)
            } else if until_ms.is_some() {
                Refusal::invalid("/until_ms", "the time to pay is over before it begins")
            } else {
                Refusal::invalid("/window_s", format!("a time to pay is longer than {margin_ms} ms"))
            });
        }
        let order = reading.entity.id.order().ok_or_else(Refusal::not_found)?;
        let buyer =
            reading.record.as_ref().map(|record| record.user.clone()).ok_or_else(Refusal::not_found)?;
        Ok(Permit {
            order,
            buyer,
            payer: payer.clone(),
            amount_minor: state.content.total_minor()?,
            currency: state.content.currency.clone(),
            content: state.content.hash(),
            until_ms: until,
            until_from_command: from_command,
            command: reference.id,
        })
    }

    /// Paying one's own order: both sides live in one slot, so one change does it all.
    fn accept_own(
        &mut self,
        payment: PaymentId,
        card: &str,
        reference: &CommandRef,
    ) -> Result<(), Unavailable> {
        let fresh = self.read::<Payment, _>(payment.into(), |reading| {
            reading.state.as_ref().is_some_and(|state| state.phase == crate::payment::PaymentPhase::Known)
        })?;
        if fresh == Some(true) {
            self.decide_payment(payment, PaymentDecision::Received(Received {}), None)?;
            let accepted = PaymentDecision::Accepted(Accepted { card: card.to_owned() });
            self.decide_payment(payment, accepted, Some(reference.clone()))?;
        }
        self.touch(payment.into());
        Ok(())
    }

    // === on payments ===

    fn on_payment(
        &mut self,
        command: &Command,
        precondition: Option<Precondition<'_>>,
        payment: PaymentId,
    ) -> Outcome {
        if let Some(refusal) = self.withheld(payment.into())? {
            return Ok(Err(refusal));
        }
        let Some(entity) = self.entity(payment.into())? else {
            return Ok(Err(self.cell.misdirected(payment.into()).unwrap_or_else(Refusal::not_found)));
        };
        let payer = entity.record::<Payment>().map(|(permit, _)| permit.payer.clone());
        if payer.as_ref() != Some(&command.user) {
            return Ok(Err(Refusal::not_found()));
        }
        if let Some(refusal) = self.cell.misdirected(payment.into()) {
            return Ok(Err(refusal));
        }
        self.touch(payment.into());
        self.settle_touched()?;
        let Some(entity) = self.entity(payment.into())? else {
            return Ok(Err(Refusal::not_found()));
        };
        let reading = Reading::<Payment>::of(&entity);
        let Some(state) = reading.state.as_ref().filter(|_| reading.blocked.is_none()) else {
            return Ok(Err(blocked(reading.blocked)));
        };
        let reply = Reply {
            order: state.permit.order,
            payment: Some(payment),
            pending: matches!(command.ask, Ask::Accept { .. }),
            repeated: false,
        };
        let reference = reference(command);
        if let Some(answer) = repeated(&reference, &state.commands, &state.superseded) {
            return Ok(answer.map(|()| Reply { repeated: true, ..reply }));
        }
        if let Some(refusal) = self.changed(command, precondition)? {
            return Ok(Err(refusal));
        }
        self.admit_payment(command, reference, payment, state).map(|admitted| admitted.map(|()| reply))
    }

    fn admit_payment(
        &mut self,
        command: &Command,
        reference: CommandRef,
        payment: PaymentId,
        state: &PaymentState,
    ) -> Result<Result<(), Refusal>, Unavailable> {
        if state.decisions >= DECISIONS_MAX {
            return Ok(Err(Refusal::new(Problem::TooMany, "the payment has too many decisions")));
        }
        let op = command.ask.op();
        let status = payment_status(state);
        match payment_admits(status, op) {
            Verdict::Allowed => {}
            verdict => return Ok(Err(Refusal::forbidden("payment", op, verdict))),
        }
        let decision = match &command.ask {
            Ask::Accept { card, .. } => {
                let late =
                    self.now_ms.saturating_add(self.cell.rules.attempt_margin_ms) >= state.permit.until_ms;
                if late {
                    let detail = "'accept' cannot be done to this payment: it is too late to pay before the request ends";
                    return Ok(Err(Refusal::new(Problem::Forbidden, detail)));
                }
                PaymentDecision::Accepted(Accepted { card: card.clone() })
            }
            _ => PaymentDecision::Ended(Ended { how: How::Declined, code: String::new() }),
        };
        self.decide_payment(payment, decision, Some(reference))?;
        self.touch(payment.into());
        Ok(Ok(()))
    }
}

fn reference(command: &Command) -> CommandRef {
    CommandRef::new(&command.user, command.ask.op(), command.ask.entity(), &command.key, &command.body)
}

pub(super) fn blocked(blocked: Option<Blocked>) -> Refusal {
    let detail = match blocked {
        Some(Blocked::Newer) => "it holds an event that needs a newer version of this service",
        Some(Blocked::Forked) => "its history is forked; the next epoch chooses",
        Some(Blocked::Orphan) | None => return Refusal::not_found(),
    };
    Refusal::new(Problem::Blocked, detail)
}

/// The answer to a repeated command, if it is one.
fn repeated(
    reference: &CommandRef,
    commands: &std::collections::BTreeMap<[u8; 16], [u8; 16]>,
    superseded: &std::collections::BTreeSet<[u8; 16]>,
) -> Option<Result<(), Refusal>> {
    match commands.get(&reference.id) {
        Some(digest) if *digest == reference.digest => Some(Ok(())),
        Some(_) => Some(Err(Refusal::new(Problem::KeyReused, "the key was used with another body"))),
        None if superseded.contains(&reference.id) => {
            let detail = "the command was given to a home that was replaced, and had to be dropped; ask anew";
            Some(Err(Refusal::new(Problem::Superseded, detail)))
        }
        None => None,
    }
}

fn permit_of(state: &OrderState, reference: &CommandRef) -> Option<PaymentId> {
    state.permits.iter().find(|(_, permit)| permit.permit.command == reference.id).map(|(id, _)| *id)
}

/// A refund of everything that was captured and not refunded, under the capture's one automatic case.
fn remaining(state: &OrderState) -> Option<RefundCase> {
    let applied = state.applied.as_ref()?;
    let untouched = state.refunded_minor(&applied.intent) == 0;
    untouched.then(|| RefundCase::whole(&applied.intent, applied.payment, applied.amount_minor))
}

/// A granted refund is capped at captured − refunded; its case is the command that asked for it.
fn granted(state: &OrderState, amount_minor: Option<u64>, reference: &CommandRef) -> Option<RefundCase> {
    let applied = state.applied.as_ref()?;
    let left = applied.amount_minor.saturating_sub(state.refunded_minor(&applied.intent));
    let amount_minor = amount_minor.unwrap_or(left);
    let fits = amount_minor > 0 && amount_minor <= left;
    fits.then(|| RefundCase {
        case: reference.id,
        intent: applied.intent.clone(),
        payment: applied.payment,
        amount_minor,
    })
}

fn check_content(content: &OrderContent) -> Option<Refusal> {
    if content.lines.is_empty() || content.lines.len() > LINES_MAX {
        return Some(Refusal::invalid("/lines", format!("an order has 1 to {LINES_MAX} lines")));
    }
    if content.lines.iter().any(|line| line.quantity == 0 || line.sku.is_empty()) {
        return Some(Refusal::invalid("/lines", "a line needs a sku and a quantity above zero"));
    }
    match content.total_minor() {
        Ok(0) => Some(Refusal::invalid("/lines", "the total is zero: nothing to pay")),
        Ok(_) => None,
        Err(error) => Some(error.into()),
    }
}

fn check_record(command: &Command, record: &OrderRecord) -> Option<Refusal> {
    if record.user != command.user || record.key != command.key {
        return Some(Refusal::new(Problem::Invalid, "an order is placed by its own user, under its own key"));
    }
    check_content(&record.content)
}
