//! The conflict journal: where two homes, or the world outside and a decision, said different things, and what the rule
//! made of it. Derived from an entity alone, so it is the same in every region that holds the same.
//!
//! An entity that has an entry never becomes one without any: strays stay strays, or what bypassed them becomes one.

use crate::cell::remedies;
use crate::clock::Hlc;
use crate::entity::{Blocked, Entity, Kind as EntityOf, Link, Reading};
use crate::event::Fact;
use crate::id::{EntityId, Hash, UserId};
use crate::order::{
    CaptureSettled, CaptureVerdict, Case, CaseResolved, Order, OrderDecision, OrderState, Reconciled, Remedy,
    Ruling, Verdict, Why,
};
use crate::payment::{Payment, PaymentDecision};
use crate::placement::Epoch;
use crate::version::Dot;

/// What kind of entry it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A decision of a home that was replaced before it was heard.
    Stray,
    /// Two contents at one place of a chain.
    Fork,
    /// Money that came when the order could not take it.
    Capture,
    /// Something that a person decides.
    Case,
}

/// What it is about; what metrics are told apart by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// One side says paid, the other that there is nothing to pay any more.
    PaidVersusCancelled,
    /// Two payments for one order, or two requests to pay it.
    TwoPayers,
    /// Money for another content or amount.
    OtherContent,
    /// Two contents under one id: of a fact, a place, or a key.
    TwoContents,
    /// Money went back, or cannot go where it belongs, and nobody decided that.
    Unasked,
    /// A user's command that another home did not know.
    Command,
    /// What follows from rules alone: timers, settling.
    Automatic,
}

impl Kind {
    pub const ALL: [Kind; 4] = [Kind::Stray, Kind::Fork, Kind::Capture, Kind::Case];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Stray => "stray",
            Kind::Fork => "fork",
            Kind::Capture => "capture",
            Kind::Case => "case",
        }
    }
}

impl Class {
    pub const ALL: [Class; 7] = [
        Class::PaidVersusCancelled,
        Class::TwoPayers,
        Class::OtherContent,
        Class::TwoContents,
        Class::Unasked,
        Class::Command,
        Class::Automatic,
    ];

    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Class::PaidVersusCancelled => "paid-versus-cancelled",
            Class::TwoPayers => "two-payers",
            Class::OtherContent => "other-content",
            Class::TwoContents => "two-contents",
            Class::Unasked => "unasked",
            Class::Command => "command",
            Class::Automatic => "automatic",
        }
    }
}

/// One of the two that do not go together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Its name, as in a history.
    pub what: &'static str,
    /// What it says, for people.
    pub value: String,
    /// The change that brought it.
    pub dot: Dot,
    /// Of a decision.
    pub epoch: Option<Epoch>,
    pub at: Hlc,
    /// Whose command it was.
    pub user: Option<UserId>,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conflict {
    pub entity: EntityId,
    /// Unique in its entity, and the same in every region.
    pub id: [u8; 8],
    pub kind: Kind,
    pub class: Class,
    /// A case's subject, the gateway's id of a capture, the name of a decision.
    pub subject: String,
    /// When it was ruled upon; else when the later side was made.
    pub at: Hlc,
    /// Not ruled upon yet, owed still, or not looked at by a person.
    pub open: bool,
    /// What is in force.
    pub stands: Option<Side>,
    /// What is not, or not any more.
    pub other: Option<Side>,
    /// What was decided, in a word.
    pub ruling: &'static str,
    pub why: String,
    /// What a person may decide by now; empty where nobody is asked.
    pub remedies: Vec<Remedy>,
}

/// The entries of an entity, in no order that means anything.
#[must_use]
pub fn conflicts(entity: &Entity) -> Vec<Conflict> {
    if entity.id.order().is_some() {
        return of_order(&Reading::<Order>::of(entity));
    }
    if entity.id.payment().is_some() {
        return of_payment(&Reading::<Payment>::of(entity));
    }
    Vec::new()
}

