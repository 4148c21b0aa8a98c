//! State instead of changes: where a peer's log does not reach back to what is lacking.

use std::collections::BTreeSet;

use cell_core::canon::Message;
use cell_core::cell::Baseline;
use cell_core::entity::Entity;
use cell_core::event::Entry;
use cell_core::id::EntityId;

use super::museum::Exhibit;
use super::net::Channel;
use super::node::{Effect, Exchange};
use super::world::{Event, World};

/// Entities of one packet.
const ENTITIES_MAX: usize = 3;
/// An exchange that does not move for so long is given up, and begun anew by whoever says that it is needed.
const STALLED_MS: u64 = 2_500;

impl World {
    /// The log's beginning is deleted, as far as other regions have what is in it; the view stands for it. The last `keep`
    /// records stay.
    pub(crate) fn trim(&mut self, i: usize, keep: usize) {
        let node = &self.nodes[i];
        if !node.is_synced() {
            return;
        }
        let elsewhere = |entry: &Entry| {
            let mut others = self.nodes.iter().filter(|other| other.place != node.place);
            others.any(|other| other.durable_seq(&entry.dot.actor) >= entry.dot.seq)
        };
        let log = &node.disk.log;
        let careless = self.planted(Exhibit::TrimmedAlone);
        let gone = log.between(log.first(), log.end().saturating_sub(keep)).iter();
        let gone = gone.take_while(|logged| careless || logged.entry().is_none_or(elsewhere)).count();
        if gone == 0 {
            return;
        }
        self.coverage.fault("log-trimmed");
        let unfounded = self.planted(Exhibit::AdoptedUnfounded);
        let node = &mut self.nodes[i];
        // The view is on disk past a segment before it goes.
        node.store_view();
        node.disk.log.delete_before(node.disk.log.first() + gone);
        node.durable = node.disk.held(unfounded);
    }

    /// A peer cannot stream what this node lacks.
    pub(crate) fn only_as_state(&mut self, i: usize, peer: usize) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[i];
        let under_way = node.exchange.as_ref().is_some_and(|it| it.moved_ms + STALLED_MS > now_ms);
        if node.up && !under_way {
            node.exchange = None;
            self.packet(i, peer, Channel::Data, Event::AskBaseline { to: peer, from: i });
        }
    }

    pub(crate) fn baseline_asked(&mut self, i: usize, from: usize) {
        let node = &self.nodes[i];
        // What is not synced is shown to nobody, and nobody's gap is handed on as knowledge.
        if node.up && node.is_synced() && node.may_be_built_on() {
            let (baseline, has) = (node.baseline(), node.shelf.entities.keys().copied().collect());
            self.packet(i, from, Channel::Data, Event::Baseline { node: from, peer: i, baseline, has });
        }
    }

    pub(crate) fn baseline_given(&mut self, i: usize, peer: usize, baseline: Baseline, has: Vec<EntityId>) {
        let now_ms = self.now_ms;
        let node = &mut self.nodes[i];
        if !node.up || node.exchange.is_some() {
            return;
        }
        self.coverage.fault("state-asked-for");
        node.exchange = Some(Exchange { peer, baseline: baseline.clone(), rest: has, moved_ms: now_ms });
        if self.planted(Exhibit::AdoptedEarly) {
            self.adopt(i, baseline);
        }
        self.ask_on(i);
    }

    fn ask_on(&mut self, i: usize) {
        let Some(exchange) = &self.nodes[i].exchange else { return };
        let (peer, rest) = (exchange.peer, &exchange.rest);
        let wanted: Vec<EntityId> = rest.iter().copied().take(ENTITIES_MAX).collect();
        if !wanted.is_empty() {
            return self.packet(i, peer, Channel::Data, Event::AskState { to: peer, from: i, wanted });
        }
        let Some(exchange) = self.nodes[i].exchange.take() else { return };
        let late = self.planted(Exhibit::BaselineLate) && self.nodes[peer].is_synced();
        let baseline = if late { self.nodes[peer].baseline() } else { exchange.baseline };
        self.adopt(i, baseline);
    }

    fn adopt(&mut self, i: usize, baseline: Baseline) {
        let now_ms = self.nodes[i].local(self.now_ms);
        let node = &mut self.nodes[i];
        let Ok(step) = node.cell.adopt(&node.shelf, baseline, now_ms) else { return };
        self.commit(i, step, Some(Effect::MadeGood));
        self.go_on_behind_holes(i);
        // What the peer's software could not apply, this one may.
        self.retry_quarantined(i);
        self.wake_all(i);
        self.subscribe_all(i);
    }

    pub(crate) fn state_asked(&mut self, i: usize, from: usize, wanted: Vec<EntityId>) {
        let node = &self.nodes[i];
        if !node.up || !node.is_synced() {
            return;
        }
        let entities = wanted.iter().filter_map(|id| node.shelf.entities.get(id));
        let entities = entities.map(|entity| (**entity).clone()).collect();
        self.packet(i, from, Channel::Data, Event::State { node: from, peer: i, entities, of: wanted });
    }

    pub(crate) fn state_given(&mut self, i: usize, peer: usize, entities: Vec<Entity>, of: &[EntityId]) {
        let (now_ms, local_ms) = (self.now_ms, self.nodes[i].local(self.now_ms));
        let node = &mut self.nodes[i];
        let Some(exchange) = node.exchange.as_mut().filter(|it| it.peer == peer && node.up) else { return };
        let of: BTreeSet<&EntityId> = of.iter().collect();
        exchange.rest.retain(|id| !of.contains(id));
        exchange.moved_ms = now_ms;
        // Through the bytes, as on the wire.
        let entities: Vec<Entity> =
            entities.iter().filter_map(|entity| Entity::decode(&entity.to_shape().to_canon()).ok()).collect();
        let Ok(step) = node.cell.merge(&node.shelf, entities, local_ms) else { return };
        self.commit(i, step, None);
        self.ask_on(i);
    }
}
