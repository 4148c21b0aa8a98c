//! The node's own state in the view: frontier, epochs, lives, digests, quarantined changes, position, under `m`.
//!
//! None of it can be recomputed from the entities, and a frontier that went back or forth unnoticed would lose changes. So
//! it is kept in memory as it was written, and a sum over all of it is written with every batch: a key that is altered,
//! gone, or one of an earlier moment does not fit the sum at the next start, and is put right from memory before.

use std::collections::BTreeMap;

use bytes::Bytes;
use cell_core::id::Hash;
use cell_store::{Batch, Scan, Store, StoreError};

use crate::keys;

/// As it was written last; whoever writes holds it until the batch is in the store.
#[derive(Debug, Default)]
pub(crate) struct Own {
    kept: BTreeMap<Bytes, (Bytes, Sum)>,
    sum: Sum,
}

/// A sum of hashes, lane by lane: parts can be added and taken out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Sum([u64; 4]);

impl Sum {
    fn of(key: &[u8], value: &[u8]) -> Sum {
        let hash = Hash::of_parts(&[b"own", key, value]).0;
        Sum(std::array::from_fn(|lane| u64::from_le_bytes(std::array::from_fn(|i| hash[lane * 8 + i]))))
    }

    fn plus(self, other: Sum) -> Sum {
        Sum(std::array::from_fn(|lane| self.0[lane].wrapping_add(other.0[lane])))
    }

    fn minus(self, other: Sum) -> Sum {
        Sum(std::array::from_fn(|lane| self.0[lane].wrapping_sub(other.0[lane])))
    }

    fn to_bytes(self) -> Bytes {
        self.0.iter().flat_map(|lane| lane.to_le_bytes()).collect()
    }
}

/// What was not as it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Differing {
    pub(crate) missing: u64,
    pub(crate) altered: u64,
    pub(crate) superfluous: u64,
}

impl Own {
    /// What a store holds.
    ///
    /// # Errors
    /// [`StoreError::Damaged`] if it is not what was written.
    pub(crate) fn load(store: &dyn Store) -> Result<Own, StoreError> {
        let damaged = |what: &str| StoreError::Damaged(format!("the node's own state {what}"));
        let found = store.scan(&Scan::prefix(keys::OWN, usize::MAX))?;
        let mut own = Own::default();
        let mut written = None;
        for (key, value) in found {
            if key == keys::SUM {
                written = Some(value);
            } else {
                own.remember(key, value);
            }
        }
        match written {
            Some(written) if written == own.sum.to_bytes() => Ok(own),
            Some(_) => Err(damaged("is not what was written")),
            None if own.kept.is_empty() && store.scan(&Scan::prefix("", 1))?.is_empty() => Ok(own),
            // The start refuses it by its format.
            None if own
                .get(keys::FORMAT)
                .is_some_and(|format| keys::FORMATS_WITHOUT_SUM.contains(&format)) =>
            {
                Ok(own)
            }
            None => Err(damaged("is gone")),
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.kept.get(key).map(|(value, _)| &value[..])
    }

    fn remember(&mut self, key: Bytes, value: Bytes) {
        let term = Sum::of(&key, &value);
        let before = self.kept.insert(key, (value, term));
        self.sum = self.sum.minus(before.map_or(Sum::default(), |(_, term)| term)).plus(term);
    }

    /// Puts one key, if it changes.
    pub(crate) fn put(&mut self, batch: &mut Batch, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        let (key, value) = (key.into(), value.into());
        if self.get(&key) == Some(&value[..]) {
            return;
        }
        batch.put(key.clone(), value.clone());
        self.remember(key, value);
    }

    /// Takes one key out.
    pub(crate) fn remove(&mut self, batch: &mut Batch, key: Bytes) {
        if let Some((_, term)) = self.kept.remove(&key) {
            self.sum = self.sum.minus(term);
            batch.delete(key);
        }
    }

    /// The sum as of this batch; behind everything that was put.
    pub(crate) fn seal(&self, batch: &mut Batch) {
        batch.put(keys::SUM, self.sum.to_bytes());
    }

    /// Writes again what is not as it was written.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn heal(&self, store: &dyn Store) -> Result<Differing, StoreError> {
        let found: BTreeMap<Bytes, Bytes> =
            store.scan(&Scan::prefix(keys::OWN, usize::MAX))?.into_iter().collect();
        if self.kept.is_empty() && found.is_empty() {
            return Ok(Differing::default());
        }
        let (mut batch, mut differing) = (Batch::new(), Differing::default());
        let sum = self.sum.to_bytes();
        let expected = self.kept.iter().map(|(key, (value, _))| (&key[..], value));
        for (key, value) in expected.chain([(keys::SUM, &sum)]) {
            match found.get(key) {
                Some(found) if found == value => continue,
                Some(_) => differing.altered += 1,
                None => differing.missing += 1,
            }
            batch.put(Bytes::copy_from_slice(key), value.clone());
        }
        for key in found.keys().filter(|key| *key != keys::SUM && !self.kept.contains_key(*key)) {
            differing.superfluous += 1;
            batch.delete(key.clone());
        }
        if !batch.is_empty() {
            store.write(batch)?;
        }
        Ok(differing)
    }
}

#[cfg(test)]
mod tests {
    use cell_store::MemoryStore;

    use super::*;

    fn written() -> (MemoryStore, Own) {
        let store = MemoryStore::new();
        let mut own = Own::default();
        for n in 0..3u8 {
            let mut batch = Batch::new();
            own.put(&mut batch, keys::POSITION, vec![n]);
            own.put(&mut batch, [keys::FRONTIER, b"north-0.1"].concat(), vec![n, n]);
            own.seal(&mut batch);
            store.write(batch).unwrap();
        }
        (store, own)
    }

    fn write(store: &MemoryStore, key: &[u8], value: Option<&[u8]>) {
        let mut batch = Batch::new();
        match value {
            Some(value) => batch.put(key.to_vec(), value.to_vec()),
            None => batch.delete(key.to_vec()),
        }
        store.write(batch).unwrap();
    }

    #[test]
    fn what_is_altered_gone_or_of_an_earlier_moment_is_damage_at_the_next_start() {
        let frontier = [keys::FRONTIER, b"north-0.1"].concat();
        let (store, _) = written();
        Own::load(&store).unwrap();
        for (key, value) in [
            (&frontier[..], None),
            (&frontier, Some(&[1, 1][..])),
            (keys::POSITION, Some(&[9])),
            (keys::SUM, None),
            (b"mfrontier/east-0.1", Some(&[1])),
        ] {
            let (store, own) = written();
            write(&store, key, value);
            assert!(matches!(Own::load(&store), Err(StoreError::Damaged(_))), "{key:?} {value:?}");
            let Differing { missing, altered, superfluous } = own.heal(&store).unwrap();
            assert_eq!(missing + altered + superfluous, 1);
            assert_eq!(own.heal(&store).unwrap(), Differing::default());
            Own::load(&store).unwrap();
        }
    }

    #[test]
    fn entities_without_any_state_of_the_node_are_no_new_view() {
        let store = MemoryStore::new();
        Own::load(&store).unwrap();
        write(&store, b"e1", Some(b"x"));
        assert!(matches!(Own::load(&store), Err(StoreError::Damaged(_))));
    }
}
