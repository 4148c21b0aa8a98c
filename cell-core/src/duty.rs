//! What an entity needs done: levels, not edges.
//!
//! Duties are computed from the reading of an entity and what is seen beside it, never stored as the truth; so a
//! takeover needs nothing handed over, and a duty goes by itself when its need is gone. A duty's id comes from its
//! outside subject (payment, attempt, case), never from a position or an epoch.

use bytes::Bytes;

use crate::canon::{Message, message};
use crate::entity::{Entity, Kind, Reading};
use crate::event::Fact;
use crate::gate::{Envelope, MessageId, MessageKind, Requirement};
use crate::id::{EntityId, Hash, OrderId, PaymentId, RegionId, Slot};
use crate::museum::{Bug, planted};
use crate::order::{Order, OrderDecision, OrderPhase, RefundCase, Why};
use crate::payment::{Payment, PaymentPhase, PaymentState, Permit};
use crate::placement::Epoch;
use crate::rules::Rules;
use crate::settle::{PaymentGlance, PermitGlance, expires_at_ms};

message! {
    pub struct PayRequestBody { 1 => permit: Permit }
}
message! {
    pub struct WithdrawalBody { 1 => permit: Permit, 2 => why: Why }
}
message! {
    pub struct ResultBody { 1 => payment: PaymentId }
}
message! {
    pub struct RefundOrderBody { 1 => refund: RefundCase, 2 => order: OrderId }
}
message! {
    pub struct StalledBody { 1 => order: OrderId, 2 => payment: PaymentId, 3 => missing: String }
}
message! {
    /// What a message says to the node; opaque to the gates it passes.
    pub enum MessageBody {
        1 => PayRequest(PayRequestBody),
        2 => Withdrawal(WithdrawalBody),
        3 => Result(ResultBody),
        4 => RefundOrder(RefundOrderBody),
        5 => Stalled(StalledBody),
    }
}

/// One call to take money: a function of replicated state, so every repetition is the same call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charge {
    pub payment: PaymentId,
    pub k: u64,
    pub key: [u8; 16],
    pub permit: Permit,
    pub card: String,
    /// The gateway must not take money after this.
    pub expires_at_ms: u64,
    pub order_epoch: Option<Epoch>,
    pub payment_epoch: Epoch,
}

/// An act outside the entity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    /// The owner has something to decide when this is due.
    Decide,
    /// Create the intent, or ask after it by its key if it was created.
    Charge(Box<Charge>),
    /// Close by reference, list, and report what was found.
    CloseAtGateway { payment: PaymentId, order: OrderId },
    /// Give money back, once per case.
    Refund { case: RefundCase, order: OrderId },
    /// Ask after a refund that a stray may have started; never start it.
    AskRefund { case: RefundCase, order: OrderId, give_up_at_ms: u64 },
    /// Tell another slot's owner, for as long as the need shows.
    Send(Box<Envelope>),
}

/// Something that needs doing, not before `due_ms`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duty {
    pub id: [u8; 16],
    pub entity: EntityId,
    pub due_ms: u64,
    pub act: Act,
}

impl Duty {
    fn new(entity: EntityId, what: &str, subject: &[u8], due_ms: u64, act: Act) -> Duty {
        Duty { id: duty_id(what, subject), entity, due_ms, act }
    }
}

fn duty_id(what: &str, subject: &[u8]) -> [u8; 16] {
    Hash::of_parts(&[b"duty", what.as_bytes(), subject]).short()
}

/// The id of the message of this kind about a payment; refund orders go by their case instead.
#[must_use]
pub fn message_id(kind: MessageKind, payment: PaymentId) -> MessageId {
    MessageId(duty_id(kind.as_str(), &payment.0.0))
}

/// Who speaks: fills in what every message carries.
#[derive(Clone, Debug)]
pub struct Speaker {
    pub region: RegionId,
    pub epoch: Epoch,
}

struct Need<'a> {
    kind: MessageKind,
    subject: EntityId,
    from_slot: Slot,
    to_slot: Slot,
    requires: Vec<Requirement>,
    deadline_ms: u64,
    until_ms: u64,
    created_ms: u64,
    about: &'a [u8],
    body: MessageBody,
}

impl Speaker {
    fn say(&self, entity: EntityId, need: Need<'_>) -> Duty {
        let id = duty_id(need.kind.as_str(), need.about);
        let envelope = Envelope {
            id: MessageId(id),
            kind: need.kind,
            from: self.region,
            to_slot: need.to_slot,
            subject: need.subject,
            requires: need.requires,
            epoch: self.epoch,
            deadline_ms: need.deadline_ms,
            until_ms: need.until_ms,
            trace: String::new(),
            from_slot: need.from_slot,
            body: Bytes::from(need.body.to_canon()),
            created_ms: need.created_ms,
        };
        Duty { id, entity, due_ms: 0, act: Act::Send(Box::new(envelope)) }
    }
}

