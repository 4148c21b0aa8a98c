//! The conflict journal in the view: found by time, written in the batch that brings the entity.
//!
//! The entries themselves are derived ([`cell_core::conflict`]); the index only says where to look. An entity that has an
//! entry always has one, so nothing needs to be looked up for the many that have none.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use cell_core::conflict::{Class, Conflict, Kind, conflicts};
use cell_core::entity::Entity;
use cell_core::id::EntityId;
use cell_store::{Batch, Scan, Store, StoreError};

use crate::keys;

/// Entries of one entity that can be found by time; all of them can be found by the entity.
const OF_ENTITY_MAX: usize = 2_000;
/// Keys read at once.
const PAGE: usize = 1_000;
const ENTRY_BYTES: usize = 19;

/// The names of all classes.
pub(crate) const CLASSES: [&str; Class::ALL.len()] = {
    let mut names = [""; Class::ALL.len()];
    let mut nth = 0;
    while nth < names.len() {
        names[nth] = Class::ALL[nth].as_str();
        nth += 1;
    }
    names
};

/// What the index says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) kind: Kind,
    pub(crate) class: Class,
    pub(crate) open: bool,
}

impl Mark {
    fn of(conflict: &Conflict) -> Mark {
        Mark { kind: conflict.kind, class: conflict.class, open: conflict.open }
    }

    fn to_bytes(self) -> [u8; 3] {
        let place = |at: Option<usize>| u8::try_from(at.unwrap_or(0)).unwrap_or(u8::MAX);
        let kind = place(Kind::ALL.iter().position(|kind| *kind == self.kind));
        let class = place(Class::ALL.iter().position(|class| *class == self.class));
        [kind, class, u8::from(self.open)]
    }

    fn read(bytes: &[u8]) -> Option<Mark> {
        let [kind, class, open] = bytes.try_into().ok()?;
        let (kind, class) = (Kind::ALL.get(usize::from(kind))?, Class::ALL.get(usize::from(class))?);
        Some(Mark { kind: *kind, class: *class, open: open == 1 })
    }
}

/// What a batch changes; counted once it is written.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    came: BTreeMap<Class, u64>,
    opened: BTreeMap<Class, i64>,
}

impl Tally {
    fn note(&mut self, before: Option<Mark>, now: Option<Mark>) {
        if let (None, Some(now)) = (before, now) {
            *self.came.entry(now.class).or_default() += 1;
        }
        for (mark, by) in [(before, -1), (now, 1)] {
            if let Some(mark) = mark.filter(|mark| mark.open) {
                *self.opened.entry(mark.class).or_default() += by;
            }
        }
    }

    pub(crate) fn count(self) {
        for (class, times) in self.came {
            metrics::counter!("cell_conflicts_total", "class" => class.as_str()).increment(times);
        }
        for (class, by) in self.opened {
            metrics::gauge!("cell_conflicts_open", "class" => class.as_str()).increment(by as f64);
        }
    }
}

type Known = BTreeMap<(u64, [u8; 8]), Mark>;

fn known_of(stored: &[u8]) -> Known {
    let entry = |bytes: &[u8]| {
        let (at_ms, rest) = bytes.split_first_chunk::<8>()?;
        let (id, mark) = rest.split_first_chunk::<8>()?;
        Some(((u64::from_be_bytes(*at_ms), *id), Mark::read(mark)?))
    };
    stored.chunks_exact(ENTRY_BYTES).filter_map(entry).collect()
}

/// Brings the index of one entity to what it says now.
pub(crate) fn put(
    store: &Arc<dyn Store>,
    entity: &Arc<Entity>,
    batch: &mut Batch,
    tally: &mut Tally,
) -> Result<(), StoreError> {
    let now = known_by(entity);
    if now.is_empty() {
        return Ok(());
    }
    let of_entity = keys::conflicts_of(&entity.id);
    let before = store.get(&of_entity)?.map(|stored| known_of(&stored)).unwrap_or_default();
    if before == now {
        return Ok(());
    }
    for ((at_ms, id), mark) in before.iter().filter(|(place, _)| !now.contains_key(place)) {
        batch.delete(keys::conflict(*at_ms, &entity.id, id));
        // Ruled upon, it stands elsewhere: not a new one.
        let elsewhere = now.iter().find(|((_, other), _)| other == id).map(|(_, mark)| *mark);
        tally.note(Some(*mark), elsewhere);
    }
    for (place, mark) in now.iter().filter(|(place, mark)| before.get(*place) != Some(*mark)) {
        batch.put(keys::conflict(place.0, &entity.id, &place.1), Bytes::copy_from_slice(&mark.to_bytes()));
        let moved = before.keys().any(|other| other.1 == place.1 && other.0 != place.0);
        if !moved {
            tally.note(before.get(place).copied(), Some(*mark));
        }
    }
    batch.put(of_entity, bytes_of(&now));
    Ok(())
}