fn id_of(entity: EntityId, kind: Kind, subject: &[u8]) -> [u8; 8] {
    let hash = Hash::of_parts(&[&entity.to_bytes(), kind.as_str().as_bytes(), subject]);
    std::array::from_fn(|i| hash.0[i])
}

// === strays and forks, of either kind of entity ===

/// How a kind of entity's decisions are told and sorted.
trait Telling: EntityOf {
    fn name(decision: &Self::Decision) -> &'static str;
    fn value(decision: &Self::Decision) -> String;
    fn reconciled(decision: &Self::Decision) -> Option<&Reconciled>;
    fn class(reading: &Reading<'_, Self>, stray: &Link<'_, Self::Decision>) -> Class
    where
        Self: Sized;
}

fn side<K: Telling>(link: &Link<'_, K::Decision>) -> Side {
    Side {
        what: K::name(link.body),
        value: K::value(link.body),
        dot: link.dot,
        epoch: Some(link.decided.epoch),
        at: link.since,
        user: link.command().map(|command| command.user.clone()),
    }
}

fn strays<K: Telling>(reading: &Reading<'_, K>) -> Vec<Conflict> {
    let entity = reading.entity.id;
    let entry = |stray: &Link<'_, K::Decision>| {
        let fork = reading.history.iter().find(|link| {
            (link.decided.epoch, link.decided.place) == (stray.decided.epoch, stray.decided.place)
        });
        let ruled = reading.history.iter().find_map(|link| {
            let verdicts = &K::reconciled(link.body)?.verdicts;
            Some((link, verdicts.iter().find(|verdict| verdict.hash == stray.hash)?))
        });
        // What the later home decided first, without it.
        let instead =
            fork.or_else(|| reading.history.iter().find(|link| link.decided.epoch > stray.decided.epoch));
        let kind = if fork.is_some() { Kind::Fork } else { Kind::Stray };
        Conflict {
            entity,
            id: id_of(entity, kind, &stray.hash.0),
            kind,
            class: if fork.is_some() { Class::TwoContents } else { K::class(reading, stray) },
            subject: K::name(stray.body).to_owned(),
            at: ruled.map_or(stray.since, |(link, _)| link.since),
            open: ruled.is_none(),
            stands: instead.map(side::<K>),
            other: Some(side::<K>(stray)),
            ruling: ruled.map_or("open", |(_, verdict)| verdict.ruling.as_str()),
            why: match ruled {
                Some((_, verdict)) => why_ruled(verdict),
                None if reading.blocked == Some(Blocked::Forked) => {
                    "two contents stand at one place; the next epoch chooses".to_owned()
                }
                None => "its owner has not ruled on it yet".to_owned(),
            },
            remedies: Vec::new(),
        }
    };
    reading.strays.iter().map(entry).collect()
}

fn why_ruled(verdict: &Verdict) -> String {
    let why = match verdict.ruling {
        Ruling::Adopted => "it goes together with what the later home decided, and was decided anew",
        Ruling::Same => "the later home had decided the same",
        Ruling::Void => "the later home's history stands; it had no effect outside",
        Ruling::Withdrawn => "the later home's history stands; whoever was asked to pay is told not to",
        Ruling::Asked => "its refund may have been sent: the gateway is asked until that is known",
        Ruling::HumanCase => "no rule fits: a person looks at it",
    };
    why.to_owned()
}

// === orders ===

