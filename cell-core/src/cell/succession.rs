//! Whom a node follows. Every start is another actor; the one with the highest start number decides, and says of each that
//! was before it where that one ended: from then on nobody waits for a sign of life of it.
//!
//! What its predecessors wrote may come at any time: a peer that was away while a wiped node started brings them days
//! later, and one of them may outrank the node, which then stops deciding, as it has to beside a copy of its machine that
//! lives. The two look alike but for one thing: who has ended says nothing more. So a node counts its own signs of life
//! against the silence of the others.

use std::collections::{BTreeMap, BTreeSet};

use super::draft::Draft;
use super::{Cell, Front, Step, Unavailable, View};
use crate::event::{Beat, Body, Event, Succeeds};
use crate::id::{ActorId, Slot};
use crate::museum::{Bug, planted};

/// An actor of which nothing came during so many beats of its node has ended.
pub const SILENT_BEATS: u32 = 5;

/// How far the others were at the last beat, and for how many beats they have been there.
#[derive(Clone, Debug, Default)]
pub(super) struct Silences(BTreeMap<ActorId, (u64, u32)>);

impl Silences {
    /// One beat more; returns who has been silent for long enough.
    fn count(&mut self, others: &BTreeMap<ActorId, u64>) -> BTreeSet<ActorId> {
        self.0.retain(|actor, _| others.contains_key(actor));
        for (actor, seq) in others {
            let (upto, beats) = self.0.entry(*actor).or_insert((*seq, 0));
            *beats = if upto == seq { *beats + 1 } else { 0 };
            *upto = *seq;
        }
        let silent = self.0.iter().filter(|(_, (_, beats))| *beats >= SILENT_BEATS);
        silent.map(|(actor, _)| *actor).collect()
    }
}

impl Cell {
    /// A node that starts decides nothing before it has heard what its peers hold of its predecessor: its disk may be an
    /// older one, or lack a part. It takes changes, facts and new orders meanwhile.
    pub fn hold_back(&mut self) {
        self.held_back = true;
    }

    #[must_use]
    pub fn is_held_back(&self) -> bool {
        self.held_back
    }

    /// The same knowledge under a new actor: what a restart is. `me` must never have been used before.
    #[must_use]
    pub fn succeeded_by(mut self, me: ActorId) -> Cell {
        self.me = me;
        self
    }

    /// Whether a newer actor of this very node decides for `slot`, so that this one does not.
    #[must_use]
    pub fn is_outranked(&self, slot: Slot) -> bool {
        self.placement.home(slot).node == self.me.node && self.placement.owned(slot, &self.me).is_none()
    }

    /// The first change of an actor: whom it follows.
    ///
    /// # Errors
    /// [`Unavailable`] never, in fact; the signature is that of every input.
    pub fn start(&mut self, view: &dyn View, old: Option<ActorId>, now_ms: u64) -> Result<Step, Unavailable> {
        let mut draft = Draft::new(self, view, now_ms, "");
        if let Some(old) = old {
            draft.succeed(old)?;
        } else {
            draft.push(Event::new(Vec::new(), Body::Beat(Beat { wall_ms: now_ms })))?;
        }
        draft.finish(Vec::new())
    }

    /// What peers hold of the predecessors is here, or nobody answers: from now on this node decides. It says whom it
    /// follows. If one of them outranks it, since its disk did not know of that one, it becomes `fresh(start)`, with a
    /// start number above all of them; that must never have been used before.
    ///
    /// # Errors
    /// As [`Cell::start`].
    pub fn recovered(
        &mut self,
        view: &dyn View,
        fresh: impl FnOnce(u64) -> ActorId,
        now_ms: u64,
    ) -> Result<Step, Unavailable> {
        self.held_back = false;
        let ended = self.others().into_keys().collect();
        self.succeed(view, ended, fresh, now_ms)?.finish(Vec::new())
    }

    /// A sign of life. Of others of this node that gave none for [`SILENT_BEATS`] it says that they ended; and if all that
    /// outrank it did, it becomes `fresh(start)` as in [`Cell::recovered`], and decides again.
    ///
    /// # Errors
    /// As [`Cell::start`].
    pub fn beat(
        &mut self,
        view: &dyn View,
        fresh: impl FnOnce(u64) -> ActorId,
        now_ms: u64,
    ) -> Result<Step, Unavailable> {
        let mut ended = BTreeSet::new();
        if !self.held_back && !planted(Bug::LatePredecessorsIgnored) {
            let others = self.others();
            ended = self.silences.count(&others);
            if others.range(self.me..).any(|(actor, _)| !ended.contains(actor)) {
                // Beside a newer one that lives this one says of nobody newer that it ended.
                ended = ended.range(..self.me).copied().collect();
            }
        }
        let mut draft = self.succeed(view, ended, fresh, now_ms)?;
        draft.push(Event::new(Vec::new(), Body::Beat(Beat { wall_ms: now_ms })))?;
        draft.finish(Vec::new())
    }

    /// Other actors of this node that outrank it or of which nobody said that they ended with what is known here, and how
    /// far they are known.
    fn others(&self) -> BTreeMap<ActorId, u64> {
        let of_slots = self.placement.learned().map(|(_, epoch)| epoch.actor);
        let lives = self.lives.iter().map(|life| life.actor);
        // Of one whose first change was lost with the log nothing else is known.
        let holed = self.holes().map(|(actor, ..)| actor);
        let known = self.fronts.actors().copied().chain(lives).chain(of_slots).chain(holed);
        let others = known.filter(|actor| actor.node == self.me.node && *actor != self.me);
        let others = others.map(|actor| (actor, self.fronts.seq(&actor)));
        others.filter(|(actor, seq)| *actor > self.me || !self.is_said_to_end(actor, *seq)).collect()
    }

    fn is_said_to_end(&self, actor: &ActorId, seq: u64) -> bool {
        let said = self.fronts.closed().get(actor).copied().max(self.lives.ended_at(actor));
        said.is_some_and(|last| last >= seq)
    }

    /// A change that says of all these that they ended, by an actor that outranks them.
    fn succeed<'a>(
        &'a mut self,
        view: &'a dyn View,
        mut ended: BTreeSet<ActorId>,
        fresh: impl FnOnce(u64) -> ActorId,
        now_ms: u64,
    ) -> Result<Draft<'a>, Unavailable> {
        if let Some(newest) = ended.last().filter(|newest| **newest > self.me) {
            let start = newest.start + 1;
            ended.insert(self.me);
            self.me = fresh(start);
        }
        ended.retain(|actor| !self.is_said_to_end(actor, self.fronts.seq(actor)));
        let mut draft = Draft::new(self, view, now_ms, "");
        for old in ended {
            draft.succeed(old)?;
        }
        Ok(draft)
    }
}

impl Draft<'_> {
    fn succeed(&mut self, old: ActorId) -> Result<(), Unavailable> {
        let Front { seq: last, hash } = self.cell.front(&old);
        self.push(Event::new(Vec::new(), Body::Succeeds(Succeeds { old, last, hash })))
    }
}
