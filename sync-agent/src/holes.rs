//! Changes that the node could not apply: its frontier went on over them, and nobody here takes them for applied.

use std::collections::BTreeSet;

use cell_core::event::{Change, Entry};
use cell_core::gate::Requirement;
use cell_core::id::ActorId;
use cell_core::version::Dot;
use cell_proto::v1;

/// Those that nobody gave up.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holes(BTreeSet<Dot>);

impl Holes {
    pub(crate) fn read(wire: Vec<v1::Hole>) -> Holes {
        let mut holes = Holes::default();
        wire.into_iter().for_each(|hole| holes.take(hole));
        holes
    }

    fn take(&mut self, hole: v1::Hole) {
        let Some(dot) = hole.dot.and_then(|dot| Dot::try_from(dot).ok()) else { return };
        if hole.given_up {
            self.0.remove(&dot);
        } else {
            self.0.insert(dot);
        }
    }

    /// Holes of a peer whose state was taken over; the node has those of changes it did not have before.
    pub(crate) fn take_over(&mut self, dots: impl Iterator<Item = Dot>) {
        self.0.extend(dots);
    }

    /// What the log says of a change: that it could not be applied, or, without a hole, that it is applied.
    pub(crate) fn note(&mut self, entry: Option<&v1::Entry>, hole: Option<v1::Hole>) {
        match hole {
            Some(hole) => self.take(hole),
            None if self.0.is_empty() => {}
            None => {
                let dot = entry.and_then(|entry| Dot::try_from(entry.dot.clone()?).ok());
                dot.map(|dot| self.0.remove(&dot));
            }
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    fn of(&self, actor: &ActorId) -> impl Iterator<Item = u64> {
        let all = Dot { actor: *actor, seq: 0 }..=Dot { actor: *actor, seq: u64::MAX };
        self.0.range(all).map(|dot| dot.seq)
    }

    /// How far an actor that is known to `seq` is applied without a hole: so far the gate may take it for present.
    pub(crate) fn whole_to(&self, actor: &ActorId, seq: u64) -> u64 {
        self.of(actor).next().map_or(seq, |first| seq.min(first - 1))
    }

    /// The versions that these entries bring behind a hole: whether they are whole is for the node to say.
    pub(crate) fn behind<'a>(&self, entries: impl Iterator<Item = &'a Entry>) -> Vec<Requirement> {
        let behind = entries.filter(|entry| self.whole_to(&entry.dot.actor, entry.dot.seq) < entry.dot.seq);
        let change = |entry: &Entry| Some((entry.dot, Change::decode(&entry.bytes).ok()?));
        let of_change = |(dot, change): (Dot, Change)| {
            let entities: BTreeSet<_> =
                change.events.iter().flat_map(|event| event.entities.clone()).collect();
            entities.into_iter().map(move |entity| Requirement { entity, dot })
        };
        behind.filter_map(change).flat_map(of_change).collect()
    }

    /// Adds to what peers are told of the frontier what of it could not be applied.
    pub(crate) fn tell(&self, frontier: &mut [v1::ActorFrontier]) {
        if self.0.is_empty() {
            return;
        }
        for front in frontier {
            let actor = front.actor.clone().and_then(|actor| ActorId::try_from(actor).ok());
            front.quarantined = actor.map(|actor| self.of(&actor).collect()).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use cell_core::id::{NodeId, RegionId};

    use super::*;

    #[test]
    fn a_hole_ends_what_the_gate_takes_for_present_until_it_is_filled_or_given_up() {
        let node = NodeId { region: RegionId::new("north").unwrap(), index: 0 };
        let actor = ActorId { node, start: 1, nonce: 1 };
        let dot = |seq| Some(v1::Dot::from(Dot { actor, seq }));
        let hole = |seq, given_up| v1::Hole { dot: dot(seq), given_up, ..v1::Hole::default() };
        let mut holes = Holes::read(vec![hole(5, false), hole(7, false), hole(2, true)]);
        assert_eq!((holes.whole_to(&actor, 3), holes.whole_to(&actor, 9)), (3, 4));
        holes.note(None, Some(hole(5, true)));
        assert_eq!(holes.whole_to(&actor, 9), 6);
        let entry = v1::Entry { dot: dot(7), ..v1::Entry::default() };
        holes.note(Some(&entry), None);
        assert_eq!((holes.whole_to(&actor, 9), holes.count()), (9, 0));
    }
}