fn of_order(reading: &Reading<'_, Order>) -> Vec<Conflict> {
    let mut found = strays(reading);
    let Some(state) = &reading.state else { return found };
    found.extend(late_captures(reading, state));
    let cases = reading.history.iter().filter_map(|link| match link.body {
        OrderDecision::CaseOpened(case) => Some((link, case.subject.as_str())),
        _ => None,
    });
    let ends = reading.history.iter().filter_map(|link| match link.body {
        OrderDecision::CaseResolved(resolved) => Some((link.since, resolved)),
        _ => None,
    });
    let ends: Vec<_> = ends.collect();
    for ((link, subject), (nth, case)) in cases.zip(state.cases.iter().enumerate()) {
        let class = match subject {
            "cancel" => Class::PaidVersusCancelled,
            _ if subject.parse::<crate::id::OrderId>().is_ok() => Class::TwoContents,
            _ if reading.facts.iter().any(|(key, contents)| key.outside == subject && contents.len() > 1) => {
                Class::TwoContents
            }
            _ => Class::Unasked,
        };
        let mut entry = of_case(reading, side::<Order>(link), class, nth, case, &ends);
        entry.stands = facts_side(reading, subject).or(entry.stands);
        if entry.open {
            entry.remedies = remedies(state);
        }
        found.push(entry);
    }
    found
}

/// What is known under the outside id that a case is about.
fn facts_side<K: EntityOf>(reading: &Reading<'_, K>, subject: &str) -> Option<Side> {
    let (_, contents) = reading.facts.iter().find(|(key, _)| key.outside == subject)?;
    let (fact, item) = contents.first()?;
    let values: Vec<String> = contents.iter().map(|(fact, _)| fact_value(fact)).collect();
    let what = match fact {
        Fact::Capture(_) => "capture",
        Fact::Refund(_) => "refund",
        Fact::Failure(_) => "failure",
        Fact::Barred(_) => "barred",
    };
    let dot = item.origins.first()?.dot;
    Some(Side { what, value: values.join(" | "), dot, epoch: None, at: item.since, user: None })
}

fn fact_value(fact: &Fact) -> String {
    match fact {
        Fact::Capture(capture) => {
            let payer = capture.permit.payer.as_str();
            format!("{} {} {} by {payer}", capture.intent, capture.amount_minor, capture.currency)
        }
        Fact::Refund(refund) => format!("{} {} of {}", refund.refund, refund.amount_minor, refund.intent),
        Fact::Failure(failure) => format!("attempt {}: {}", failure.k, failure.code),
        Fact::Barred(barred) => format!("{} takes no more money", barred.payment),
    }
}

/// Captures that the order could not take, and those that met a cancel on its way.
fn late_captures(reading: &Reading<'_, Order>, state: &OrderState) -> Vec<Conflict> {
    let (mut found, mut ended, mut applied) = (Vec::new(), None, None);
    for (nth, link) in reading.history.iter().enumerate() {
        match link.body {
            OrderDecision::Cancelled(_) | OrderDecision::Expired(_) => ended = Some(link),
            OrderDecision::CaptureSettled(settled) if settled.verdict == CaptureVerdict::Applied => {
                applied = Some(link);
                // What followed at once, in the same change, is the cancel that the closing stood for.
                let followed = reading.history[nth + 1..].iter().take_while(|next| next.dot == link.dot);
                let cancel = followed.into_iter().find(
                    |next| matches!(next.body, OrderDecision::Cancelled(cancelled) if cancelled.refund.is_some()),
                );
                if let Some(cancel) = cancel {
                    let why = "it was captured while a cancel was on its way: the cancel stands";
                    let entry = (Class::PaidVersusCancelled, Some(cancel), why);
                    found.push(late_capture(reading, state, link, settled, entry));
                }
            }
            OrderDecision::CaptureSettled(settled) if settled.verdict == CaptureVerdict::RefundOwed => {
                let entry = match (ended, applied) {
                    (_, Some(paid)) => {
                        (Class::TwoPayers, Some(paid), "the order is paid by another capture, or was")
                    }
                    (Some(end), _) => {
                        (Class::PaidVersusCancelled, Some(end), "the order could not be paid any more")
                    }
                    (None, None) => {
                        (Class::OtherContent, None, "it is not for the order's present content and amount")
                    }
                };
                found.push(late_capture(reading, state, link, settled, entry));
            }
            _ => {}
        }
    }
    found
}

