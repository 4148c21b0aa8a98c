//! What only the agent can tell its node, since it hears how far the others are: which ended actors can be closed, and
//! what of the log nobody will ask for any more.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cell_core::cell::Front;
use cell_core::id::{ActorId, RegionId};
use cell_proto::v1;
use service_kit::Shutdown;

use crate::board::now_ms;
use crate::config::Limits;
use crate::node::{NodeLink, write_front};
use crate::positions::Frontier;

/// How far the nodes of other regions said they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reports(Arc<Mutex<BTreeMap<RegionId, Known>>>);

#[derive(Debug, Default)]
struct Known {
    frontier: Frontier,
    /// Streams that are open; without one the last word of an older one is kept.
    open: usize,
}

/// One stream's share of it.
#[derive(Debug)]
pub(crate) struct Report {
    of: RegionId,
    reports: Reports,
}

impl Reports {
    fn known(&self) -> MutexGuard<'_, BTreeMap<RegionId, Known>> {
        // Only assignments run under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A stream begins: this is all that its region has, whatever it had before.
    pub(crate) fn begin(&self, of: RegionId, frontier: &Frontier) -> Report {
        let mut known = self.known();
        let known = known.entry(of).or_default();
        known.frontier = frontier.clone();
        known.open += 1;
        Report { of, reports: self.clone() }
    }

    /// Ended actors of this node of which every member has exactly what this node has; `headless`: nothing, from the first
    /// change on, although what comes behind it is here. Of those also another node's: one that lost its disk does not know
    /// them any more, and nobody else would say that they ended.
    /// What was heard of lately may be a machine that lives on beside its copy.
    fn closable(
        &self,
        node: &NodeLink,
        members: &[RegionId],
        silent_ms: u64,
        headless: &[ActorId],
    ) -> Vec<(ActorId, Front)> {
        let (known, reports) = (node.known(), self.known());
        let known = known.borrow();
        let Some(me) = known.actor.filter(|_| !known.recovering) else { return Vec::new() };
        let silent = |actor: &ActorId| node.beat_ms(actor).saturating_add(silent_ms) <= now_ms();
        let others = members.iter().filter(|member| **member != me.region());
        let open = others.map(|member| reports.get(member).filter(|report| report.open > 0));
        let Some(said) = open.map(|report| Some(&report?.frontier)).collect::<Option<Vec<_>>>() else {
            return Vec::new();
        };
        let mut ended = ended_alike(me, known.fronts.live(), headless, &said);
        ended.retain(|(actor, _)| silent(actor));
        ended
    }

    /// Before which position of the log every other member has everything, and some other member each change.
    fn held(&self, node: &NodeLink, members: &[RegionId], own: RegionId) -> (u64, u64) {
        let reports = self.known();
        let mut all_have = u64::MAX;
        let mut joined = Frontier::new();
        for member in members.iter().filter(|member| **member != own) {
            let Some(report) = reports.get(member) else {
                all_have = 0;
                continue;
            };
            all_have = all_have.min(node.start_for(&report.frontier));
            for (actor, front) in &report.frontier {
                let known = joined.entry(*actor).or_insert(*front);
                if known.seq < front.seq {
                    *known = *front;
                }
            }
        }
        // Who has no peers keeps everything.
        if joined.is_empty() { (0, 0) } else { (all_have, node.start_for(&joined)) }
    }
}

/// Actors that ended, and of which all of these say what is so here.
fn ended_alike(
    me: ActorId,
    fronts: &BTreeMap<ActorId, Front>,
    headless: &[ActorId],
    said: &[&Frontier],
) -> Vec<(ActorId, Front)> {
    let of_node = |actor: &ActorId| actor.node == me.node;
    // The node may be another one by now than the one that it was when it was connected.
    let newest = fronts.keys().copied().filter(of_node).max().unwrap_or(me);
    let headless = headless.iter().filter(|actor| !fronts.contains_key(actor)).map(|actor| (*actor, None));
    let live = fronts.iter().map(|(actor, front)| (*actor, Some(*front)));
    let has_ended = |actor: &ActorId, front: Option<Front>| match of_node(actor) {
        true => *actor < newest,
        false => front.is_none(),
    };
    let alike =
        |actor: &ActorId, front: Option<Front>| said.iter().all(|said| said.get(actor).copied() == front);
    let ended =
        live.chain(headless).filter(|(actor, front)| has_ended(actor, *front) && alike(actor, *front));
    ended.map(|(actor, front)| (actor, front.unwrap_or(Front::NONE))).collect()
}

