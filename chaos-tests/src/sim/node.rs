//! One region's node: the cell, its working state, its log with what of it is synced, and what waits for the disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cell_core::cell::{Ability, Baseline, Cell, Front, Quarantined, Refusal, Reply, Step, Unavailable, View};
use cell_core::duty::Duty;
use cell_core::entity::{Entity, Reading};
use cell_core::event::Entry;
use cell_core::gate::{Answer, MessageId, Requirement};
use cell_core::id::{ActorId, EntityId, Hash, OrderId, PaymentId, RegionId, Slot, UserId};
use cell_core::order::Order;
use cell_core::payment::Payment;
use cell_core::version::Dot;

use super::agent::Agent;

/// The working state: everything appended.
#[derive(Clone, Debug, Default)]
pub(crate) struct Shelf {
    pub(crate) entities: BTreeMap<EntityId, Arc<Entity>>,
    keys: BTreeMap<(UserId, String), Vec<OrderId>>,
    payments_of: BTreeMap<OrderId, BTreeSet<PaymentId>>,
    indexed: BTreeSet<EntityId>,
}

impl View for Shelf {
    fn entity(&self, id: EntityId) -> Result<Option<Arc<Entity>>, Unavailable> {
        Ok(self.entities.get(&id).cloned())
    }
    fn orders_of_key(&self, user: &UserId, key: &str) -> Result<Vec<OrderId>, Unavailable> {
        Ok(self.keys.get(&(user.clone(), key.to_owned())).cloned().unwrap_or_default())
    }
}

impl Shelf {
    pub(crate) fn put(&mut self, id: EntityId, entity: Arc<Entity>) {
        if !self.indexed.contains(&id) {
            self.index(id, &entity);
        }
        self.entities.insert(id, entity);
    }

    /// Once its record is known, which may be long after its first fact.
    fn index(&mut self, id: EntityId, entity: &Entity) {
        if let Some(order) = id.order()
            && let Some((record, _)) = entity.record::<Order>()
        {
            self.keys.entry((record.user.clone(), record.key.clone())).or_default().push(order);
            self.indexed.insert(id);
        }
        if let Some(payment) = id.payment()
            && let Some((permit, _)) = entity.record::<Payment>()
        {
            self.payments_of.entry(permit.order).or_default().insert(payment);
            self.indexed.insert(id);
        }
    }

    /// The entity and those whose duties depend on it.
    pub(crate) fn around(&self, id: EntityId) -> Vec<EntityId> {
        let mut around = vec![id];
        if let Some(order) = id.order() {
            around.extend(self.payments_of.get(&order).into_iter().flatten().map(|id| EntityId::from(*id)));
        }
        let permit = self.entities.get(&id).filter(|_| id.payment().is_some());
        around.extend(
            permit
                .and_then(|entity| entity.record::<Payment>())
                .map(|(permit, _)| EntityId::from(permit.order)),
        );
        around
    }
}

/// One record of the log.
#[derive(Clone, Debug)]
pub(crate) enum Logged {
    /// A change; once more where it had been quarantined before.
    Entry(Entry),
    /// A change that could not be applied; once more where it was tried again.
    Quarantined(Quarantined),
    Merged(Vec<Entity>),
    Adopted(Baseline),
    /// In place of everything before it: the view, synced.
    View(Vec<Entity>, Baseline),
}

impl Logged {
    /// What it does to a cell that starts, without deciding anything.
    pub(crate) fn replay(&self, cell: &mut Cell, view: &Shelf, now_ms: u64) -> Result<Step, String> {
        let failed = |error: Unavailable| error.to_string();
        match self {
            Logged::Entry(entry) => cell.replay(view, entry, now_ms).map_err(failed),
            Logged::Quarantined(kept) => cell.replay_quarantined(view, kept).map_err(failed),
            Logged::Merged(entities) => cell.replay_merged(view, entities, now_ms).map_err(failed),
            Logged::Adopted(baseline) => cell.replay_adopted(view, baseline).map_err(failed),
            Logged::View(entities, baseline) => {
                cell.replay_adopted(view, baseline).map_err(failed)?;
                cell.replay_merged(view, entities, now_ms).map_err(failed)
            }
        }
    }
}

/// What is synced of one actor: everything, and of what is not trimmed the changes themselves.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) trimmed: Front,
    pub(crate) entries: Vec<Entry>,
}

impl Default for Held {
    fn default() -> Held {
        Held { trimmed: Front { seq: 0, hash: Hash::ZERO }, entries: Vec::new() }
    }
}

impl Held {
    pub(crate) fn seq(&self) -> u64 {
        self.trimmed.seq + self.entries.len() as u64
    }
    /// The changes after `known`; `None` if some of them are trimmed.
    pub(crate) fn behind(&self, known: u64) -> Option<&[Entry]> {
        let skip = known.checked_sub(self.trimmed.seq)?;
        Some(self.entries.get(skip as usize..).unwrap_or_default())
    }
    /// State took the place of the changes up to here.
    pub(crate) fn adopt(&mut self, front: Front) {
        if front.seq > self.seq() {
            *self = Held { trimmed: front, entries: Vec::new() };
        }
    }
    pub(crate) fn trim(&mut self) {
        if let Some(last) = self.entries.last() {
            self.trimmed = Front { seq: last.dot.seq, hash: last.hash };
            self.entries.clear();
        }
    }
}

/// A peer's state on its way here.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) peer: usize,
    pub(crate) baseline: Baseline,
    pub(crate) rest: Vec<EntityId>,
    pub(crate) moved_ms: u64,
}

