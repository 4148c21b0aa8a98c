//! Notifications: derived from decisions in every region, so that a user's can be read anywhere.

use std::collections::BTreeMap;

use cell_core::canon::Message;
use cell_core::entity::{Entity, Kind, Link, Reading};
use cell_core::event::CommandRef;
use cell_core::id::{ActorId, EntityId, Hash, UserId};
use cell_core::order::{CaptureVerdict, How, Order, OrderDecision, Ruling, Why};
use cell_core::payment::{AttemptEnd, Payment, PaymentDecision, Permit};
use cell_core::placement::Epoch;
use cell_core::version::Dot;
use serde::{Deserialize, Serialize};

/// What a user is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
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
    /// W3C `traceparent` of what brought it here, if that is known.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub trace: String,
}

/// A notice as the view keeps it: a check over the rest, then the dots it derives from, so that a reader who has seen them
/// passes over it without reading it.
#[derive(Debug)]
pub(crate) struct Kept<'a> {
    pub(crate) dots: Vec<Dot>,
    trace: &'a str,
    json: &'a [u8],
}

impl<'a> Kept<'a> {
    /// `None` if the bytes are none of ours, or not what was written.
    pub(crate) fn decode(bytes: &'a [u8]) -> Option<Kept<'a>> {
        let (check, rest) = bytes.split_first_chunk::<CHECK_BYTES>()?;
        if *check != check_of(rest) {
            return None;
        }
        let (count, mut rest) = rest.split_first()?;
        let mut dots = Vec::with_capacity(usize::from(*count));
        for _ in 0..*count {
            let (length, behind) = rest.split_first()?;
            let (dot, behind) = behind.split_at_checked(usize::from(*length))?;
            dots.push(Dot::decode(dot).ok()?);
            rest = behind;
        }
        let (length, rest) = rest.split_first()?;
        let (trace, json) = rest.split_at_checked(usize::from(*length))?;
        Some(Kept { dots, trace: std::str::from_utf8(trace).ok()?, json })
    }

    /// Whether two kept notices tell the same; what they derive from, and what brought them, may differ.
    pub(crate) fn says_the_same(one: &[u8], other: &[u8]) -> bool {
        matches!((Kept::decode(one), Kept::decode(other)), (Some(one), Some(other)) if one.json == other.json)
    }

    pub(crate) fn notice(&self) -> Option<Notice> {
        let notice: Notice = serde_json::from_slice(self.json).ok()?;
        Some(Notice { trace: self.trace.to_owned(), ..notice })
    }
}

const CHECK_BYTES: usize = 4;
/// An order that so many starts of its home decided on is none that anybody waits for.
const DOTS_MAX: usize = 64;

/// What a notice derives from and what brought it cannot be computed again: damage to them shows by this alone.
fn check_of(bytes: &[u8]) -> [u8; CHECK_BYTES] {
    let hash = Hash::of_parts(&[b"notice", bytes]);
    std::array::from_fn(|i| hash.0[i])
}

/// One user's notice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) user: UserId,
    pub(crate) id: [u8; 16],
    /// The changes it derives from; a reader who has seen all of them has seen it.
    pub(crate) dots: Vec<Dot>,
    pub(crate) notice: Notice,
}

impl Told {
    /// As [`Kept::decode`] reads it; `trace` is a W3C `traceparent`, or empty.
    pub(crate) fn to_kept(&self, trace: &str) -> Vec<u8> {
        let mut out = vec![0; CHECK_BYTES];
        out.push(self.dots.len() as u8);
        for dot in &self.dots {
            let dot = dot.to_canon();
            // A dot has some 40 bytes: a region's name is short.
            out.push(dot.len() as u8);
            out.extend(dot);
        }
        // A trace has 55 bytes; what is no trace is none.
        let trace = if trace.len() <= usize::from(u8::MAX) { trace } else { "" };
        out.push(trace.len() as u8);
        out.extend(trace.as_bytes());
        serde_json::to_writer(&mut out, &self.notice)
            .unwrap_or_else(|_| unreachable!("a notice is plain data"));
        let check = check_of(&out[CHECK_BYTES..]);
        out[..CHECK_BYTES].copy_from_slice(&check);
        out
    }
}

struct Saying<'a> {
    entity: EntityId,
    order: String,
    payment: Option<String>,
    /// What put the decisions in force that supersede others.
    in_force: Option<Dot>,
    /// The last epoch with decisions that are not in force. What is older may have been bypassed by it, and be in force
    /// again.
    bypassed_by: Option<Epoch>,
    /// What is said now is not in force (any more).
    superseded: bool,
    /// The newest change of each actor that what is said now builds on: without them it is not said.
    builds_on: BTreeMap<ActorId, u64>,
    told: &'a mut Vec<Told>,
}

