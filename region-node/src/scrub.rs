//! Counts again what is in the view, and finds what is damaged or gone.
//!
//! A pass reads every entity, checks it against its digest, and sums up each slot, while the applier goes on: what it
//! writes behind the place read to is added to the sums, what it writes in front of it will be read. At the end the sums
//! must be those that were kept with every change. Where they are not, something was lost that no read would ever miss:
//! the slot's digest becomes what is really there, so that the comparison with the peers finds and heals it, and until
//! then what is not found in that slot is not denied.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cell_core::digest::Digest;
use cell_core::id::{EntityId, SLOT_COUNT, Slot};
use cell_store::{Batch, Scan, Store, StoreError};
use service_kit::Shutdown;

use crate::node::Node;
use crate::working::{self, Working};
use crate::{keys, stopped, view};

/// Keys read while the applier waits.
const CHUNK_MAX: usize = 512;

/// A slot whose entities are not those that were counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Off {
    pub(crate) slot: Slot,
    pub(crate) found: Digest,
    pub(crate) expected: Digest,
}

/// The pass under way; clones share it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scrub(Arc<Mutex<Pass>>);

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
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        let mut rest = &found[..];
        while let Some((first, _)) = rest.first() {
            let entity = keys::entity_of_part(first).map(|(id, _)| id);
            let same = |key: &Bytes| keys::entity_of_part(key).map(|(id, _)| id) == entity;
            let parts = rest.iter().take_while(|(key, _)| same(key)).count();
            if parts == rest.len() && !chunk.whole && parts < found.len() {
                // Its last parts are in the next chunk.
                break;
            }
            let (parts, behind) = rest.split_at(parts);
            let read = entity.map(|id| (id, working::entity_of_parts(id, parts)));
            match read {
                Some((id, Ok(entity))) => pass.add(id.slot(), entity.digest()),
                Some((id, Err(error))) => {
                    tracing::error!(%id, %error, "damaged in the view; put aside, and asked of the peers");
                    put_aside(working.store(), parts)?;
                    working.forget(&id);
                    chunk.damaged.push(id);
                }
                None => put_aside(working.store(), parts)?,
            }
            pass.upto = parts.last().map(|(key, _)| key.clone());
            rest = behind;
        }
        Ok(chunk)
    }

    fn end(&self, store: &Arc<dyn Store>) -> Result<Vec<Off>, StoreError> {
        let mut pass = self.pass();
        pass.running = false;
        let expected: BTreeMap<Slot, Digest> = view::digests(store)?.into_iter().collect();
        let sums = std::mem::take(&mut pass.sums);
        let off = Slot::all().zip(sums).filter_map(|(slot, found)| {
            let expected = expected.get(&slot).copied().unwrap_or_default();
            (found != expected).then_some(Off { slot, found, expected })
        });
        Ok(off.collect())
    }
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

/// For tests: what a bad disk would do, behind everybody's back. "forget" takes the entity out of the view, "flip" alters a
/// bit of it.
pub(crate) fn damage(working: &Working, id: EntityId, how: &str) -> Result<(), StoreError> {
    let (key, mut batch) = (keys::entity_part(&id, 0), Batch::new());
    let mut bytes =
        working.store().get(&key)?.ok_or_else(|| StoreError::Io(format!("{id} is not there")))?.to_vec();
    match how {
        "forget" => batch.delete(key),
        "flip" => {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            batch.put(key, bytes);
        }
        how => return Err(StoreError::Io(format!("'{how}' is no damage: forget, flip"))),
    }
    working.forget(&id);
    working.store().write(batch)
}

/// Passes over the view, one at once and then again and again; until the shutdown begins.
pub(crate) async fn keep(node: Node, scrub: Scrub, pace: Pace, dir: PathBuf, shutdown: Shutdown) {
    let mut first = true;
    loop {
        let per_s = if first { u32::MAX } else { pace.per_s };
        let passed = tokio::select! {
            () = shutdown.begun() => return,
            passed = pass(&node, &scrub, per_s) => passed,
        };
        match passed {
            Ok(()) if first => {
                node.working().set_verified();
                first = false;
            }
            Ok(()) => {}
            Err(StoreError::Damaged(error)) => {
                tracing::error!(
                    error,
                    "the view is damaged beyond its entities; the next start makes it anew"
                );
                stopped::condemn(&dir);
                return shutdown.fail(format!("the view is damaged: {error}"));
            }
            Err(error) => tracing::error!(%error, "the view cannot be read through"),
        }
        tokio::select! {
            () = shutdown.begun() => return,
            () = tokio::time::sleep(pace.every) => {}
        }
    }
}

/// How often, and how fast the passes behind the first one are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) every: Duration,
    /// Keys read in a second.
    pub(crate) per_s: u32,
}

