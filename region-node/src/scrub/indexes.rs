//! The keys that are computed from entities: whether they say what the entities say.
//!
//! There is no digest over them and none is needed: each is computed again from its entity, and each leads back to one. What
//! is missing or altered is written again, what leads nowhere is removed. What is due depends on what is owned, so it is
//! computed as of one moment, looked at again, and put right by the writer.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use cell_core::cell::Overseer;
use cell_core::entity::Entity;
use cell_core::id::{EntityId, OrderId, PaymentId, PublicId};
use cell_store::{Batch, Scan, StoreError};

use super::{Scrub, entities_in};
use crate::notice::{Kept, notices};
use crate::view::{self, Places};
use crate::working::Working;
use crate::writer::Sheet;
use crate::{conflict, keys};

/// Keys of entities read while the applier waits; some six others are looked up for each.
const ENTITY_KEYS_MAX: usize = 64;
/// Other keys, each with its entity.
const KEYS_MAX: usize = 128;

/// Kinds of keys, as they are counted.
pub(crate) const KINDS: [&str; 6] = ["list", "command", "notice", "due", "conflict", "state"];
/// How a key was found.
pub(crate) const FOUND: [&str; 3] = ["missing", "altered", "superfluous"];
const MISSING: &str = FOUND[0];
const ALTERED: &str = FOUND[1];
const SUPERFLUOUS: &str = FOUND[2];

/// What leads back to entities, in an order in which each can rely on those before it.
const LEADING_BACK: [u8; 11] = *b"kurpbnodxcg";

/// How many keys of which kind were found how.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Healed(BTreeMap<(&'static str, &'static str), u64>);

impl Healed {
    pub(super) fn note(&mut self, kind: &'static str, found: &'static str, count: u64) {
        if count > 0 {
            *self.0.entry((kind, found)).or_default() += count;
        }
    }

    pub(super) fn add(&mut self, other: Healed) {
        other.0.into_iter().for_each(|((kind, found), count)| self.note(kind, found, count));
    }

    /// Kind, how it was found, and how many.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> + '_ {
        self.0.iter().map(|((kind, found), count)| (*kind, *found, *count))
    }

    pub(super) fn count(&self) {
        for ((kind, found), count) in &self.0 {
            metrics::counter!("cell_healed_keys_total", "kind" => *kind, "found" => *found).increment(*count);
            tracing::error!(
                kind,
                found,
                count,
                "keys of the view were not what the entities say; they are put right"
            );
        }
    }
}

/// What one stretch came to.
#[derive(Debug, Default)]
pub(super) struct Stretch {
    pub(super) read: usize,
    pub(super) healed: Healed,
    /// What the index should say of when they are due, and does not.
    pub(super) undue: Vec<(EntityId, Option<u64>)>,
    /// Where to go on; `None`: it is through.
    pub(super) next: Option<Place>,
}

/// How far a pass is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Behind this key of an entity.
    Entities(Option<Bytes>),
    /// Behind this key of the nth kind that leads back.
    Back(usize, Option<Bytes>),
}

impl Place {
    pub(super) const BEGIN: Place = Place::Entities(None);
}

