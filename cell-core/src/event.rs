//! Changes and the events in them: the one shape that is logged, streamed, hashed and merged.

use std::sync::Arc;

use bytes::Bytes;

use crate::canon::{Malformed, Message, codes, message};
use crate::clock::Hlc;
use crate::id::{ActorId, EntityId, Hash, OrderId, PaymentId, Slot, UserId};
use crate::order::{OrderDecision, OrderRecord};
use crate::payment::{PaymentDecision, Permit};
use crate::placement::Epoch;
use crate::version::{Dot, EventId};

// === what an event says ===

message! {
    /// A creation record: immutable, content-addressed, equal in every copy.
    pub enum Record { 1 => Order(OrderRecord), 2 => Permit(Permit) }
}

message! {
    /// A decision of either kind of entity.
    pub enum Decision { 1 => Order(OrderDecision), 2 => Payment(PaymentDecision) }
}

codes! {
    /// The operations a user can ask for.
    pub enum Op {
        1 => Place: "place",
        2 => Amend: "amend",
        3 => Pay: "pay",
        4 => Ask: "ask",
        5 => Withdraw: "withdraw",
        6 => Cancel: "cancel",
        7 => Refund: "refund",
        8 => Accept: "accept",
        9 => Decline: "decline",
        10 => Discard: "discard",
    }
}

message! {
    /// The command a decision answers: who asked, for what, under which key, with which body.
    pub struct CommandRef {
        1 => user: UserId,
        2 => op: Op,
        /// Hash of (user, operation, entity, key).
        3 => id: [u8; 16],
        /// Hash of the request body: another body under the same id is refused.
        4 => digest: [u8; 16],
    }
}

impl CommandRef {
    #[must_use]
    pub fn new(user: &UserId, op: Op, entity: Option<EntityId>, key: &str, body: &[u8]) -> CommandRef {
        let entity = entity.map(|id| id.to_bytes());
        let entity: &[u8] = entity.as_ref().map_or(&[], |bytes| bytes);
        let parts = [user.as_str().as_bytes(), op.as_str().as_bytes(), entity, key.as_bytes()];
        CommandRef {
            user: user.clone(),
            op,
            id: Hash::of_parts(&parts).short(),
            digest: Hash::of(body).short(),
        }
    }
}

message! {
    /// One link of an entity's chain: what the owner of the slot decided.
    pub struct Decided {
        1 => epoch: Epoch,
        /// 0, 1, 2… within the epoch.
        2 => place: u64,
        3 => command: Option<CommandRef>,
        /// On place 0 only: hashes of the decisions it builds on, in order. The same change carries them.
        4 => inherits: Vec<Hash>,
        5 => body: Decision,
    }
}

message! {
    /// Money was taken.
    pub struct Capture {
        /// The gateway's own id: the key of this fact.
        1 => intent: String,
        2 => key: [u8; 16],
        3 => k: u64,
        4 => permit: Permit,
        5 => amount_minor: u64,
        6 => currency: String,
        7 => at_ms: u64,
        /// The epoch that opened the permit, and the one that started the attempt, as the gateway kept them.
        8 => order_epoch: Option<Epoch>,
        9 => payment_epoch: Option<Epoch>,
    }
}

message! {
    /// Money was given back.
    pub struct Refund {
        1 => refund: String,
        2 => intent: String,
        3 => case: [u8; 16],
        4 => payment: PaymentId,
        5 => order: OrderId,
        6 => amount_minor: u64,
        7 => currency: String,
        8 => at_ms: u64,
    }
}

codes! {
    /// How an intent ended without money.
    pub enum FailureKind {
        1 => Refused: "refused",
        2 => Retryable: "retryable",
        3 => Closed: "closed",
        4 => Expired: "expired",
    }
}

message! {
    /// An attempt ended at the gateway without money.
    pub struct Failure {
        1 => intent: String,
        2 => key: [u8; 16],
        3 => k: u64,
        4 => payment: PaymentId,
        5 => order: OrderId,
        6 => kind: FailureKind,
        7 => code: String,
    }
}

