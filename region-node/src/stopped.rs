//! The folder of a node that does not run, for who works on it.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use cell_store::{DiskMedium, Engine, MediumError, MigrateError, Migrated, Position, Stage, StoreError};

use crate::view;

pub(crate) const LOG: &str = "log";
pub(crate) const VIEW: &str = "view";
/// A file that says that the view is damaged.
const CONDEMNED: &str = "view.is-damaged";
/// A file that says how far the view was when it was closed in order.
const CLOSED: &str = "view.closed-at";
/// Damaged views that are kept; older ones go.
const ASIDE_MAX: usize = 3;
/// Where a view grows that is to take the place of the other.
const VIEW_BESIDE: &str = "view.new";

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum StoppedError {
    /// The path is wrong.
    #[error("{} is no node's folder: it has no '{LOG}'", dir.display())]
    NoNode { dir: PathBuf },
    /// A node runs on it, or somebody else works on it.
    #[error("{} is in use: stop the node first", dir.display())]
    InUse { dir: PathBuf },
    /// It would be replaced by a folder, and what it names be left behind.
    #[error("{} is a symbolic link: put what it names in its place first", view.display())]
    Link { view: PathBuf },
    /// A part of it is gone, and the copy would lack it, too.
    #[error(
        "{} lost its end: it shows what is before {} and was closed at {}. Start the node on it first: it has the rest from its \
         log", view.display(), is_at.0, closed_at.0
    )]
    Truncated { view: PathBuf, is_at: Position, closed_at: Position },
    /// The engine, or the disk under it.
    #[error("the view in {} was not moved, and is as it was: {source}", dir.display())]
    Store { dir: PathBuf, source: StoreError },
    #[error(transparent)]
    Medium(MediumError),
    #[error(transparent)]
    Migrate(#[from] MigrateError),
}

/// A node's folder, kept from being opened by a node for as long as the value lives.
#[derive(Debug)]
pub struct StoppedNode {
    dir: PathBuf,
    /// A node opens its log first.
    _log: DiskMedium,
}

// === impl StoppedNode ===

impl StoppedNode {
    /// # Errors
    /// [`StoppedError`]; nothing was touched.
    pub fn open(dir: &Path) -> Result<StoppedNode, StoppedError> {
        if !dir.join(LOG).is_dir() {
            return Err(StoppedError::NoNode { dir: dir.to_path_buf() });
        }
        let log = DiskMedium::open(dir.join(LOG)).map_err(|error| match error {
            MediumError::Held { .. } => StoppedError::InUse { dir: dir.to_path_buf() },
            error => StoppedError::Medium(error),
        })?;
        Ok(StoppedNode { dir: dir.to_path_buf(), _log: log })
    }

    /// Which engine keeps the view, if it can be moved to another one.
    ///
    /// # Errors
    /// [`StoppedError::Migrate`]: there is no view, or it is that engine's already; [`StoppedError::Link`],
    /// [`StoppedError::Truncated`].
    pub fn may_migrate(&self, to: Engine) -> Result<Engine, StoppedError> {
        let view = self.dir.join(VIEW);
        if view.is_symlink() {
            return Err(StoppedError::Link { view });
        }
        let from = cell_store::may_migrate(&view, to)?;
        if let Some(closed_at) = said_closed_at(&self.dir) {
            let store = cell_store::open(from, &view).map_err(|error| self.failed(error))?;
            let is_at = view::position(&store).map_err(|error| self.failed(error))?.unwrap_or(Position(0));
            if is_at < closed_at {
                return Err(StoppedError::Truncated { view, is_at, closed_at });
            }
        }
        Ok(from)
    }

    fn failed(&self, error: StoreError) -> StoppedError {
        match error {
            StoreError::Held { .. } => StoppedError::InUse { dir: self.dir.clone() },
            source => StoppedError::Store { dir: self.dir.clone(), source },
        }
    }

    /// What the view takes on disk.
    #[must_use]
    pub fn view_bytes(&self) -> u64 {
        bytes_under(&self.dir.join(VIEW))
    }

