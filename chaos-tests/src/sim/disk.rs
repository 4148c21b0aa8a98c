//! What a node has on its disk: the log, from the first record that is left of it, and the view, which may be older than
//! the log or gone.

use std::collections::{BTreeMap, BTreeSet};

use cell_core::cell::{Baseline, Cell, Front, Kept, Quarantined, Step, Unavailable};
use cell_core::digest::Digest;
use cell_core::entity::Entity;
use cell_core::event::Entry;
use cell_core::id::{ActorId, Hash, Slot};

use super::node::{Node, Shelf};

/// One record of the log.
#[derive(Clone, Debug)]
pub(crate) enum Logged {
    /// A change; once more where it had been quarantined before.
    Entry(Entry),
    /// A change that could not be applied; once more where it was tried again.
    Quarantined(Quarantined),
    Merged(Vec<Entity>),
    Adopted(Baseline),
}

impl Logged {
    /// What it does to a cell that starts, without deciding anything.
    pub(crate) fn replay(&self, cell: &mut Cell, view: &Shelf, now_ms: u64) -> Result<Step, Unavailable> {
        match self {
            Logged::Entry(entry) => cell.replay(view, entry, now_ms),
            Logged::Quarantined(kept) => cell.replay_quarantined(view, kept),
            Logged::Merged(entities) => cell.replay_merged(view, entities, now_ms),
            Logged::Adopted(baseline) => cell.replay_adopted(view, baseline),
        }
    }

    /// The change it is, whole.
    pub(crate) fn entry(&self) -> Option<&Entry> {
        match self {
            Logged::Entry(entry) => Some(entry),
            Logged::Quarantined(kept) => Some(&kept.entry),
            Logged::Merged(_) | Logged::Adopted(_) => None,
        }
    }

    /// The quarantined changes that it holds.
    fn quarantined(&self) -> &[Quarantined] {
        match self {
            Logged::Quarantined(kept) => std::slice::from_ref(kept),
            Logged::Adopted(baseline) => &baseline.quarantined,
            Logged::Entry(_) | Logged::Merged(_) => &[],
        }
    }
}

/// The records that are left; positions are counted from the first there ever was.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    first: usize,
    records: Vec<Logged>,
    synced: usize,
}

impl Log {
    pub(crate) fn first(&self) -> usize {
        self.first
    }
    pub(crate) fn end(&self) -> usize {
        self.first + self.records.len()
    }
    /// Everything before it survives a crash.
    pub(crate) fn synced(&self) -> usize {
        self.synced
    }
    pub(crate) fn is_synced(&self) -> bool {
        self.synced == self.end()
    }
    pub(crate) fn push(&mut self, logged: Logged) {
        self.records.push(logged);
    }
    pub(crate) fn sync(&mut self, upto: usize) {
        self.synced = upto;
    }
    /// What is left of it between two positions.
    pub(crate) fn between(&self, from: usize, to: usize) -> &[Logged] {
        let at = |position: usize| position.saturating_sub(self.first).min(self.records.len());
        &self.records[at(from)..at(to).max(at(from))]
    }
    /// What was not synced is gone.
    pub(crate) fn lose_unsynced(&mut self) {
        self.records.truncate(self.synced - self.first);
    }
    pub(crate) fn delete_before(&mut self, before: usize) {
        self.records.drain(..before.min(self.synced) - self.first);
        self.first = before.min(self.synced);
    }
}

/// The view as it was written last.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stored {
    /// It has everything that was in the log before.
    pub(crate) position: usize,
    kept: Kept,
    shelf: Shelf,
    quarantined: Vec<Quarantined>,
    /// Something was lacking when a node started from it, and is not made good yet.
    pub(crate) lacking: bool,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Disk {
    pub(crate) log: Log,
    pub(crate) view: Stored,
}

impl Disk {
    /// Records are gone from the log that the view does not have either.
    pub(crate) fn has_gap(&self) -> bool {
        self.view.position < self.log.first
    }

    /// What of the log the view does not have.
    fn behind_view(&self) -> &[Logged] {
        self.log.between(self.view.position, self.log.end())
    }

