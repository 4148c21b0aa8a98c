//! Messages between the owners of two slots.

use bytes::Bytes;
use cell_core::gate::{Envelope, MessageId, MessageKind, Requirement};
use cell_core::id::Slot;

use super::{At, BadWire, each};
use crate::v1;

impl TryFrom<v1::Requirement> for Requirement {
    type Error = BadWire;
    fn try_from(wire: v1::Requirement) -> Result<Self, BadWire> {
        Ok(Requirement {
            entity: At("Requirement", "entity").entity(&wire.entity)?,
            dot: At("Requirement", "dot").nested(wire.dot)?,
        })
    }
}

impl From<Requirement> for v1::Requirement {
    fn from(requirement: Requirement) -> Self {
        let entity = Bytes::copy_from_slice(&requirement.entity.to_bytes());
        v1::Requirement { entity, dot: Some(requirement.dot.into()) }
    }
}

// === MessageKind ===

impl TryFrom<v1::MessageKind> for MessageKind {
    type Error = BadWire;
    fn try_from(wire: v1::MessageKind) -> Result<Self, BadWire> {
        Ok(match wire {
            v1::MessageKind::Unspecified => return Err(At("Envelope", "kind").bad("missing")),
            v1::MessageKind::PayRequest => MessageKind::PayRequest,
            v1::MessageKind::Withdrawal => MessageKind::Withdrawal,
            v1::MessageKind::Result => MessageKind::Result,
            v1::MessageKind::RefundOrder => MessageKind::RefundOrder,
            v1::MessageKind::StalledNotice => MessageKind::StalledNotice,
        })
    }
}

impl From<MessageKind> for v1::MessageKind {
    fn from(kind: MessageKind) -> Self {
        match kind {
            MessageKind::PayRequest => v1::MessageKind::PayRequest,
            MessageKind::Withdrawal => v1::MessageKind::Withdrawal,
            MessageKind::Result => v1::MessageKind::Result,
            MessageKind::RefundOrder => v1::MessageKind::RefundOrder,
            MessageKind::StalledNotice => v1::MessageKind::StalledNotice,
        }
    }
}

// === Envelope ===

fn slot(at: At, number: u64) -> Result<Slot, BadWire> {
    let number = u16::try_from(number).map_err(|_| at.bad(format_args!("{number} is no slot")))?;
    Slot::new(number).map_err(|error| at.bad(error))
}

/// Between the processes of one region, which are of one version; between regions an envelope travels as canonical
/// bytes, so that one that only a newer version can read is kept whole.
impl TryFrom<v1::Envelope> for Envelope {
    type Error = BadWire;
    fn try_from(wire: v1::Envelope) -> Result<Self, BadWire> {
        let at = |field| At("Envelope", field);
        let kind =
            v1::MessageKind::try_from(wire.kind).map_err(|_| at("kind").bad("needs a newer version"))?;
        Ok(Envelope {
            id: at("id").fixed(&wire.id).map(MessageId)?,
            kind: kind.try_into()?,
            from: at("from").region(&wire.from)?,
            to_slot: slot(at("to_slot"), wire.to_slot)?,
            subject: at("subject").entity(&wire.subject)?,
            requires: each(wire.requires)?,
            epoch: at("epoch").nested(wire.epoch)?,
            deadline_ms: wire.deadline_ms,
            until_ms: wire.until_ms,
            trace: wire.trace,
            from_slot: slot(at("from_slot"), wire.from_slot)?,
            body: wire.body,
            created_ms: wire.created_ms,
        })
    }
}

impl From<Envelope> for v1::Envelope {
    fn from(envelope: Envelope) -> Self {
        v1::Envelope {
            id: Bytes::copy_from_slice(&envelope.id.0),
            kind: v1::MessageKind::from(envelope.kind).into(),
            from: envelope.from.as_str().to_owned(),
            to_slot: envelope.to_slot.number().into(),
            subject: Bytes::copy_from_slice(&envelope.subject.to_bytes()),
            requires: envelope.requires.into_iter().map(Into::into).collect(),
            epoch: Some(envelope.epoch.into()),
            deadline_ms: envelope.deadline_ms,
            until_ms: envelope.until_ms,
            trace: envelope.trace,
            from_slot: envelope.from_slot.number().into(),
            body: envelope.body,
            created_ms: envelope.created_ms,
        }
    }
}
