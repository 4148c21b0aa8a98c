//! What is asked of a folder before anything in it is touched: whether there is room, and whose it is.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use cell_core::id::NodeId;

const NAME: &str = "owner";
/// What a start writes before it can say that there is no room.
const ROOM_BYTES: u64 = 4 << 20;

/// Whether there is room for a start.
///
/// # Errors
/// The disk is full: an engine may damage what it opens there.
pub(crate) fn has_room(dir: &Path) -> Result<(), String> {
    let free = cell_store::free_bytes(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    if free < ROOM_BYTES {
        return Err(format!(
            "{}: the disk is full, {free} bytes are left: {ROOM_BYTES} are needed for a start",
            dir.display()
        ));
    }
    Ok(())
}

/// Marks the folder as this node's. Its lock is held.
///
/// # Errors
/// It is another node's.
pub(crate) fn claim(dir: &Path, node: NodeId) -> Result<(), String> {
    let io = |error: io::Error| format!("{}: {error}", dir.display());
    let (path, node) = (dir.join(NAME), node.to_string());
    match std::fs::read_to_string(&path) {
        Ok(owner) if owner.trim() == node => return Ok(()),
        // Empty: a crash came between making it and writing it.
        Ok(owner) if !owner.trim().is_empty() => {
            let owner = owner.trim();
            return Err(format!("{} is the folder of {owner}, not of {node}", dir.display()));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io(error)),
    }
    let mut file = File::create(&path).map_err(io)?;
    writeln!(file, "{node}").map_err(io)?;
    file.sync_all().map_err(io)?;
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_claimed_once() {
        let folder = tempfile::tempdir().unwrap();
        let node = |name: &str| NodeId { region: name.parse().unwrap(), index: 0 };
        assert_eq!(claim(folder.path(), node("north")), Ok(()));
        assert_eq!(claim(folder.path(), node("north")), Ok(()));
        let refused = claim(folder.path(), node("south")).unwrap_err();
        assert!(refused.ends_with("is the folder of north-0, not of south-0"), "{refused}");
        std::fs::write(folder.path().join(NAME), "").unwrap();
        assert_eq!(claim(folder.path(), node("south")), Ok(()));
    }
}
