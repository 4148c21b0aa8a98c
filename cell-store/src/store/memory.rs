//! A store in memory: for tests, for simulation, and for a node that rebuilds its view from the log at each start.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

use super::{Batch, Scan, Store, StoreError};

/// Clones are handles to the same map.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    maps: Arc<RwLock<Maps>>,
}

#[derive(Debug, Default)]
struct Maps {
    written: BTreeMap<Bytes, Bytes>,
    synced: BTreeMap<Bytes, Bytes>,
    keep_synced: bool,
}

impl MemoryStore {
    #[must_use]
    pub fn new() -> MemoryStore {
        MemoryStore::default()
    }

    /// One that remembers what was synced, for [`MemoryStore::lose_unsynced`].
    #[must_use]
    pub fn with_power_cuts() -> MemoryStore {
        let maps = Maps { keep_synced: true, ..Maps::default() };
        MemoryStore { maps: Arc::new(RwLock::new(maps)) }
    }

    /// What a power cut leaves.
    pub fn lose_unsynced(&self) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        if maps.keep_synced {
            maps.written = maps.synced.clone();
        }
    }
}

impl Store for MemoryStore {
    fn write(&self, batch: Batch) -> Result<(), StoreError> {
        batch.check()?;
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in batch.entries {
            match value {
                Some(value) => drop(maps.written.insert(key, value)),
                None => drop(maps.written.remove(&key)),
            }
        }
        Ok(())
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.maps.read().unwrap_or_else(PoisonError::into_inner).written.get(key).cloned())
    }

    fn scan(&self, scan: &Scan) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        if scan.is_empty() {
            return Ok(Vec::new());
        }
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        let range = maps.written.range((scan.start.clone(), scan.end.clone()));
        let pair = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
        Ok(if scan.reverse {
            range.rev().take(scan.limit).map(pair).collect()
        } else {
            range.take(scan.limit).map(pair).collect()
        })
    }

    fn sync(&self) -> Result<(), StoreError> {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        if maps.keep_synced {
            maps.synced = maps.written.clone();
        }
        Ok(())
    }
}
