//! The order: its record, its owner's decisions, and what they fold to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::canon::{Message, codes, message};
use crate::entity::{Kind, Link};
use crate::event::{Decision, FactKey, Record};
use crate::id::{Hash, OrderId, PaymentId, PublicId, UserId};
use crate::money::{MoneyError, checked_total};
use crate::payment::Permit;
use crate::placement::Epoch;

/// Lines of one order at most.
pub const LINES_MAX: usize = 100;

// === record ===

message! {
    /// One priced line.
    pub struct Line { 1 => sku: String, 2 => title: String, 3 => quantity: u64, 4 => unit_minor: u64 }
}

message! {
    /// What is bought and what it costs, in minor units of one currency.
    pub struct OrderContent {
        /// ISO 4217, upper case.
        1 => currency: String,
        2 => lines: Vec<Line>,
        3 => promotions_minor: u64,
        4 => coupon_minor: u64,
        5 => points_minor: u64,
        6 => foreign_shipping_minor: u64,
        7 => forwarding_fee_minor: u64,
        8 => service_fee_minor: u64,
        9 => duty_minor: u64,
    }
}

impl OrderContent {
    /// items − promotions − coupon − points + foreign shipping + forwarding fee + service fee + duty.
    ///
    /// # Errors
    /// [`MoneyError`] if a sum overflows, goes below zero, or the currency is unknown; nothing was touched.
    pub fn total_minor(&self) -> Result<u64, MoneyError> {
        checked_total(self)
    }

    #[must_use]
    pub fn hash(&self) -> Hash {
        Hash::of(&self.to_canon())
    }
}

message! {
    /// The creation record: immutable, content-addressed. It holds nothing of the place or time of its acceptance, so
    /// the same request placed in two regions is the same order.
    pub struct OrderRecord {
        1 => user: UserId,
        /// The client's idempotency key.
        2 => key: String,
        3 => content: Arc<OrderContent>,
        4 => pay_window_ms: u64,
        /// The platform's own order number.
        5 => external_ref: String,
        /// Personal data as ciphertext, and the id of its key; opaque here.
        6 => sealed: Bytes,
        7 => sealed_key: String,
        /// Bounded opaque JSON, returned as given.
        8 => attributes: String,
        /// Milliseconds in the key if it is a UUIDv7, else 0; taken without judging it.
        9 => time_ms: u64,
    }
}

impl OrderRecord {
    #[must_use]
    pub fn order_id(&self) -> OrderId {
        let hash = Hash::of_parts(&[b"order", &self.to_canon()]);
        OrderId(PublicId::new(self.time_ms, self.user.slot(), &hash))
    }
}

/// The milliseconds in a UUIDv7, if `key` is one.
#[must_use]
pub fn uuid7_time_ms(key: &str) -> Option<u64> {
    let bytes = key.as_bytes();
    let dashed = bytes.len() == 36 && [8, 13, 18, 23].iter().all(|&i| bytes[i] == b'-');
    if !dashed || bytes[14] != b'7' || !matches!(bytes[19], b'8' | b'9' | b'a' | b'b' | b'A' | b'B') {
        return None;
    }
    let hex = bytes.iter().enumerate().filter(|(i, _)| ![8, 13, 18, 23].contains(i));
    if !hex.clone().all(|(_, b)| b.is_ascii_hexdigit()) {
        return None;
    }
    let digits = hex.take(12).map(|(_, b)| (*b as char).to_digit(16));
    digits.into_iter().try_fold(0u64, |time, digit| Some(time << 4 | u64::from(digit?)))
}

// === decisions ===

codes! {
    /// Why a permit is being closed, in rising precedence: a cancel may upgrade another reason.
    pub enum Why {
        1 => OtherPayer: "other-payer",
        2 => Withdrawal: "withdrawal",
        3 => Expiry: "expiry",
        4 => Cancel: "cancel",
    }
}

codes! {
    /// How something about money ended.
    pub enum How {
        1 => Captured: "captured",
        2 => Declined: "declined",
        3 => Failed: "failed",
        4 => Withdrawn: "withdrawn",
        5 => Expired: "expired",
    }
}

codes! {
    /// What a settled capture came to.
    pub enum CaptureVerdict {
        1 => Applied: "applied",
        2 => RefundOwed: "refund-owed",
        3 => AlreadyRefunded: "already-refunded",
    }
}

codes! {
    /// What a settled refund came to.
    pub enum RefundVerdict { 1 => Settled: "settled", 2 => Cancelled: "cancelled", 3 => HumanCase: "human-case" }
}

codes! {
    /// What was decided about one stray decision.
    pub enum Ruling {
        1 => Adopted: "adopted",
        2 => Same: "same",
        3 => Void: "void",
        4 => Withdrawn: "withdrawn",
        /// Its refund's key is asked at the gateway until terminal.
        5 => Asked: "asked",
        6 => HumanCase: "human-case",
    }
}

