//! SIGKILL on a real process that moves a view from engine to engine. Alone in its binary: a process that is just being
//! started holds the locks of whoever starts it for a moment.

#[path = "support/child.rs"]
mod child;

use std::io::Write;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cell_store::{Batch, Engine, Scan, engine_of, migrate, open};

const FOLDER: &str = "CELL_STORE_MIGRATE_FOLDER";

fn paths(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("view"), folder.join("view.new"))
}

fn contents(dir: &Path) -> Vec<(Bytes, Bytes)> {
    let engine = engine_of(dir).unwrap().unwrap();
    open(engine, dir).unwrap().scan(&Scan::prefix("", usize::MAX)).unwrap()
}

/// Run by the test below in a process of its own; alone it has nothing to do.
#[test]
fn the_child_moves_a_view_to_and_fro_until_it_is_killed() {
    let Some(folder) = std::env::var_os(FOLDER) else { return };
    let (dir, beside) = paths(Path::new(&folder));
    let mut out = std::io::stdout().lock();
    loop {
        let from = engine_of(&dir).unwrap();
        let to = if from == Some(Engine::Sled) { Engine::Fjall } else { Engine::Sled };
        migrate(&dir, &beside, to, |stage| {
            writeln!(out, "\nstage {stage:?}").unwrap();
            out.flush().unwrap();
        })
        .unwrap();
        writeln!(out, "\nstage moved").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn killed_at_any_point_it_leaves_the_old_view_or_the_whole_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, _) = paths(folder.path());
    let mut batch = Batch::new();
    (0..2_500_u32).for_each(|n| batch.put(n.to_le_bytes().to_vec(), n.to_be_bytes().repeat(n as usize % 30)));
    open(Engine::Sled, &dir).unwrap().write(batch).unwrap();
    let before = contents(&dir);
    let mut engines = Vec::new();
    for round in 0..16 {
        let variables = [(FOLDER, folder.path().as_os_str())];
        let (mut child, lines) =
            child::start("the_child_moves_a_view_to_and_fro_until_it_is_killed", &variables);
        let stages = lines.filter(|line| line.starts_with("stage ")).take(1 + round * 5 % 23).count();
        assert_eq!(stages, 1 + round * 5 % 23, "the child ended by itself");
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(contents(&dir), before, "round {round}");
        engines.push(engine_of(&dir).unwrap());
    }
    engines.sort_by_key(|engine| *engine == Some(Engine::Fjall));
    engines.dedup();
    assert_eq!(engines.len(), 2, "both were met");
}