message! {
    /// The gateway will take no money under this payment any more: it was closed by reference and listed.
    pub struct Barred { 1 => payment: PaymentId, 2 => order: OrderId }
}

message! {
    /// What happened in the outside world, keyed by (kind, the outside party's own id).
    #[expect(clippy::large_enum_variant, reason = "facts are few and short-lived")]
    pub enum Fact { 1 => Capture(Capture), 2 => Refund(Refund), 3 => Failure(Failure), 4 => Barred(Barred) }
}

/// The key of a fact. Ordered so that captures come before refunds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FactKey {
    pub kind: u8,
    pub outside: String,
}

impl Fact {
    #[must_use]
    pub fn key(&self) -> FactKey {
        let (kind, outside) = match self {
            Fact::Capture(capture) => (1, capture.intent.clone()),
            Fact::Refund(refund) => (2, refund.refund.clone()),
            Fact::Failure(failure) => (3, failure.intent.clone()),
            Fact::Barred(barred) => (4, barred.payment.to_string()),
        };
        FactKey { kind, outside }
    }

    /// The order and the payment it concerns; who holds it on either has it on both.
    #[must_use]
    pub fn concerns(&self) -> (OrderId, PaymentId) {
        match self {
            Fact::Capture(capture) => (capture.permit.order, capture.permit.payment_id()),
            Fact::Refund(refund) => (refund.order, refund.payment),
            Fact::Failure(failure) => (failure.order, failure.payment),
            Fact::Barred(barred) => (barred.order, barred.payment),
        }
    }
}

message! {
    /// An event that first entered the world elsewhere, with its birth bytes: inherited history, fetched state.
    pub struct Carried { 1 => origin: EventId, 2 => at: Hlc, 3 => event: Bytes }
}

message! {
    /// The first thing a new actor logs: whom it follows. `last` and `hash` are what its own log holds of the old one.
    pub struct Succeeds { 1 => old: ActorId, 2 => last: u64, 3 => hash: Hash }
}

message! {
    /// A sign of life through the whole road; lag is measured from its stamp.
    pub struct Beat { 1 => wall_ms: u64 }
}

message! {
    /// Slots have a home under a higher epoch.
    pub struct Placed { 1 => slots: Vec<Slot>, 2 => epoch: Epoch }
}

message! {
    /// An ended actor's final sequence number; joined by maximum.
    pub struct Closed { 1 => actor: ActorId, 2 => last: u64 }
}

message! {
    /// What an operator did: who, what, to what, why.
    pub struct Audit { 1 => identity: String, 2 => action: String, 3 => subject: String, 4 => reason: String }
}

message! {
    /// What an event says. A kind this version does not know freezes its entities' folds, not their replication.
    pub enum Body {
        1 => Record(Record),
        2 => Decided(Decided),
        3 => Fact(Fact),
        4 => Carried(Carried),
        5 => Succeeds(Succeeds),
        6 => Beat(Beat),
        7 => Placed(Placed),
        8 => Closed(Closed),
        9 => Audit(Audit),
    }
}

message! {
    /// The envelope of an event: which entities it belongs to stands outside what it says.
    open pub struct EventShape { 1 => entities: Vec<EntityId>, 2 => body: Body }
}

// === Event ===

/// An event with its birth bytes. `body` is `None` where only a newer version can read it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub entities: Vec<EntityId>,
    pub body: Option<Body>,
    pub bytes: Bytes,
    pub hash: Hash,
    /// Of a creation record: the entity whose id its content makes. Every reading asks for it.
    pub proves: Option<EntityId>,
}

fn proves(body: &Body) -> Option<EntityId> {
    match body {
        Body::Record(Record::Order(record)) => Some(record.order_id().into()),
        Body::Record(Record::Permit(permit)) => Some(permit.payment_id().into()),
        _ => None,
    }
}

