//! The payment: its permit, the payer's side of the decisions, and what they fold to.

use std::collections::{BTreeMap, BTreeSet};

use crate::canon::{codes, message};
use crate::entity::{Kind, Link};
use crate::event::{Decision, FactKey, Record};
use crate::id::{Hash, OrderId, PaymentId, PublicId, UserId};
use crate::museum::{Bug, planted};
use crate::order::{
    Case, CaseOpened, CaseResolved, FactNoted, How, Reconciled, RefundCase, Ruling, Why, open_case,
    resolve_case,
};
use crate::version::Dot;

message! {
    /// Leave for one person to pay one amount for one content of one order: the creation record of a payment.
    pub struct Permit {
        1 => order: OrderId,
        2 => buyer: UserId,
        3 => payer: UserId,
        4 => amount_minor: u64,
        5 => currency: String,
        /// Hash of the order's content it pays for.
        6 => content: Hash,
        7 => until_ms: u64,
        /// Whether `until_ms` follows from the command (asked for, or from its key) and so belongs to the id.
        8 => until_from_command: bool,
        /// Id of the command that asked.
        9 => command: [u8; 16],
    }
}

impl Permit {
    /// The payment's id: its slot is the payer's, its time the order's, its hash covers everything the permit says
    /// (`until_ms` only where it is a function of the command).
    #[must_use]
    pub fn payment_id(&self) -> PaymentId {
        let until = if self.until_from_command { self.until_ms } else { 0 };
        if planted(Bug::PermitReused) {
            let hash = Hash::of_parts(&[&self.order.0.0, self.payer.as_str().as_bytes()]);
            return PaymentId(PublicId::new(self.order.0.time_ms(), self.payer.slot(), &hash));
        }
        let hash = Hash::of_parts(&[
            b"payment",
            &self.order.0.0,
            self.buyer.as_str().as_bytes(),
            self.payer.as_str().as_bytes(),
            &self.amount_minor.to_be_bytes(),
            self.currency.as_bytes(),
            &self.content.0,
            &until.to_be_bytes(),
            &self.command,
        ]);
        PaymentId(PublicId::new(self.order.0.time_ms(), self.payer.slot(), &hash))
    }
}

/// The gateway key of the `k`-th attempt: the same wherever and however often it is started.
#[must_use]
pub fn attempt_key(payment: &PaymentId, k: u64) -> [u8; 16] {
    Hash::of_parts(&[b"attempt", &payment.0.0, &k.to_be_bytes()]).short()
}

// === decisions ===

codes! {
    /// How an attempt ended at the gateway.
    pub enum AttemptEnd {
        1 => Captured: "captured",
        2 => Refused: "refused",
        3 => Retryable: "retryable",
        4 => Closed: "closed",
        5 => Expired: "expired",
        6 => NeverStarted: "never-started",
    }
}

message! {
    pub struct Received {}
}
message! {
    pub struct Accepted { 1 => card: String }
}
message! {
    /// Durable before the gateway is called.
    pub struct AttemptStarted { 1 => k: u64, 2 => key: [u8; 16], 3 => expires_at_ms: u64 }
}
message! {
    pub struct AttemptEnded { 1 => k: u64, 2 => end: AttemptEnd, 3 => code: String }
}
message! {
    pub struct Ended { 1 => how: How, 2 => code: String }
}
message! {
    /// A payment that had ended otherwise was captured after all: its one end is amended, never a second one.
    pub struct EndAmended { 1 => intent: String }
}
message! {
    /// The attempt under way is to be closed at the gateway.
    pub struct ClosingAsked { 1 => why: Why }
}
message! {
    /// A capture whose order nobody has any more goes back.
    pub struct RefundOrphan { 1 => refund: RefundCase }
}

message! {
    /// What the owner of a payment decides.
    pub enum PaymentDecision {
        1 => Received(Received),
        2 => Accepted(Accepted),
        3 => AttemptStarted(AttemptStarted),
        4 => AttemptEnded(AttemptEnded),
        5 => Ended(Ended),
        6 => EndAmended(EndAmended),
        7 => FactNoted(FactNoted),
        8 => Reconciled(Reconciled),
        9 => ClosingAsked(ClosingAsked),
        10 => RefundOrphan(RefundOrphan),
        11 => CaseOpened(CaseOpened),
        12 => CaseResolved(CaseResolved),
    }
}

impl PaymentDecision {
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            PaymentDecision::Received(_) => "received",
            PaymentDecision::Accepted(_) => "accepted",
            PaymentDecision::AttemptStarted(_) => "attempt-started",
            PaymentDecision::AttemptEnded(_) => "attempt-ended",
            PaymentDecision::Ended(_) => "ended",
            PaymentDecision::EndAmended(_) => "end-amended",
            PaymentDecision::FactNoted(_) => "fact-noted",
            PaymentDecision::Reconciled(_) => "reconciled",
            PaymentDecision::ClosingAsked(_) => "closing-asked",
            PaymentDecision::RefundOrphan(_) => "refund-orphan",
            PaymentDecision::CaseOpened(_) => "case-opened",
            PaymentDecision::CaseResolved(_) => "case-resolved",
        }
    }
}

// === state ===

/// How far a payment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PaymentPhase {
    /// The permit is known; its owner has not taken it up.
    Known,
    Received,
    Accepted,
    Ended(How),
}

