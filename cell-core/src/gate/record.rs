//! What the gate has to find again after a restart. Records only ever say something new about one message id.

use bytes::Bytes;

use super::{Envelope, MessageId, Requirement};
use crate::canon::{codes, message};
use crate::id::RegionId;

codes! {
    /// Why a message is a dead letter.
    pub enum DeadReason {
        /// What it requires was not there at its deadline. Wakes by itself when that comes.
        1 => MissingDependency: "missing-dependency",
        /// The handler failed as often as it may. Waits for an operator, or for its `until`.
        2 => Poison: "poison",
        /// It cannot be read, perhaps because it is newer than this software. Read again at every start.
        3 => Malformed: "malformed",
    }
}

message! {
    /// A message was accepted, or a newer epoch's copy took its place, and what was noted about the id before is void;
    /// or it was written once more as it was, which says nothing new.
    pub struct Accepted { 1 => envelope: Envelope, 2 => arrived_ms: u64 }
}

message! {
    /// A message that cannot be read was kept whole, under [`MessageId::of_undecoded`].
    pub struct Undecoded {
        1 => id: MessageId,
        2 => from: RegionId,
        3 => bytes: Bytes,
        4 => reason: String,
        5 => arrived_ms: u64,
    }
}

message! {
    /// An accepted message became a dead letter.
    pub struct DeadLettered {
        1 => id: MessageId,
        2 => reason: DeadReason,
        3 => missing: Vec<Requirement>,
        4 => detail: String,
        5 => at_ms: u64,
    }
}

message! {
    /// An operator gave an accepted message up; the node is still to be told.
    pub struct Discarded { 1 => id: MessageId, 2 => identity: String, 3 => reason: String, 4 => at_ms: u64 }
}

message! {
    /// Nothing is kept under this id any more.
    pub struct Gone { 1 => id: MessageId }
}

message! {
    /// One entry of the gate's log.
    ///
    /// Replayed in the order written they rebuild the gate. A keyed store may keep, per id, the last `Accepted` or
    /// `Undecoded` and behind it the last `DeadLettered` and `Discarded`; `Accepted` and `Gone` clear what is there.
    pub enum Record {
        1 => Accepted(Accepted),
        2 => Undecoded(Undecoded),
        3 => DeadLettered(DeadLettered),
        4 => Discarded(Discarded),
        5 => Gone(Gone),
    }
}

impl Record {
    #[must_use]
    pub fn id(&self) -> MessageId {
        match self {
            Record::Accepted(record) => record.envelope.id,
            Record::Undecoded(record) => record.id,
            Record::DeadLettered(record) => record.id,
            Record::Discarded(record) => record.id,
            Record::Gone(record) => record.id,
        }
    }
}
