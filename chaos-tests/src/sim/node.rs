//! One region's node: the cell, its working state, its log with what of it is synced, and what waits for the disk.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use cell_core::cell::{Ability, Baseline, Cell, Refusal, Reply, Unavailable, View};
use cell_core::duty::Duty;
use cell_core::entity::{Entity, Reading};
use cell_core::gate::{Answer, MessageId, Requirement};
use cell_core::id::{ActorId, EntityId, OrderId, PaymentId, RegionId, Slot, UserId};
use cell_core::order::Order;
use cell_core::payment::Payment;
use cell_core::version::Dot;

use super::agent::Agent;
use super::disk::{Disk, Held};

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

/// A peer's state on its way here.
#[derive(Debug)]
pub(crate) struct Exchange {
    pub(crate) peer: usize,
    pub(crate) baseline: Baseline,
    pub(crate) rest: Vec<EntityId>,
    pub(crate) moved_ms: u64,
}

/// What may be shown only after the log is synced up to a position.
#[derive(Debug)]
pub(crate) enum Effect {
    Reply {
        call: usize,
        reply: Box<Result<Reply, Refusal>>,
        dot: Option<Dot>,
    },
    Answer {
        agent: u64,
        id: MessageId,
        attempt: u32,
        answer: Answer,
    },
    Fetched {
        wanted: Vec<Requirement>,
    },
    Read {
        reader: usize,
        looks: u32,
    },
    /// What was lacking is here.
    MadeGood,
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
    pub(crate) disk: Disk,
    /// Something of what it had may be gone: it denies nothing, and no other region builds on it.
    pub(crate) lacking: bool,
    pub(crate) syncing: bool,
    pub(crate) waiting: VecDeque<(usize, Effect)>,
    /// Who waits here for a version.
    pub(crate) readers: BTreeSet<usize>,
    pub(crate) backup: Option<Disk>,
    /// What is synced, by actor.
    pub(crate) durable: BTreeMap<ActorId, Held>,
    pub(crate) exchange: Option<Exchange>,
    /// Per peer, how far each actor was sent on the present connection.
    pub(crate) sent: BTreeMap<usize, BTreeMap<ActorId, u64>>,
    /// Per peer, how often in a row a difference was seen.
    pub(crate) differs: BTreeMap<usize, u32>,
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
        self.disk.log.is_synced()
    }
    pub(crate) fn durable_seq(&self, actor: &ActorId) -> u64 {
        self.durable.get(actor).map_or(0, Held::seq)
    }
    pub(crate) fn durable_front(&self) -> BTreeMap<ActorId, u64> {
        // Of one of which only what is behind a hole is here, nothing is known.
        let known = self.durable.iter().map(|(actor, held)| (*actor, held.seq()));
        known.filter(|(_, seq)| *seq > 0).collect()
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
