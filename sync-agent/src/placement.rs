//! Which region a message is for: the placement file, and whatever higher epochs were seen since.

use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock};

use cell_core::id::{RegionId, Slot};
use cell_core::placement::{Epoch, Placement};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct PlacementFile {
    version: u32,
    regions: Vec<String>,
    slots: Vec<SlotRange>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct SlotRange {
    from: u16,
    to: u16,
    home: String,
}

/// Reads the initial placement: every slot has exactly one home, and every home is a member.
///
/// # Errors
/// One line that names the file and what is wrong in it.
pub(crate) fn load(path: &Path) -> Result<Placement, String> {
    let at = |what: String| format!("{}: {what}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| at(error.to_string()))?;
    let file: PlacementFile =
        toml::from_str(&text).map_err(|error| at(error.to_string().trim().replace('\n', "; ")))?;
    if file.version != 1 {
        return Err(at(format!("version {} is not known here", file.version)));
    }
    let region = |name: &str| name.parse::<RegionId>().map_err(|error| at(format!("'{name}': {error}")));
    let members = file.regions.iter().map(|name| region(name)).collect::<Result<Vec<_>, _>>()?;
    let mut homes: Vec<Option<RegionId>> = vec![None; Slot::all().count()];
    for SlotRange { from, to, home } in &file.slots {
        let home = region(home)?;
        if !members.contains(&home) {
            return Err(at(format!("'{home}' is home of slots and not among the regions")));
        }
        if from > to || usize::from(*to) >= homes.len() {
            return Err(at(format!("slots {from} to {to} are no range below {}", homes.len())));
        }
        for slot in &mut homes[usize::from(*from)..=usize::from(*to)] {
            if slot.replace(home).is_some() {
                return Err(at(format!("a slot from {from} to {to} has two homes")));
            }
        }
    }
    let homes: Option<Vec<RegionId>> = homes.into_iter().collect();
    let Some(homes) = homes else { return Err(at("some slots have no home".to_owned())) };
    Ok(Placement::initial(members, |slot| homes[usize::from(slot.number())]))
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