codes! {
    /// What a person decides about a case.
    pub enum Remedy {
        /// It stays as it is.
        1 => Keep: "keep",
        /// What was captured and not yet given back goes back.
        2 => Refund: "refund",
        /// The order is cancelled, and the money goes back.
        3 => Cancel: "cancel",
    }
}

message! {
    /// A refund that is owed. `case` is its outside subject and never depends on a position or an epoch.
    pub struct RefundCase {
        1 => case: [u8; 16],
        2 => intent: String,
        3 => payment: PaymentId,
        4 => amount_minor: u64,
    }
}

impl RefundCase {
    /// The one automatic full refund a capture can have: the same case wherever and however often it is decided.
    #[must_use]
    pub fn whole(intent: &str, payment: PaymentId, amount_minor: u64) -> RefundCase {
        let case = Hash::of_parts(&[b"refund", intent.as_bytes()]).short();
        RefundCase { case, intent: intent.to_owned(), payment, amount_minor }
    }
}

message! {
    pub struct PermitOpened { 1 => permit: Permit }
}
message! {
    pub struct PermitClosing { 1 => payment: PaymentId, 2 => why: Why }
}
message! {
    pub struct PermitClosed { 1 => payment: PaymentId, 2 => how: How }
}
message! {
    pub struct CaptureSettled {
        1 => intent: String,
        2 => payment: PaymentId,
        3 => amount_minor: u64,
        4 => verdict: CaptureVerdict,
        5 => refund: Option<RefundCase>,
    }
}
message! {
    pub struct RefundSettled {
        1 => refund: String,
        2 => intent: String,
        3 => case: [u8; 16],
        4 => amount_minor: u64,
        5 => verdict: RefundVerdict,
    }
}
message! {
    pub struct Cancelled { 1 => refund: Option<RefundCase> }
}
message! {
    pub struct Expired {}
}
message! {
    /// What was ruled on one stray: its place, its bytes' hash, and the refund to be asked about, if any.
    pub struct Verdict {
        1 => place: u64,
        2 => hash: Hash,
        3 => ruling: Ruling,
        4 => asks: Option<RefundCase>,
        /// Whose command it was, so that they are told by name.
        5 => user: Option<UserId>,
        6 => command: Option<[u8; 16]>,
    }
}
message! {
    /// The reconciliation of one stray tail.
    pub struct Reconciled { 1 => epoch: Epoch, 2 => from: u64, 3 => to: u64, 4 => verdicts: Vec<Verdict> }
}
message! {
    /// The payer's region has not seen the order in time; the buyer is told.
    pub struct Stalled { 1 => payment: PaymentId, 2 => missing: String }
}
message! {
    pub struct CaseOpened { 1 => subject: String, 2 => reason: String }
}
message! {
    /// A person decided about a case. What follows from it are the decisions in front of this one, in the same change.
    pub struct CaseResolved { 1 => subject: String, 2 => with: Remedy, 3 => identity: String, 4 => reason: String }
}
message! {
    pub struct RefundGranted { 1 => refund: RefundCase }
}
message! {
    pub struct Amended { 1 => content: Arc<OrderContent> }
}
message! {
    /// A fact that changes nothing here is settled all the same: exactly one decision per fact that matters.
    pub struct FactNoted { 1 => kind: u64, 2 => outside: String }
}

message! {
    /// What the owner of an order decides.
    pub enum OrderDecision {
        1 => PermitOpened(PermitOpened),
        2 => PermitClosing(PermitClosing),
        3 => PermitClosed(PermitClosed),
        4 => CaptureSettled(CaptureSettled),
        5 => RefundSettled(RefundSettled),
        6 => Cancelled(Cancelled),
        7 => Expired(Expired),
        8 => Reconciled(Reconciled),
        9 => Stalled(Stalled),
        10 => CaseOpened(CaseOpened),
        11 => RefundGranted(RefundGranted),
        12 => Amended(Amended),
        13 => FactNoted(FactNoted),
        14 => CaseResolved(CaseResolved),
    }
}

impl OrderDecision {
    /// The name used in APIs, journals and metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            OrderDecision::PermitOpened(_) => "permit-opened",
            OrderDecision::PermitClosing(_) => "permit-closing",
            OrderDecision::PermitClosed(_) => "permit-closed",
            OrderDecision::CaptureSettled(_) => "capture-settled",
            OrderDecision::RefundSettled(_) => "refund-settled",
            OrderDecision::Cancelled(_) => "cancelled",
            OrderDecision::Expired(_) => "expired",
            OrderDecision::Reconciled(_) => "reconciled",
            OrderDecision::Stalled(_) => "stalled",
            OrderDecision::CaseOpened(_) => "case-opened",
            OrderDecision::RefundGranted(_) => "refund-granted",
            OrderDecision::Amended(_) => "amended",
            OrderDecision::FactNoted(_) => "fact-noted",
            OrderDecision::CaseResolved(_) => "case-resolved",
        }
    }

    /// The refund this decision makes owed, if any.
    #[must_use]
    pub fn refund(&self) -> Option<&RefundCase> {
        match self {
            OrderDecision::CaptureSettled(settled) => settled.refund.as_ref(),
            OrderDecision::Cancelled(cancelled) => cancelled.refund.as_ref(),
            OrderDecision::RefundGranted(granted) => Some(&granted.refund),
            _ => None,
        }
    }
}