    /// Whether a record counts at a start. What was merged for a baseline may be among what is lacking; `unfounded` is the
    /// museum's: it counts all the same.
    fn counts(&self, logged: &Logged, unfounded: bool) -> bool {
        unfounded || !self.has_gap() || !matches!(logged, Logged::Adopted(_))
    }

    /// What a start makes of it: what the view has, and on top of that what the log has behind it. Nothing is decided.
    pub(crate) fn restore(
        &self,
        mut cell: Cell,
        now_ms: u64,
        unfounded: bool,
    ) -> Result<(Cell, Shelf), Unavailable> {
        let mut shelf = self.view.shelf.clone();
        cell.restore(self.view.kept.clone());
        for logged in self.behind_view().iter().filter(|logged| self.counts(logged, unfounded)) {
            let step = logged.replay(&mut cell, &shelf, now_ms)?;
            step.entities.into_iter().for_each(|(id, entity)| shelf.put(id, entity));
        }
        Ok((cell, shelf))
    }

    /// What is known of each actor without a gap, and which of its changes the log still has.
    pub(crate) fn held(&self, unfounded: bool) -> BTreeMap<ActorId, Held> {
        let mut fronts: BTreeMap<ActorId, Front> = self.view.kept.frontier.iter().copied().collect();
        let mut raise = |actor: ActorId, front: Front| {
            let known = fronts.entry(actor).or_insert(Held::default().trimmed);
            if front.seq > known.seq {
                *known = front;
            }
            known.seq
        };
        for logged in self.behind_view().iter().filter(|logged| self.counts(logged, unfounded)) {
            if let Some(Entry { dot, hash, .. }) = logged.entry()
                && raise(dot.actor, Held::default().trimmed) + 1 == dot.seq
            {
                raise(dot.actor, Front { seq: dot.seq, hash: *hash });
            }
            if let Logged::Adopted(baseline) = logged {
                baseline.fronts().for_each(|(actor, front)| {
                    raise(actor, front);
                });
            }
        }
        let mut left: BTreeMap<ActorId, BTreeMap<u64, &Entry>> = BTreeMap::new();
        for entry in self.log.between(self.log.first, self.log.end()).iter().filter_map(Logged::entry) {
            left.entry(entry.dot.actor).or_default().insert(entry.dot.seq, entry);
        }
        // The view may be past changes that stand behind a gap, and know of none before it.
        for actor in left.keys() {
            fronts.entry(*actor).or_insert(Held::default().trimmed);
        }
        let held = |(actor, front)| {
            let left = left.remove(&actor).unwrap_or_default();
            (actor, Held::of(front, &left))
        };
        fronts.into_iter().map(held).collect()
    }
}

/// What is synced of one actor: everything, and of what is not trimmed the changes themselves.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) trimmed: Front,
    pub(crate) entries: Vec<Entry>,
    /// Changes in the log behind a gap: nobody here counts on them, and others can have them.
    beyond: Vec<Entry>,
}

impl Default for Held {
    fn default() -> Held {
        Held { trimmed: Front { seq: 0, hash: Hash::ZERO }, entries: Vec::new(), beyond: Vec::new() }
    }
}

impl Held {
    /// Of an actor that is known so far, of which these changes are left.
    fn of(known: Front, left: &BTreeMap<u64, &Entry>) -> Held {
        let copy = |entries: Vec<&&Entry>| entries.into_iter().map(|entry| (*entry).clone()).collect();
        let beyond = copy(left.range(known.seq + 1..).map(|(_, entry)| entry).collect());
        let unbroken = (1..=known.seq).rev().take_while(|seq| left.contains_key(seq)).last();
        let Some(first) = unbroken else { return Held { trimmed: known, entries: Vec::new(), beyond } };
        // What the first one follows is known of an actor's very first alone.
        let (trimmed, from) = match left.get(&first) {
            Some(entry) if first > 1 => (Front { seq: first, hash: entry.hash }, first + 1),
            _ => (Held::default().trimmed, first),
        };
        let entries =
            copy(left.range(from..).take_while(|(seq, _)| **seq <= known.seq).map(|(_, e)| e).collect());
        Held { trimmed, entries, beyond }
    }

