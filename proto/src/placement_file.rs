//! The placement file: which region is home of which slots when the cluster starts. Every node, agent and router reads it
//! here.
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

use std::io;
use std::path::{Path, PathBuf};

use cell_core::id::{IdError, RegionId};
use cell_core::placement::{Placement, PlacementError, SlotRange};
use serde::Deserialize;

/// The only version there is so far.
pub const VERSION: u32 = 1;

/// Why a text is no placement, on one line. Its author is at fault; nothing was taken over from it.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// Not TOML, an unknown key, or a value of the wrong type.
    #[error("{0}")]
    Malformed(String),
    #[error("version {0} is not known here, only {VERSION}")]
    Version(u32),
    #[error("{name:?}: {source}")]
    Region { name: String, source: IdError },
    #[error("slots {from}..={to}: {name:?}: {source}")]
    Home { from: u16, to: u16, name: String, source: IdError },
    #[error(transparent)]
    Ranges(#[from] PlacementError),
}

/// Why a placement file cannot be used, on one line that names it.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("{}: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{}: {source}", path.display())]
    Invalid { path: PathBuf, source: ParseError },
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

/// Reads a placement file.
///
/// # Errors
/// See [`LoadError`].
pub fn load(path: &Path) -> Result<Placement, LoadError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| LoadError::Unreadable { path: path.to_owned(), source })?;
    parse(&text).map_err(|source| LoadError::Invalid { path: path.to_owned(), source })
}

/// Reads the text of a placement file.
///
/// # Errors
/// See [`ParseError`].
pub fn parse(text: &str) -> Result<Placement, ParseError> {
    let file: File = toml::from_str(text).map_err(|error| ParseError::Malformed(describe(&error, text)))?;
    if file.version != VERSION {
        return Err(ParseError::Version(file.version));
    }
    let mut members = Vec::with_capacity(file.regions.len());
    for name in file.regions {
        members.push(RegionId::new(&name).map_err(|source| ParseError::Region { name, source })?);
    }
    let mut ranges = Vec::with_capacity(file.slots.len());
    for Range { from, to, home: name } in file.slots {
        let home = RegionId::new(&name).map_err(|source| ParseError::Home { from, to, name, source })?;
        ranges.push(SlotRange { from, to, home });
    }
    Ok(Placement::from_ranges(members, ranges)?)
}

/// `line 3 (from = -1): what is wrong`.
fn describe(error: &toml::de::Error, text: &str) -> String {
    let message = error.message().trim().replace('\n', "; ");
    let Some(start) = error.span().map(|span| span.start.min(text.len())) else { return message };
    let line = text.as_bytes()[..start].iter().filter(|byte| **byte == b'\n').count();
    let shown = text.lines().nth(line).unwrap_or_default().trim();
    format!("line {} ({shown}): {message}", line + 1)
}

#[cfg(test)]
mod tests {
    use cell_core::id::Slot;

    use super::*;

    fn file(ranges: &[(i64, i64, &str)]) -> String {
        let head = "version = 1\nregions = [\"north\", \"east\"]\n".to_owned();
        ranges.iter().fold(head, |text, (from, to, home)| {
            format!("{text}[[slots]]\nfrom = {from}\nto = {to}\nhome = \"{home}\"\n")
        })
    }

    fn refusal(text: &str) -> String {
        let refusal = parse(text).unwrap_err().to_string();
        assert_eq!(refusal.lines().count(), 1, "{refusal}");
        refusal
    }

    #[test]
    fn ranges_in_any_order_give_every_slot_its_home() {
        let placement = parse(&file(&[(600, 1023, "east"), (0, 599, "north")])).unwrap();
        let home = |n| placement.home(Slot::new(n).unwrap()).node.region.to_string();
        assert_eq!([home(0), home(599), home(600), home(1023)], ["north", "north", "east", "east"]);
        assert_eq!(placement.members().len(), 2);
    }

    #[test]
    fn what_is_wrong_with_ranges_is_said_by_the_range() {
        let gap = file(&[(0, 9, "north"), (12, 1023, "east")]);
        assert_eq!(refusal(&gap), "slots 10..=11 have no home");
        let across = file(&[(0, 600, "north"), (500, 1023, "east")]);
        assert_eq!(refusal(&across), "slots 500..=600 have two homes, north and east");
        assert!(refusal(&file(&[(0, 1024, "north")])).starts_with("slots 0..=1024: "));
        let stranger = file(&[(0, 1023, "south")]);
        assert_eq!(refusal(&stranger), "slots 0..=1023: \"south\" is not one of the regions");
        assert!(refusal(&file(&[(0, 1023, "South")])).starts_with("slots 0..=1023: \"South\": "));
    }

    #[test]
    fn versions_regions_and_keys_that_are_not_known_are_refused() {
        assert!(refusal("version = 2\nregions = []").starts_with("version 2"));
        assert!(refusal("version = 1\nregions = [\"North\"]").starts_with("\"North\""));
        assert!(refusal("version = 1\nregions = [\"a\", \"a\"]").starts_with("region a is listed twice"));
        assert!(refusal("version = 1\nregions = []\nusers = []").contains("unknown field `users`"));
        assert!(refusal(&file(&[(-1, 3, "north")])).contains("from = -1"));
        assert!(refusal("version = 1\nregions = [").starts_with("line 2 (regions = [): "));
    }

    #[test]
    fn a_file_that_is_missing_or_wrong_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("placement.toml");
        let missing = load(&path).unwrap_err().to_string();
        assert!(missing.starts_with(&format!("{}: ", path.display())), "{missing}");
        std::fs::write(&path, file(&[(0, 1022, "north")])).unwrap();
        let gap = load(&path).unwrap_err().to_string();
        assert_eq!(gap, format!("{}: slots 1023..=1023 have no home", path.display()));
        std::fs::write(&path, [0xff]).unwrap();
        assert_eq!(load(&path).unwrap_err().to_string().lines().count(), 1);
    }
}