    /// Moves the view to another engine. Nothing is lost whatever happens: the old view or the whole new one is in place.
    ///
    /// # Errors
    /// As of [`StoppedNode::may_migrate`], and [`StoppedError::InUse`], [`StoppedError::Store`]: the old view is in place.
    pub fn migrate(&self, to: Engine, tell: impl FnMut(Stage)) -> Result<Migrated, StoppedError> {
        match self.may_migrate(to) {
            // Leftovers of a move that was made go all the same.
            Ok(_) | Err(StoppedError::Migrate(_)) => {}
            Err(error) => return Err(error),
        }
        let moved = cell_store::migrate(&self.dir.join(VIEW), &self.dir.join(VIEW_BESIDE), to, tell);
        moved.map_err(|error| match error {
            MigrateError::Store(error) => self.failed(error),
            error => StoppedError::Migrate(error),
        })
    }
}

/// Moves a damaged view out of the way, for whoever wants to look at it, and says where; a new one is made from the log.
pub(crate) fn put_aside(dir: &Path) -> std::io::Result<PathBuf> {
    let name = |nth: u32| dir.join(format!("{VIEW}.damaged-{nth}"));
    let number = |entry: std::fs::DirEntry| {
        entry.file_name().to_str()?.strip_prefix(VIEW)?.strip_prefix(".damaged-")?.parse::<u32>().ok()
    };
    let mut kept: Vec<u32> = std::fs::read_dir(dir)?.flatten().filter_map(number).collect();
    kept.sort_unstable();
    let aside = name(kept.last().map_or(1, |last| last.saturating_add(1)));
    for nth in kept.iter().rev().skip(ASIDE_MAX - 1) {
        tracing::warn!(folder = %name(*nth).display(), "too many damaged views are kept; the oldest goes");
        std::fs::remove_dir_all(name(*nth))?;
    }
    std::fs::rename(dir.join(VIEW), &aside)?;
    Ok(aside)
}

/// The view is as far as this, and closed.
pub(crate) fn close(dir: &Path, at: Position) {
    // Twice: a mark that does not agree with itself says nothing.
    if let Err(error) = cell_store::write_whole(dir, CLOSED, &format!("{0} {0}", at.0)) {
        tracing::warn!(%error, "the next start does not know how far the view was");
    }
}

fn said_closed_at(dir: &Path) -> Option<Position> {
    let said = std::fs::read_to_string(dir.join(CLOSED)).ok()?;
    let agrees = said.trim().split_once(' ').filter(|(once, again)| once == again);
    agrees.and_then(|(once, _)| once.parse().ok()).map(Position)
}

/// How far the view was when it was closed, if it was; it is asked once.
pub(crate) fn closed_at(dir: &Path) -> Option<Position> {
    let (mark, at) = (dir.join(CLOSED), said_closed_at(dir));
    match std::fs::remove_file(&mark) {
        Ok(()) => at,
        // It would be asked again when it is not true any more.
        Err(_) => None,
    }
}

/// A running node found its view damaged: the next start makes it anew.
pub(crate) fn condemn(dir: &Path) {
    if let Err(error) = std::fs::write(dir.join(CONDEMNED), b"") {
        tracing::error!(%error, "the next start does not know that the view is damaged");
    }
}

/// Whether the view was condemned; it is asked once.
pub(crate) fn is_condemned(dir: &Path) -> bool {
    std::fs::remove_file(dir.join(CONDEMNED)).is_ok()
}

/// Removes what an interrupted move left in the folder of a node that has its log open.
pub(crate) fn clear(dir: &Path) {
    let beside = dir.join(VIEW_BESIDE);
    if let Err(error) = cell_store::discard(&beside) {
        tracing::warn!(%error, folder = %beside.display(), "what an interrupted move left is not removed");
    }
}

/// What cannot be looked at counts for nothing.
fn bytes_under(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    let bytes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
        // Files with holes are smaller than they are long.
        Ok(metadata) => metadata.blocks() * 512,
        Err(_) => 0,
    });
    bytes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_was_harmed_says_nothing_and_is_asked_once() {
        let dir = tempfile::tempdir().unwrap();
        close(dir.path(), Position(1_821));
        assert_eq!(closed_at(dir.path()), Some(Position(1_821)));
        assert_eq!(closed_at(dir.path()), None);
        for harmed in ["", "1821", "1821 1921", "18446744073709551615", "1821 1821 1821", "-5 -5"] {
            std::fs::write(dir.path().join(CLOSED), harmed).unwrap();
            assert_eq!(closed_at(dir.path()), None, "{harmed}");
            assert!(!dir.path().join(CLOSED).exists());
        }
    }
}
