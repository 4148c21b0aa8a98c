//! A view moved from engine to engine.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use cell_store::{Batch, Engine, MigrateError, Scan, Stage, StoreError, engine_of, migrate, open};

const ENGINES: [Engine; 2] = [Engine::Sled, Engine::Fjall];

fn other(engine: Engine) -> Engine {
    if engine == Engine::Sled { Engine::Fjall } else { Engine::Sled }
}

fn paths(folder: &Path) -> (PathBuf, PathBuf) {
    (folder.join("view"), folder.join("view.new"))
}

fn fill(engine: Engine, dir: &Path, keys: u32) {
    let store = open(engine, dir).unwrap();
    let mut batch = Batch::new();
    for n in 0..keys {
        batch.put(n.to_le_bytes().to_vec(), n.to_be_bytes().repeat(n as usize % 30));
    }
    store.write(batch).unwrap();
}

fn contents(dir: &Path) -> Vec<(Bytes, Bytes)> {
    let engine = engine_of(dir).unwrap().unwrap();
    open(engine, dir).unwrap().scan(&Scan::prefix("", usize::MAX)).unwrap()
}

#[test]
fn every_pair_is_there_afterwards_and_the_old_folder_is_gone() {
    for from in ENGINES {
        let folder = tempfile::tempdir().unwrap();
        let (dir, beside) = paths(folder.path());
        // A whole number of pages, and not.
        for keys in [0, 1, 1_024, 3_000] {
            fill(from, &dir, keys);
            let before = contents(&dir);
            // What an earlier try left is no obstacle.
            fill(from, &beside, 10);
            let mut stages = Vec::new();
            let moved = migrate(&dir, &beside, other(from), |stage| stages.push(stage)).unwrap();
            let bytes: usize = before.iter().map(|(key, value)| key.len() + value.len()).sum();
            assert_eq!((moved.from, moved.keys, moved.bytes), (from, u64::from(keys), bytes as u64));
            assert_eq!(stages.last(), Some(&Stage::Verified(moved.keys, moved.keys)));
            assert!(!beside.exists());
            assert_eq!((engine_of(&dir).unwrap(), contents(&dir)), (Some(other(from)), before));
            let back = migrate(&dir, &beside, from, |_| {}).unwrap();
            assert_eq!((back.keys, back.checksum), (moved.keys, moved.checksum));
        }
    }
}

#[test]
fn what_cannot_be_moved_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, beside) = paths(folder.path());
    assert!(matches!(migrate(&dir, &beside, Engine::Fjall, |_| {}), Err(MigrateError::NoView { .. })));
    fill(Engine::Fjall, &dir, 100);
    let refused = |to| migrate(&dir, &beside, to, |_| {}).unwrap_err();
    assert!(matches!(refused(Engine::Fjall), MigrateError::Already { .. }));
    assert!(matches!(refused(Engine::Memory), MigrateError::KeepsNothing(_)));
    let held = open(Engine::Fjall, &dir).unwrap();
    assert!(matches!(refused(Engine::Sled), MigrateError::Store(StoreError::Held { .. })));
    drop(held);
    assert_eq!(contents(&dir).len(), 100);
    assert!(!beside.exists());
}

#[test]
fn a_damaged_view_is_not_moved() {
    let folder = tempfile::tempdir().unwrap();
    let (dir, beside) = paths(folder.path());
    fill(Engine::Fjall, &dir, 1_000);
    std::fs::remove_file(dir.join("fjall/keyspaces/1/current")).unwrap();
    let error = migrate(&dir, &beside, Engine::Sled, |_| {}).unwrap_err();
    assert!(matches!(error, MigrateError::Store(StoreError::Damaged(_))), "{error}");
    assert_eq!((engine_of(&dir).unwrap(), beside.exists()), (Some(Engine::Fjall), false));
}
