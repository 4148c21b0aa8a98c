//! The cell: the state machine above entities. Command, change, message, fact or timer in; sealed changes, new entity
//! states and a reply out.
//!
//! It holds no entities: it reads them through [`View`] and hands the changed ones back in a [`Step`]. The runtime
//! appends the step's entries to its log, makes them durable, and only then answers, streams, or carries out duties.
//! The simulator and the node drive this same code.

mod absorb;
mod adopt;
mod command;
mod digests;
mod draft;
mod quarantine;
mod reached;
mod resolve;
mod succession;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub use absorb::{Answer, Delivery, Incoming, Refused};
pub use adopt::{Baseline, KnownFront};
pub use command::{Ask, Command, NOT_FOUND, Precondition, Problem, Refusal, Reply};
pub use digests::{NotComparable, SlotDigests};
use draft::Draft;
pub use quarantine::{Ability, Cause, ENTRY_BYTES_MAX, HOLES_MAX, HeldFact, Hole, Quarantined};
pub use reached::Reached;
pub use resolve::{Resolve, remedies};
pub use succession::SILENT_BEATS;
use succession::Silences;

use crate::clock::HlcClock;
use crate::digest::Digest;
use crate::duty::{Duty, OrderGlance, Speaker, order_duties, payment_duties};
use crate::entity::{Entity, Reading};
use crate::event::{Audit, Body, Closed, Entry, Event, Fact, Placed};
use crate::fronts::Fronts;
use crate::id::{ActorId, EntityId, EntityKind, Hash, OrderId, RegionId, Slot, UserId};
use crate::lives::{ActorLife, Lives};
use crate::order::Order;
use crate::payment::{AttemptEnd, AttemptEnded, Ended, Payment, PaymentDecision};
use crate::placement::{Epoch, Placement};
use crate::rules::Rules;
use crate::settle::Row;
use crate::version::{Dot, VersionVector};

/// The view cannot be read now. Nothing was touched; the runtime answers 503, never "not found".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the view is unavailable: {0}")]
pub struct Unavailable(pub String);

/// What the cell reads: the working state, i.e. everything applied and everything appended but not yet applied.
pub trait View {
    /// # Errors
    /// [`Unavailable`] if the store fails; absence is `Ok(None)`.
    fn entity(&self, id: EntityId) -> Result<Option<Arc<Entity>>, Unavailable>;
    /// Orders placed by `user` under the idempotency key `key`.
    ///
    /// # Errors
    /// [`Unavailable`] if the store fails.
    fn orders_of_key(&self, user: &UserId, key: &str) -> Result<Vec<OrderId>, Unavailable>;
}

/// What one input produced. Nothing of it may be shown to anybody before `entries` are durable.
#[derive(Clone, Debug, Default)]
pub struct Step {
    /// In this order into the log: first what came from elsewhere, then what followed from it here.
    pub entries: Vec<Entry>,
    /// Changes that could not be applied, as they are kept; logged in front of the entries.
    pub quarantined: Vec<Quarantined>,
    /// Those that were quarantined and are applied by now: they are among the entries once more.
    pub released: Vec<Dot>,
    /// State that was merged and did not come as a change; logged beside the entries.
    pub merged: Vec<Entity>,
    /// What was taken over from a peer with all of its state, or of which more was learned; logged behind what was merged.
    pub adopted: Option<Baseline>,
    /// New states of the entities touched.
    pub entities: BTreeMap<EntityId, Arc<Entity>>,
    /// Rows of the settling table that fired.
    pub rows: Vec<Row>,
    /// Slots this node stopped owning: a higher epoch was seen.
    pub lost: Vec<(Slot, Epoch)>,
    pub alarms: Vec<Alarm>,
    /// By how much the digests of entities grew.
    pub grown: BTreeMap<EntityId, Digest>,
    /// Slots whose digest changed beside that.
    pub corrected: BTreeSet<Slot>,
    /// W3C `traceparent` of what caused it, or empty.
    pub trace: String,
}

/// Something an operator should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Alarm {
    /// Facts for an entity whose creation record is unknown.
    Orphan(EntityId),
    /// A remote clock runs ahead.
    ClockAhead { actor: ActorId, by_ms: u64 },
    /// Two contents at one place of a chain.
    Forked(EntityId),
}

/// How far an actor is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Front {
    pub seq: u64,
    pub hash: Hash,
}

impl Front {
    /// Of an actor of which nothing is known.
    pub const NONE: Front = Front { seq: 0, hash: Hash::ZERO };
}

