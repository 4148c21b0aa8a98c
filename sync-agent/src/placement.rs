//! Which region a message is for: the placement file, and whatever higher epochs were seen since.

use std::sync::{Arc, PoisonError, RwLock};

use cell_core::id::{RegionId, Slot};
use cell_core::placement::{Epoch, Placement};

pub(crate) use cell_proto::placement_file::load;

/// The joined placement; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Homes(Arc<RwLock<Placement>>);

impl Homes {
    pub(crate) fn new(placement: Placement) -> Homes {
        Homes(Arc::new(RwLock::new(placement)))
    }

    pub(crate) fn of(&self, slot: Slot) -> RegionId {
        self.0.read().unwrap_or_else(PoisonError::into_inner).home(slot).node.region
    }

    pub(crate) fn learn(&self, slot: Slot, epoch: &Epoch) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).join(slot, epoch);
    }
}
