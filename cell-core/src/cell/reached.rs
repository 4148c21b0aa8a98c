//! Whether a version is here: what a reader's session asks before it is answered.

use super::{Cell, Unavailable, View};
use crate::id::EntityId;
use crate::museum::{Bug, planted};
use crate::version::Dot;

/// How far a node is with a version that somebody saw elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reached {
    /// Whoever reads here sees at least that.
    Here,
    /// It may still come.
    NotYet,
    /// As far as is known its actor ended before it: it is lost, or late. Waiting for it is hoping.
    Never,
}

impl Cell {
    /// How far this node is with the change at `dot`, for somebody who reads `about`.
    ///
    /// # Errors
    /// [`Unavailable`] if the view fails.
    pub fn reached(
        &self,
        view: &dyn View,
        about: Option<EntityId>,
        dot: &Dot,
    ) -> Result<Reached, Unavailable> {
        if self.passed(dot) {
            return match self.quarantine.get(dot) {
                // Somebody did without it: it does not come any more.
                Some(hole) if hole.given_up && !self.sees(view, about, dot)? => Ok(Reached::Never),
                _ if self.is_holed(view, about, dot)? => Ok(Reached::NotYet),
                _ => Ok(Reached::Here),
            };
        }
        if planted(Bug::SessionByActor) && self.fronts.get(&dot.actor).is_some() {
            return Ok(Reached::Here);
        }
        let known = self.fronts.seq(&dot.actor);
        // Behind a hole there may be a part of an entity without what it builds on.
        let hole = self.is_in_hole(dot);
        if !hole && self.sees(view, about, dot)? && !self.is_holed(view, about, dot)? {
            return Ok(Reached::Here);
        }
        let closed = self.fronts.closed().get(&dot.actor).is_some_and(|last| *last < dot.seq);
        // Its successor says where it ended, all of that is here, and nothing was seen that says otherwise. A node that
        // still asks its peers what they hold of its predecessors knows no end.
        let ended = !self.held_back && !hole && self.lives.ended_at(&dot.actor) == Some(known);
        // Of what this actor wrote itself nothing is under way, and of a stranger's nothing is taken.
        let own = dot.actor == self.me;
        let stranger = !self.placement.members().contains(&dot.actor.region());
        Ok(if closed || ended || own || stranger { Reached::Never } else { Reached::NotYet })
    }

    /// Whether what is read shows what the change decided.
    fn sees(&self, view: &dyn View, about: Option<EntityId>, dot: &Dot) -> Result<bool, Unavailable> {
        let Some(about) = about else { return Ok(false) };
        Ok(view.entity(about)?.is_some_and(|entity| entity.decided_in(dot)))
    }
}
