//! Which trace an entity was last touched under, so that messages and notices about it carry it on.
//!
//! A convenience for people who follow a request, bounded and lost with the process: nothing depends on it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use cell_core::id::EntityId;
use hashbrown::HashMap;

/// Entities remembered.
const KEPT_MAX: usize = 20_000;

/// W3C `traceparent`s by entity; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Traces(Arc<Mutex<Kept>>);

#[derive(Debug, Default)]
struct Kept {
    of: HashMap<EntityId, Arc<str>>,
    order: VecDeque<EntityId>,
}

impl Traces {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Only map operations run under the lock.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// These entities were touched under this trace; an empty one says nothing.
    pub(crate) fn note<'a>(&self, trace: &str, entities: impl Iterator<Item = &'a EntityId>) {
        if trace.is_empty() {
            return;
        }
        let trace: Arc<str> = trace.into();
        let mut kept = self.kept();
        for id in entities {
            if kept.of.insert(*id, trace.clone()).is_none() {
                kept.order.push_back(*id);
            }
        }
        while kept.order.len() > KEPT_MAX {
            if let Some(oldest) = kept.order.pop_front() {
                kept.of.remove(&oldest);
            }
        }
    }

    /// Empty if it is not known.
    pub(crate) fn of(&self, id: &EntityId) -> String {
        self.kept().of.get(id).map(|trace| trace.to_string()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entity(n: u32) -> EntityId {
        let mut bytes = [1; 17];
        bytes[1..5].copy_from_slice(&n.to_be_bytes());
        EntityId::from_bytes(&bytes)
    }

    #[test]
    fn the_latest_trace_is_known_and_the_oldest_entities_are_forgotten() {
        let traces = Traces::default();
        traces.note("t1", [entity(1), entity(2)].iter());
        traces.note("t2", [entity(2)].iter());
        traces.note("", [entity(1)].iter());
        assert_eq!((traces.of(&entity(1)), traces.of(&entity(2))), ("t1".to_owned(), "t2".to_owned()));
        for n in 3..=KEPT_MAX as u32 + 1 {
            traces.note("t", [entity(n)].iter());
        }
        assert_eq!((traces.of(&entity(1)), traces.of(&entity(2))), (String::new(), "t2".to_owned()));
    }
}