fn late_capture(
    reading: &Reading<'_, Order>,
    state: &OrderState,
    link: &Link<'_, OrderDecision>,
    settled: &CaptureSettled,
    (class, stands, why): (Class, Option<&Link<'_, OrderDecision>>, &str),
) -> Conflict {
    let entity = reading.entity.id;
    let of_intent = state.refunds.values().filter(|refund| refund.case.intent == settled.intent);
    Conflict {
        entity,
        id: id_of(entity, Kind::Capture, settled.intent.as_bytes()),
        kind: Kind::Capture,
        class,
        subject: settled.intent.clone(),
        at: link.since,
        open: of_intent.into_iter().any(|refund| !refund.settled),
        stands: stands.map(side::<Order>),
        other: facts_side(reading, &settled.intent).or_else(|| Some(side::<Order>(link))),
        ruling: "refund-owed",
        why: format!("{why}; the money goes back"),
        remedies: Vec::new(),
    }
}

fn of_case<K: EntityOf>(
    reading: &Reading<'_, K>,
    opened: Side,
    class: Class,
    nth: usize,
    case: &Case,
    ends: &[(Hlc, &CaseResolved)],
) -> Conflict {
    let entity = reading.entity.id;
    let of_it = |(at, end): &&(Hlc, &CaseResolved)| *at >= opened.at && end.subject == case.subject;
    let end = case.resolved.and_then(|_| ends.iter().find(of_it));
    let why = match end {
        Some((_, end)) => format!("{}; {} resolved it: {}", case.reason, end.identity, end.reason),
        None => case.reason.clone(),
    };
    Conflict {
        entity,
        id: id_of(entity, Kind::Case, format!("{nth} {}", case.subject).as_bytes()),
        kind: Kind::Case,
        class,
        subject: case.subject.clone(),
        at: opened.at,
        open: case.resolved.is_none(),
        stands: None,
        other: Some(opened),
        ruling: case.resolved.map_or("open", Remedy::as_str),
        why,
        remedies: Vec::new(),
    }
}

impl Telling for Order {
    fn name(decision: &OrderDecision) -> &'static str {
        decision.name()
    }

    fn value(decision: &OrderDecision) -> String {
        let refund = |refund: &Option<crate::order::RefundCase>| {
            refund.as_ref().map_or("nothing to give back".to_owned(), |refund| {
                format!("{} of {} go back", refund.amount_minor, refund.intent)
            })
        };
        match decision {
            OrderDecision::PermitOpened(opened) => {
                let permit = &opened.permit;
                format!("{} may pay {} {}", permit.payer, permit.amount_minor, permit.currency)
            }
            OrderDecision::PermitClosing(closing) => format!("{} for {}", closing.payment, closing.why),
            OrderDecision::PermitClosed(closed) => format!("{}: {}", closed.payment, closed.how),
            OrderDecision::CaptureSettled(settled) => {
                format!("{} {}: {}", settled.intent, settled.amount_minor, settled.verdict)
            }
            OrderDecision::RefundSettled(settled) => {
                format!("{} {} of {}", settled.refund, settled.amount_minor, settled.intent)
            }
            OrderDecision::Cancelled(cancelled) => refund(&cancelled.refund),
            OrderDecision::RefundGranted(granted) => refund(&Some(granted.refund.clone())),
            OrderDecision::Amended(amended) => {
                let total = amended.content.total_minor().unwrap_or(0);
                format!("{total} {}", amended.content.currency)
            }
            OrderDecision::Reconciled(reconciled) => {
                let rulings: Vec<_> = reconciled.verdicts.iter().map(|v| v.ruling.as_str()).collect();
                rulings.join(", ")
            }
            OrderDecision::Stalled(stalled) => stalled.missing.clone(),
            OrderDecision::CaseOpened(case) => case.reason.clone(),
            OrderDecision::CaseResolved(case) => format!("{} by {}", case.with, case.identity),
            OrderDecision::FactNoted(noted) => noted.outside.clone(),
            OrderDecision::Expired(_) => String::new(),
        }
    }

    fn reconciled(decision: &OrderDecision) -> Option<&Reconciled> {
        match decision {
            OrderDecision::Reconciled(reconciled) => Some(reconciled),
            _ => None,
        }
    }

    fn class(reading: &Reading<'_, Order>, stray: &Link<'_, OrderDecision>) -> Class {
        let paid = reading.history.iter().any(|link| applies(link.body));
        let over = reading
            .history
            .iter()
            .any(|link| matches!(link.body, OrderDecision::Cancelled(_) | OrderDecision::Expired(_)));
        match stray.body {
            OrderDecision::Cancelled(_) if paid => Class::PaidVersusCancelled,
            OrderDecision::PermitClosing(closing) if closing.why == Why::Cancel && paid => {
                Class::PaidVersusCancelled
            }
            body if applies(body) && over => Class::PaidVersusCancelled,
            OrderDecision::PermitOpened(_) => Class::TwoPayers,
            _ if stray.command().is_some() => Class::Command,
            _ => Class::Automatic,
        }
    }
}

