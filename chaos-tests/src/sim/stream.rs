//! Changes between regions: streamed from what is durable, from the frontier the subscriber reports, any actor's.

use std::collections::BTreeMap;

use bytes::Bytes;
use cell_core::canon::Message;
use cell_core::cell::{Incoming, Refused, Step};
use cell_core::digest::Digest;
use cell_core::entity::Entity;
use cell_core::event::{Change, Entry};
use cell_core::fronts::Said;
use cell_core::gate::Requirement;
use cell_core::id::{ActorId, Hash};
use cell_core::version::Dot;

use super::disk::{Held, Logged};
use super::museum::Exhibit;
use super::net::Channel;
use super::node::Effect;
use super::world::{Event, World};

/// Entries of one packet at most.
const BATCH_MAX: usize = 64;

impl World {
    /// Nodes of other regions.
    pub(crate) fn peers(&self, i: usize) -> Vec<usize> {
        let place = self.nodes[i].place;
        (0..self.nodes.len()).filter(|j| self.nodes[*j].place != place && self.nodes[*j].up).collect()
    }

    /// Sends `to` what it lacks, as far as this connection knows.
    pub(crate) fn stream(&mut self, from: usize, to: usize) {
        let (a, b) = (self.nodes[from].place, self.nodes[to].place);
        if !self.nodes[from].up || self.net.is_cut(a, b, Channel::Data, self.now_ms) {
            return;
        }
        let node = &mut self.nodes[from];
        let Some(sent) = node.sent.get_mut(&to) else { return };
        let mut batch = Vec::new();
        for (actor, held) in &node.durable {
            let known = sent.entry(*actor).or_default();
            // What is trimmed goes as state, if the subscriber asks for it.
            let Some(news) = held.behind(*known) else { continue };
            let news = &news[..news.len().min(BATCH_MAX)];
            batch.extend(news.iter().cloned());
            *known += news.len() as u64;
        }
        if !batch.is_empty() {
            self.packet(from, to, Channel::Data, Event::Batch { from, to, entries: batch });
        }
    }

    /// The museum's hasty streamer: whatever was appended goes out at once.
    pub(crate) fn stream_unsynced(&mut self, from: usize, position: usize) {
        let log = &self.nodes[from].disk.log;
        let entries: Vec<Entry> = log
            .between(position, log.end())
            .iter()
            .filter_map(|logged| match logged {
                Logged::Entry(entry) => Some(entry.clone()),
                Logged::Quarantined(_) | Logged::Merged(_) | Logged::Adopted(_) => None,
            })
            .collect();
        for to in self.peers(from) {
            self.packet(from, to, Channel::Data, Event::Batch { from, to, entries: entries.clone() });
        }
    }

    pub(crate) fn subscribe_all(&mut self, i: usize) {
        let said = self.nodes[i].cell.fronts().say(None);
        for peer in self.peers(i) {
            let event = Event::Subscribe { to: peer, from: i, said: said.clone() };
            self.packet(i, peer, Channel::Data, event);
        }
    }

    pub(crate) fn subscribed(&mut self, to: usize, from: usize, said: Said) {
        if !self.nodes[to].up {
            return;
        }
        let fronts = self.nodes[to].cell.fronts();
        let stamp = fronts.stamp();
        let Some(frontier) = fronts.hear(said) else {
            self.coverage.fault("stamps-differ");
            let event = Event::NameAll { node: from, peer: to, stamp };
            return self.packet(to, from, Channel::Data, event);
        };
        let frontier: BTreeMap<ActorId, u64> =
            frontier.into_iter().map(|(actor, front)| (actor, front.seq)).collect();
        let lacks = |(actor, held): (&ActorId, &Held)| {
            held.behind(frontier.get(actor).copied().unwrap_or(0)).is_none()
        };
        if self.nodes[to].durable.iter().any(lacks) {
            self.packet(to, from, Channel::Data, Event::OnlyAsState { node: from, peer: to });
        }
        self.nodes[to].sent.insert(from, frontier);
        self.stream(to, from);
    }

    /// The peer does not know what this node's stamp stands for.
    pub(crate) fn name_all(&mut self, i: usize, peer: usize, stamp: Digest) {
        if self.nodes[i].up {
            let said = self.nodes[i].cell.fronts().say(Some(stamp));
            self.packet(i, peer, Channel::Data, Event::Subscribe { to: peer, from: i, said });
        }
    }

    pub(crate) fn batch(&mut self, i: usize, from: usize, mut entries: Vec<Entry>) {
        if !self.nodes[i].up {
            return;
        }
        if self.rng.chance(self.net.corrupt_per_mille) {
            self.corrupt(i, &mut entries);
        }
        for entry in entries {
            if entry.dot.actor == self.nodes[i].cell.me() {
                continue;
            }
            let now_ms = self.nodes[i].local(self.now_ms);
            let node = &mut self.nodes[i];
            match node.cell.replicate(&node.shelf, &Incoming::read(entry.clone()), now_ms) {
                Ok(Ok(step)) => self.commit(i, step, None),
                Ok(Err(Refused::Gap { .. })) => {
                    self.resubscribe_soon(i);
                    return;
                }
                Ok(Err(Refused::Conflict | Refused::NotKept | Refused::NotAMember)) => {
                    self.note(|| format!("{i} refuses {} from {from}", entry.dot));
                    self.resubscribe_soon(i);
                    return;
                }
                Err(_) => return,
            }
        }
        self.go_on_behind_holes(i);
    }