// === state ===

/// Whether an order can be paid, was, or never will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OrderPhase {
    Payable,
    Paid,
    Cancelled,
    Expired,
}

/// A permit in the effective history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PermitState {
    pub permit: Permit,
    pub closing: Option<Why>,
    pub closed: Option<How>,
    /// The dot of the decision that opened it: what its request requires.
    pub opened_by: crate::version::Dot,
}

/// The capture that pays for the order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedCapture {
    pub intent: String,
    pub payment: PaymentId,
    pub amount_minor: u64,
}

/// A refund case in the effective history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefundState {
    pub case: RefundCase,
    pub settled: bool,
    pub owed_by: crate::version::Dot,
}

/// A human case in the effective history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    pub subject: String,
    pub reason: String,
    pub resolved: Option<Remedy>,
}

/// Opens a case; one that was resolved and comes up again is another one.
pub(crate) fn open_case(cases: &mut Vec<Case>, opened: &CaseOpened) {
    let CaseOpened { subject, reason } = opened.clone();
    cases.push(Case { subject, reason, resolved: None });
}

/// Resolves what is open of this subject.
pub(crate) fn resolve_case(cases: &mut [Case], resolved: &CaseResolved) {
    let open = |case: &&mut Case| case.subject == resolved.subject && case.resolved.is_none();
    cases.iter_mut().filter(open).for_each(|case| case.resolved = Some(resolved.with));
}

/// What an effective history folds to.
#[derive(Clone, Debug)]
pub struct OrderState {
    pub content: Arc<OrderContent>,
    pub phase: OrderPhase,
    pub permits: BTreeMap<PaymentId, PermitState>,
    pub applied: Option<AppliedCapture>,
    pub refunds: BTreeMap<[u8; 16], RefundState>,
    /// Refunds to ask the gateway about, from strays that were not adopted.
    pub asked: BTreeMap<[u8; 16], RefundCase>,
    /// Refunds that nobody owed, by case: of which capture, and how much.
    pub unasked: BTreeMap<[u8; 16], (String, u64)>,
    pub settled: BTreeSet<FactKey>,
    pub reconciled: BTreeSet<Hash>,
    /// Command ids that were ruled void or withdrawn as strays: a repeat answers 409 `superseded`.
    pub superseded: BTreeSet<[u8; 16]>,
    /// Command id → request digest.
    pub commands: BTreeMap<[u8; 16], [u8; 16]>,
    pub stalled: BTreeSet<PaymentId>,
    pub cases: Vec<Case>,
    pub decisions: usize,
}

impl OrderState {
    /// The one permit that is open or closing.
    #[must_use]
    pub fn open_permit(&self) -> Option<(&PaymentId, &PermitState)> {
        self.permits.iter().find(|(_, permit)| permit.closed.is_none())
    }

    /// Of a capture, what refunds are owed or done, by hand too.
    #[must_use]
    pub fn refunded_minor(&self, intent: &str) -> u64 {
        let of_intent = self.refunds.values().filter(|refund| refund.case.intent == intent);
        let unasked =
            self.unasked.values().filter(|(of, _)| of == intent).map(|(_, amount_minor)| *amount_minor);
        of_intent.map(|refund| refund.case.amount_minor).chain(unasked).fold(0, u64::saturating_add)
    }

    /// Every label there is.
    pub const LABELS: [&str; 6] = ["PendingPayment", "Paid", "Refunding", "Refunded", "Cancelled", "Expired"];

    /// The label shown to people: one of [`OrderState::LABELS`].
    #[must_use]
    pub fn label(&self) -> &'static str {
        let owed = self.refunds.values().any(|refund| !refund.settled);
        let refunded = !self.refunds.is_empty() && !owed;
        match self.phase {
            OrderPhase::Payable => "PendingPayment",
            OrderPhase::Paid if owed => "Refunding",
            OrderPhase::Paid => match &self.applied {
                Some(applied) if self.refunded_minor(&applied.intent) >= applied.amount_minor && refunded => {
                    "Refunded"
                }
                _ => "Paid",
            },
            OrderPhase::Cancelled => "Cancelled",
            OrderPhase::Expired => "Expired",
        }
    }
}

