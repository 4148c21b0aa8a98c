//! Whose slot is it: epochs, and the joined knowledge of them.
//!
//! Here it is known only as far as every change needs it: an initial placement from a file, and whatever higher epochs
//! were seen since. Moves and failovers (fences, claims, activations) build on the same join.

mod ranges;

use std::fmt;

pub use ranges::{PlacementError, SlotRange};

use crate::canon::message;
use crate::id::{ActorId, NodeId, RegionId, Slot};

message! {
    /// Who decides for a slot, compared in this order: a failover raises the term, a planned move the step, a restart
    /// only the actor. One epoch names one home for ever, and no clock is in it.
    #[derive(Copy, PartialOrd, Ord, Hash)]
    pub struct Epoch { 1 => term: u64, 2 => step: u64, 3 => actor: ActorId }
}
impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}@{}", self.term, self.step, self.actor)
    }
}

/// What is known of one slot's home.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Home {
    pub term: u64,
    pub step: u64,
    /// The actor seen deciding under (term, step); `None` until one was.
    pub actor: Option<ActorId>,
    pub node: NodeId,
}

/// Per slot the highest epoch known. Joining is a maximum: commutative, associative, idempotent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placement {
    homes: Vec<Home>,
    members: Vec<RegionId>,
}

impl Placement {
    /// The placement of a new cluster: term 1, step 0, each slot at the first node of `home(slot)`.
    pub fn initial(members: Vec<RegionId>, home: impl Fn(Slot) -> RegionId) -> Self {
        let homes = Slot::all()
            .map(|slot| Home { term: 1, step: 0, actor: None, node: NodeId { region: home(slot), index: 0 } })
            .collect();
        Placement { homes, members }
    }

    /// The member regions.
    #[must_use]
    pub fn members(&self) -> &[RegionId] {
        &self.members
    }

    #[must_use]
    pub fn home(&self, slot: Slot) -> &Home {
        &self.homes[usize::from(slot.number())]
    }

    /// Learns of an epoch. `true` if it is higher than what was known: that is *contact*.
    pub fn join(&mut self, slot: Slot, epoch: &Epoch) -> bool {
        let home = &mut self.homes[usize::from(slot.number())];
        let higher = (epoch.term, epoch.step, Some(epoch.actor)) > (home.term, home.step, home.actor);
        if higher {
            *home =
                Home { term: epoch.term, step: epoch.step, actor: Some(epoch.actor), node: epoch.actor.node };
        }
        higher
    }

    /// The epoch under which `me` may decide for `slot`, if it may.
    ///
    /// A restarted node goes on owning its slots: same term and step, newer actor. An actor that has seen a newer
    /// actor of its own node (a clone of the machine) stops.
    #[must_use]
    pub fn owned(&self, slot: Slot, me: &ActorId) -> Option<Epoch> {
        let home = self.home(slot);
        (home.node == me.node && home.actor.is_none_or(|seen| seen <= *me)).then_some(Epoch {
            term: home.term,
            step: home.step,
            actor: *me,
        })
    }

    /// Slots whose known epoch differs from the initial one, for persisting.
    pub fn learned(&self) -> impl Iterator<Item = (Slot, Epoch)> + '_ {
        Slot::all().zip(&self.homes).filter_map(|(slot, home)| {
            home.actor.map(|actor| (slot, Epoch { term: home.term, step: home.step, actor }))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(region: &str, start: u64) -> ActorId {
        ActorId { node: NodeId { region: RegionId::new(region).unwrap(), index: 0 }, start, nonce: 1 }
    }

    #[test]
    fn a_restart_never_outranks_a_move_nor_a_move_a_failover() {
        let (north, east) = (RegionId::new("north").unwrap(), RegionId::new("east").unwrap());
        let mut placement = Placement::initial(vec![north, east], |_| north);
        let slot = Slot::new(5).unwrap();
        let first = placement.owned(slot, &actor("north", 1)).unwrap();
        assert!(placement.join(slot, &first) && !placement.join(slot, &first));
        let restarted = placement.owned(slot, &actor("north", 2)).unwrap();
        assert!(placement.join(slot, &restarted));
        assert_eq!(placement.owned(slot, &actor("north", 1)), None, "the older start stops");
        let moved = Epoch { term: 1, step: 1, actor: actor("east", 1) };
        assert!(placement.join(slot, &moved));
        assert!(!placement.join(slot, &Epoch { term: 1, step: 0, actor: actor("north", 99) }));
        assert_eq!(placement.owned(slot, &actor("north", 99)), None);
        assert!(placement.join(slot, &Epoch { term: 2, step: 0, actor: actor("north", 3) }));
    }
}
