//! Readers: whoever was answered goes on reading, in any region, and presents the version of what they saw.
//!
//! They only look. Their chance is their own, so that what happens to everybody else does not depend on them.

use std::collections::BTreeSet;

use cell_core::cell::Reached;
use cell_core::entity::{Entity, Item, ItemKey, Kind, Reading};
use cell_core::id::{EntityId, Hash};
use cell_core::order::Order;
use cell_core::payment::Payment;
use cell_core::version::{Dot, VersionVector};

use super::node::Effect;
use super::world::{Event, World};

/// How long a region lets a reader wait.
const SESSION_WAIT_MS: u64 = 1_000;
/// Answers and refusals after which a reader has seen enough.
const LOOKS_MAX: u32 = 8;

/// Somebody who reads one thing again and again.
#[derive(Clone, Debug)]
pub(crate) struct Reader {
    about: EntityId,
    /// What is presented: the version of every answer so far.
    version: VersionVector,
    /// Decisions that were shown as being in force, and records before there was one.
    saw: BTreeSet<Hash>,
    looks: u32,
}

/// What an answer shows as being in force, and its version. A record counts where nothing was decided: copies of it may
/// differ in what its id does not cover, and whichever a decision brings along is as good.
fn shown<K: Kind>(entity: &Entity) -> (BTreeSet<Hash>, Option<Dot>) {
    let reading = Reading::<K>::of(entity);
    let mut shown: BTreeSet<Hash> = reading.history.iter().map(|link| link.hash).collect();
    if let (true, Some(created)) = (shown.is_empty(), reading.created_dot) {
        let of_it = |item: &&Item| item.origins.iter().any(|origin| origin.dot == created);
        let records = entity.items().filter(|(key, _)| matches!(key, ItemKey::Record(_)));
        shown.extend(records.map(|(_, item)| item).filter(of_it).map(|item| item.event.hash));
    }
    (shown, reading.version())
}

impl World {
    /// Somebody was answered by node `i` about something, by a change at `dot` if there was one.
    pub(crate) fn begins_to_read(&mut self, i: usize, about: EntityId, dot: Option<Dot>) {
        if self.calm {
            return;
        }
        let version = dot.into_iter().map(|dot| (dot.actor, dot.seq)).collect();
        let reader = self.readers.len();
        self.readers.push(Reader { about, version, saw: BTreeSet::new(), looks: 0 });
        // What was answered is what the node has, with everything it knew.
        self.read_when_synced(i, reader, 0);
    }

    /// Asks some region, after a while.
    fn reads_on(&mut self, reader: usize) {
        let looks = self.readers[reader].looks;
        if looks >= LOOKS_MAX {
            return;
        }
        let long = self.readers_rng.chance(150);
        let after_ms = self.readers_rng.between(2, if long { 30_000 } else { 1_500 });
        let place = self.readers_rng.index(3);
        match self.node_at(place) {
            Some(node) => {
                self.after(after_ms, Event::Read { node, reader, looks });
                self.after(after_ms + SESSION_WAIT_MS, Event::ReadOver { node, reader, looks });
            }
            None => {
                self.readers[reader].looks += 1;
                self.reads_on(reader);
            }
        }
    }

    /// A read with a version arrives at a node, or one that waits there is looked at again.
    pub(crate) fn read(&mut self, i: usize, reader: usize, looks: u32) {
        let (node, it) = (&self.nodes[i], &self.readers[reader]);
        if !node.up || it.looks != looks {
            return;
        }
        let mut reached = Reached::Here;
        for (actor, seq) in it.version.iter() {
            match node.cell.reached(&node.shelf, Some(it.about), &Dot { actor: *actor, seq }) {
                Ok(Reached::Here) => {}
                Ok(Reached::NotYet) => reached = Reached::NotYet,
                Ok(Reached::Never) => {
                    reached = Reached::Never;
                    break;
                }
                Err(_) => return,
            }
        }
        match reached {
            Reached::Here => self.read_when_synced(i, reader, looks),
            Reached::NotYet => {
                if self.nodes[i].readers.insert(reader) {
                    self.coverage.fault("version-waited-for");
                }
            }
            Reached::Never => {
                self.coverage.fault("version-lost");
                // Told so: what was seen is not insisted upon any more.
                let it = &mut self.readers[reader];
                *it = Reader {
                    about: it.about,
                    version: VersionVector::new(),
                    saw: BTreeSet::new(),
                    looks: it.looks + 1,
                };
                self.reads_on(reader);
            }
        }
    }

    /// Whoever waits at a node is looked at again, since something became durable there.
    pub(crate) fn wake_readers(&mut self, i: usize) {
        for reader in std::mem::take(&mut self.nodes[i].readers) {
            let looks = self.readers[reader].looks;
            self.read(i, reader, looks);
        }
    }

    /// The bound is over, or the node went down with the question.
    pub(crate) fn read_over(&mut self, i: usize, reader: usize, looks: u32) {
        if self.readers[reader].looks != looks {
            return;
        }
        if self.nodes[i].readers.remove(&reader) {
            self.coverage.fault("version-not-here");
        }
        self.readers[reader].looks += 1;
        self.reads_on(reader);
    }

    /// Nothing is shown that is not durable.
    pub(crate) fn read_when_synced(&mut self, i: usize, reader: usize, looks: u32) {
        let node = &mut self.nodes[i];
        if node.is_synced() {
            self.read_answered(i, reader, looks);
        } else {
            node.waiting.push_back((node.disk.log.end(), Effect::Read { reader, looks }));
        }
    }

    fn read_answered(&mut self, i: usize, reader: usize, looks: u32) {
        let (node, it) = (&self.nodes[i], &mut self.readers[reader]);
        if it.looks != looks {
            return;
        }
        let entity = node.shelf.entities.get(&it.about);
        let held: BTreeSet<Hash> =
            entity.iter().flat_map(|entity| entity.items()).map(|(_, item)| item.event.hash).collect();
        if let Some(missing) = it.saw.difference(&held).next() {
            let detail = format!(
                "{} shows {} without {missing:?} to a reader who presents {}",
                node.region, it.about, it.version
            );
            self.journal.stale.push(detail);
        }
        if let Some(entity) = entity {
            let (saw, version) =
                if it.about.order().is_some() { shown::<Order>(entity) } else { shown::<Payment>(entity) };
            it.saw.extend(saw);
            version.into_iter().for_each(|dot| it.version.raise(dot));
        }
        it.looks += 1;
        self.reads_on(reader);
    }
}
