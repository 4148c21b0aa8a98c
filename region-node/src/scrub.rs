//! Counts again what is in the view, and finds what is damaged or gone.
//!
//! A pass reads every entity, checks it against its digest, and sums up each slot, while the applier goes on: what it
//! writes behind the place read to is added to the sums, what it writes in front of it will be read. At the end the sums
//! must be those that were kept with every change. Where they are not, something was lost that no read would ever miss:
//! the slot's digest becomes what is really there, so that the comparison with the peers finds and heals it, and until
//! then what is not found in that slot is not denied.
//!
//! The rest of the view follows from the entities ([`indexes`]), or is the node's own state (see `own`): both are looked at
//! behind them, and put right; and the log is read ([`log`]). A reader who misses what was there has the entities read at
//! once, an operator all of it.

mod indexes;
mod log;
mod rounds;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cell_core::digest::Digest;
use cell_core::id::{EntityId, SLOT_COUNT, Slot};
use cell_store::{Batch, Scan, Store, StoreError};
use service_kit::Shutdown;

pub(crate) use indexes::{FOUND, KINDS};
use indexes::{Healed, Place};
pub(crate) use rounds::Found;
use rounds::Rounds;

use crate::node::Node;
use crate::view::Places;
use crate::working::{self, Working};
use crate::writer::NodeError;
use crate::{keys, notice, stopped, view};

/// Keys read while the applier waits.
const CHUNK_MAX: usize = 512;
/// What seemed not to be due when it should is looked at again after this: the view is behind the log.
const UNDUE_PAUSE: Duration = Duration::from_secs(1);
/// Whoever wants a reading at once waits so long at most for a node that does not decide yet.
const DECIDES_SOON: Duration = Duration::from_secs(2);
/// A view that the disk does not give back is read again after this, and lost after so many tries.
const UNREADABLE_PAUSE: Duration = Duration::from_secs(10);
const UNREADABLE_MAX: u32 = 3;

/// A slot whose entities are not those that were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Off {
    pub(crate) slot: Slot,
    pub(crate) found: Digest,
    pub(crate) expected: Digest,
}

/// The pass under way, and those that ended; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scrub {
    pass: Arc<Mutex<Pass>>,
    rounds: Rounds,
}

#[derive(Debug, Default)]
pub(crate) struct Pass {
    running: bool,
    /// Everything up to this key is in the sums.
    upto: Option<Bytes>,
    sums: Vec<Digest>,
}

/// What one chunk of a pass came to.
#[derive(Debug, Default)]
struct Chunk {
    read: usize,
    damaged: Vec<EntityId>,
    whole: bool,
}

impl Pass {
    /// Entities grow by this much in a batch that is about to be written.
    pub(crate) fn grow(&mut self, grown: &BTreeMap<EntityId, Digest>) {
        if !self.running {
            return;
        }
        for (id, digest) in grown {
            let read = self.upto.as_ref().is_some_and(|upto| keys::entity_part(id, 0) <= *upto);
            if read {
                self.add(id.slot(), *digest);
            }
        }
    }

    fn add(&mut self, slot: Slot, digest: Digest) {
        let sum = &mut self.sums[usize::from(slot.number())];
        *sum = sum.plus(digest);
    }
}

impl Scrub {
    /// Held while a batch is written: no chunk is read meanwhile.
    pub(crate) fn pass(&self) -> MutexGuard<'_, Pass> {
        // A sum that is off is found off again by the next pass.
        self.pass.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads everything now, as fast as it goes; what it found. `None`: the node is ending.
    pub(crate) async fn now(&self) -> Option<Result<Found, String>> {
        self.rounds.next().await
    }

    fn begin(&self) {
        let sums = vec![Digest::default(); usize::from(SLOT_COUNT)];
        *self.pass() = Pass { running: true, upto: None, sums };
    }

    /// Reads on. What is damaged is put aside: it is lost, and known to be.
    fn chunk(&self, working: &Working) -> Result<Chunk, StoreError> {
        let mut pass = self.pass();
        let mut scan = Scan::prefix(keys::ENTITIES, CHUNK_MAX);
        if let Some(upto) = &pass.upto {
            scan = scan.after(upto.clone());
        }
        let found = working.store().scan(&scan)?;
        let mut chunk = Chunk { read: found.len(), damaged: Vec::new(), whole: found.len() < CHUNK_MAX };
        for (entity, parts) in entities_in(&found, chunk.whole) {
            let read = entity.map(|id| (id, working::entity_of_parts(id, parts)));
            match read {
                Some((id, Ok(entity))) => {
                    working.is_there(&entity);
                    pass.add(id.slot(), entity.digest());
                }
                Some((id, Err(error))) => {
                    // It was there, however little of it can be read: until it is back, nobody is told that it never was.
                    working.id_is_there(&id);
                    tracing::error!(%id, %error, "damaged in the view; put aside, and asked of the peers");
                    put_aside(working.store(), parts)?;
                    working.forget(&id);
                    chunk.damaged.push(id);
                }
                None => put_aside(working.store(), parts)?,
            }
            pass.upto = parts.last().map(|(key, _)| key.clone());
        }
        if chunk.whole {
            // What comes from now on comes behind the place read to, whatever its key.
            pass.upto = Some(Bytes::from_static(keys::BEHIND_ENTITIES));
        }
        Ok(chunk)
    }

