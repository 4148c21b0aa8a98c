//! Digests of sets of events: equal sets, equal digest, whatever the order they came in.
//!
//! A digest is a sum, so it is kept incrementally and per slot: adding an event adds its term, two disjoint sets add up.
//! The term is a 256-bit hash of (origin, event hash), summed lane by lane. Source of the idea: Bellare and Micciancio,
//! "A New Paradigm for Collision-Free Hashing: Incrementality at Reduced Cost" (1997); against mistakes and damage, not
//! against a member region that forges events.

use std::fmt;

use crate::canon::Message;
use crate::id::Hash;
use crate::version::EventId;

/// The digest of a set of (origin, event hash) pairs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Digest([u64; 4]);

impl Digest {
    /// Adds one pair. Adding it twice is not adding it once: the caller knows what is new.
    pub fn add(&mut self, origin: &EventId, event: &Hash) {
        let term = Hash::of_parts(&[b"digest", &origin.to_canon(), &event.0]);
        for (lane, bytes) in self.0.iter_mut().zip(term.0.chunks_exact(8)) {
            *lane = lane.wrapping_add(u64::from_le_bytes(std::array::from_fn(|i| bytes[i])));
        }
    }

    #[must_use]
    pub fn to_bytes(self) -> [u8; 32] {
        std::array::from_fn(|i| self.0[i / 8].to_le_bytes()[i % 8])
    }

    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(std::array::from_fn(|lane| u64::from_le_bytes(std::array::from_fn(|i| bytes[lane * 8 + i]))))
    }

    /// The digest of the union of two disjoint sets.
    #[must_use]
    pub fn plus(mut self, other: Digest) -> Digest {
        self.0.iter_mut().zip(other.0).for_each(|(lane, more)| *lane = lane.wrapping_add(more));
        self
    }

    /// What is left when a part is taken out: how a slot's digest follows an entity that changed.
    #[must_use]
    pub fn minus(mut self, part: Digest) -> Digest {
        self.0.iter_mut().zip(part.0).for_each(|(lane, less)| *lane = lane.wrapping_sub(less));
        self
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|lane| write!(f, "{lane:016x}"))
    }
}
impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0[0])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{ActorId, NodeId, RegionId};
    use crate::version::Dot;

    fn pair(n: u64) -> (EventId, Hash) {
        let node = NodeId { region: RegionId::new("north").unwrap(), index: 0 };
        let dot = Dot { actor: ActorId { node, start: 1, nonce: 1 }, seq: n };
        (EventId { dot, place: 0 }, Hash::of(&n.to_be_bytes()))
    }

    fn of(numbers: impl IntoIterator<Item = u64>) -> Digest {
        let mut digest = Digest::default();
        numbers.into_iter().map(pair).for_each(|(origin, hash)| digest.add(&origin, &hash));
        digest
    }

    #[test]
    fn order_does_not_matter_and_parts_add_up_and_come_off() {
        assert_eq!(of(0..100), of((0..100).rev()));
        assert_eq!(of(0..40).plus(of(40..100)), of(0..100));
        assert_eq!(of(0..100).minus(of(40..100)), of(0..40));
        assert_eq!(Digest::from_bytes(of(0..9).to_bytes()), of(0..9));
    }

    #[test]
    fn one_event_more_or_another_content_is_another_digest() {
        assert_ne!(of(0..100), of(0..101));
        let mut other = of(0..99);
        other.add(&pair(99).0, &Hash::of(b"other"));
        assert_ne!(of(0..100), other);
    }
}
