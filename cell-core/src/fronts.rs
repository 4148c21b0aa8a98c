//! How far each actor is known, in the form in which regions tell each other.
//!
//! Every start of a node is a new actor, so naming each of them would make every header grow for ever. An ended actor of
//! which every region has everything is *closed* at its last change, and where all of it is here, it is **folded**: known
//! as before, but named no more. In place of the names stands a stamp of what is folded. Equal stamps are equal knowledge;
//! where they differ, and only there, everything is named.
//!
//! Folding is a form and nothing else: a change that comes after all, from a machine thought dead, unfolds its actor.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cell::Front;
use crate::digest::Digest;
use crate::id::ActorId;
use crate::museum::{Bug, planted};
use crate::version::{Dot, EventId, VersionVector};

/// How far each actor is known without a gap. A clone costs as much as there are actors that are not folded.
#[derive(Clone, Debug, Default)]
pub struct Fronts {
    live: BTreeMap<ActorId, Front>,
    folded: Arc<BTreeMap<ActorId, Front>>,
    closed: Arc<BTreeMap<ActorId, u64>>,
    stamp: Digest,
}

/// What one region tells another of how far it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub fronts: Vec<(ActorId, Front)>,
    /// Of what is folded there.
    pub stamp: Digest,
    /// The folded ones are among `fronts`.
    pub all: bool,
}

fn term(actor: ActorId, front: &Front) -> Digest {
    let mut term = Digest::default();
    term.add(&EventId { dot: Dot { actor, seq: front.seq }, place: 0 }, &front.hash);
    term
}

impl Fronts {
    #[must_use]
    pub fn get(&self, actor: &ActorId) -> Option<&Front> {
        self.live.get(actor).or_else(|| self.folded.get(actor))
    }

    /// The highest seq known of `actor`, 0 if none.
    #[must_use]
    pub fn seq(&self, actor: &ActorId) -> u64 {
        self.get(actor).map_or(0, |front| front.seq)
    }

    #[must_use]
    pub fn covers(&self, dot: &Dot) -> bool {
        self.seq(&dot.actor) >= dot.seq
    }

    /// Of every actor, those that are named first.
    pub fn iter(&self) -> impl Iterator<Item = (&ActorId, &Front)> {
        self.live.iter().chain(self.folded.iter())
    }

    pub fn actors(&self) -> impl Iterator<Item = &ActorId> {
        self.iter().map(|(actor, _)| actor)
    }

    /// Those that are named.
    #[must_use]
    pub fn live(&self) -> &BTreeMap<ActorId, Front> {
        &self.live
    }

    #[must_use]
    pub fn folded(&self) -> &BTreeMap<ActorId, Front> {
        &self.folded
    }

    /// Ended actors and their last sequence numbers, also those of which not everything is here.
    #[must_use]
    pub fn closed(&self) -> &BTreeMap<ActorId, u64> {
        &self.closed
    }

    /// The same, shared: another one means that something was closed since.
    #[must_use]
    pub fn closed_shared(&self) -> Arc<BTreeMap<ActorId, u64>> {
        Arc::clone(&self.closed)
    }

    /// Whether nothing more can come of it: it is closed, and all of it is here.
    #[must_use]
    pub fn is_complete(&self, actor: &ActorId) -> bool {
        self.closed.get(actor).is_some_and(|last| self.seq(actor) >= *last)
    }

    /// Of what is folded.
    #[must_use]
    pub fn stamp(&self) -> Digest {
        self.stamp
    }

    #[must_use]
    pub fn version(&self) -> VersionVector {
        self.iter().map(|(actor, front)| (*actor, front.seq)).collect()
    }

    /// This much is here; never less than before.
    pub fn raise(&mut self, actor: ActorId, front: Front) {
        if self.get(&actor).is_some_and(|known| known.seq >= front.seq) {
            return;
        }
        self.unfold(&actor);
        self.live.insert(actor, front);
        self.fold(actor);
    }

    /// It ended at `last`, as far as anybody knows; the largest such claim stands.
    pub fn close(&mut self, actor: ActorId, last: u64) {
        if self.closed.get(&actor).is_some_and(|known| *known >= last) {
            return;
        }
        Arc::make_mut(&mut self.closed).insert(actor, last);
        self.unfold(&actor);
        self.fold(actor);
    }

    fn unfold(&mut self, actor: &ActorId) {
        if !self.folded.contains_key(actor) {
            return;
        }
        if let Some(front) = Arc::make_mut(&mut self.folded).remove(actor) {
            self.stamp = self.stamp.minus(term(*actor, &front));
            self.live.insert(*actor, front);
        }
    }

