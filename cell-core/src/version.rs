//! Dots and version vectors: who has seen what.

use std::fmt;

use crdts::{CmRDT, CvRDT, VClock};

use crate::canon::message;
use crate::id::ActorId;

message! {
    /// The `seq`-th change of an actor, counted 1, 2, 3… without a gap.
    #[derive(Copy, PartialOrd, Ord, Hash)]
    pub struct Dot { 1 => actor: ActorId, 2 => seq: u64 }
}
impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.actor, self.seq)
    }
}

message! {
    /// The `place`-th event of the change at `dot`: where an event first entered the world.
    #[derive(Copy, PartialOrd, Ord, Hash)]
    pub struct EventId { 1 => dot: Dot, 2 => place: u64 }
}
impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.dot, self.place)
    }
}

/// How far each actor's sequence is known: actor → highest seq, everything below included.
///
/// A `crdts::VClock` inside; its own serde bytes are never stored or hashed.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct VersionVector(VClock<ActorId>);

impl VersionVector {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
    /// The highest seq known of `actor`, 0 if none.
    #[must_use]
    pub fn get(&self, actor: &ActorId) -> u64 {
        self.0.get(actor)
    }
    #[must_use]
    pub fn covers(&self, dot: &Dot) -> bool {
        self.get(&dot.actor) >= dot.seq
    }
    /// Whether every dot of `other` is covered.
    #[must_use]
    pub fn covers_all(&self, other: &VersionVector) -> bool {
        other.iter().all(|(actor, seq)| self.get(actor) >= seq)
    }
    /// Raises the actor's seq to the dot's; never lowers it.
    pub fn raise(&mut self, dot: Dot) {
        self.0.apply(crdts::Dot::new(dot.actor, dot.seq));
    }
    pub fn join(&mut self, other: &VersionVector) {
        self.0.merge(other.0.clone());
    }
    pub fn iter(&self) -> impl Iterator<Item = (&ActorId, u64)> {
        self.0.dots.iter().map(|(actor, seq)| (actor, *seq))
    }
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
impl FromIterator<(ActorId, u64)> for VersionVector {
    fn from_iter<I: IntoIterator<Item = (ActorId, u64)>>(pairs: I) -> Self {
        let mut vector = VersionVector::new();
        pairs.into_iter().for_each(|(actor, seq)| vector.raise(Dot { actor, seq }));
        vector
    }
}
impl fmt::Display for VersionVector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sep = "";
        self.iter().try_for_each(|(actor, seq)| {
            write!(f, "{sep}{actor}#{seq}")?;
            sep = " ";
            Ok(())
        })
    }
}
