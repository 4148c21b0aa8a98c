//! A durable group on its way from the writer to the view.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cell_core::cell::{Front, Quarantined, SlotDigests, Step};
use cell_core::digest::Digest;
use cell_core::duty::{Act, Duty};
use cell_core::entity::Entity;
use cell_core::id::{ActorId, EntityId, Slot};
use cell_core::lives::ActorLife;
use cell_core::placement::Epoch;
use cell_core::version::Dot;
use cell_store::Position;

use crate::keys;

/// Before any duty's time.
const SOON_MS: u64 = 1;

/// What an entity needs done, as of a group. An empty list: nothing any more.
#[derive(Clone, Debug)]
pub(crate) struct Sheet {
    pub(crate) entity: EntityId,
    pub(crate) duties: Vec<Duty>,
}

impl Sheet {
    /// It is looked at as soon as the node decides: it may be due.
    pub(crate) fn soon(entity: EntityId) -> Sheet {
        Sheet::at(entity, SOON_MS)
    }

    /// It is looked at with all that is open, once the node decides again that another one outranked.
    pub(crate) fn once_decided(entity: EntityId) -> Sheet {
        Sheet::at(entity, 0)
    }

    /// Whether that is for an entity that was not looked at yet, and not what its duties say.
    pub(crate) fn is_placeholder(due_ms: u64) -> bool {
        due_ms <= SOON_MS
    }

    fn at(entity: EntityId, due_ms: u64) -> Sheet {
        Sheet { entity, duties: vec![Duty { id: [0; 16], entity, due_ms, act: Act::Decide }] }
    }
}

/// A durable group on its way into the view.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) number: u64,
    /// The position behind its last record.
    pub(crate) end: Position,
    pub(crate) entities: BTreeMap<EntityId, Arc<Entity>>,
    pub(crate) command_keys: Vec<Bytes>,
    pub(crate) frontier: BTreeMap<ActorId, Front>,
    pub(crate) epochs: BTreeMap<Slot, Epoch>,
    pub(crate) closed: BTreeMap<ActorId, u64>,
    pub(crate) lives: Vec<ActorLife>,
    /// As the view keeps them, by key: those of slots that changed.
    pub(crate) digests: BTreeMap<u16, Bytes>,
    /// By how much the digests of entities grew.
    pub(crate) grown: BTreeMap<EntityId, Digest>,
    /// The last changes of actors behind a hole; only a replay meets them.
    pub(crate) beyond: Vec<Dot>,
    /// Changes that could not be applied; `None` where one is applied by now.
    pub(crate) quarantined: BTreeMap<Dot, Option<Quarantined>>,
    pub(crate) sheets: Vec<Sheet>,
}

impl Group {
    /// Nothing yet, up to this position.
    pub(crate) fn at(end: Position) -> Group {
        Group {
            number: 0,
            end,
            entities: BTreeMap::new(),
            command_keys: Vec::new(),
            frontier: BTreeMap::new(),
            epochs: BTreeMap::new(),
            closed: BTreeMap::new(),
            lives: Vec::new(),
            digests: BTreeMap::new(),
            grown: BTreeMap::new(),
            beyond: Vec::new(),
            quarantined: BTreeMap::new(),
            sheets: Vec::new(),
        }
    }

    /// Takes what a step did to entities.
    pub(crate) fn take(&mut self, step: &Step) {
        self.entities.extend(step.entities.iter().map(|(id, entity)| (*id, entity.clone())));
        grow(&mut self.grown, &step.grown);
        self.quarantined.extend(quarantined(step));
    }

    /// Takes the digests as they are now: of what grew, and of these slots.
    pub(crate) fn note_digests(&mut self, digests: &SlotDigests, also: impl IntoIterator<Item = Slot>) {
        let of_key = usize::from(keys::DIGESTS_OF_KEY);
        for slot in self.grown.keys().map(EntityId::slot).chain(also) {
            let nth = slot.number() / keys::DIGESTS_OF_KEY;
            self.digests.entry(nth).or_insert_with(|| {
                let of_key = &digests.all()[usize::from(nth) * of_key..][..of_key];
                of_key.iter().flat_map(|digest| digest.to_bytes()).collect()
            });
        }
    }

    /// Whether somebody may be told of it: of a fresh order nobody is.
    pub(super) fn is_urgent(&self) -> bool {
        self.entities.values().any(|entity| entity.id.order().is_none() || entity.items().count() > 1)
    }

    /// Takes the group behind this one: what is newer stands.
    pub(super) fn absorb(&mut self, next: Group) {
        self.number = next.number;
        self.end = next.end;
        self.entities.extend(next.entities);
        self.command_keys.extend(next.command_keys);
        self.frontier.extend(next.frontier);
        self.epochs.extend(next.epochs);
        self.closed.extend(next.closed);
        self.lives.extend(next.lives);
        self.digests.extend(next.digests);
        grow(&mut self.grown, &next.grown);
        self.beyond.extend(next.beyond);
        self.quarantined.extend(next.quarantined);
        // In order, so that the last sheet of an entity is the one that stays.
        self.sheets.extend(next.sheets);
    }
}

/// What a step says of changes that could not be applied.
pub(super) fn quarantined(step: &Step) -> impl Iterator<Item = (Dot, Option<Quarantined>)> {
    let kept = step.quarantined.iter().map(|kept| (kept.entry.dot, Some(kept.clone())));
    kept.chain(step.released.iter().map(|dot| (*dot, None)))
}

pub(super) fn grow(grown: &mut BTreeMap<EntityId, Digest>, more: &BTreeMap<EntityId, Digest>) {
    for (id, digest) in more {
        let of_entity = grown.entry(*id).or_default();
        *of_entity = of_entity.plus(*digest);
    }
}