impl Saying<'_> {
    /// What comes from now on builds on that, too.
    fn build_on(&mut self, dot: Option<Dot>) {
        if let Some(Dot { actor, seq }) = dot {
            let newest = self.builds_on.entry(actor).or_insert(seq);
            *newest = seq.max(*newest);
        }
    }

    /// From now on it tells what is not in force.
    fn goes_back(&mut self, created: Option<Dot>) {
        self.superseded = true;
        self.builds_on.clear();
        self.build_on(created);
    }

    fn say<D>(&mut self, link: &Link<'_, D>, user: &UserId, kind: &str, detail: &str) {
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
            superseded: self.superseded,
            trace: String::new(),
        };
        let mut dots = vec![link.dot];
        let again = self.bypassed_by.is_some_and(|bypass| bypass > link.decided.epoch);
        dots.extend(self.in_force.filter(|_| self.superseded || again));
        let behind = self.builds_on.iter().map(|(actor, seq)| Dot { actor: *actor, seq: *seq });
        dots.extend(behind.filter(|dot| dot.actor != link.dot.actor || dot.seq > link.dot.seq));
        if dots.len() > DOTS_MAX {
            // By none of them nobody has seen it: they are told once more.
            dots.clear();
        }
        self.told.push(Told { user: user.clone(), id, dots, notice });
    }
}

/// Every notice of an entity, in force or superseded.
pub(crate) fn notices(entity: &Entity) -> Vec<Told> {
    let mut told = Vec::new();
    if entity.is_fresh() {
        // Nothing was decided yet.
        return told;
    }
    if entity.id.order().is_some() {
        order_notices(entity, &mut told);
    } else if entity.id.payment().is_some() {
        payment_notices(entity, &mut told);
    }
    told
}

fn order_notices(entity: &Entity, told: &mut Vec<Told>) {
    let reading = Reading::<Order>::of(entity);
    let Some(record) = reading.record else { return };
    let mut saying = Saying {
        entity: entity.id,
        order: entity.id.to_string(),
        payment: None,
        in_force: in_force(&reading),
        bypassed_by: bypassed_by(&reading),
        superseded: false,
        builds_on: BTreeMap::new(),
        told,
    };
    saying.build_on(reading.created_dot);
    let mut payer = None;
    for link in &reading.history {
        saying.build_on(Some(link.dot));
        if let OrderDecision::PermitOpened(opened) = link.body {
            payer = Some(opened.permit.payer.clone());
        }
        order_notice(&mut saying, link, &record.user, payer.as_ref());
    }
    saying.goes_back(reading.created_dot);
    for stray in &reading.strays {
        let payer = payer_before(&reading, stray);
        order_notice(&mut saying, stray, &record.user, payer.as_ref());
        superseded(&mut saying, stray, stray.command());
    }
}

/// Who was asked to pay when this stray was decided: as its own epoch knew it.
fn payer_before(reading: &Reading<'_, Order>, stray: &Link<'_, OrderDecision>) -> Option<UserId> {
    let of_epoch = |link: &&Link<'_, OrderDecision>| link.decided.epoch == stray.decided.epoch;
    let before = |link: &&Link<'_, OrderDecision>| link.decided.place < stray.decided.place;
    let inherited = reading.history.iter().filter(|link| link.decided.epoch < stray.decided.epoch);
    let in_common = reading.history.iter().filter(of_epoch).filter(before);
    let own = reading.strays.iter().filter(of_epoch).filter(before);
    let opened = |link: &Link<'_, OrderDecision>| match link.body {
        OrderDecision::PermitOpened(opened) => Some(opened.permit.payer.clone()),
        _ => None,
    };
    inherited.chain(in_common).chain(own).filter_map(opened).next_back()
}

/// The first decision of the epoch in force: it made strays of what it did not inherit.
fn in_force<K: Kind>(reading: &Reading<'_, K>) -> Option<Dot> {
    let epoch = reading.epoch?;
    reading.history.iter().find(|link| link.decided.epoch == epoch).map(|link| link.dot)
}

fn bypassed_by<K: Kind>(reading: &Reading<'_, K>) -> Option<Epoch> {
    reading.strays.iter().map(|stray| stray.decided.epoch).max()
}

fn superseded<D>(saying: &mut Saying<'_>, stray: &Link<'_, D>, command: Option<&CommandRef>) {
    if let Some(command) = command {
        saying.payment = None;
        saying.say(stray, &command.user, "command.superseded", command.op.as_str());
    }
}