/// The notice that a request waits in vain; sent by the agent that holds it.
#[must_use]
pub fn stalled_notice(request: &Envelope, missing: &str, region: RegionId, now_ms: u64) -> Option<Envelope> {
    let Ok(MessageBody::PayRequest(body)) = MessageBody::decode(&request.body) else {
        return None;
    };
    let payment = body.permit.payment_id();
    let about = StalledBody { order: body.permit.order, payment, missing: missing.to_owned() };
    Some(Envelope {
        id: message_id(MessageKind::StalledNotice, payment),
        kind: MessageKind::StalledNotice,
        from: region,
        to_slot: request.from_slot,
        subject: body.permit.order.into(),
        requires: Vec::new(),
        epoch: request.epoch,
        deadline_ms: 0,
        until_ms: 0,
        trace: request.trace.clone(),
        // The slot that `epoch` is about: the gate that speaks here owns none, and must not seem to claim the payer's.
        from_slot: request.from_slot,
        body: Bytes::from(MessageBody::Stalled(about).to_canon()),
        created_ms: now_ms,
    })
}

// === orders ===

/// Every permit ever opened on the order, in the history or in a stray, in payment order.
pub fn every_permit(reading: &Reading<'_, Order>) -> impl Iterator<Item = (PaymentId, Permit)> {
    let links = reading.history.iter().chain(&reading.strays);
    let permits: std::collections::BTreeMap<_, _> = links
        .filter_map(|link| match link.body {
            OrderDecision::PermitOpened(opened) => Some((opened.permit.payment_id(), opened.permit.clone())),
            _ => None,
        })
        .collect();
    permits.into_iter()
}

/// The duties of an order's owner. Facts, strays and ended permits are due at once as [`Act::Decide`].
pub fn order_duties(
    reading: &Reading<'_, Order>,
    glance: &dyn Fn(&PaymentId) -> PaymentGlance,
    mine: &dyn Fn(Slot) -> bool,
    speaker: &Speaker,
    rules: &Rules,
) -> Vec<Duty> {
    let (Some(state), None, Some(order)) = (&reading.state, reading.blocked, reading.entity.id.order())
    else {
        return Vec::new();
    };
    let entity = reading.entity.id;
    let mut duties = Vec::new();
    for (payment, permit) in every_permit(reading) {
        let seen = glance(&payment);
        if seen.ended.is_some() {
            continue;
        }
        let open = state.permits.get(&payment).filter(|permit| permit.closed.is_none());
        let close_at = permit.until_ms.saturating_add(rules.close_margin_ms);
        let barred = reading.facts.keys().any(|key| key.kind == 4 && key.outside == payment.to_string());
        if !barred && open.is_some() {
            let act = Act::CloseAtGateway { payment, order };
            duties.push(Duty::new(entity, "order-close", &payment.0.0, close_at, act));
        }
        if mine(permit.payer.slot()) {
            continue;
        }
        let opened_by = open.filter(|open| open.closing.is_none()).map(|open| open.opened_by);
        match opened_by {
            Some(dot) if !seen.received => duties.push(speaker.say(
                entity,
                Need {
                    kind: MessageKind::PayRequest,
                    subject: payment.into(),
                    from_slot: order.slot(),
                    to_slot: payment.slot(),
                    requires: vec![Requirement { entity, dot }],
                    deadline_ms: request_deadline_ms(reading, &payment, &permit, rules),
                    until_ms: permit.until_ms,
                    created_ms: reading.created.wall_ms,
                    about: &payment.0.0,
                    body: MessageBody::PayRequest(PayRequestBody { permit }),
                },
            )),
            Some(_) => {}
            None => {
                let why = open.and_then(|open| open.closing).unwrap_or(Why::Withdrawal);
                duties.push(speaker.say(
                    entity,
                    Need {
                        kind: MessageKind::Withdrawal,
                        subject: payment.into(),
                        from_slot: order.slot(),
                        to_slot: payment.slot(),
                        requires: Vec::new(),
                        deadline_ms: 0,
                        until_ms: 0,
                        created_ms: reading.created.wall_ms,
                        about: &payment.0.0,
                        body: MessageBody::Withdrawal(WithdrawalBody { permit, why }),
                    },
                ));
            }
        }
    }
    refund_orders(reading, state, order, mine, speaker, &mut duties);
    for case in state.asked.values().filter(|case| !refund_known(reading, &case.case)) {
        let give_up_at_ms = reading.created.wall_ms.saturating_add(rules.refund_expiry_ms);
        let act = Act::AskRefund { case: case.clone(), order, give_up_at_ms };
        duties.push(Duty::new(entity, "ask-refund", &case.case, 0, act));
    }
    if state.phase == OrderPhase::Payable && state.open_permit().is_none() {
        duties.push(Duty::new(entity, "expire", &order.0.0, expires_at_ms(reading), Act::Decide));
    }
    duties
}

