//! Knowledge that comes as state and not as changes: where a peer's log does not reach back to what is lacking here.
//!
//! The peer says how far it is, its [`Baseline`], and *then* what it has is compared and merged, entity by entity. When all
//! of it is here, the baseline is adopted: everything it covers is in those entities, or was in an earlier state of them.
//! What the peer learned while it was read is merged too; it counts as ahead, like anything fetched.

use super::{Cell, Front, Quarantined, Step, Unavailable, View};
use crate::canon::message;
use crate::event::{Closed, Placed};
use crate::id::{ActorId, Hash, Slot};
use crate::lives::ActorLife;

use super::draft::Draft;

message! {
    /// How far one actor is known.
    #[derive(Copy)]
    pub struct KnownFront { 1 => actor: ActorId, 2 => seq: u64, 3 => hash: Hash }
}

message! {
    /// What a region knows beside its entities, as of one moment.
    pub struct Baseline {
        /// Of every actor, the ended ones too.
        1 => fronts: Vec<KnownFront>,
        2 => closed: Vec<Closed>,
        /// The highest epoch of each slot of which one was seen.
        3 => placed: Vec<Placed>,
        4 => lives: Vec<ActorLife>,
        /// Changes among all that which could not be applied there, whole.
        5 => quarantined: Vec<Quarantined>,
    }
}

impl Baseline {
    pub fn fronts(&self) -> impl Iterator<Item = (ActorId, Front)> + '_ {
        self.fronts.iter().map(|known| (known.actor, Front { seq: known.seq, hash: known.hash }))
    }
}

impl Cell {
    /// What is known here beside the entities; to be read before they are. What is quarantined, the cell does not hold
    /// whole: whoever does adds it.
    #[must_use]
    pub fn baseline(&self) -> Baseline {
        let front = |(actor, front): (&ActorId, &Front)| KnownFront {
            actor: *actor,
            seq: front.seq,
            hash: front.hash,
        };
        let closed = |(actor, last): (&ActorId, &u64)| Closed { actor: *actor, last: *last };
        Baseline {
            fronts: self.fronts.iter().map(front).collect(),
            closed: self.fronts.closed().iter().map(closed).collect(),
            placed: self.placed(),
            lives: self.lives.iter().copied().collect(),
            quarantined: Vec::new(),
        }
    }

    /// The highest epoch of each slot of which one was seen. Slots of one are named together: after a restart that is all of
    /// a region's.
    pub(super) fn placed(&self) -> Vec<Placed> {
        let mut placed: Vec<Placed> = Vec::new();
        for (slot, epoch) in self.placement.learned() {
            match placed.iter_mut().find(|known| known.epoch == epoch) {
                Some(known) => known.slots.push(slot),
                None => placed.push(Placed { slots: vec![slot], epoch }),
            }
        }
        placed
    }

    /// Everything that the baseline covers was merged here: from now on it counts as known.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails; nothing was touched.
    pub fn adopt(&mut self, view: &dyn View, baseline: Baseline, now_ms: u64) -> Result<Step, Unavailable> {
        let holes = Cell::holes_to_take(view, &baseline.quarantined, |dot| self.fronts.covers(dot))?;
        let mut draft = Draft::new(self, view, now_ms, "");
        for placed in &baseline.placed {
            placed.slots.iter().for_each(|slot: &Slot| draft.contact(*slot, &placed.epoch));
        }
        draft.cell.learn(&baseline);
        let mut step = draft.finish(Vec::new())?;
        self.take_holes(holes, &mut step);
        step.adopted = Some(baseline);
        Ok(step)
    }

    /// The same from the log: replay after a restart.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails.
    pub fn replay_adopted(&mut self, view: &dyn View, baseline: &Baseline) -> Result<Step, Unavailable> {
        let holes = Cell::holes_to_take(view, &baseline.quarantined, |dot| self.fronts.covers(dot))?;
        for placed in &baseline.placed {
            for slot in &placed.slots {
                self.placement.join(*slot, &placed.epoch);
            }
        }
        self.learn(baseline);
        let mut step = Step::default();
        self.take_holes(holes, &mut step);
        Ok(step)
    }

    fn learn(&mut self, baseline: &Baseline) {
        for life in &baseline.lives {
            self.lives.learn(*life);
        }
        // Of what this node writes itself nobody knows more.
        let me = self.me;
        for (actor, front) in baseline.fronts().filter(|(actor, _)| *actor != me) {
            self.raise(actor, front);
        }
        for closed in &baseline.closed {
            self.close(closed.actor, closed.last);
        }
        // What is in the sums and was ahead until now cannot be told apart from what came before it.
        let floor = baseline.fronts.iter().map(|known| (known.actor, known.seq)).collect();
        self.digests.restore([], &floor);
    }
}