    /// What is off, by slots and in the node's own state, which is put right.
    fn end(&self, working: &Working) -> Result<(Vec<Off>, Healed), StoreError> {
        let (mut pass, store) = (self.pass(), working.store());
        pass.running = false;
        // What is written beside batches holds the state's lock alone.
        let own = working.own().heal(store.as_ref())?;
        let mut healed = Healed::default();
        for (found, count) in FOUND.into_iter().zip([own.missing, own.altered, own.superfluous]) {
            healed.note("state", found, count);
        }
        let expected: BTreeMap<Slot, Digest> = view::digests(store)?.into_iter().collect();
        let sums = std::mem::take(&mut pass.sums);
        let off = Slot::all().zip(sums).filter_map(|(slot, found)| {
            let expected = expected.get(&slot).copied().unwrap_or_default();
            (found != expected).then_some(Off { slot, found, expected })
        });
        Ok((off.collect(), healed))
    }
}

/// An entity's keys and values, and whose they are if that can be read.
type Parts<'a> = (Option<EntityId>, &'a [(Bytes, Bytes)]);

/// The parts of each entity in a stretch of keys; without the last one where more of it may follow.
fn entities_in(found: &[(Bytes, Bytes)], whole: bool) -> Vec<Parts<'_>> {
    let (mut entities, mut rest) = (Vec::new(), found);
    while let Some((first, _)) = rest.first() {
        let entity = keys::entity_of_part(first).map(|(id, _)| id);
        let same = |key: &Bytes| keys::entity_of_part(key).map(|(id, _)| id) == entity;
        let parts = rest.iter().take_while(|(key, _)| same(key)).count();
        if parts == rest.len() && !whole && parts < found.len() {
            break;
        }
        let (parts, behind) = rest.split_at(parts);
        entities.push((entity, parts));
        rest = behind;
    }
    entities
}

/// Keeps the bytes under another key, for whoever wants to look at them.
fn put_aside(store: &Arc<dyn Store>, parts: &[(Bytes, Bytes)]) -> Result<(), StoreError> {
    let mut batch = Batch::new();
    for (key, value) in parts {
        batch.delete(key.clone());
        batch.put([keys::ASIDE, &key[1..]].concat(), value.clone());
    }
    store.write(batch)
}

/// For tests: what a bad disk would do, behind everybody's back, to the keys of an entity of one kind ("entity", "list",
/// "command", "notice", "due"), or to the node's own state ("frontier"). "forget" takes them out of the view, "flip" alters
/// a bit of them, "remember" does nothing but let "stale" put back what they are now.
pub(crate) fn damage(working: &Working, id: EntityId, part: &str, how: &str) -> Result<(), StoreError> {
    let refused = |what: String| StoreError::Io(what);
    let store = working.store();
    let entity = working.stored_entity(id)?.ok_or_else(|| refused(format!("{id} is not there")))?;
    let keys: Vec<Bytes> = match part {
        "" | "entity" => vec![keys::entity_part(&id, 0)],
        "list" => Places::of(&entity).listed,
        "command" => Places::of(&entity).placed.into_iter().map(|(key, _)| key).collect(),
        "notice" => {
            let places = notice::notices(&entity).into_iter();
            places.map(|told| keys::place_of_notice(&told.user, &told.id)).collect()
        }
        "due" => {
            let due = view::due_of(store, &id)?;
            due.into_iter().flat_map(|due| [keys::due_of(&id), keys::due(due, &id)]).collect()
        }
        "frontier" => {
            let found = store.scan(&Scan::prefix(keys::FRONTIER, usize::MAX))?;
            found.into_iter().map(|(key, _)| key).collect()
        }
        part => return Err(refused(format!("'{part}' is no part of an entity"))),
    };
    if keys.is_empty() {
        return Err(refused(format!("{id} has no {part}")));
    }
    let mut batch = Batch::new();
    for key in keys {
        let value = store.get(&key)?;
        let aside = [keys::ASIDE, &key].concat();
        match (how, value) {
            ("forget", _) => batch.delete(key),
            ("stale", _) => match store.get(&aside)? {
                Some(old) => batch.put(key, old),
                None => batch.delete(key),
            },
            ("remember", Some(value)) => batch.put(aside, value),
            ("flip", Some(value)) if !value.is_empty() => {
                let (mut value, middle) = (value.to_vec(), value.len() / 2);
                value[middle] ^= 1;
                batch.put(key, value);
            }
            ("flip", Some(_)) => {
                let (mut other, last) = (key.to_vec(), key.len() - 1);
                other[last] ^= 1;
                batch.delete(key);
                batch.put(other, Bytes::new());
            }
            ("remember" | "flip", None) => {}
            (how, _) => return Err(refused(format!("'{how}' is no damage: forget, flip, remember, stale"))),
        }
    }
    working.forget(&id);
    store.write(batch)
}