fn order_notice(
    saying: &mut Saying<'_>,
    link: &Link<'_, OrderDecision>,
    buyer: &UserId,
    payer: Option<&UserId>,
) {
    let both = |saying: &mut Saying<'_>, kind: &str, detail: &str| {
        saying.say(link, buyer, kind, detail);
        if let Some(payer) = payer.filter(|payer| *payer != buyer) {
            saying.say(link, payer, kind, detail);
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
        OrderDecision::Expired(_) => saying.say(link, buyer, "order.expired", ""),
        OrderDecision::Stalled(stalled) => {
            saying.payment = Some(stalled.payment.to_string());
            saying.say(link, buyer, "pay-request.stalled", &stalled.missing);
        }
        OrderDecision::PermitClosed(closed) => {
            saying.payment = Some(closed.payment.to_string());
            if closed.how != How::Captured {
                saying.say(link, buyer, "order.payable-again", closed.how.as_str());
            }
        }
        OrderDecision::PermitClosing(closing) if closing.why == Why::OtherPayer => {
            saying.payment = Some(closing.payment.to_string());
            both(saying, "pay-request.withdrawing", closing.why.as_str());
        }
        OrderDecision::Reconciled(reconciled) => {
            for verdict in &reconciled.verdicts {
                if let (Some(user), Ruling::Void | Ruling::Withdrawn) = (&verdict.user, verdict.ruling) {
                    saying.say(link, user, "command.voided", verdict.ruling.as_str());
                }
            }
        }
        _ => {}
    }
}

fn payment_notices(entity: &Entity, told: &mut Vec<Told>) {
    let reading = Reading::<Payment>::of(entity);
    let Some(permit) = reading.record else { return };
    let mut saying = Saying {
        entity: entity.id,
        order: permit.order.to_string(),
        payment: Some(entity.id.to_string()),
        in_force: in_force(&reading),
        bypassed_by: bypassed_by(&reading),
        superseded: false,
        builds_on: BTreeMap::new(),
        told,
    };
    saying.build_on(reading.created_dot);
    for link in &reading.history {
        saying.build_on(Some(link.dot));
        payment_notice(&mut saying, link, permit);
    }
    saying.goes_back(reading.created_dot);
    for stray in &reading.strays {
        saying.payment = Some(entity.id.to_string());
        payment_notice(&mut saying, stray, permit);
        superseded(&mut saying, stray, stray.command());
    }
}