/// What becomes of a key.
enum Verdict {
    Stands,
    /// It leads nowhere.
    Gone(&'static str),
    /// Its entity is found elsewhere by now: it was accepted earlier than was known. No damage.
    Moved,
    Instead(&'static str, Bytes),
}

impl Scrub {
    /// Looks at the next stretch; `overseer`: what is due is looked at, too.
    pub(super) fn stretch(
        &self,
        working: &Working,
        place: Place,
        overseer: Option<&Overseer>,
    ) -> Result<Stretch, StoreError> {
        let _no_batch = self.pass();
        match place {
            Place::Entities(after) => forth(working, after, overseer),
            Place::Back(nth, after) => back(working, nth, after),
        }
    }
}

/// From entities to their keys.
fn forth(
    working: &Working,
    after: Option<Bytes>,
    overseer: Option<&Overseer>,
) -> Result<Stretch, StoreError> {
    let mut scan = Scan::prefix(keys::ENTITIES, ENTITY_KEYS_MAX);
    if let Some(after) = after {
        scan = scan.after(after);
    }
    let found = working.store().scan(&scan)?;
    let whole = found.len() < ENTITY_KEYS_MAX;
    let mut stretch = Stretch { next: Some(Place::Back(0, None)), ..Stretch::default() };
    let mut last = None;
    for (id, parts) in entities_in(&found, whole) {
        last = parts.last().map(|(key, _)| key.clone());
        // What cannot be read is the other pass's.
        let entity = id.and_then(|id| crate::working::entity_of_parts(id, parts).ok());
        let Some(entity) = entity else { continue };
        put_right(working, &entity, &mut stretch)?;
        if let Some(overseer) = overseer {
            look_at_due(working, &entity, overseer, &mut stretch)?;
        }
    }
    if !whole {
        stretch.next = Some(Place::Entities(last));
    }
    Ok(stretch)
}

fn put_right(working: &Working, entity: &Entity, stretch: &mut Stretch) -> Result<(), StoreError> {
    let (store, mut batch) = (working.store(), Batch::new());
    let Places { listed, placed } = Places::of(entity);
    let listed = listed.into_iter().map(|key| ("list", key, Bytes::new()));
    let conflicts = conflict::index_of(entity).into_iter().map(|(key, value)| ("conflict", key, value));
    for (kind, key, value) in listed.chain(conflicts) {
        stretch.read += 1;
        let found = match store.get(&key)? {
            Some(found) if found == value => continue,
            Some(_) => ALTERED,
            None => MISSING,
        };
        stretch.healed.note(kind, found, 1);
        batch.put(key, value);
    }
    if let Some((key, order)) = placed {
        stretch.read += 1;
        let mut orders = working.stored_orders(&key)?;
        if !orders.contains(&order) {
            stretch.healed.note("command", if orders.is_empty() { MISSING } else { ALTERED }, 1);
            orders.push(order);
            batch.put(key, orders.iter().flat_map(|order| order.0.0).collect::<Vec<u8>>());
        }
    }
    let mut untold = None;
    for told in notices(entity) {
        stretch.read += 2;
        let place = store.get(&keys::place_of_notice(&told.user, &told.id))?;
        let stands = match &place {
            Some(place) => store.get(&keys::notice(&told.user, place))?,
            None => None,
        };
        if !stands.is_some_and(|stands| Kept::says_the_same(&stands, &told.to_kept(""))) {
            stretch.healed.note("notice", if place.is_some() { ALTERED } else { MISSING }, 1);
            untold = Some(());
        }
    }
    if untold.is_some() {
        let end = view::position(store)?.unwrap_or_default();
        view::put_notices(store, entity, String::new, end, &mut BTreeSet::new(), &mut batch)?;
    }
    if batch.is_empty() { Ok(()) } else { store.write(batch) }
}

fn look_at_due(
    working: &Working,
    entity: &Entity,
    overseer: &Overseer,
    stretch: &mut Stretch,
) -> Result<(), StoreError> {
    stretch.read += 1;
    let store = working.store();
    let due = view::due_of(store, &entity.id)?;
    // What cannot be computed now is looked at by the next pass.
    let Ok(duties) = overseer.duties(working, entity.id) else { return Ok(()) };
    let expected = view::next_due(&duties);
    // After a start that replayed the log all of it is looked at, one by one.
    if due != expected && !due.is_some_and(Sheet::is_placeholder) {
        stretch.undue.push((entity.id, expected));
    }
    if let Some(due) = due {
        let key = keys::due(due, &entity.id);
        if store.get(&key)?.is_none() {
            stretch.healed.note("due", MISSING, 1);
            let mut batch = Batch::new();
            batch.put(key, Bytes::new());
            store.write(batch)?;
        }
    }
    Ok(())
}

/// What an index says of an entity that is looked at for the second time: how it was found, if it is still off.
pub(super) fn still_undue(
    working: &Working,
    overseer: &Overseer,
    id: EntityId,
    expected: Option<u64>,
) -> Result<Option<&'static str>, StoreError> {
    let due = view::due_of(working.store(), &id)?;
    let now = overseer.duties(working, id).ok().map(|duties| view::next_due(&duties));
    if due == expected || now != Some(expected) {
        return Ok(None);
    }
    Ok(Some(match (due, expected) {
        (None, _) => MISSING,
        (_, None) => SUPERFLUOUS,
        _ => ALTERED,
    }))
}

/// From keys to their entities.
fn back(working: &Working, nth: usize, after: Option<Bytes>) -> Result<Stretch, StoreError> {
    let mut stretch = Stretch::default();
    let Some(prefix) = LEADING_BACK.get(nth).copied() else { return Ok(stretch) };
    let mut scan = Scan::prefix(vec![prefix], KEYS_MAX);
    if let Some(after) = after {
        scan = scan.after(after);
    }
    let (store, mut batch) = (working.store(), Batch::new());
    let found = store.scan(&scan)?;
    for (key, value) in &found {
        match judge(working, prefix, key, value)? {
            Verdict::Stands => {}
            Verdict::Moved => batch.delete(key.clone()),
            Verdict::Gone(kind) => {
                stretch.healed.note(kind, SUPERFLUOUS, 1);
                batch.delete(key.clone());
            }
            Verdict::Instead(kind, value) => {
                stretch.healed.note(kind, SUPERFLUOUS, 1);
                batch.put(key.clone(), value);
            }
        }
    }
    if !batch.is_empty() {
        store.write(batch)?;
    }
    stretch.read = found.len();
    stretch.next = match found.last() {
        Some((key, _)) if found.len() == KEYS_MAX => Some(Place::Back(nth, Some(key.clone()))),
        _ => (nth + 1 < LEADING_BACK.len()).then_some(Place::Back(nth + 1, None)),
    };
    Ok(stretch)
}

fn judge(working: &Working, prefix: u8, key: &Bytes, value: &Bytes) -> Result<Verdict, StoreError> {
    let store = working.store();
    match prefix {
        b'k' => placed(working, key, value),
        b'u' | b'r' => listed(working, key, |id| OrderId(id).into()),
        b'p' | b'b' => listed(working, key, |id| PaymentId(id).into()),
        b'n' => {
            let gone = Verdict::Gone("notice");
            let Some(user) = keys::user_of(key, keys::NOTICE_BYTES) else { return Ok(gone) };
            let place = &key[key.len() - keys::NOTICE_BYTES..];
            let Ok(id) = <[u8; 16]>::try_from(&place[keys::NOTICE_BYTES - 16..]) else { return Ok(gone) };
            let stands = store.get(&keys::place_of_notice(&user, &id))?.is_some_and(|it| it == place);
            Ok(if stands { Verdict::Stands } else { gone })
        }
        b'o' => {
            let gone = Verdict::Gone("notice");
            let Some(user) = keys::user_of(key, 16) else { return Ok(gone) };
            let stands = store.get(&keys::notice(&user, value))?.is_some();
            Ok(if stands { Verdict::Stands } else { gone })
        }
        b'd' => {
            let Some((due, id)) = keys::entity_of_due(key) else { return Ok(Verdict::Gone("due")) };
            let stands = view::due_of(store, &id)? == Some(due);
            Ok(if stands { Verdict::Stands } else { Verdict::Gone("due") })
        }
        b'x' => {
            let Some(id) = keys::entity_of_due_of(key) else { return Ok(Verdict::Gone("due")) };
            // Of an entity, what is wrong was found on the way there.
            let stands =
                view::due_of(store, &id)?.is_some() && entity(working, id)?.is_none_or(|it| it.is_some());
            Ok(if stands { Verdict::Stands } else { Verdict::Gone("due") })
        }
        b'c' | b'g' => {
            let id = match prefix {
                b'c' => keys::entry_of_conflict(key).map(|(_, id, _)| id),
                _ => keys::entity_of_due_of(key),
            };
            let Some(id) = id else { return Ok(Verdict::Gone("conflict")) };
            let stands = match entity(working, id)? {
                None => true,
                Some(entity) => entity
                    .is_some_and(|entity| conflict::index_of(&entity).iter().any(|(known, _)| known == key)),
            };
            Ok(if stands { Verdict::Stands } else { Verdict::Gone("conflict") })
        }
        _ => Ok(Verdict::Stands),
    }
}

/// An entity; `Some(None)`: there is none, and none was lost.
fn entity(working: &Working, id: EntityId) -> Result<Option<Option<Entity>>, StoreError> {
    match working.stored_entity(id) {
        Ok(Some(entity)) => Ok(Some(Some(entity))),
        Ok(None) if working.may_be_lost(id) => Ok(None),
        Ok(None) => Ok(Some(None)),
        Err(StoreError::Damaged(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn listed(
    working: &Working,
    key: &Bytes,
    to_id: impl Fn(PublicId) -> EntityId,
) -> Result<Verdict, StoreError> {
    let Some(id) = keys::id_of_user_entry(key) else { return Ok(Verdict::Gone("list")) };
    Ok(match entity(working, to_id(PublicId(id)))? {
        None => Verdict::Stands,
        Some(None) => Verdict::Gone("list"),
        Some(Some(entity)) => {
            let listed = Places::of(&entity).listed;
            // Everything but the time is the same.
            let head = |key: &[u8]| key[..key.len().saturating_sub(keys::STAMPED_BYTES)].to_vec();
            match () {
                () if listed.contains(key) => Verdict::Stands,
                () if listed.iter().any(|it| head(it) == head(key)) => Verdict::Moved,
                () => Verdict::Gone("list"),
            }
        }
    })
}

fn placed(working: &Working, key: &Bytes, value: &Bytes) -> Result<Verdict, StoreError> {
    let mut stand = Vec::with_capacity(value.len());
    for bytes in value.as_chunks::<16>().0 {
        let stands = match entity(working, OrderId(PublicId(*bytes)).into())? {
            None => true,
            Some(entity) => {
                entity.is_some_and(|it| Places::of(&it).placed.is_some_and(|(placed, _)| placed == *key))
            }
        };
        if stands {
            stand.extend_from_slice(bytes);
        }
    }
    Ok(match () {
        () if stand == *value => Verdict::Stands,
        () if stand.is_empty() => Verdict::Gone("command"),
        () => Verdict::Instead("command", Bytes::from(stand)),
    })
}