impl Event {
    #[must_use]
    pub fn new(entities: Vec<EntityId>, body: Body) -> Event {
        let shape = EventShape { entities, body };
        let bytes = Bytes::from(shape.to_canon());
        let (hash, proves) = (Hash::of(&bytes), proves(&shape.body));
        Event { hash, bytes, entities: shape.entities, body: Some(shape.body), proves }
    }

    /// # Errors
    /// [`Malformed`] if the bytes are not an event; an unknown kind is no error.
    pub fn decode(bytes: Bytes) -> Result<Event, Malformed> {
        let hash = Hash::of(&bytes);
        match EventShape::decode(&bytes) {
            Ok(shape) => {
                let proves = proves(&shape.body);
                Ok(Event { hash, entities: shape.entities, body: Some(shape.body), bytes, proves })
            }
            Err(Malformed::Newer(_) | Malformed::Missing { message: "EventShape", .. }) => {
                let entities = EventAddress::decode(&bytes)?.entities;
                Ok(Event { hash, entities, body: None, bytes, proves: None })
            }
            Err(error) => Err(error),
        }
    }
}

// === Change and Entry ===

message! {
    /// What one command, callback or settling step produced, under one dot, applied whole or not at all.
    open pub struct ChangeShape {
        1 => dot: Dot,
        2 => at: Hlc,
        /// W3C `traceparent`, or empty.
        3 => trace: String,
        4 => events: Vec<Bytes>,
    }
}

/// A decoded change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub dot: Dot,
    pub at: Hlc,
    pub trace: String,
    pub events: Vec<Arc<Event>>,
}

message! {
    /// A change as it is logged and streamed: its birth bytes and its place in its actor's hash chain.
    open pub struct Entry {
        1 => dot: Dot,
        /// BLAKE3(hash of the actor's previous entry, dot, bytes).
        2 => hash: Hash,
        3 => bytes: Bytes,
    }
}

impl Change {
    /// Encodes and chains it behind `previous`.
    #[must_use]
    pub fn seal(&self, previous: &Hash) -> Entry {
        let shape = ChangeShape {
            dot: self.dot,
            at: self.at,
            trace: self.trace.clone(),
            events: self.events.iter().map(|event| event.bytes.clone()).collect(),
        };
        let bytes = Bytes::from(shape.to_canon());
        Entry { dot: self.dot, hash: Entry::chain(previous, &self.dot, &bytes), bytes }
    }

    /// # Errors
    /// [`Malformed`] if these are not the bytes of a change.
    pub fn decode(bytes: &[u8]) -> Result<Change, Malformed> {
        let shape = ChangeShape::decode(bytes)?;
        let events = shape.events.into_iter().map(|bytes| Event::decode(bytes).map(Arc::new));
        Ok(Change {
            dot: shape.dot,
            at: shape.at,
            trace: shape.trace,
            events: events.collect::<Result<_, _>>()?,
        })
    }
}

impl Entry {
    /// The hash of an entry, given that of the one before it ([`Hash::ZERO`] for the first).
    #[must_use]
    pub fn chain(previous: &Hash, dot: &Dot, bytes: &[u8]) -> Hash {
        Hash::of_parts(&[&previous.0, &dot.to_canon(), bytes])
    }
}

message! {
    /// Where an event belongs, read from an event whose body is unknown here.
    open pub struct EventAddress { 1 => entities: Vec<EntityId> }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_that_only_a_newer_version_knows_freezes_the_event_and_keeps_its_bytes() {
        let beat = Event::new(Vec::new(), Body::Beat(Beat { wall_ms: 5 }));
        // EventShape { body(2): Body { beat(6): Beat { wall_ms(1): 5, later(9): 1 } } }
        let later = Bytes::from_static(&[0x12, 6, 0x32, 4, 0x08, 5, 0x48, 1]);
        assert_eq!(beat.bytes, Bytes::from_static(&[0x12, 4, 0x32, 2, 0x08, 5]));
        let event = Event::decode(later.clone()).unwrap();
        assert_eq!((event.body, event.bytes), (None, later));
    }
}