/// For tests: the sum of a slot becomes another one, though nothing is damaged.
pub(crate) async fn miscount(node: &Node, slot: Slot) -> Result<(), NodeError> {
    let (found, expected) = (Digest::from_bytes([1; 32]), Digest::default());
    node.correct(vec![Off { slot, found, expected }]).await
}

/// Passes over the view, one at once and then again and again, or when something is missed; until the shutdown begins.
pub(crate) async fn keep(node: Node, scrub: Scrub, pace: Pace, dir: PathBuf, shutdown: Shutdown) {
    let (mut haste, mut unreadable, mut named) = (Haste::Entities, 0, log::Named::default());
    loop {
        let at_once = Pace { per_s: u32::MAX, ..pace };
        let of_entities = if haste >= Haste::Entities { at_once } else { pace };
        let of_rest = if haste == Haste::All { at_once } else { pace };
        let mut found = Found::default();
        scrub.rounds.begin();
        let passed = tokio::select! {
            () = shutdown.begun() => return,
            () = scrub.rounds.wanted(), if haste < Haste::All => {
                haste = Haste::All;
                continue;
            }
            passed = pass(&node, &scrub, of_entities.per_s, &mut found) => passed,
        };
        let passed = match passed {
            Ok(()) => {
                node.working().set_verified();
                let rest = async {
                    pass_indexes(&node, &scrub, of_rest, &mut found).await?;
                    log::pass(&node, &mut named, of_rest.per_s, &mut found).await;
                    Ok(())
                };
                tokio::select! {
                    () = shutdown.begun() => return,
                    () = scrub.rounds.wanted(), if haste < Haste::All => {
                        haste = Haste::All;
                        continue;
                    }
                    // Whoever waits for what was missed waits for the entities alone.
                    () = node.working().missed() => {
                        haste = haste.max(Haste::Entities);
                        continue;
                    }
                    passed = rest => passed,
                }
            }
            damaged => damaged,
        };
        scrub.rounds.end(match &passed {
            Ok(()) => Ok(found),
            Err(error) => Err(error.to_string()),
        });
        let again = match passed {
            Ok(()) => {
                unreadable = 0;
                pace.every
            }
            Err(error) => {
                unreadable += 1;
                // A disk that cannot read once may the next time; one that never can has lost what is there.
                let lost = unreadable >= UNREADABLE_MAX && !node.is_low_on_disk();
                if lost || matches!(error, StoreError::Damaged(_)) {
                    tracing::error!(
                        %error,
                        "the view is damaged beyond its entities; the next start makes it anew"
                    );
                    stopped::condemn(&dir);
                    return shutdown.fail(format!("the view is damaged: {error}"));
                }
                tracing::error!(%error, "the view cannot be read through; tried again");
                UNREADABLE_PAUSE.min(pace.every)
            }
        };
        haste = tokio::select! {
            () = shutdown.begun() => return,
            () = scrub.rounds.wanted() => Haste::All,
            () = node.working().missed() => Haste::Entities,
            () = tokio::time::sleep(again) => if unreadable > 0 { Haste::Entities } else { Haste::None },
        };
    }
}

/// What of a reading somebody waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Haste {
    None,
    Entities,
    All,
}

/// How often, and how fast the passes behind the first one are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) every: Duration,
    /// Keys read in a second.
    pub(crate) per_s: u32,
}