/// Its entries as it says itself.
fn known_by(entity: &Entity) -> Known {
    // A fresh order, or one that is only carried to another region.
    if entity.items().nth(1).is_none() {
        return Known::new();
    }
    let found = conflicts(entity);
    let mut now: Known = found.iter().map(|it| ((it.at.wall_ms, it.id), Mark::of(it))).collect();
    while now.len() > OF_ENTITY_MAX {
        now.pop_first();
    }
    now
}

fn bytes_of(known: &Known) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(known.len() * ENTRY_BYTES);
    for ((at_ms, id), mark) in known {
        bytes.extend_from_slice(&at_ms.to_be_bytes());
        bytes.extend_from_slice(id);
        bytes.extend_from_slice(&mark.to_bytes());
    }
    bytes
}

/// The keys and values that an entity has in the index.
pub(crate) fn index_of(entity: &Entity) -> Vec<(Bytes, Bytes)> {
    let known = known_by(entity);
    if known.is_empty() {
        return Vec::new();
    }
    let entry = |((at_ms, id), mark): (&(u64, [u8; 8]), &Mark)| {
        (keys::conflict(*at_ms, &entity.id, id), Bytes::copy_from_slice(&mark.to_bytes()))
    };
    let of_entity = (keys::conflicts_of(&entity.id), Bytes::from(bytes_of(&known)));
    known.iter().map(entry).chain([of_entity]).collect()
}

/// Counts what is open, once at start.
pub(crate) fn count_open(store: &Arc<dyn Store>) -> Result<(), StoreError> {
    let mut open: BTreeMap<Class, u64> = Class::ALL.iter().map(|class| (*class, 0)).collect();
    let mut after: Option<Bytes> = None;
    loop {
        let mut scan = Scan::prefix(keys::CONFLICTS, PAGE);
        if let Some(after) = after {
            scan = scan.after(after);
        }
        let found = store.scan(&scan)?;
        for mark in found.iter().filter_map(|(_, value)| Mark::read(value)).filter(|mark| mark.open) {
            *open.entry(mark.class).or_default() += 1;
        }
        match found.last() {
            Some((key, _)) if found.len() == PAGE => after = Some(key.clone()),
            _ => break,
        }
    }
    for (class, count) in open {
        metrics::gauge!("cell_conflicts_open", "class" => class.as_str()).set(count as f64);
    }
    Ok(())
}

/// A part of the journal, newest first: (at ms, entity, id, what the index says), and where to go on.
pub(crate) type Page = (Vec<(u64, EntityId, [u8; 8], Mark)>, Option<Bytes>);

/// Reads a bounded part of the journal, not older than `since_ms`, behind `after`.
pub(crate) fn page(store: &Arc<dyn Store>, since_ms: u64, after: Option<Bytes>) -> Result<Page, StoreError> {
    let mut scan = Scan::prefix(keys::CONFLICTS, PAGE).reversed();
    if let Some(after) = after {
        scan = scan.before(after);
    }
    let found = store.scan(&scan)?;
    let mut next = found.last().filter(|_| found.len() == PAGE).map(|(key, _)| key.clone());
    let mut entries = Vec::with_capacity(found.len());
    for (key, value) in &found {
        let Some((at_ms, entity, id)) = keys::entry_of_conflict(key) else { continue };
        if at_ms < since_ms {
            next = None;
            break;
        }
        entries.extend(Mark::read(value).map(|mark| (at_ms, entity, id, mark)));
    }
    Ok((entries, next))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_index_says_is_read_as_it_was_written() {
        for kind in Kind::ALL {
            for class in Class::ALL {
                for open in [false, true] {
                    let mark = Mark { kind, class, open };
                    assert_eq!(Mark::read(&mark.to_bytes()), Some(mark));
                }
            }
        }
        assert_eq!(Mark::read(&[9, 0, 0]), None);
    }

    #[test]
    fn what_is_ruled_upon_is_closed_and_not_counted_as_another_one() {
        let class = Class::Command;
        let mark = |open| Mark { kind: Kind::Stray, class, open };
        let mut tally = Tally::default();
        tally.note(None, Some(mark(true)));
        assert_eq!((tally.came[&class], tally.opened[&class]), (1, 1));
        tally.note(Some(mark(true)), Some(mark(false)));
        assert_eq!((tally.came[&class], tally.opened[&class]), (1, 0));
    }
}