/// What a node keeps of [`Cell`] beside its entities.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// How far each actor is known without a gap.
    pub frontier: Vec<(ActorId, Front)>,
    /// How far there is something of an actor behind a hole.
    pub beyond: Vec<(ActorId, u64)>,
    /// Epochs learned.
    pub epochs: Vec<(Slot, Epoch)>,
    /// Ended actors and their last changes.
    pub closed: Vec<(ActorId, u64)>,
    pub lives: Vec<ActorLife>,
    pub digests: Vec<(Slot, Digest)>,
    pub quarantine: Vec<(Dot, Hole)>,
}

/// The state of a cell's node beside its entities.
#[derive(Clone, Debug)]
pub struct Cell {
    me: ActorId,
    pub rules: Rules,
    pub ability: Ability,
    placement: Placement,
    clock: HlcClock,
    fronts: Fronts,
    lives: Lives,
    /// Replayed beyond a hole in the log: up to here there is something of the actor, and not all of it.
    beyond: BTreeMap<ActorId, u64>,
    /// Changes that the frontier went over and that are not applied.
    quarantine: BTreeMap<Dot, Hole>,
    /// Nothing is decided yet: see [`Cell::hold_back`].
    held_back: bool,
    /// Actors of this node of which nobody said yet that they ended, and since when they are silent.
    silences: Silences,
    digests: SlotDigests,
}

impl Cell {
    /// A node that starts as the actor `me`; `me` must never have been used before.
    #[must_use]
    pub fn new(me: ActorId, placement: Placement, rules: Rules) -> Cell {
        Cell {
            me,
            rules,
            ability: Ability::default(),
            placement,
            clock: HlcClock::default(),
            fronts: Fronts::default(),
            lives: Lives::default(),
            beyond: BTreeMap::new(),
            quarantine: BTreeMap::new(),
            held_back: false,
            silences: Silences::default(),
            digests: SlotDigests::default(),
        }
    }

