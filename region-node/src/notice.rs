//! Notifications: derived from decisions in every region, so that a user's can be read anywhere.

use cell_core::entity::{Entity, Link, Reading};
use cell_core::event::CommandRef;
use cell_core::id::{EntityId, Hash, UserId};
use cell_core::order::{CaptureVerdict, How, Order, OrderDecision, Ruling, Why};
use cell_core::payment::{AttemptEnd, Payment, PaymentDecision, Permit};
use serde::{Deserialize, Serialize};

/// What a user is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// Hash of (entity, epoch, place, kind, user): the same in every region.
    pub id: String,
    pub kind: String,
    pub order: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub payment: Option<String>,
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub detail: String,
    pub at_ms: u64,
    #[serde(skip)]
    pub counter: u64,
    /// Set where the decision is not in force (any more): receivers must cope with going back.
    #[serde(default)]
    pub superseded: bool,
}

/// One user's notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) user: UserId,
    pub(crate) id: [u8; 16],
    pub(crate) notice: Notice,
}

struct Saying<'a> {
    entity: EntityId,
    order: String,
    payment: Option<String>,
    told: &'a mut Vec<Told>,
}

impl Saying<'_> {
    fn say<D>(&mut self, link: &Link<'_, D>, user: &UserId, kind: &str, detail: &str, superseded: bool) {
        let epoch = crate::writer::epoch_bytes(&link.decided.epoch);
        let place = link.decided.place.to_be_bytes();
        let parts: [&[u8]; 5] =
            [&self.entity.to_bytes(), &epoch, &place, kind.as_bytes(), user.as_str().as_bytes()];
        let id = Hash::of_parts(&parts).short();
        let notice = Notice {
            id: id.iter().map(|byte| format!("{byte:02x}")).collect(),
            kind: kind.to_owned(),
            order: self.order.clone(),
            payment: self.payment.clone(),
            detail: detail.to_owned(),
            at_ms: link.since.wall_ms,
            counter: link.since.counter,
            superseded,
        };
        self.told.push(Told { user: user.clone(), id, notice });
    }
}

/// Every notice of an entity, in force or superseded.
pub(crate) fn notices(entity: &Entity) -> Vec<Told> {
    let mut told = Vec::new();
    if entity.id.order().is_some() {
        order_notices(entity, &mut told);
    } else if entity.id.payment().is_some() {
        payment_notices(entity, &mut told);
    }
    told
}

fn order_notices(entity: &Entity, told: &mut Vec<Told>) {
    let reading = Reading::<Order>::of(entity);
    let Some(record) = &reading.record else { return };
    let mut saying = Saying { entity: entity.id, order: entity.id.to_string(), payment: None, told };
    let mut payer = None;
    for link in &reading.history {
        if let OrderDecision::PermitOpened(opened) = link.body {
            payer = Some(opened.permit.payer.clone());
        }
        order_notice(&mut saying, link, &record.user, payer.as_ref());
    }
    for stray in &reading.strays {
        superseded(&mut saying, stray, stray.command());
    }
}

fn superseded<D>(saying: &mut Saying<'_>, stray: &Link<'_, D>, command: Option<&CommandRef>) {
    if let Some(command) = command {
        saying.payment = None;
        saying.say(stray, &command.user, "command.superseded", command.op.as_str(), true);
    }
}

fn order_notice(
    saying: &mut Saying<'_>,
    link: &Link<'_, OrderDecision>,
    buyer: &UserId,
    payer: Option<&UserId>,
) {
    let both = |saying: &mut Saying<'_>, kind: &str, detail: &str| {
        saying.say(link, buyer, kind, detail, false);
        if let Some(payer) = payer.filter(|payer| *payer != buyer) {
            saying.say(link, payer, kind, detail, false);
        }
    };
    saying.payment = None;
    match link.body {
        OrderDecision::CaptureSettled(settled) => {
            saying.payment = Some(settled.payment.to_string());
            match settled.verdict {
                CaptureVerdict::Applied => both(saying, "order.paid", ""),
                CaptureVerdict::RefundOwed => both(saying, "refund.owed", &settled.intent),
                CaptureVerdict::AlreadyRefunded => both(saying, "refund.done", &settled.intent),
            }
        }
        OrderDecision::RefundSettled(settled) => both(saying, "refund.done", &settled.intent),
        OrderDecision::RefundGranted(granted) => both(saying, "refund.owed", &granted.refund.intent),
        OrderDecision::Cancelled(_) => both(saying, "order.cancelled", ""),
        OrderDecision::Expired(_) => saying.say(link, buyer, "order.expired", "", false),
        OrderDecision::Stalled(stalled) => {
            saying.payment = Some(stalled.payment.to_string());
            saying.say(link, buyer, "pay-request.stalled", &stalled.missing, false);
        }
        OrderDecision::PermitClosed(closed) => {
            saying.payment = Some(closed.payment.to_string());
            if closed.how != How::Captured {
                saying.say(link, buyer, "order.payable-again", closed.how.as_str(), false);
            }
        }
        OrderDecision::PermitClosing(closing) if closing.why == Why::OtherPayer => {
            saying.payment = Some(closing.payment.to_string());
            both(saying, "pay-request.withdrawing", closing.why.as_str());
        }
        OrderDecision::Reconciled(reconciled) => {
            for verdict in &reconciled.verdicts {
                if let (Some(user), Ruling::Void | Ruling::Withdrawn) = (&verdict.user, verdict.ruling) {
                    saying.say(link, user, "command.voided", verdict.ruling.as_str(), false);
                }
            }
        }
        _ => {}
    }
}

fn payment_notices(entity: &Entity, told: &mut Vec<Told>) {
    let reading = Reading::<Payment>::of(entity);
    let Some(permit) = &reading.record else { return };
    let mut saying = Saying {
        entity: entity.id,
        order: permit.order.to_string(),
        payment: Some(entity.id.to_string()),
        told,
    };
    for link in &reading.history {
        payment_notice(&mut saying, link, permit);
    }
    for stray in &reading.strays {
        superseded(&mut saying, stray, stray.command());
    }
}

fn payment_notice(saying: &mut Saying<'_>, link: &Link<'_, PaymentDecision>, permit: &Permit) {
    let own = permit.payer == permit.buyer;
    match link.body {
        PaymentDecision::Received(_) if !own => {
            saying.say(link, &permit.payer, "pay-request.received", "", false);
        }
        PaymentDecision::AttemptEnded(ended) if ended.end == AttemptEnd::Retryable => {
            saying.say(link, &permit.payer, "payment.try-again", &ended.code, false);
        }
        PaymentDecision::Ended(ended) => {
            let kind = format!("payment.{}", ended.how);
            saying.say(link, &permit.payer, &kind, &ended.code, false);
            if !own {
                saying.say(link, &permit.buyer, &kind, &ended.code, false);
            }
        }
        PaymentDecision::EndAmended(amended) => {
            saying.say(link, &permit.payer, "payment.captured", &amended.intent, false);
            if !own {
                saying.say(link, &permit.buyer, "payment.captured", &amended.intent, false);
            }
        }
        _ => {}
    }
}