async fn pass(node: &Node, scrub: &Scrub, per_s: u32, found: &mut Found) -> Result<(), StoreError> {
    let ended = |error: tokio::task::JoinError| StoreError::Io(error.to_string());
    scrub.begin();
    let mut damaged = BTreeSet::new();
    loop {
        let (scrub, working) = (scrub.clone(), node.working().clone());
        let chunk = tokio::task::spawn_blocking(move || scrub.chunk(&working)).await.map_err(ended)??;
        metrics::counter!("cell_scrubbed_keys_total").increment(chunk.read as u64);
        found.keys += chunk.read as u64;
        damaged.extend(chunk.damaged);
        if chunk.whole {
            break;
        }
        if per_s != u32::MAX {
            tokio::time::sleep(Duration::from_secs_f64(chunk.read as f64 / f64::from(per_s.max(1)))).await;
        }
    }
    let (of_pass, working) = (scrub.clone(), node.working().clone());
    let ended_with = tokio::task::spawn_blocking(move || of_pass.end(&working)).await.map_err(ended)?;
    let (off, healed) = ended_with?;
    healed.count();
    (found.damaged, found.slots) = (damaged.len() as u64, off.len() as u64);
    found.healed.add(healed);
    metrics::counter!("cell_scrubs_total").increment(1);
    metrics::counter!("cell_damaged_entities_total").increment(damaged.len() as u64);
    if off.is_empty() {
        return Ok(());
    }
    tracing::error!(slots = off.len(), damaged = damaged.len(), "the view lacks what was written to it");
    if node.members().len() == 1 {
        return Err(StoreError::Damaged("it lacks what was written to it, and there is no peer".to_owned()));
    }
    // Kept before the digests say what is there: a node that starts then knows that this is not all there should be.
    node.working().doubt_slots(off.iter().map(|off| off.slot));
    keep_doubts(node).await?;
    if let Err(error) = node.correct(off).await {
        tracing::error!(%error, "the digests could not be put right; the next pass tries again");
    }
    keep_doubts(node).await
}

/// Keeps over a restart what is in doubt now.
pub(crate) async fn keep_doubts(node: &Node) -> Result<(), StoreError> {
    let working = node.working().clone();
    let kept = tokio::task::spawn_blocking(move || view::put_doubts(&working)).await;
    kept.unwrap_or_else(|error| Err(StoreError::Io(error.to_string())))
}

/// Looks at everything that follows from entities.
async fn pass_indexes(node: &Node, scrub: &Scrub, pace: Pace, found: &mut Found) -> Result<(), StoreError> {
    let ended = |error: tokio::task::JoinError| StoreError::Io(error.to_string());
    tokio::select! {
        () = node.decides() => {}
        // It knows nothing of what is due before it decides.
        () = tokio::time::sleep(if pace.per_s == u32::MAX { DECIDES_SOON } else { pace.every }) => {}
    }
    let overseer = if node.is_recovering() { None } else { node.overseer().await.ok().map(Arc::new) };
    let (mut place, mut undue, mut healed) = (Some(Place::BEGIN), Vec::new(), Healed::default());
    while let Some(at) = place {
        let (scrub, working, of_stretch) = (scrub.clone(), node.working().clone(), overseer.clone());
        let stretch = move || scrub.stretch(&working, at, of_stretch.as_deref());
        let stretch = tokio::task::spawn_blocking(stretch).await.map_err(ended)??;
        metrics::counter!("cell_scrubbed_keys_total").increment(stretch.read as u64);
        found.keys += stretch.read as u64;
        undue.extend(stretch.undue);
        healed.add(stretch.healed);
        place = stretch.next;
        if pace.per_s != u32::MAX {
            let pause = stretch.read as f64 / f64::from(pace.per_s.max(1));
            tokio::time::sleep(Duration::from_secs_f64(pause)).await;
        }
    }
    if !undue.is_empty() {
        // What is due now, and is put down for now, may be under way; and the view is behind the log.
        let durable = node.durable_position();
        tokio::time::sleep(UNDUE_PAUSE).await;
        while view::position(node.store())?.is_some_and(|position| position.0 < durable) {
            tokio::time::sleep(UNDUE_PAUSE).await;
        }
    }
    let overseer = if undue.is_empty() { None } else { node.overseer().await.ok().map(Arc::new) };
    for (id, expected) in undue {
        let Some(overseer) = overseer.clone() else { break };
        let working = node.working().clone();
        let look = move || indexes::still_undue(&working, &overseer, id, expected);
        if let Some(how) = tokio::task::spawn_blocking(look).await.map_err(ended)?? {
            healed.note("due", how, 1);
            if let Err(error) = node.wake(id).await {
                tracing::warn!(%error, %id, "could not be looked at; the next pass tries again");
            }
        }
    }
    healed.count();
    found.healed.add(healed);
    Ok(())
}

#[cfg(test)]
mod tests;