/// The kind of entity an order is.
#[derive(Clone, Copy, Debug)]
pub struct Order;

impl Kind for Order {
    type Record = OrderRecord;
    type Decision = OrderDecision;
    type State = OrderState;

    fn record(record: &Record) -> Option<&OrderRecord> {
        match record {
            Record::Order(record) => Some(record),
            Record::Permit(_) => None,
        }
    }

    fn decision(decision: &Decision) -> Option<&OrderDecision> {
        match decision {
            Decision::Order(decision) => Some(decision),
            Decision::Payment(_) => None,
        }
    }

    fn start(record: &OrderRecord) -> OrderState {
        OrderState {
            content: record.content.clone(),
            phase: OrderPhase::Payable,
            permits: BTreeMap::new(),
            applied: None,
            refunds: BTreeMap::new(),
            asked: BTreeMap::new(),
            unasked: BTreeMap::new(),
            settled: BTreeSet::new(),
            reconciled: BTreeSet::new(),
            superseded: BTreeSet::new(),
            commands: BTreeMap::new(),
            stalled: BTreeSet::new(),
            cases: Vec::new(),
            decisions: 0,
        }
    }

    fn fold(state: &mut OrderState, link: &Link<'_, OrderDecision>) {
        state.decisions += 1;
        if let Some(command) = link.command() {
            state.commands.insert(command.id, command.digest);
        }
        if let Some(refund) = link.body.refund() {
            let mut owed = RefundState { case: refund.clone(), settled: false, owed_by: link.dot };
            // Another home may have granted it before, and the gateway carried it out: there is no second one.
            if let Some((_, amount_minor)) = state.unasked.remove(&refund.case) {
                (owed.case.amount_minor, owed.settled) = (amount_minor, true);
            }
            state.asked.remove(&refund.case);
            state.refunds.entry(refund.case).or_insert(owed);
        }
        match link.body {
            OrderDecision::PermitOpened(opened) => {
                let permit = opened.permit.clone();
                let opened = PermitState { closing: None, closed: None, opened_by: link.dot, permit };
                state.permits.insert(opened.permit.payment_id(), opened);
            }
            OrderDecision::PermitClosing(closing) => {
                if let Some(permit) = state.permits.get_mut(&closing.payment) {
                    permit.closing = permit.closing.max(Some(closing.why));
                }
            }
            OrderDecision::PermitClosed(closed) => {
                if let Some(permit) = state.permits.get_mut(&closed.payment) {
                    permit.closed = permit.closed.or(Some(closed.how));
                }
            }
            OrderDecision::CaptureSettled(settled) => {
                state.settled.insert(FactKey { kind: 1, outside: settled.intent.clone() });
                if settled.verdict == CaptureVerdict::Applied {
                    state.phase = OrderPhase::Paid;
                    state.applied = Some(AppliedCapture {
                        intent: settled.intent.clone(),
                        payment: settled.payment,
                        amount_minor: settled.amount_minor,
                    });
                }
            }
            OrderDecision::RefundSettled(settled) => {
                state.settled.insert(FactKey { kind: 2, outside: settled.refund.clone() });
                state.asked.remove(&settled.case);
                match state.refunds.get_mut(&settled.case) {
                    Some(refund) => refund.settled = true,
                    None => {
                        let none = || (settled.intent.clone(), 0);
                        let (_, unasked) = state.unasked.entry(settled.case).or_insert_with(none);
                        *unasked = unasked.saturating_add(settled.amount_minor);
                    }
                }
            }
            OrderDecision::Cancelled(_) => state.phase = OrderPhase::Cancelled,
            OrderDecision::Expired(_) => state.phase = OrderPhase::Expired,
            OrderDecision::Reconciled(reconciled) => fold_reconciled(state, reconciled),
            OrderDecision::Stalled(stalled) => {
                state.stalled.insert(stalled.payment);
            }
            OrderDecision::CaseOpened(case) => open_case(&mut state.cases, case),
            OrderDecision::CaseResolved(case) => resolve_case(&mut state.cases, case),
            OrderDecision::RefundGranted(_) => {}
            OrderDecision::Amended(amended) => {
                state.content = amended.content.clone();
            }
            OrderDecision::FactNoted(noted) => {
                state.settled.insert(FactKey { kind: noted.kind as u8, outside: noted.outside.clone() });
            }
        }
    }
}

fn fold_reconciled(state: &mut OrderState, reconciled: &Reconciled) {
    for verdict in &reconciled.verdicts {
        state.reconciled.insert(verdict.hash);
        if let Some(case) = &verdict.asks
            && !state.refunds.contains_key(&case.case)
        {
            state.asked.insert(case.case, case.clone());
        }
        if let (Some(command), Ruling::Void | Ruling::Withdrawn) = (verdict.command, verdict.ruling) {
            state.superseded.insert(command);
        }
    }
}