fn applies(decision: &OrderDecision) -> bool {
    matches!(decision, OrderDecision::CaptureSettled(settled) if settled.verdict == CaptureVerdict::Applied)
}

// === payments ===

fn of_payment(reading: &Reading<'_, Payment>) -> Vec<Conflict> {
    let mut found = strays(reading);
    let Some(state) = &reading.state else { return found };
    let cases = reading.history.iter().filter_map(|link| match link.body {
        PaymentDecision::CaseOpened(case) => Some((link, case.subject.as_str())),
        _ => None,
    });
    let ends = reading.history.iter().filter_map(|link| match link.body {
        PaymentDecision::CaseResolved(resolved) => Some((link.since, resolved)),
        _ => None,
    });
    let ends: Vec<_> = ends.collect();
    for ((link, subject), (nth, case)) in cases.zip(state.cases.iter().enumerate()) {
        let mut entry = of_case(reading, side::<Payment>(link), Class::Unasked, nth, case, &ends);
        entry.stands = facts_side(reading, subject);
        if entry.open {
            entry.remedies = vec![Remedy::Keep];
        }
        found.push(entry);
    }
    found
}

impl Telling for Payment {
    fn name(decision: &PaymentDecision) -> &'static str {
        decision.name()
    }

    fn value(decision: &PaymentDecision) -> String {
        match decision {
            PaymentDecision::AttemptStarted(started) => format!("attempt {}", started.k),
            PaymentDecision::AttemptEnded(ended) => format!("attempt {}: {}", ended.k, ended.end),
            PaymentDecision::Ended(ended) => format!("{} {}", ended.how, ended.code),
            PaymentDecision::EndAmended(amended) => amended.intent.clone(),
            PaymentDecision::ClosingAsked(asked) => asked.why.to_string(),
            PaymentDecision::RefundOrphan(orphan) => {
                format!("{} of {} go back", orphan.refund.amount_minor, orphan.refund.intent)
            }
            PaymentDecision::CaseOpened(case) => case.reason.clone(),
            PaymentDecision::CaseResolved(case) => format!("{} by {}", case.with, case.identity),
            PaymentDecision::FactNoted(noted) => noted.outside.clone(),
            PaymentDecision::Received(_) | PaymentDecision::Accepted(_) | PaymentDecision::Reconciled(_) => {
                String::new()
            }
        }
    }

    fn reconciled(decision: &PaymentDecision) -> Option<&Reconciled> {
        match decision {
            PaymentDecision::Reconciled(reconciled) => Some(reconciled),
            _ => None,
        }
    }

    fn class(_: &Reading<'_, Payment>, stray: &Link<'_, PaymentDecision>) -> Class {
        if stray.command().is_some() { Class::Command } else { Class::Automatic }
    }
}