impl Logged {
    /// The change it is, whole.
    pub(crate) fn entry(&self) -> Option<&Entry> {
        match self {
            Logged::Entry(entry) => Some(entry),
            Logged::Quarantined(kept) => Some(&kept.entry),
            Logged::Merged(_) | Logged::Adopted(_) | Logged::View(..) => None,
        }
    }

    /// The quarantined changes that it holds.
    fn quarantined(&self) -> &[Quarantined] {
        match self {
            Logged::Quarantined(kept) => std::slice::from_ref(kept),
            Logged::Adopted(baseline) | Logged::View(_, baseline) => &baseline.quarantined,
            Logged::Entry(_) | Logged::Merged(_) => &[],
        }
    }
}

/// What may be shown only after the log is synced up to a position.
#[derive(Debug)]
pub(crate) enum Effect {
    Reply { call: usize, reply: Box<Result<Reply, Refusal>>, dot: Option<Dot> },
    Answer { agent: u64, id: MessageId, attempt: u32, answer: Answer },
    Fetched { wanted: Vec<Requirement> },
    Read { reader: usize, looks: u32 },
}

/// When a duty was last acted upon, and how often.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Pace {
    pub(crate) last_ms: u64,
    pub(crate) next_ms: u64,
    pub(crate) times: u32,
}

#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) region: RegionId,
    /// Place in the list of regions; a cloned machine shares it.
    pub(crate) place: usize,
    pub(crate) up: bool,
    /// Rises at every crash, so that what was under way for an earlier life is ignored.
    pub(crate) life: u64,
    /// The actor of this life's beginning; a predecessor may have outranked it since.
    pub(crate) started_as: Option<ActorId>,
    pub(crate) offset_ms: i64,
    pub(crate) slow_until_ms: u64,
    /// What its software can take.
    pub(crate) ability: Ability,
    pub(crate) cell: Cell,
    pub(crate) shelf: Shelf,
    pub(crate) log: Vec<Logged>,
    pub(crate) synced: usize,
    pub(crate) syncing: bool,
    pub(crate) waiting: VecDeque<(usize, Effect)>,
    /// Who waits here for a version.
    pub(crate) readers: BTreeSet<usize>,
    pub(crate) backup: Option<usize>,
    /// What is synced, by actor.
    pub(crate) durable: BTreeMap<ActorId, Held>,
    pub(crate) exchange: Option<Exchange>,
    /// Per peer, how far each actor was sent on the present connection.
    pub(crate) sent: BTreeMap<usize, BTreeMap<ActorId, u64>>,
    pub(crate) dirty: BTreeSet<EntityId>,
    pub(crate) duties: BTreeMap<EntityId, Vec<Duty>>,
    pub(crate) paces: BTreeMap<[u8; 16], Pace>,
    pub(crate) work_at_ms: Option<u64>,
    /// Slots to be listed at the gateway until that worked once after this time.
    pub(crate) listing: BTreeSet<Slot>,
    pub(crate) list_until_ms: u64,
    pub(crate) list_next_ms: u64,
    pub(crate) linked: bool,
    pub(crate) linked_at_ms: u64,
    pub(crate) agent: Agent,
}

impl Node {
    pub(crate) fn local(&self, now_ms: u64) -> u64 {
        now_ms.saturating_add_signed(self.offset_ms)
    }
    pub(crate) fn is_synced(&self) -> bool {
        self.synced == self.log.len()
    }
    pub(crate) fn durable_seq(&self, actor: &ActorId) -> u64 {
        self.durable.get(actor).map_or(0, Held::seq)
    }
    pub(crate) fn durable_front(&self) -> BTreeMap<ActorId, u64> {
        self.durable.iter().map(|(actor, held)| (*actor, held.seq())).collect()
    }
    /// Whether a version is present here, durably, with all that it builds on.
    pub(crate) fn holds(&self, requirement: &Requirement) -> bool {
        let whole = self.whole_seq(&requirement.dot.actor) >= requirement.dot.seq;
        whole || (self.is_synced() && self.cell.meets(&self.shelf, requirement) == Ok(true))
    }
    /// How far an actor is durable here without a hole.
    pub(crate) fn whole_seq(&self, actor: &ActorId) -> u64 {
        self.durable_seq(actor).min(self.cell.whole_to(actor))
    }
    /// What is known here beside the entities, with what could not be applied.
    pub(crate) fn baseline(&self) -> Baseline {
        Baseline { quarantined: self.quarantined(), ..self.cell.baseline() }
    }
    /// The newest copy of every quarantined change.
    pub(crate) fn quarantined(&self) -> Vec<Quarantined> {
        let copies = self.log.iter().flat_map(Logged::quarantined).map(|kept| (kept.entry.dot, kept));
        let newest: BTreeMap<Dot, &Quarantined> = copies.collect();
        self.cell.quarantined().filter_map(|(dot, _)| newest.get(dot).copied().cloned()).collect()
    }
    pub(crate) fn order<T>(&self, id: OrderId, look: impl FnOnce(&Reading<'_, Order>) -> T) -> Option<T> {
        self.shelf.entities.get(&id.into()).map(|entity| look(&Reading::<Order>::of(entity)))
    }
    pub(crate) fn payment<T>(
        &self,
        id: PaymentId,
        look: impl FnOnce(&Reading<'_, Payment>) -> T,
    ) -> Option<T> {
        self.shelf.entities.get(&id.into()).map(|entity| look(&Reading::<Payment>::of(entity)))
    }
}
