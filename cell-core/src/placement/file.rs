//! The placement file: which region is home of which slots when the cluster starts.
//!
//! ```toml
//! version = 1
//! regions = ["north", "east"]
//! [[slots]]
//! from = 0
//! to = 511
//! home = "north"
//! [[slots]]
//! from = 512
//! to = 1023
//! home = "east"
//! ```
//!
//! Slots have homes, users have not: a user is moved by moving the slot.

use serde::Deserialize;

use super::Placement;
use crate::id::{IdError, RegionId, SLOT_COUNT, Slot};

/// The only version there is so far.
const VERSION: u32 = 1;

/// The home of each of the 1024 slots. Complete by construction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacementFile {
    version: u32,
    regions: Vec<RegionId>,
    home: Vec<RegionId>,
}

/// Why a file is no placement. The file's author is at fault; nothing was taken over from it.
#[derive(Debug, thiserror::Error)]
pub enum PlacementError {
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{0}")]
    Malformed(String),
    #[error("version {0} is not known here, only {VERSION}")]
    Version(u32),
    #[error("{name:?}: {source}")]
    Region { name: String, source: IdError },
    #[error("region {0} is listed twice")]
    RegionTwice(RegionId),
    #[error("slots {from}..={to}: {home:?} is not one of the regions")]
    UnknownHome { from: u16, to: u16, home: String },
    #[error("slots {from}..={to}: 'from' is above 'to', or 'to' is above {}", SLOT_COUNT - 1)]
    Range { from: u16, to: u16 },
    #[error("slots {from}..={to} have no home")]
    Gap { from: u16, to: u16 },
    #[error("slots {from}..={to} have two homes, {first} and {second}")]
    Overlap { from: u16, to: u16, first: RegionId, second: RegionId },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    regions: Vec<String>,
    #[serde(default)]
    slots: Vec<Range>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Range {
    from: u16,
    to: u16,
    home: String,
}

impl PlacementFile {
    /// Reads the text of a placement file.
    ///
    /// # Errors
    /// See [`PlacementError`].
    pub fn parse(text: &str) -> Result<Self, PlacementError> {
        let file: File = toml::from_str(text)
            .map_err(|error| PlacementError::Malformed(error.to_string().trim().replace('\n', "; ")))?;
        if file.version != VERSION {
            return Err(PlacementError::Version(file.version));
        }
        let regions = read_regions(file.regions)?;
        let home = read_homes(file.slots, &regions)?;
        Ok(Self { version: file.version, regions, home })
    }

    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The member regions, in the file's order. One without slots is a member too.
    #[must_use]
    pub fn regions(&self) -> &[RegionId] {
        &self.regions
    }

    /// The placement of a new cluster that this file describes.
    #[must_use]
    pub fn initial(&self) -> Placement {
        Placement::initial(self.regions.clone(), |slot| self.home(slot))
    }

    #[must_use]
    pub fn home(&self, slot: Slot) -> RegionId {
        self.home[usize::from(slot.number())]
    }
}

fn read_regions(names: Vec<String>) -> Result<Vec<RegionId>, PlacementError> {
    let mut regions = Vec::with_capacity(names.len());
    for name in names {
        let region = RegionId::new(&name).map_err(|source| PlacementError::Region { name, source })?;
        if regions.contains(&region) {
            return Err(PlacementError::RegionTwice(region));
        }
        regions.push(region);
    }
    Ok(regions)
}

/// Sorted by their start, ranges that cover everything once follow each other without a step.
fn read_homes(ranges: Vec<Range>, regions: &[RegionId]) -> Result<Vec<RegionId>, PlacementError> {
    let mut known = Vec::with_capacity(ranges.len());
    for Range { from, to, home } in ranges {
        if from > to || to >= SLOT_COUNT {
            return Err(PlacementError::Range { from, to });
        }
        match regions.iter().find(|region| region.as_str() == home) {
            Some(region) => known.push((from, to, *region)),
            None => return Err(PlacementError::UnknownHome { from, to, home }),
        }
    }
    known.sort_unstable();

    let mut homes: Vec<RegionId> = Vec::with_capacity(usize::from(SLOT_COUNT));
    let mut next = 0;
    for (from, to, region) in known {
        if from > next {
            return Err(PlacementError::Gap { from: next, to: from - 1 });
        }
        if from < next {
            return Err(PlacementError::Overlap {
                from,
                to: to.min(next - 1),
                first: homes[usize::from(from)],
                second: region,
            });
        }
        next = to + 1;
        homes.resize(usize::from(next), region);
    }
    if next < SLOT_COUNT {
        return Err(PlacementError::Gap { from: next, to: SLOT_COUNT - 1 });
    }
    Ok(homes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(ranges: &[(i64, i64, &str)]) -> String {
        let head = "version = 1\nregions = [\"north\", \"east\"]\n".to_owned();
        ranges.iter().fold(head, |text, (from, to, home)| {
            format!("{text}[[slots]]\nfrom = {from}\nto = {to}\nhome = \"{home}\"\n")
        })
    }

    fn refusal(text: &str) -> String {
        PlacementFile::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn ranges_in_any_order_give_every_slot_its_home() {
        let placement = PlacementFile::parse(&file(&[(600, 1023, "east"), (0, 599, "north")])).unwrap();
        let home = |n| placement.home(Slot::new(n).unwrap()).to_string();
        assert_eq!([home(0), home(599), home(600), home(1023)], ["north", "north", "east", "east"]);
        assert_eq!((placement.version(), placement.regions().len()), (1, 2));
    }

    #[test]
    fn a_gap_is_named() {
        assert_eq!(refusal(&file(&[])), "slots 0..=1023 have no home");
        let middle = file(&[(0, 9, "north"), (12, 1023, "east")]);
        assert_eq!(refusal(&middle), "slots 10..=11 have no home");
        let end = file(&[(0, 1022, "north")]);
        assert_eq!(refusal(&end), "slots 1023..=1023 have no home");
    }

    #[test]
    fn an_overlap_is_named_with_both_homes() {
        let across = file(&[(0, 600, "north"), (500, 1023, "east")]);
        assert_eq!(refusal(&across), "slots 500..=600 have two homes, north and east");
        let inside = file(&[(0, 1023, "north"), (5, 6, "east")]);
        assert_eq!(refusal(&inside), "slots 5..=6 have two homes, north and east");
    }

    #[test]
    fn a_range_beyond_the_slots_or_backwards_is_refused() {
        assert!(refusal(&file(&[(0, 1024, "north")])).starts_with("slots 0..=1024"));
        assert!(refusal(&file(&[(9, 8, "north")])).starts_with("slots 9..=8"));
    }

    #[test]
    fn a_home_outside_the_regions_is_refused() {
        let text = file(&[(0, 1023, "south")]);
        assert_eq!(refusal(&text), "slots 0..=1023: \"south\" is not one of the regions");
    }

    #[test]
    fn versions_regions_and_keys_that_are_not_known_are_refused() {
        assert!(refusal("version = 2\nregions = []").starts_with("version 2"));
        assert!(refusal("version = 1\nregions = [\"North\"]").starts_with("\"North\""));
        assert!(refusal("version = 1\nregions = [\"a\", \"a\"]").starts_with("region a is listed twice"));
        assert!(refusal("version = 1\nregions = []\nusers = []").contains("unknown field `users`"));
        assert!(refusal(&file(&[(-1, 3, "north")])).contains("from = -1"));
    }
}