fn payment_notice(saying: &mut Saying<'_>, link: &Link<'_, PaymentDecision>, permit: &Permit) {
    let own = permit.payer == permit.buyer;
    match link.body {
        PaymentDecision::Received(_) if !own => {
            saying.say(link, &permit.payer, "pay-request.received", "");
        }
        PaymentDecision::AttemptEnded(ended) if ended.end == AttemptEnd::Retryable => {
            saying.say(link, &permit.payer, "payment.try-again", &ended.code);
        }
        PaymentDecision::Ended(ended) => {
            let kind = format!("payment.{}", ended.how);
            saying.say(link, &permit.payer, &kind, &ended.code);
            if !own {
                saying.say(link, &permit.buyer, &kind, &ended.code);
            }
        }
        PaymentDecision::EndAmended(amended) => {
            saying.say(link, &permit.payer, "payment.captured", &amended.intent);
            if !own {
                saying.say(link, &permit.buyer, "payment.captured", &amended.intent);
            }
        }
        _ => {}
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::sync::Arc;

    use cell_core::cell::{Ask, Cell, Command, Incoming, Reply, Step, View};
    use cell_core::id::{ActorId, NodeId, OrderId, RegionId};
    use cell_core::order::{Line, OrderContent, OrderRecord};
    use cell_core::placement::Placement;
    use cell_core::rules::Rules;
    use cell_store::Engine;

    use super::*;
    use crate::working::Working;

    struct Region {
        cell: Cell,
        working: Working,
    }

    impl Region {
        fn new(name: &str) -> Region {
            let of = |name: &str| RegionId::new(name).unwrap();
            let members = vec![of("north"), of("east"), of("south")];
            let placement = Placement::initial(members, |_| of("north"));
            let node = NodeId { region: of(name), index: 0 };
            let cell = Cell::new(ActorId { node, start: 1, nonce: 1 }, placement, Rules::default());
            let folder = std::path::Path::new("");
            Region { cell, working: Working::new(cell_store::open(Engine::Memory, folder).unwrap()) }
        }
        fn keep(&self, step: Step) -> Step {
            self.working.put(0, step.entities.iter());
            step
        }
        fn ask(&mut self, user: &UserId, key: &str, ask: Ask) -> (Step, Reply) {
            let (user, key, body, trace) = (user.clone(), key.to_owned(), Vec::new(), String::new());
            let command = Command { user, key, body, trace, ask };
            let (step, reply) = self.cell.command(&self.working, &command, 1_000).unwrap();
            (self.keep(step), reply.unwrap())
        }
        fn take(&mut self, steps: &[&Step]) {
            for entry in steps.iter().flat_map(|step| &step.entries) {
                let step = self
                    .cell
                    .replicate(&self.working, &Incoming::read(entry.clone()), 1_000)
                    .unwrap()
                    .unwrap();
                self.keep(step);
            }
        }
        fn decree(&mut self, order: OrderId, term: u64) -> Step {
            let step = self.cell.decree(&self.working, vec![order.slot()], term, 0, 1_000).unwrap();
            self.keep(step)
        }
        fn entity(&self, order: OrderId) -> Arc<Entity> {
            self.working.entity(order.into()).unwrap().unwrap()
        }
    }

    pub(crate) fn record(user: &UserId) -> OrderRecord {
        let line = Line { sku: "tea".into(), title: String::new(), quantity: 1, unit_minor: 100 };
        let content = OrderContent {
            currency: "CNY".into(),
            lines: vec![line],
            promotions_minor: 0,
            coupon_minor: 0,
            points_minor: 0,
            foreign_shipping_minor: 0,
            forwarding_fee_minor: 0,
            service_fee_minor: 0,
            duty_minor: 0,
        };
        OrderRecord {
            user: user.clone(),
            key: "o".into(),
            content: content.into(),
            pay_window_ms: 1_000_000,
            external_ref: String::new(),
            sealed: bytes::Bytes::new(),
            sealed_key: String::new(),
            attributes: String::new(),
            time_ms: 0,
        }
    }

    #[test]
    fn a_decision_that_one_epoch_bypassed_and_a_later_one_took_up_is_owed_again() {
        let user = UserId::new("a").unwrap();
        let [mut north, mut east, mut south] = ["north", "east", "south"].map(Region::new);
        let (placed, reply) = north.ask(&user, "o", Ask::Place { record: Box::new(record(&user)) });
        let order = reply.order;
        south.take(&[&placed]);
        east.take(&[&placed]);
        // An episode that ends with a notice: somebody is asked, and declines.
        let payer = UserId::new("b").unwrap();
        let ask = Ask::AskPayer { order, payer: payer.clone(), until_ms: None, window_ms: None };
        let (asked, reply) = north.ask(&user, "q", ask);
        let payment = reply.payment.unwrap();
        let (declined, _) = north.ask(&payer, "d", Ask::Decline { payment });
        // East takes over without having heard of it, and amends; south later, without having heard of east.
        let amend = |duty_minor| {
            let content = OrderContent { duty_minor, ..(*record(&user).content).clone() }.into();
            Ask::Amend { order, content }
        };
        let taken = east.decree(order, 2);
        let (amended, _) = east.ask(&user, "m", amend(5));
        north.take(&[&taken, &amended]);
        let of_it = |told: &Told| told.notice.kind == "order.payable-again";
        let again = |told: &Told| of_it(told) && !told.notice.superseded;
        let bypassed: Vec<_> = notices(&north.entity(order)).into_iter().filter(of_it).collect();
        assert!(
            !bypassed.is_empty() && !bypassed.iter().any(again),
            "whoever was told is told that it is not so"
        );
        assert!(bypassed.iter().all(|told| told.dots.contains(&amended.entries[0].dot)), "{bypassed:?}");
        let seen: Vec<Dot> = [&placed, &asked, &declined, &taken, &amended]
            .iter()
            .flat_map(|step| step.entries.iter().map(|entry| entry.dot))
            .collect();
        south.take(&[&asked, &declined]);
        let retaken = south.decree(order, 3);
        let (amended, _) = south.ask(&user, "n", amend(6));
        north.take(&[&retaken, &amended]);
        let told = notices(&north.entity(order));
        let again = told.into_iter().find(again).expect("in force again");
        assert!(
            again.dots.iter().any(|dot| !seen.contains(dot)),
            "a reader who saw all of it before has not seen it in force: {:?}",
            again.dots
        );
    }

    #[test]
    fn a_notice_is_owed_to_who_has_not_seen_all_that_it_builds_on() {
        let user = UserId::new("a").unwrap();
        let [mut north, mut east] = ["north", "east"].map(Region::new);
        let (placed, reply) = north.ask(&user, "o", Ask::Place { record: Box::new(record(&user)) });
        let order = reply.order;
        east.take(&[&placed]);
        east.decree(order, 2);
        let (cancelled, _) = east.ask(&user, "c", Ask::Cancel { order });
        let told = notices(&east.entity(order));
        let told = told.iter().find(|told| told.notice.kind == "order.cancelled").unwrap();
        for step in [&placed, &cancelled] {
            let dot = step.entries.last().unwrap().dot;
            assert!(told.dots.contains(&dot), "{dot} of {:?}", told.dots);
        }
    }
}