    pub(crate) fn seq(&self) -> u64 {
        self.trimmed.seq + self.entries.len() as u64
    }
    /// The last change that is on disk, wherever.
    pub(crate) fn last(&self) -> u64 {
        self.beyond.last().map_or(self.seq(), |entry| entry.dot.seq)
    }
    /// Whether the change is on disk, wherever.
    pub(crate) fn has(&self, seq: u64) -> bool {
        seq <= self.seq() || self.beyond.iter().any(|entry| entry.dot.seq == seq)
    }
    /// The changes after `known`, without a gap; `None` if some of them are trimmed.
    pub(crate) fn behind(&self, known: u64) -> Option<&[Entry]> {
        let skip = known.checked_sub(self.trimmed.seq)?;
        if let Some(at) =
            self.beyond.iter().position(|entry| known >= self.seq() && entry.dot.seq == known + 1)
        {
            let rest = &self.beyond[at..];
            let unbroken = (known + 1..).zip(rest).take_while(|(seq, entry)| entry.dot.seq == *seq).count();
            return Some(&rest[..unbroken]);
        }
        Some(self.entries.get(skip as usize..).unwrap_or_default())
    }
    /// Its next change.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push(entry);
        self.close_gap();
    }
    /// State took the place of the changes up to here.
    pub(crate) fn adopt(&mut self, front: Front) {
        if front.seq > self.seq() {
            (self.trimmed, self.entries) = (front, Vec::new());
            self.close_gap();
        }
    }
    fn close_gap(&mut self) {
        let seq = self.seq();
        self.beyond.retain(|entry| entry.dot.seq > seq);
    }
}

impl Node {
    /// Writes the view as it is now, with everything in the log.
    pub(crate) fn store_view(&mut self) {
        debug_assert!(self.is_synced(), "what is not durable is not in a view");
        let cell = &self.cell;
        let digests = Slot::all().map(|slot| (slot, cell.digests().of(slot)));
        let kept = Kept {
            frontier: cell.fronts().iter().map(|(actor, front)| (*actor, *front)).collect(),
            beyond: cell.holes().map(|(actor, _, beyond)| (actor, beyond)).collect(),
            epochs: cell.placement().learned().collect(),
            closed: cell.fronts().closed().iter().map(|(actor, last)| (*actor, *last)).collect(),
            lives: cell.lives().iter().copied().collect(),
            digests: digests.filter(|(_, digest)| *digest != Digest::default()).collect(),
            quarantine: cell.quarantined().map(|(dot, hole)| (*dot, hole.clone())).collect(),
        };
        self.disk.view = Stored {
            position: self.disk.log.end(),
            kept,
            shelf: self.shelf.clone(),
            quarantined: self.quarantined(),
            lacking: self.lacking,
        };
    }

    /// The newest copy of every quarantined change.
    pub(crate) fn quarantined(&self) -> Vec<Quarantined> {
        let (view, log) = (&self.disk.view, self.disk.behind_view());
        let copies = view.quarantined.iter().chain(log.iter().flat_map(Logged::quarantined));
        let newest: BTreeMap<_, _> = copies.map(|kept| (kept.entry.dot, kept)).collect();
        self.cell.quarantined().filter_map(|(dot, _)| newest.get(dot).copied().cloned()).collect()
    }

    /// Whether another region may build on what is here: nothing is lacking.
    pub(crate) fn may_be_built_on(&self) -> bool {
        !self.lacking && self.cell.holes().next().is_none()
    }

    /// Actors with a hole, or without an end that was said of them, that no region can fill.
    pub(crate) fn hopeless(&self, of: &[Node]) -> BTreeSet<ActorId> {
        let filled = |actor: &ActorId, next: u64| {
            of.iter().any(|node| node.durable.get(actor).is_some_and(|held| held.has(next)))
        };
        let holes = self.cell.holes().map(|(actor, known, _)| (actor, known));
        // Nor does anybody have the end that was said of an actor.
        let lives = self.cell.lives().iter().map(|life| (life, self.cell.fronts().seq(&life.actor)));
        let cut_short = lives.filter(|(life, known)| life.last.is_some_and(|last| last > *known));
        let missing = holes.chain(cut_short.map(|(life, known)| (life.actor, known)));
        missing.filter(|(actor, known)| !filled(actor, known + 1)).map(|(actor, _)| actor).collect()
    }
}
