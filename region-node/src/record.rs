//! What a record of the node's log is: one kind byte and canonical bytes.

use bytes::Bytes;
use cell_core::canon::{Malformed, Message};
use cell_core::cell::Baseline;
use cell_core::entity::{Entity, EntityShape};
use cell_core::event::Entry;

const ENTRY: u8 = 1;
const MERGED: u8 = 2;
const ADOPTED: u8 = 3;

/// A record of the log. Numbers are never reused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Record {
    /// A change: this node's own or another's, with its chain hash.
    Entry(Entry),
    /// The state of an entity that was fetched and merged.
    Merged(Entity),
    /// What a peer knew beside its entities, after these were merged.
    Adopted(Baseline),
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
        }
        out
    }

    /// # Errors
    /// [`Malformed`]; a kind of a newer version is [`Malformed::Newer`].
    pub(crate) fn from_bytes(bytes: &Bytes) -> Result<Record, Malformed> {
        match bytes.split_first() {
            Some((&ENTRY, rest)) => Ok(Record::Entry(Entry::decode(rest)?)),
            Some((&MERGED, rest)) => Ok(Record::Merged(Entity::from_shape(EntityShape::decode(rest)?)?)),
            Some((&ADOPTED, rest)) => Ok(Record::Adopted(Baseline::decode(rest)?)),
            Some(_) => Err(Malformed::Newer("log record")),
            None => Err(Malformed::Wire("an empty log record")),
        }
    }
}