async fn pass(node: &Node, scrub: &Scrub, per_s: u32) -> Result<(), StoreError> {
    let ended = |error: tokio::task::JoinError| StoreError::Io(error.to_string());
    scrub.begin();
    let mut damaged = BTreeSet::new();
    loop {
        let (scrub, working) = (scrub.clone(), node.working().clone());
        let chunk = tokio::task::spawn_blocking(move || scrub.chunk(&working)).await.map_err(ended)??;
        metrics::counter!("cell_scrubbed_keys_total").increment(chunk.read as u64);
        damaged.extend(chunk.damaged);
        if chunk.whole {
            break;
        }
        if per_s != u32::MAX {
            tokio::time::sleep(Duration::from_secs_f64(chunk.read as f64 / f64::from(per_s.max(1)))).await;
        }
    }
    let (of_pass, store) = (scrub.clone(), node.store().clone());
    let off = tokio::task::spawn_blocking(move || of_pass.end(&store)).await.map_err(ended)??;
    metrics::counter!("cell_scrubs_total").increment(1);
    metrics::counter!("cell_damaged_entities_total").increment(damaged.len() as u64);
    if off.is_empty() {
        return Ok(());
    }
    tracing::error!(slots = off.len(), damaged = damaged.len(), "the view lacks what was written to it");
    if let Err(error) = node.correct(off).await {
        tracing::error!(%error, "the digests could not be put right; the next pass tries again");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use cell_core::cell::{Ask, Cell, Command};
    use cell_core::id::{ActorId, NodeId, RegionId, UserId};
    use cell_core::placement::Placement;
    use cell_core::rules::Rules;
    use cell_store::{Engine, Position};

    use super::*;
    use crate::notice::tests::record;
    use crate::traces::Traces;
    use crate::writer::Group;

    struct Home {
        cell: Cell,
        working: Working,
        scrub: Scrub,
    }

    impl Home {
        fn new() -> Home {
            let north = RegionId::new("north").unwrap();
            let me = ActorId { node: NodeId { region: north, index: 0 }, start: 1, nonce: 1 };
            let cell = Cell::new(me, Placement::initial(vec![north], |_| north), Rules::default());
            let store = cell_store::open(Engine::Memory, std::path::Path::new("")).unwrap();
            Home { cell, working: Working::new(store), scrub: Scrub::default() }
        }

        /// Places an order and writes it to the view.
        fn place(&mut self, n: u64) -> EntityId {
            let user = UserId::new(&format!("user{n}")).unwrap();
            let record = Box::new(record(&user));
            let id = record.order_id().into();
            let ask = Ask::Place { record };
            let (key, body, trace) = ("o".to_owned(), Vec::new(), String::new());
            let command = Command { user, key, body, trace, ask };
            let (step, _) = self.cell.command(&self.working, &command, 1_000).unwrap();
            let mut group = Group::at(Position(n));
            group.take(&step);
            group.note_digests(self.cell.digests(), []);
            self.scrub.pass().grow(&group.grown);
            view::apply(&self.working, &Traces::default(), &group).unwrap();
            id
        }

        fn passed(&self) -> (Vec<EntityId>, Vec<Off>) {
            self.scrub.begin();
            let mut damaged = Vec::new();
            loop {
                let chunk = self.scrub.chunk(&self.working).unwrap();
                damaged.extend(chunk.damaged);
                if chunk.whole {
                    return (damaged, self.scrub.end(self.working.store()).unwrap());
                }
            }
        }
    }

    #[test]
    fn a_sound_view_is_found_sound_while_it_is_written() {
        let mut home = Home::new();
        (0..1_500).for_each(|n| _ = home.place(n));
        home.scrub.begin();
        let mut n = 1_500;
        while !home.scrub.chunk(&home.working).unwrap().whole {
            // Some come in front of the place read to, some behind it.
            (n..n + 40).for_each(|n| _ = home.place(n));
            n += 40;
        }
        assert_eq!(home.scrub.end(home.working.store()).unwrap(), []);
    }

    #[test]
    fn what_is_gone_and_what_is_not_what_was_written_is_found() {
        let mut home = Home::new();
        let ids: Vec<EntityId> = (0..600).map(|n| home.place(n)).collect();
        let store = home.working.store().clone();
        let mut batch = Batch::new();
        batch.delete(keys::entity_part(&ids[7], 0));
        let altered = keys::entity_part(&ids[300], 0);
        let mut bytes = store.get(&altered).unwrap().unwrap().to_vec();
        let last = bytes.len() - 9;
        bytes[last] ^= 1;
        batch.put(altered, bytes);
        store.write(batch).unwrap();
        let (damaged, off) = home.passed();
        assert_eq!(damaged, [ids[300]]);
        let slots: BTreeSet<Slot> = off.iter().map(|off| off.slot).collect();
        assert_eq!(slots, BTreeSet::from([ids[7].slot(), ids[300].slot()]));
        for Off { slot, found, expected } in off {
            home.cell.correct_digest(slot, found, expected);
            assert_eq!(home.cell.digests().of(slot), found);
        }
        assert!(store.get(&keys::entity_part(&ids[300], 0)).unwrap().is_none(), "put aside");
    }
}
