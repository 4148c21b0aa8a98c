//! Which region a message is for: the placement file, and whatever higher epochs were seen since.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use cell_core::id::{RegionId, Slot};
use cell_core::placement::{Epoch, Placement, PlacementFile};

/// Reads the initial placement.
///
/// # Errors
/// One line that names the file and what is wrong in it.
pub(crate) fn load(path: &Path) -> Result<Placement, String> {
    let at = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| at(&error))?;
    Ok(PlacementFile::parse(&text).map_err(|error| at(&error))?.initial())
}

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
