//! What a record of the node's log is: one kind byte and canonical bytes.

use bytes::Bytes;
use cell_core::canon::{Malformed, Message};
use cell_core::cell::{Baseline, Quarantined};
use cell_core::entity::{Entity, EntityShape};
use cell_core::event::Entry;

const ENTRY: u8 = 1;
const MERGED: u8 = 2;
const ADOPTED: u8 = 3;
const QUARANTINED: u8 = 4;

/// A record of the log. Numbers are never reused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A change: this node's own or another's, with its chain hash.
    Entry(Entry),
    /// The state of an entity that was fetched and merged.
    Merged(Entity),
    /// What a peer knew beside its entities, after these were merged.
    Adopted(Baseline),
    /// A change that could not be applied, whole; the newest copy stands, and the change itself behind it says that it is
    /// applied by now.
    Quarantined(Quarantined),
}

impl Record {
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        match self {
            Record::Entry(entry) => {
                out.push(ENTRY);
                entry.encode(&mut out);
            }
            Record::Merged(entity) => {
                out.push(MERGED);
                entity.to_shape().encode(&mut out);
            }
            Record::Adopted(baseline) => {
                out.push(ADOPTED);
                baseline.encode(&mut out);
            }
            Record::Quarantined(kept) => {
                out.push(QUARANTINED);
                kept.encode(&mut out);
            }
        }
        out
    }

    /// Whether it says that it is merged state, readable or not.
    pub(crate) fn is_merged(bytes: &[u8]) -> bool {
        bytes.first() == Some(&MERGED)
    }

    /// # Errors
    /// [`Malformed`]; a kind of a newer version is [`Malformed::Newer`].
    pub(crate) fn from_bytes(bytes: &Bytes) -> Result<Record, Malformed> {
        match bytes.split_first() {
            Some((&ENTRY, rest)) => Ok(Record::Entry(Entry::decode(rest)?)),
            Some((&MERGED, rest)) => Ok(Record::Merged(Entity::from_shape(EntityShape::decode(rest)?)?)),
            Some((&ADOPTED, rest)) => Ok(Record::Adopted(Baseline::decode(rest)?)),
            Some((&QUARANTINED, rest)) => Ok(Record::Quarantined(Quarantined::decode(rest)?)),
            Some(_) => Err(Malformed::Newer("log record")),
            None => Err(Malformed::Wire("an empty log record")),
        }
    }
}
