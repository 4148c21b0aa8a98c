//! What is replicated and fetched: entries, frontiers, entities.

use bytes::Bytes;
use cell_core::entity::{EntityShape, ItemShape};
use cell_core::event::Entry;
use cell_core::id::{ActorId, Hash};
use cell_core::lives::ActorLife;

use super::{At, BadWire, each};
use crate::v1;

/// How far one actor is known: its `seq`-th entry, with hash `hash`, is the last of an unbroken run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontier {
    pub actor: ActorId,
    pub seq: u64,
    pub hash: Hash,
}

impl TryFrom<v1::ActorFrontier> for Frontier {
    type Error = BadWire;
    fn try_from(wire: v1::ActorFrontier) -> Result<Self, BadWire> {
        Ok(Frontier {
            actor: At("ActorFrontier", "actor").nested(wire.actor)?,
            seq: wire.seq,
            hash: At("ActorFrontier", "hash").hash(&wire.hash)?,
        })
    }
}

impl From<Frontier> for v1::ActorFrontier {
    fn from(frontier: Frontier) -> Self {
        let hash = Bytes::copy_from_slice(&frontier.hash.0);
        v1::ActorFrontier {
            actor: Some(frontier.actor.into()),
            seq: frontier.seq,
            hash,
            quarantined: Vec::new(),
        }
    }
}

// === ActorLife ===

impl TryFrom<v1::ActorLife> for ActorLife {
    type Error = BadWire;
    fn try_from(wire: v1::ActorLife) -> Result<Self, BadWire> {
        let actor = At("ActorLife", "actor").nested(wire.actor)?;
        Ok(ActorLife { actor, beat_ms: wire.beat_ms, last: wire.last })
    }
}

impl From<ActorLife> for v1::ActorLife {
    fn from(life: ActorLife) -> Self {
        v1::ActorLife { actor: Some(life.actor.into()), beat_ms: life.beat_ms, last: life.last }
    }
}

// === Entry ===

/// The hash is taken as given; whether it continues its actor's chain is for the receiver's frontier to say.
impl TryFrom<v1::Entry> for Entry {
    type Error = BadWire;
    fn try_from(wire: v1::Entry) -> Result<Self, BadWire> {
        Ok(Entry {
            dot: At("Entry", "dot").nested(wire.dot)?,
            hash: At("Entry", "hash").hash(&wire.hash)?,
            bytes: wire.bytes,
        })
    }
}

impl From<Entry> for v1::Entry {
    fn from(entry: Entry) -> Self {
        let hash = Bytes::copy_from_slice(&entry.hash.0);
        v1::Entry { dot: Some(entry.dot.into()), hash, bytes: entry.bytes }
    }
}

// === EntityShape ===

impl TryFrom<v1::ItemShape> for ItemShape {
    type Error = BadWire;
    fn try_from(wire: v1::ItemShape) -> Result<Self, BadWire> {
        let since = At("ItemShape", "since").set(wire.since)?.into();
        Ok(ItemShape { event: wire.event, origins: each(wire.origins)?, since })
    }
}

impl From<ItemShape> for v1::ItemShape {
    fn from(item: ItemShape) -> Self {
        let origins = item.origins.into_iter().map(Into::into).collect();
        v1::ItemShape { event: item.event, origins, since: Some(item.since.into()) }
    }
}

impl TryFrom<v1::EntityShape> for EntityShape {
    type Error = BadWire;
    fn try_from(wire: v1::EntityShape) -> Result<Self, BadWire> {
        Ok(EntityShape { id: At("EntityShape", "id").entity(&wire.id)?, items: each(wire.items)? })
    }
}

impl From<EntityShape> for v1::EntityShape {
    fn from(entity: EntityShape) -> Self {
        let id = Bytes::copy_from_slice(&entity.id.to_bytes());
        v1::EntityShape { id, items: entity.items.into_iter().map(Into::into).collect() }
    }
}