    fn fold(&mut self, actor: ActorId) {
        let Some(front) = self.live.get(&actor).copied() else { return };
        if self.closed.get(&actor) == Some(&front.seq) {
            self.live.remove(&actor);
            self.stamp = self.stamp.plus(term(actor, &front));
            Arc::make_mut(&mut self.folded).insert(actor, front);
        }
    }

    /// What to tell a region whose folded actors have this stamp, if that is known.
    #[must_use]
    pub fn say(&self, theirs: Option<Digest>) -> Said {
        let all = theirs.is_some_and(|stamp| stamp != self.stamp);
        let of = |(actor, front): (&ActorId, &Front)| (*actor, *front);
        let fronts = if all { self.iter().map(of).collect() } else { self.live.iter().map(of).collect() };
        Said { fronts, stamp: self.stamp, all }
    }

    /// How far a region is that said this: what is folded there, too. `None` if it has to name everything.
    #[must_use]
    pub fn hear(&self, said: Said) -> Option<BTreeMap<ActorId, Front>> {
        if said.all {
            return Some(said.fronts.into_iter().collect());
        }
        (said.stamp == self.stamp || planted(Bug::StampIgnored))
            .then(|| self.folded.iter().map(|(actor, front)| (*actor, *front)).chain(said.fronts).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Hash, NodeId, RegionId};

    fn actor(start: u64) -> ActorId {
        ActorId { node: NodeId { region: RegionId::new("north").unwrap(), index: 0 }, start, nonce: 1 }
    }

    fn front(seq: u64) -> Front {
        Front { seq, hash: Hash::of(&seq.to_be_bytes()) }
    }

    fn after_restarts(restarts: u64) -> Fronts {
        let mut fronts = Fronts::default();
        for start in 1..=restarts {
            fronts.raise(actor(start), front(10 * start));
            fronts.close(actor(start), 10 * start);
        }
        fronts.raise(actor(restarts + 1), front(5));
        fronts
    }

    #[test]
    fn a_hundred_restarts_make_no_header_longer() {
        let (few, many) = (after_restarts(1), after_restarts(100));
        assert_eq!(many.say(None).fronts.len(), few.say(None).fronts.len());
        assert_eq!(many.say(Some(many.stamp())).fronts.len(), 1);
        assert!(many.covers(&Dot { actor: actor(50), seq: 500 }));
        assert!(!many.covers(&Dot { actor: actor(50), seq: 501 }));
        assert_eq!(many.iter().count(), 101);
    }

    #[test]
    fn equal_stamps_are_equal_knowledge_whatever_the_order_it_came_in() {
        let mut other = Fronts::default();
        for start in (1..=7).rev() {
            other.close(actor(start), 10 * start);
            assert!(!other.is_complete(&actor(start)));
            other.raise(actor(start), front(10 * start - 1));
            assert!(other.folded().get(&actor(start)).is_none());
            other.raise(actor(start), front(10 * start));
            assert!(other.is_complete(&actor(start)));
        }
        let one = after_restarts(7);
        assert_eq!((one.stamp(), one.folded()), (other.stamp(), other.folded()));
        let heard = other.hear(one.say(None)).unwrap();
        assert_eq!(heard.len(), 8);
        assert_eq!(heard[&actor(3)], front(30));
    }

    #[test]
    fn who_lost_everything_is_told_everything() {
        let (one, empty) = (after_restarts(3), Fronts::default());
        assert_eq!(empty.hear(one.say(None)), None, "it does not know what the stamp stands for");
        let said = one.say(Some(empty.stamp()));
        assert!(said.all);
        assert_eq!(empty.hear(said).unwrap().len(), 4);
        assert_eq!(one.hear(empty.say(Some(one.stamp()))).unwrap().len(), 0);
    }

    #[test]
    fn a_change_from_a_machine_thought_dead_unfolds_its_actor() {
        let mut fronts = after_restarts(2);
        let before = fronts.stamp();
        fronts.raise(actor(1), front(11));
        assert_eq!(fronts.live()[&actor(1)], front(11));
        assert_ne!(fronts.stamp(), before);
        fronts.raise(actor(1), front(4));
        assert_eq!(fronts.seq(&actor(1)), 11, "never less");
        fronts.close(actor(1), 11);
        assert!(fronts.folded().contains_key(&actor(1)) && fronts.is_complete(&actor(1)));
        fronts.close(actor(1), 12);
        assert!(!fronts.is_complete(&actor(1)), "there is one more");
        assert!(fronts.live().contains_key(&actor(1)));
    }
}