fn request_deadline_ms(
    reading: &Reading<'_, Order>,
    payment: &PaymentId,
    permit: &Permit,
    rules: &Rules,
) -> u64 {
    let opened = reading.history.iter().find_map(|link| match link.body {
        OrderDecision::PermitOpened(opened) if opened.permit.payment_id() == *payment => {
            Some(link.since.wall_ms)
        }
        _ => None,
    });
    let waits = opened.unwrap_or(0).saturating_add(rules.message_deadline_ms);
    waits.min(permit.until_ms.saturating_sub(rules.attempt_margin_ms))
}

fn refund_orders(
    reading: &Reading<'_, Order>,
    state: &crate::order::OrderState,
    order: OrderId,
    mine: &dyn Fn(Slot) -> bool,
    speaker: &Speaker,
    duties: &mut Vec<Duty>,
) {
    for refund in state.refunds.values() {
        let Some(case) = still_owed(reading, &refund.case).filter(|_| !refund.settled) else { continue };
        if mine(case.payment.slot()) {
            continue;
        }
        let entity = reading.entity.id;
        duties.push(speaker.say(
            entity,
            Need {
                kind: MessageKind::RefundOrder,
                subject: case.payment.into(),
                from_slot: order.slot(),
                to_slot: case.payment.slot(),
                requires: vec![Requirement { entity, dot: refund.owed_by }],
                deadline_ms: 0,
                until_ms: 0,
                created_ms: reading.created.wall_ms,
                about: &refund.case.case,
                body: MessageBody::RefundOrder(RefundOrderBody { refund: case.clone(), order }),
            },
        ));
    }
}

fn refund_known(reading: &Reading<'_, Order>, case: &[u8; 16]) -> bool {
    reading.known_facts().any(|(_, fact)| matches!(fact, Fact::Refund(refund) if refund.case == *case))
}

/// What of a refund can still be carried out: nothing where it was, and never more than is left of its capture, which
/// somebody may have given back in part at the gateway's own console. Without this it would be asked for without end.
fn still_owed<K: Kind>(reading: &Reading<'_, K>, case: &RefundCase) -> Option<RefundCase> {
    let (mut captured, mut back) = (None, 0u64);
    for (_, fact) in reading.known_facts() {
        match fact {
            Fact::Capture(capture) if capture.intent == case.intent => captured = Some(capture.amount_minor),
            Fact::Refund(refund) if refund.case == case.case => return None,
            Fact::Refund(refund) if refund.intent == case.intent => {
                back = back.saturating_add(refund.amount_minor);
            }
            _ => {}
        }
    }
    let left = captured.map_or(case.amount_minor, |captured| captured.saturating_sub(back));
    let amount_minor = case.amount_minor.min(left);
    (amount_minor > 0).then(|| RefundCase { amount_minor, ..case.clone() })
}

// === payments ===

/// What a payment's owner reads off the order: the permit, and the refunds its effective history owes.
#[derive(Clone, Debug)]
pub struct OrderGlance {
    /// Whether the order itself is known here.
    pub known: bool,
    pub permit: PermitGlance,
    pub refunds: Vec<RefundCase>,
    pub epoch: Option<Epoch>,
}