    /// What the log holds behind a hole counts again where the hole closed: nobody else may have it.
    pub(crate) fn go_on_behind_holes(&mut self, i: usize) {
        loop {
            let node = &self.nodes[i];
            let next = node.cell.holes().find_map(|(actor, known, _)| {
                let dot = Dot { actor, seq: known + 1 };
                let logged = node.disk.log.between(node.disk.log.first(), node.disk.log.end()).iter();
                logged.filter_map(|logged| logged.entry()).find(|entry| entry.dot == dot).cloned()
            });
            let Some(entry) = next else { return };
            let now_ms = node.local(self.now_ms);
            let node = &mut self.nodes[i];
            let Ok(Ok(step)) = node.cell.replicate(&node.shelf, &Incoming::read(entry), now_ms) else {
                return;
            };
            self.note(|| {
                format!(
                    "{i} goes on in its own log with {}",
                    step.entries.first().map_or(String::new(), |entry| entry.dot.to_string())
                )
            });
            self.commit(i, step, None);
        }
    }

    fn resubscribe_soon(&mut self, i: usize) {
        let life = self.nodes[i].life;
        let delay_ms = self.rng.between(20, 300);
        self.after(delay_ms, Event::SubscribeOnce { node: i, life });
    }

    /// One bit of one change flips on the way.
    fn corrupt(&mut self, i: usize, entries: &mut [Entry]) {
        if entries.is_empty() {
            return;
        }
        let at = self.rng.index(entries.len());
        let entry = &mut entries[at];
        let mut bytes = entry.bytes.to_vec();
        let place = self.rng.index(bytes.len());
        bytes[place] ^= 1 << self.rng.below(8);
        entry.bytes = Bytes::from(bytes);
        self.coverage.fault("packet-corrupted");
        if self.planted(Exhibit::HashNotChecked)
            && Change::decode(&entry.bytes).is_ok_and(|c| c.dot == entry.dot)
        {
            let front = self.nodes[i].cell.fronts().get(&entry.dot.actor);
            let previous = front.map_or(Hash::ZERO, |front| front.hash);
            entry.hash = Entry::chain(&previous, &entry.dot, &entry.bytes);
        }
    }

    // === fetching ===

    /// Asks some peer for what a parked message waits for.
    pub(crate) fn fetch(&mut self, i: usize, missing: Vec<Requirement>) {
        let peers = self.peers(i);
        if peers.is_empty() {
            return;
        }
        let to = *self.rng.pick(&peers);
        self.packet(i, to, Channel::Data, Event::Fetch { to, from: i, missing });
    }

    /// Gives the entities asked for, and what their change touched beside them.
    pub(crate) fn fetch_asked(&mut self, i: usize, from: usize, missing: Vec<Requirement>) {
        let node = &self.nodes[i];
        if !node.up || !node.is_synced() {
            return;
        }
        let mut ids = std::collections::BTreeSet::new();
        for requirement in missing.iter().filter(|requirement| node.holds(requirement)) {
            let withheld = node.cell.withheld_by(&node.shelf, requirement.entity);
            if withheld != Ok(None) {
                continue;
            }
            ids.insert(requirement.entity);
            let held = node.durable.get(&requirement.dot.actor);
            let entry = held.and_then(|held| held.behind(requirement.dot.seq - 1)?.first());
            if let Some(change) = entry.and_then(|entry| Change::decode(&entry.bytes).ok()) {
                ids.extend(change.events.iter().flat_map(|event| event.entities.iter().copied()));
            }
        }
        let entities: Vec<Entity> = ids
            .iter()
            .filter(|id| node.cell.withheld_by(&node.shelf, **id) == Ok(None))
            .filter_map(|id| node.shelf.entities.get(id))
            .map(|entity| (**entity).clone())
            .collect();
        if !entities.is_empty() {
            self.packet(i, from, Channel::Data, Event::Fetched { node: from, entities, wanted: missing });
        }
    }

    pub(crate) fn fetched(&mut self, i: usize, entities: Vec<Entity>, wanted: Vec<Requirement>) {
        if !self.nodes[i].up {
            return;
        }
        // Through the bytes, as on the wire.
        let entities: Vec<Entity> =
            entities.iter().filter_map(|entity| Entity::decode(&entity.to_shape().to_canon()).ok()).collect();
        let now_ms = self.nodes[i].local(self.now_ms);
        let node = &mut self.nodes[i];
        let step: Step = match node.cell.merge(&node.shelf, entities, now_ms) {
            Ok(step) => step,
            Err(_) => return,
        };
        self.commit(i, step, Some(Effect::Fetched { wanted }));
    }
}
