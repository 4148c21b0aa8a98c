//! Conversions between generated messages and cell-core's types. Wire → core is checked and total; core → wire cannot
//! fail. Shapes that are stored or hashed have equal bytes on both sides and cross by those.

use bytes::Bytes;
use cell_core::canon::{Malformed, Message as _};
use cell_core::entity::EntityShape;
use cell_core::event::Entry;
use cell_core::gate::{Envelope, Requirement};
use cell_core::id::{ActorId, EntityId, Hash, NodeId, RegionId};
use cell_core::placement::Epoch;
use cell_core::version::Dot;
use prost::Message as _;

use crate::v1;

/// A message from the wire does not say what it has to. The sender is at fault; nothing was touched.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}: {why}")]
pub struct BadWire {
    pub message: &'static str,
    pub why: String,
}

impl BadWire {
    fn missing(message: &'static str, field: &str) -> BadWire {
        BadWire { message, why: format!("{field} is missing") }
    }
    fn malformed(message: &'static str) -> impl Fn(Malformed) -> BadWire {
        move |error| BadWire { message, why: error.to_string() }
    }
}

/// How far one actor is known: its `seq`-th entry, hash `hash`, is the last of an unbroken run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frontier {
    pub actor: ActorId,
    pub seq: u64,
    pub hash: Hash,
}

fn hash_of(message: &'static str, bytes: &[u8]) -> Result<Hash, BadWire> {
    let bytes = bytes.try_into().map_err(|_| BadWire { message, why: "a hash has 32 bytes".to_owned() })?;
    Ok(Hash(bytes))
}

fn entity_of(message: &'static str, bytes: &[u8]) -> Result<EntityId, BadWire> {
    let bytes =
        bytes.try_into().map_err(|_| BadWire { message, why: "an entity has 17 bytes".to_owned() })?;
    Ok(EntityId::from_bytes(bytes))
}

// === ActorId, Dot, Epoch ===

impl TryFrom<v1::ActorId> for ActorId {
    type Error = BadWire;
    fn try_from(wire: v1::ActorId) -> Result<Self, BadWire> {
        let node = wire.node.ok_or_else(|| BadWire::missing("ActorId", "node"))?;
        let region = RegionId::new(&node.region)
            .map_err(|error| BadWire { message: "ActorId", why: error.to_string() })?;
        Ok(ActorId { node: NodeId { region, index: node.index }, start: wire.start, nonce: wire.nonce })
    }
}

impl From<ActorId> for v1::ActorId {
    fn from(actor: ActorId) -> Self {
        let node = v1::NodeId { region: actor.node.region.as_str().to_owned(), index: actor.node.index };
        v1::ActorId { node: Some(node), start: actor.start, nonce: actor.nonce }
    }
}

impl TryFrom<v1::Dot> for Dot {
    type Error = BadWire;
    fn try_from(wire: v1::Dot) -> Result<Self, BadWire> {
        let actor = wire.actor.ok_or_else(|| BadWire::missing("Dot", "actor"))?;
        Ok(Dot { actor: actor.try_into()?, seq: wire.seq })
    }
}

impl From<Dot> for v1::Dot {
    fn from(dot: Dot) -> Self {
        v1::Dot { actor: Some(dot.actor.into()), seq: dot.seq }
    }
}

impl TryFrom<v1::Epoch> for Epoch {
    type Error = BadWire;
    fn try_from(wire: v1::Epoch) -> Result<Self, BadWire> {
        let actor = wire.actor.ok_or_else(|| BadWire::missing("Epoch", "actor"))?;
        Ok(Epoch { term: wire.term, step: wire.step, actor: actor.try_into()? })
    }
}

impl From<Epoch> for v1::Epoch {
    fn from(epoch: Epoch) -> Self {
        v1::Epoch { term: epoch.term, step: epoch.step, actor: Some(epoch.actor.into()) }
    }
}

// === Entry, Frontier, Requirement ===

impl TryFrom<v1::Entry> for Entry {
    type Error = BadWire;
    fn try_from(wire: v1::Entry) -> Result<Self, BadWire> {
        let dot = wire.dot.ok_or_else(|| BadWire::missing("Entry", "dot"))?;
        Ok(Entry { dot: dot.try_into()?, hash: hash_of("Entry", &wire.hash)?, bytes: wire.bytes })
    }
}

impl From<Entry> for v1::Entry {
    fn from(entry: Entry) -> Self {
        let hash = Bytes::copy_from_slice(&entry.hash.0);
        v1::Entry { dot: Some(entry.dot.into()), hash, bytes: entry.bytes }
    }
}

impl TryFrom<v1::ActorFrontier> for Frontier {
    type Error = BadWire;
    fn try_from(wire: v1::ActorFrontier) -> Result<Self, BadWire> {
        let actor = wire.actor.ok_or_else(|| BadWire::missing("ActorFrontier", "actor"))?;
        Ok(Frontier { actor: actor.try_into()?, seq: wire.seq, hash: hash_of("ActorFrontier", &wire.hash)? })
    }
}

impl From<Frontier> for v1::ActorFrontier {
    fn from(front: Frontier) -> Self {
        let hash = Bytes::copy_from_slice(&front.hash.0);
        v1::ActorFrontier { actor: Some(front.actor.into()), seq: front.seq, hash }
    }
}

impl TryFrom<v1::Requirement> for Requirement {
    type Error = BadWire;
    fn try_from(wire: v1::Requirement) -> Result<Self, BadWire> {
        let dot = wire.dot.ok_or_else(|| BadWire::missing("Requirement", "dot"))?;
        Ok(Requirement { entity: entity_of("Requirement", &wire.entity)?, dot: dot.try_into()? })
    }
}

impl From<Requirement> for v1::Requirement {
    fn from(requirement: Requirement) -> Self {
        let entity = Bytes::copy_from_slice(&requirement.entity.to_bytes());
        v1::Requirement { entity, dot: Some(requirement.dot.into()) }
    }
}

// === shapes with equal bytes on both sides ===

macro_rules! by_bytes {
    ($core:ident, $wire:ident) => {
        impl TryFrom<v1::$wire> for $core {
            type Error = BadWire;
            fn try_from(wire: v1::$wire) -> Result<Self, BadWire> {
                $core::decode(&wire.encode_to_vec()).map_err(BadWire::malformed(stringify!($wire)))
            }
        }
        impl From<$core> for v1::$wire {
            fn from(core: $core) -> Self {
                // The tests of this crate prove that prost reads every canonical byte string.
                v1::$wire::decode(core.to_canon().as_slice()).unwrap_or_default()
            }
        }
    };
}

by_bytes!(EntityShape, EntityShape);
by_bytes!(Envelope, Envelope);
