//! Signs of life: up to when everything that a region wrote is known here.
//!
//! Each node writes a heartbeat among its changes, so a beat that was applied says that everything before it was, too. An
//! actor that ended beats no more: who followed it said where it ends, and until all of it is here the region is as far as
//! the last beat of that actor, however lively its successor. That is what a lag is measured from.

use std::collections::{BTreeMap, BTreeSet};

use crate::canon::message;
use crate::fronts::Fronts;
use crate::id::{ActorId, RegionId};

message! {
    /// What is known of one actor's life.
    #[derive(Copy)]
    pub struct ActorLife {
        1 => actor: ActorId,
        /// Its newest heartbeat, wall milliseconds at its origin; not later than when it came here.
        2 => beat_ms: u64,
        /// Its last change, if it has ended.
        3 => last: Option<u64>,
    }
}

/// The lives of all actors heard of.
#[derive(Clone, Debug, Default)]
pub struct Lives {
    of: BTreeMap<ActorId, ActorLife>,
    changed: BTreeSet<ActorId>,
}

impl Lives {
    fn life(&mut self, actor: ActorId) -> &mut ActorLife {
        self.changed.insert(actor);
        self.of.entry(actor).or_insert(ActorLife { actor, beat_ms: 0, last: None })
    }

    /// A heartbeat was applied at `now_ms`. A clock that runs ahead makes nobody fresher than now.
    pub fn beat(&mut self, actor: ActorId, wall_ms: u64, now_ms: u64) {
        let life = self.life(actor);
        life.beat_ms = life.beat_ms.max(wall_ms.min(now_ms));
    }

    /// The actor ended with this change; the largest such claim stands.
    pub fn ended(&mut self, actor: ActorId, last: u64) {
        let life = self.life(actor);
        life.last = Some(life.last.map_or(last, |known| known.max(last)));
    }

    /// Its last change, if the actor has ended: the largest that anybody who followed it claimed.
    #[must_use]
    pub fn ended_at(&self, actor: &ActorId) -> Option<u64> {
        self.of.get(actor)?.last
    }

    /// Of whom all is here nobody waits for a sign of life; who is closed gives none.
    pub fn note_end(&mut self, actor: ActorId, fronts: &Fronts) {
        if fronts.is_complete(&actor) {
            self.forget(&actor);
        } else if let Some(last) = fronts.closed().get(&actor) {
            self.ended(actor, *last);
        }
    }

    /// All of it is known, and nothing more will come: there is nothing to be said of it.
    pub fn forget(&mut self, actor: &ActorId) {
        self.of.remove(actor);
        self.changed.remove(actor);
    }

    /// What a peer knows of a life.
    pub fn learn(&mut self, known: ActorLife) {
        let life = self.life(known.actor);
        life.beat_ms = life.beat_ms.max(known.beat_ms);
        if let Some(last) = known.last {
            self.ended(known.actor, last);
        }
    }

    /// What was kept of a life.
    pub fn restore(&mut self, kept: ActorLife) {
        self.learn(kept);
        self.changed.remove(&kept.actor);
    }

    pub fn iter(&self) -> impl Iterator<Item = &ActorLife> {
        self.of.values()
    }

    /// What changed since it was asked last.
    pub fn take_changed(&mut self) -> Vec<ActorLife> {
        let changed = std::mem::take(&mut self.changed);
        changed.iter().filter_map(|actor| self.of.get(actor).copied()).collect()
    }

    /// Up to when everything of `region` is known, given how far each actor `is` known. `None` before its first beat.
    pub fn heard_of(&self, region: RegionId, is: impl Fn(&ActorId) -> u64) -> Option<u64> {
        let open = self.of.values().filter(|life| {
            life.actor.region() == region && life.last.is_none_or(|last| is(&life.actor) < last)
        });
        open.map(|life| life.beat_ms).filter(|beat_ms| *beat_ms > 0).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::NodeId;

    fn actor(start: u64) -> ActorId {
        ActorId { node: NodeId { region: RegionId::new("east").unwrap(), index: 0 }, start, nonce: 1 }
    }

    #[test]
    fn a_region_is_as_far_as_the_last_beat_of_an_actor_that_is_not_all_here() {
        let east = actor(1).region();
        let mut lives = Lives::default();
        assert_eq!(lives.heard_of(east, |_| 0), None);
        lives.beat(actor(1), 10_000, 10_010);
        // It ended at 100; 90 of that are here, and its successor is well and alive.
        lives.ended(actor(1), 100);
        lives.beat(actor(2), 60_000, 60_010);
        assert_eq!(lives.heard_of(east, |actor| if actor.start == 1 { 90 } else { 5 }), Some(10_000));
        assert_eq!(lives.heard_of(east, |actor| if actor.start == 1 { 100 } else { 5 }), Some(60_000));
        let kept: Vec<ActorLife> = lives.take_changed();
        assert_eq!((kept.len(), lives.take_changed().len()), (2, 0));
        let mut restored = Lives::default();
        kept.into_iter().for_each(|life| restored.restore(life));
        assert_eq!(restored.heard_of(east, |_| 90), Some(10_000));
        assert!(restored.take_changed().is_empty());
    }

    #[test]
    fn a_clock_ahead_makes_nobody_fresher_than_when_it_was_heard() {
        let east = actor(1).region();
        let mut lives = Lives::default();
        lives.beat(actor(1), 130_000, 10_000);
        assert_eq!(lives.heard_of(east, |_| 0), Some(10_000));
        lives.beat(actor(1), 10_900, 11_000);
        assert_eq!(lives.heard_of(east, |_| 0), Some(10_900), "corrected, and heard of again");
    }
}