    #[must_use]
    pub fn me(&self) -> ActorId {
        self.me
    }
    #[must_use]
    pub fn placement(&self) -> &Placement {
        &self.placement
    }
    #[must_use]
    pub fn fronts(&self) -> &Fronts {
        &self.fronts
    }
    #[must_use]
    pub fn version(&self) -> VersionVector {
        self.fronts.version()
    }
    #[must_use]
    pub fn lives(&self) -> &Lives {
        &self.lives
    }
    pub fn lives_mut(&mut self) -> &mut Lives {
        &mut self.lives
    }
    /// Actors of whose changes some are missing here although later ones are not: how far it is known without a gap, and
    /// how far there is something. Only a damaged log makes holes. They close as the missing changes come again; or when
    /// their actor is closed in front of them, since no region has what is missing: what stands behind is state then.
    pub fn holes(&self) -> impl Iterator<Item = (ActorId, u64, u64)> + '_ {
        self.beyond.iter().filter_map(|(actor, beyond)| {
            let known = self.fronts.seq(actor);
            (known < *beyond && !self.fronts.is_complete(actor)).then_some((*actor, known, *beyond))
        })
    }
    /// Whether a hole that was met in the log ended without what was missing: another region may have it as state.
    pub fn gave_up(&self) -> bool {
        self.beyond
            .iter()
            .any(|(actor, beyond)| self.fronts.seq(actor) < *beyond && self.fronts.is_complete(actor))
    }
    fn is_in_hole(&self, dot: &Dot) -> bool {
        self.holes().any(|(actor, ..)| actor == dot.actor)
    }
    /// The digests of all slots.
    #[must_use]
    pub fn digests(&self) -> &SlotDigests {
        &self.digests
    }

    /// The digest of each slot, in order, of what `at` covers; of what this node's own version covers, if none is given.
    ///
    /// # Errors
    /// [`NotComparable`].
    pub fn digests_at(&self, at: Option<&VersionVector>, now_ms: u64) -> Result<Vec<Digest>, NotComparable> {
        let version = self.version();
        self.digests.at(&version, at.unwrap_or(&version), now_ms)
    }

    /// A slot was counted anew in the view: what was `found` there differs from what was `expected`.
    pub fn correct_digest(&mut self, slot: Slot, found: Digest, expected: Digest) -> Step {
        self.digests.correct(slot, found, expected);
        Step { corrected: BTreeSet::from([slot]), ..Step::default() }
    }

    /// The epoch under which this node may decide for `slot`.
    #[must_use]
    pub fn owned(&self, slot: Slot) -> Option<Epoch> {
        if self.held_back { None } else { self.placement.owned(slot, &self.me) }
    }

    /// Whether commands about `slot` come to the right place, also where nothing is decided yet.
    fn is_home(&self, slot: Slot) -> bool {
        if self.held_back {
            self.placement.home(slot).node == self.me.node
        } else {
            self.owned(slot).is_some()
        }
    }

    /// What was on disk. Only for a restart, before any input.
    pub fn restore(&mut self, kept: Kept) {
        kept.frontier.into_iter().for_each(|(actor, front)| self.fronts.raise(actor, front));
        self.beyond.extend(kept.beyond);
        self.quarantine.extend(kept.quarantine);
        kept.closed.into_iter().for_each(|(actor, last)| self.fronts.close(actor, last));
        let folded = self.fronts.folded();
        let of_others = kept.lives.into_iter().filter(|life| !folded.contains_key(&life.actor));
        of_others.for_each(|life| self.lives.restore(life));
        let floor = self.version();
        self.digests.restore(kept.digests, &floor);
        for (slot, epoch) in kept.epochs {
            self.placement.join(slot, &epoch);
        }
    }

    /// Records what an operator did.
    ///
    /// # Errors
    /// As [`Cell::start`].
    pub fn audit(&mut self, view: &dyn View, audit: Audit, now_ms: u64) -> Result<Step, Unavailable> {
        let mut draft = Draft::new(self, view, now_ms, "");
        draft.push(Event::new(Vec::new(), Body::Audit(audit)))?;
        draft.finish(Vec::new())
    }

    /// This node becomes the home of `slots` under (term, step), by decree.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn decree(
        &mut self,
        view: &dyn View,
        slots: Vec<Slot>,
        term: u64,
        step: u64,
        now_ms: u64,
    ) -> Result<Step, Unavailable> {
        let epoch = Epoch { term, step, actor: self.me };
        let mut draft = Draft::new(self, view, now_ms, "");
        slots.iter().for_each(|slot| draft.contact(*slot, &epoch));
        draft.push(Event::new(Vec::new(), Body::Placed(Placed { slots, epoch })))?;
        draft.finish(Vec::new())
    }

    /// An ended actor's last sequence number is known for good.
    ///
    /// # Errors
    /// As [`Cell::start`].
    pub fn close_actor(
        &mut self,
        view: &dyn View,
        actor: ActorId,
        last: u64,
        now_ms: u64,
    ) -> Result<Step, Unavailable> {
        let holes = self.holes().count();
        let mut draft = Draft::new(self, view, now_ms, "");
        draft.push(Event::new(Vec::new(), Body::Closed(Closed { actor, last })))?;
        draft.tell_behind(holes)?;
        draft.finish(Vec::new())
    }

    /// Verified facts: from a callback, an answer or a listing. Never refused, never dropped; settled here if this
    /// node owns what they concern.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn facts(
        &mut self,
        view: &dyn View,
        facts: Vec<Fact>,
        trace: &str,
        now_ms: u64,
    ) -> Result<Step, Unavailable> {
        let mut draft = Draft::new(self, view, now_ms, trace);
        for fact in facts {
            let (order, payment) = fact.concerns();
            if let Fact::Capture(capture) = &fact {
                // An answer that carries a higher epoch is contact: stop owning before settling anything.
                draft.contact_capture(capture);
                // The gateway kept the whole permit: money is never left to a payment that nobody can read.
                draft.learn_permit(&capture.permit)?;
            }
            let event = Event::new(vec![order.into(), payment.into()], Body::Fact(fact));
            if !draft.holds(&event)? {
                draft.push(event)?;
            }
        }
        draft.settle_touched()?;
        draft.finish(Vec::new())
    }

    /// The gateway does not know the key of this attempt, past its expiry and margin: it was never started.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn never_started(
        &mut self,
        view: &dyn View,
        payment: crate::id::PaymentId,
        k: u64,
        now_ms: u64,
    ) -> Result<Step, Unavailable> {
        let past = self.rules.close_margin_ms;
        if self.withheld_by(view, payment.into())?.is_some() {
            return Ok(Step::default());
        }
        let mut draft = Draft::new(self, view, now_ms, "");
        draft.touch(payment.into());
        draft.settle_touched()?;
        let open = draft.read::<Payment, _>(payment.into(), |reading| {
            let attempt = reading.state.as_ref()?.attempts.get(&k)?;
            (attempt.end.is_none() && now_ms >= attempt.expires_at_ms.saturating_add(past)).then_some(())
        })?;
        if open.flatten().is_some() {
            let ended = AttemptEnded { k, end: AttemptEnd::NeverStarted, code: String::new() };
            draft.decide_payment(payment, PaymentDecision::AttemptEnded(ended), None)?;
            draft.settle_touched()?;
        }
        draft.finish(Vec::new())
    }

    /// A timer is due, or something outside changed: decide what this node owes on the entity.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn wake(&mut self, view: &dyn View, id: EntityId, now_ms: u64) -> Result<Step, Unavailable> {
        let mut draft = Draft::new(self, view, now_ms, "");
        draft.touch(id);
        draft.settle_touched()?;
        draft.finish(Vec::new())
    }

    /// Ends a payment that an operator discarded from the dead letters.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn discard(
        &mut self,
        view: &dyn View,
        payment: crate::id::PaymentId,
        reason: &str,
        now_ms: u64,
    ) -> Result<Step, Unavailable> {
        if self.withheld_by(view, payment.into())?.is_some() {
            return Ok(Step::default());
        }
        let mut draft = Draft::new(self, view, now_ms, "");
        draft.touch(payment.into());
        draft.settle_touched()?;
        let idle = draft.read::<Payment, _>(payment.into(), |reading| {
            reading
                .state
                .as_ref()
                .is_some_and(|state| state.ended().is_none() && state.open_attempt().is_none())
        })?;
        if idle == Some(true) {
            let ended = Ended { how: crate::order::How::Failed, code: format!("discarded: {reason}") };
            draft.decide_payment(payment, PaymentDecision::Ended(ended), None)?;
            draft.settle_touched()?;
        }
        draft.finish(Vec::new())
    }

    /// What this node owes the outside on an entity. Empty where it is not the owner.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails.
    pub fn duties(&self, view: &dyn View, id: EntityId) -> Result<Vec<Duty>, Unavailable> {
        let owned = |slot| self.owned(slot);
        duties_of(&owned, self.me.region(), &self.rules, &self.quarantine, view, id)
    }

    /// What duties depend on apart from the view, as of now: to compute them away from the cell.
    #[must_use]
    pub fn overseer(&self) -> Overseer {
        let owned = Slot::all().map(|slot| self.owned(slot)).collect();
        let quarantine = self.quarantine.clone();
        Overseer { owned, region: self.me.region(), rules: self.rules.clone(), quarantine }
    }

    /// Whether the frontier went over a dot; what is quarantined is not applied all the same.
    #[must_use]
    pub fn passed(&self, dot: &Dot) -> bool {
        self.fronts.covers(dot)
    }

    /// How far an actor is known; of one never heard of, before its first change.
    fn front(&self, actor: &ActorId) -> Front {
        self.fronts.get(actor).copied().unwrap_or(Front { seq: 0, hash: Hash::ZERO })
    }

    /// This much of it is here now.
    fn raise(&mut self, actor: ActorId, front: Front) {
        self.fronts.raise(actor, front);
        self.lives.note_end(actor, &self.fronts);
    }

    /// It is closed at `last`, whether that is here or not.
    fn close(&mut self, actor: ActorId, last: u64) {
        self.fronts.close(actor, last);
        self.lives.note_end(actor, &self.fronts);
        if self.fronts.is_complete(&actor) {
            self.digests.settle(&actor, self.fronts.seq(&actor));
        }
    }
}

