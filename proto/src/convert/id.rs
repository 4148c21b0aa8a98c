//! Who, which, when, and under whose decision.

use cell_core::clock::Hlc;
use cell_core::id::{ActorId, NodeId};
use cell_core::placement::Epoch;
use cell_core::version::{Dot, EventId};

use super::{At, BadWire};
use crate::v1;

// === ActorId ===

impl TryFrom<v1::ActorId> for ActorId {
    type Error = BadWire;
    fn try_from(wire: v1::ActorId) -> Result<Self, BadWire> {
        let node = At("ActorId", "node").set(wire.node)?;
        let region = At("NodeId", "region").region(&node.region)?;
        Ok(ActorId { node: NodeId { region, index: node.index }, start: wire.start, nonce: wire.nonce })
    }
}

impl From<ActorId> for v1::ActorId {
    fn from(actor: ActorId) -> Self {
        let node = v1::NodeId { region: actor.node.region.as_str().to_owned(), index: actor.node.index };
        v1::ActorId { node: Some(node), start: actor.start, nonce: actor.nonce }
    }
}

// === Dot, EventId ===

impl TryFrom<v1::Dot> for Dot {
    type Error = BadWire;
    fn try_from(wire: v1::Dot) -> Result<Self, BadWire> {
        Ok(Dot { actor: At("Dot", "actor").nested(wire.actor)?, seq: wire.seq })
    }
}

impl From<Dot> for v1::Dot {
    fn from(dot: Dot) -> Self {
        v1::Dot { actor: Some(dot.actor.into()), seq: dot.seq }
    }
}

impl TryFrom<v1::EventId> for EventId {
    type Error = BadWire;
    fn try_from(wire: v1::EventId) -> Result<Self, BadWire> {
        Ok(EventId { dot: At("EventId", "dot").nested(wire.dot)?, place: wire.place })
    }
}

impl From<EventId> for v1::EventId {
    fn from(id: EventId) -> Self {
        v1::EventId { dot: Some(id.dot.into()), place: id.place }
    }
}

// === Epoch, Hlc ===

impl TryFrom<v1::Epoch> for Epoch {
    type Error = BadWire;
    fn try_from(wire: v1::Epoch) -> Result<Self, BadWire> {
        Ok(Epoch { term: wire.term, step: wire.step, actor: At("Epoch", "actor").nested(wire.actor)? })
    }
}

impl From<Epoch> for v1::Epoch {
    fn from(epoch: Epoch) -> Self {
        v1::Epoch { term: epoch.term, step: epoch.step, actor: Some(epoch.actor.into()) }
    }
}

impl From<v1::Hlc> for Hlc {
    fn from(wire: v1::Hlc) -> Self {
        Hlc { wall_ms: wire.wall_ms, counter: wire.counter }
    }
}

impl From<Hlc> for v1::Hlc {
    fn from(hlc: Hlc) -> Self {
        v1::Hlc { wall_ms: hlc.wall_ms, counter: hlc.counter }
    }
}