impl OrderGlance {
    /// Of an order as it is known here; being *present* is not being *authorised*: only the effective history counts.
    #[must_use]
    pub fn of(order: Option<&Entity>, payment: &PaymentId) -> OrderGlance {
        let unknown =
            OrderGlance { known: false, permit: PermitGlance::Unknown, refunds: Vec::new(), epoch: None };
        let Some(order) = order else { return unknown };
        let reading = Reading::<Order>::of(order);
        let Some(state) = reading.state.as_ref().filter(|_| reading.blocked.is_none()) else {
            return unknown;
        };
        let permit = match state.permits.get(payment) {
            Some(permit) => match (permit.closed, permit.closing) {
                (Some(how), _) => PermitGlance::Closed(how),
                (None, Some(why)) => PermitGlance::Closing(why),
                (None, None) => PermitGlance::Open,
            },
            // A stray that its owner has not ruled on yet may still be adopted.
            None if reading.strays.iter().any(|stray| {
                matches!(stray.body, OrderDecision::PermitOpened(opened) if opened.permit.payment_id() == *payment)
                    && !state.reconciled.contains(&stray.hash)
            }) =>
            {
                PermitGlance::Unknown
            }
            None if reading.strays.iter().any(|stray| {
                matches!(stray.body, OrderDecision::PermitOpened(opened) if opened.permit.payment_id() == *payment)
            }) =>
            {
                PermitGlance::Absent
            }
            None => PermitGlance::Unknown,
        };
        let owed = state.refunds.values().filter(|refund| refund.case.payment == *payment && !refund.settled);
        let owed = owed.filter_map(|refund| still_owed(&reading, &refund.case));
        let mut refunds: Vec<RefundCase> = owed.collect();
        if planted(Bug::ActingOnAStray) {
            let strays = reading.strays.iter().filter_map(|stray| stray.body.refund());
            refunds.extend(strays.filter(|case| case.payment == *payment).cloned());
        }
        OrderGlance { known: true, permit, refunds, epoch: reading.epoch }
    }
}

/// The duties of a payment's owner.
pub fn payment_duties(
    reading: &Reading<'_, Payment>,
    order: &OrderGlance,
    mine: &dyn Fn(Slot) -> bool,
    speaker: &Speaker,
) -> Vec<Duty> {
    let (Some(state), None, Some(payment)) = (&reading.state, reading.blocked, reading.entity.id.payment())
    else {
        return Vec::new();
    };
    let entity = reading.entity.id;
    let permit = &state.permit;
    let mut duties = Vec::new();
    if let Some(attempt) = state.open_attempt() {
        let charge = Charge {
            payment,
            k: attempt.k,
            key: attempt.key,
            permit: permit.clone(),
            card: state.card.clone(),
            expires_at_ms: attempt.expires_at_ms,
            order_epoch: order.epoch,
            payment_epoch: speaker.epoch,
        };
        // An attempt that was adopted after the end must not take money now: it is closed, and what it took is found.
        if state.closing.is_some() || state.ended().is_some() {
            let act = Act::CloseAtGateway { payment, order: permit.order };
            duties.push(Duty::new(entity, "payment-close", &payment.0.0, 0, act));
        } else {
            duties.push(Duty::new(entity, "charge", &attempt.key, 0, Act::Charge(Box::new(charge))));
        }
    }
    let orphans = state.orphan_refunds.values();
    for case in order.refunds.iter().chain(orphans).filter_map(|case| still_owed(reading, case)) {
        let subject = case.case;
        let act = Act::Refund { case, order: permit.order };
        duties.push(Duty::new(entity, "refund", &subject, 0, act));
    }
    duties.extend(result_duty(reading, state, order, mine, speaker));
    if state.ended().is_none() {
        let until = match state.phase {
            PaymentPhase::Ended(_) => None,
            _ => Some(permit.until_ms),
        };
        duties.extend(until.map(|due| Duty::new(entity, "until", &payment.0.0, due, Act::Decide)));
    }
    duties
}

fn result_duty(
    reading: &Reading<'_, Payment>,
    state: &PaymentState,
    order: &OrderGlance,
    mine: &dyn Fn(Slot) -> bool,
    speaker: &Speaker,
) -> Option<Duty> {
    let (_, dot) = (state.ended()?, state.ended_by?);
    // Where the order is known and says nothing of the permit, its owner closes it by the data alone, if it ever comes.
    let waiting = match order.permit {
        PermitGlance::Open | PermitGlance::Closing(_) => true,
        PermitGlance::Unknown => !order.known,
        PermitGlance::Closed(_) | PermitGlance::Absent => false,
    };
    if !waiting || mine(state.permit.order.slot()) {
        return None;
    }
    let entity = reading.entity.id;
    let payment = entity.payment()?;
    Some(speaker.say(
        entity,
        Need {
            kind: MessageKind::Result,
            subject: state.permit.order.into(),
            from_slot: payment.slot(),
            to_slot: state.permit.order.slot(),
            requires: vec![Requirement { entity, dot }],
            deadline_ms: 0,
            // While the order is unknown here it may be lost everywhere; past this its owner, if any, closes by itself.
            until_ms: if order.known { 0 } else { state.permit.until_ms },
            created_ms: reading.created.wall_ms,
            about: &payment.0.0,
            body: MessageBody::Result(ResultBody { payment }),
        },
    ))
}