impl Report {
    /// The region that reports.
    pub(crate) fn of(&self) -> RegionId {
        self.of
    }

    /// Of the actors named it has this much now.
    pub(crate) fn goes_on(&self, frontier: &Frontier) {
        if let Some(known) = self.reports.known().get_mut(&self.of) {
            known.frontier.extend(frontier.iter().map(|(actor, front)| (*actor, *front)));
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        if let Some(known) = self.reports.known().get_mut(&self.of) {
            known.open -= 1;
        }
    }
}

/// Tells the node, again and again; until the shutdown begins.
pub(crate) async fn keep(
    node: NodeLink,
    reports: Reports,
    members: Vec<RegionId>,
    own: RegionId,
    limits: Limits,
    shutdown: Shutdown,
) {
    loop {
        tokio::select! {
            () = shutdown.begun() => return,
            () = tokio::time::sleep(Duration::from_millis(limits.upkeep_every_ms)) => {}
        }
        if !node.is_connected() {
            continue;
        }
        let headless = if node.known().borrow().lacking { node.headless().await } else { Vec::new() };
        let closable = reports.closable(&node, &members, limits.close_after_ms, &headless);
        if !closable.is_empty() {
            // Asked for until they come back closed through the log: a node that is just starting closes none.
            let actors = closable.into_iter().map(|(actor, front)| write_front(actor, front)).collect();
            let answer = node.client().close_actors(v1::CloseActorsRequest { actors }).await;
            match answer.map(|reply| reply.into_inner().closed) {
                Ok(0) => {}
                Ok(actors) => tracing::info!(actors, "every region has all of these ended actors"),
                Err(error) => tracing::debug!(%error, "ended actors are not closed yet"),
            }
        }
        // Asked for before the positions: of a start in between nothing is deleted.
        let actor = node.known().borrow().actor.map(v1::ActorId::from);
        let (all_have, some_have) = reports.held(&node, &members, own);
        let request = v1::TrimRequest { all_have, some_have, actor };
        if some_have > 0
            && let Err(error) = node.client().trim(request).await
        {
            tracing::debug!(%error, "the log is not trimmed");
        }
    }
}

#[cfg(test)]
mod tests {
    use cell_core::id::{Hash, NodeId};

    use super::*;

    #[test]
    fn what_ended_and_is_known_alike_everywhere_is_closed_and_what_nobody_knows_the_beginning_of() {
        let actor = |region, start| {
            let node = NodeId { region: RegionId::new(region).unwrap(), index: 0 };
            ActorId { node, start, nonce: 1 }
        };
        let front = |seq| Front { seq, hash: Hash([seq as u8; 32]) };
        let (first, me) = (actor("north", 1), actor("north", 2));
        // East lost its disk, and with it what it wrote before.
        let (lost, east) = (actor("east", 1), actor("east", 2));
        let here = BTreeMap::from([(first, front(7)), (me, front(9)), (east, front(4))]);
        let said = Frontier::from([(first, front(7)), (me, front(8)), (east, front(4))]);
        let closable = |headless: &[ActorId], said: &[&Frontier]| ended_alike(me, &here, headless, said);
        assert_eq!(closable(&[], &[&said, &said]), [(first, front(7))]);
        assert_eq!(closable(&[lost], &[&said, &said]), [(first, front(7)), (lost, Front::NONE)]);
        let mut knows = said.clone();
        knows.insert(lost, front(3));
        assert_eq!(closable(&[lost], &[&said, &knows]), [(first, front(7))], "one has what is missing");
        let mut behind = said.clone();
        behind.insert(first, front(6));
        assert_eq!(closable(&[], &[&said, &behind]), []);
        assert_eq!(closable(&[actor("north", 0)], &[&said, &said]).len(), 2, "its own as well");
    }
}