/// What a cell owned at a moment, and its rules.
#[derive(Clone, Debug)]
pub struct Overseer {
    owned: Vec<Option<Epoch>>,
    region: RegionId,
    rules: Rules,
    quarantine: BTreeMap<Dot, Hole>,
}

impl Overseer {
    /// The same as [`Cell::duties`] at that moment.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails.
    pub fn duties(&self, view: &dyn View, id: EntityId) -> Result<Vec<Duty>, Unavailable> {
        let owned = |slot: Slot| self.owned.get(usize::from(slot.number())).copied().flatten();
        duties_of(&owned, self.region, &self.rules, &self.quarantine, view, id)
    }
}

fn duties_of(
    owned: &dyn Fn(Slot) -> Option<Epoch>,
    region: RegionId,
    rules: &Rules,
    quarantine: &BTreeMap<Dot, Hole>,
    view: &dyn View,
    id: EntityId,
) -> Result<Vec<Duty>, Unavailable> {
    let Some(epoch) = owned(id.slot()) else {
        return Ok(Vec::new());
    };
    let Some(entity) = view.entity(id)? else {
        return Ok(Vec::new());
    };
    if quarantine::withheld_by(quarantine, view, id)?.is_some() {
        return Ok(Vec::new());
    }
    let speaker = Speaker { region, epoch };
    let mine = |slot| owned(slot).is_some();
    match id.kind {
        EntityKind::ORDER => {
            let reading = Reading::<Order>::of(&entity);
            let glances = draft::payment_glances(&reading, |id| view.entity(id))?;
            let glance = |payment: &_| glances.get(payment).copied().unwrap_or_default();
            Ok(order_duties(&reading, &glance, &mine, &speaker, rules))
        }
        EntityKind::PAYMENT => {
            let reading = Reading::<Payment>::of(&entity);
            let (Some(permit), Some(payment)) = (&reading.record, id.payment()) else {
                return Ok(Vec::new());
            };
            let order = view.entity(permit.order.into())?;
            let glance = OrderGlance::of(order.as_deref(), &payment);
            Ok(payment_duties(&reading, &glance, &mine, &speaker))
        }
        _ => Ok(Vec::new()),
    }
}