/// One attempt at the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    pub k: u64,
    pub key: [u8; 16],
    pub expires_at_ms: u64,
    pub end: Option<AttemptEnd>,
}

/// What an effective history folds to.
#[derive(Clone, Debug)]
pub struct PaymentState {
    pub permit: Permit,
    pub phase: PaymentPhase,
    pub card: String,
    /// How often the payer accepted: each time may start one attempt.
    pub accepts: u64,
    pub attempts: BTreeMap<u64, Attempt>,
    pub closing: Option<Why>,
    pub end_code: String,
    /// The dot of the decision that ended it last: what its result requires.
    pub ended_by: Option<Dot>,
    pub orphan_refunds: BTreeMap<[u8; 16], RefundCase>,
    pub settled: BTreeSet<FactKey>,
    pub reconciled: BTreeSet<Hash>,
    pub superseded: BTreeSet<[u8; 16]>,
    pub commands: BTreeMap<[u8; 16], [u8; 16]>,
    pub cases: Vec<Case>,
    pub decisions: usize,
}

impl PaymentState {
    #[must_use]
    pub fn open_attempt(&self) -> Option<&Attempt> {
        self.attempts.values().find(|attempt| attempt.end.is_none())
    }
    #[must_use]
    pub fn ended(&self) -> Option<How> {
        match self.phase {
            PaymentPhase::Ended(how) => Some(how),
            _ => None,
        }
    }
    /// The label shown to people.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self.phase {
            PaymentPhase::Known => "requested",
            PaymentPhase::Received => "received",
            PaymentPhase::Accepted if self.closing.is_some() => "closing",
            PaymentPhase::Accepted if self.open_attempt().is_some() => "paying",
            PaymentPhase::Accepted if self.accepts as usize <= self.attempts.len() => "try-again",
            PaymentPhase::Accepted => "accepted",
            PaymentPhase::Ended(how) => how.as_str(),
        }
    }
}

/// The kind of entity a payment is.
#[derive(Clone, Copy, Debug)]
pub struct Payment;

impl Kind for Payment {
    type Record = Permit;
    type Decision = PaymentDecision;
    type State = PaymentState;

    fn record(record: &Record) -> Option<&Permit> {
        match record {
            Record::Permit(permit) => Some(permit),
            Record::Order(_) => None,
        }
    }

    fn decision(decision: &Decision) -> Option<&PaymentDecision> {
        match decision {
            Decision::Payment(decision) => Some(decision),
            Decision::Order(_) => None,
        }
    }

    fn start(permit: &Permit) -> PaymentState {
        PaymentState {
            permit: permit.clone(),
            phase: PaymentPhase::Known,
            card: String::new(),
            accepts: 0,
            attempts: BTreeMap::new(),
            closing: None,
            end_code: String::new(),
            ended_by: None,
            orphan_refunds: BTreeMap::new(),
            settled: BTreeSet::new(),
            reconciled: BTreeSet::new(),
            superseded: BTreeSet::new(),
            commands: BTreeMap::new(),
            cases: Vec::new(),
            decisions: 0,
        }
    }

    fn fold(state: &mut PaymentState, link: &Link<'_, PaymentDecision>) {
        state.decisions += 1;
        if let Some(command) = link.command() {
            state.commands.insert(command.id, command.digest);
        }
        match link.body {
            PaymentDecision::Received(_) => state.phase = PaymentPhase::Received,
            PaymentDecision::Accepted(accepted) => {
                state.phase = PaymentPhase::Accepted;
                state.card = accepted.card.clone();
                state.accepts += 1;
            }
            PaymentDecision::AttemptStarted(started) => {
                let attempt = Attempt {
                    k: started.k,
                    key: started.key,
                    expires_at_ms: started.expires_at_ms,
                    end: None,
                };
                state.attempts.entry(started.k).or_insert(attempt);
            }
            PaymentDecision::AttemptEnded(ended) => {
                if let Some(attempt) = state.attempts.get_mut(&ended.k) {
                    attempt.end = attempt.end.or(Some(ended.end));
                }
            }
            PaymentDecision::Ended(ended) => {
                state.phase = PaymentPhase::Ended(ended.how);
                state.end_code = ended.code.clone();
                state.ended_by = Some(link.dot);
            }
            PaymentDecision::EndAmended(_) => {
                state.phase = PaymentPhase::Ended(How::Captured);
                state.ended_by = Some(link.dot);
            }
            PaymentDecision::FactNoted(noted) => {
                state.settled.insert(FactKey { kind: noted.kind as u8, outside: noted.outside.clone() });
            }
            PaymentDecision::Reconciled(reconciled) => {
                for verdict in &reconciled.verdicts {
                    state.reconciled.insert(verdict.hash);
                    if let (Some(command), Ruling::Void) = (verdict.command, verdict.ruling) {
                        state.superseded.insert(command);
                    }
                }
            }
            PaymentDecision::ClosingAsked(asked) => state.closing = state.closing.max(Some(asked.why)),
            PaymentDecision::RefundOrphan(orphan) => {
                state.orphan_refunds.insert(orphan.refund.case, orphan.refund.clone());
            }
            PaymentDecision::CaseOpened(case) => open_case(&mut state.cases, case),
            PaymentDecision::CaseResolved(case) => resolve_case(&mut state.cases, case),
        }
    }
}
