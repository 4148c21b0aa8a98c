//! Every file of a closed store damaged in every way: no panic, and no wrong answer that the engine could have noticed.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use cell_store::{
    Batch, Engine, FjallConfig, FjallStore, Scan, SledConfig, SledStore, Store, StoreError, discard,
};

const BATCHES: u32 = 600;
const NEVER_EMPTY: &[u8] = b"last";

type Pairs = BTreeMap<Vec<u8>, Vec<u8>>;

/// Keys of the `n`th batch: one of its own, one that every batch writes, and one that others wrote before. fjall keeps
/// them apart from each other.
fn batch(n: u32) -> Pairs {
    let own = [b"e/own/", &n.wrapping_mul(2_654_435_761).to_be_bytes()[..]].concat();
    Pairs::from([
        (own, n.to_be_bytes().repeat(40)),
        (NEVER_EMPTY.to_vec(), n.to_be_bytes().to_vec()),
        ([b"k/shared/", &(n % 40).to_be_bytes()[..]].concat(), n.to_be_bytes().repeat(60)),
    ])
}

fn after(batches: u32) -> Pairs {
    (0..batches).flat_map(batch).collect()
}

/// Small buffers, so that the folder has tables and a journal that differ.
fn open(engine: Engine, dir: &Path) -> Result<Box<dyn Store>, StoreError> {
    Ok(match engine {
        Engine::Fjall => {
            let config = FjallConfig { cache_bytes: 1 << 20, write_buffer_bytes: 64 << 10 };
            Box::new(FjallStore::open(dir, &config)?)
        }
        _ => Box::new(SledStore::open(dir, &SledConfig { cache_bytes: 8 << 20 })?),
    })
}

/// Of the keys that are one batch's own, and of the shared ones.
fn tables(dir: &Path) -> [PathBuf; 2] {
    ["2", "3"].map(|keyspace| dir.join("fjall/keyspaces").join(keyspace).join("tables"))
}

fn fill(engine: Engine, dir: &Path) {
    let store = open(engine, dir).unwrap();
    for n in 0..BATCHES {
        let mut writes = Batch::new();
        batch(n).into_iter().for_each(|(key, value)| writes.put(key, value));
        store.write(writes).unwrap();
    }
    // A table that is written out in the background is complete when its name is in place.
    let is_empty = |tables: &PathBuf| std::fs::read_dir(tables).unwrap().next().is_none();
    while engine == Engine::Fjall && tables(dir).iter().any(is_empty) {
        std::thread::yield_now();
    }
    store.sync().unwrap();
}

fn files(dir: &Path, below: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir.join(below)).unwrap() {
        let entry = entry.unwrap();
        let name = below.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            files(dir, &name, found);
        } else if entry.file_name() != "lock" {
            found.push(name);
        }
    }
    found.sort();
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Harm {
    Delete,
    /// To this many 1/8 of what is written.
    Truncate(u64),
    /// A bit at this many 1/16 of what is written.
    Flip(u64),
    /// A page at this many 1/4.
    Zero(u64),
    /// 64 bytes of something else at this many 1/4.
    Overwrite(u64),
}

fn harms() -> Vec<Harm> {
    let mut harms = vec![Harm::Delete];
    harms.extend([0, 1, 4, 7].map(Harm::Truncate));
    harms.extend((0..16).map(Harm::Flip));
    harms.extend((0..4).map(Harm::Zero));
    harms.extend((0..4).map(Harm::Overwrite));
    harms
}

/// How long a file is without the zeros that it was made with.
fn written(path: &Path) -> u64 {
    let bytes = std::fs::read(path).unwrap();
    let page = bytes.chunks(4096).rposition(|page| page != &[0; 4096][..page.len()]);
    bytes.len().min(page.map_or(0, |page| (page + 1) * 4096)) as u64
}

/// Whether anything is different from before.
fn inflict(harm: Harm, path: &Path) -> bool {
    let length = written(path);
    let file = File::options().read(true).write(true).open(path).unwrap();
    let overwrite = |at: u64, bytes: &[u8]| {
        let mut before = vec![0; bytes.len().min((length - at) as usize)];
        file.read_exact_at(&mut before, at).unwrap();
        file.write_all_at(&bytes[..before.len()], at).unwrap();
        before != bytes[..before.len()]
    };
    if length == 0 && !matches!(harm, Harm::Delete) {
        return false;
    }
    match harm {
        Harm::Delete => std::fs::remove_file(path).map(|()| true).unwrap(),
        Harm::Truncate(eighths) => file.set_len(length * eighths / 8).map(|()| true).unwrap(),
        Harm::Flip(sixteenths) => {
            let at = length * sixteenths / 16;
            let mut byte = [0];
            file.read_exact_at(&mut byte, at).unwrap();
            overwrite(at, &[byte[0] ^ 0x10])
        }
        Harm::Zero(quarters) => overwrite(length * quarters / 4, &[0; 4096]),
        Harm::Overwrite(quarters) => overwrite(length * quarters / 4, &[0xa5; 64]),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Seen {
    /// [`StoreError::Damaged`] or `Io`, at open or at a read.
    Named,
    /// Everything is there.
    Whole,
    /// What the store was after fewer batches.
    Earlier,
    /// Each key as it was after some batch, not all of the same.
    Mixed,
    /// Something else, without a word.
    Wrong,
}

/// Opens and reads everything, both ways, twice. Panics if the engine does.
fn look(engine: Engine, dir: &Path) -> Seen {
    let read = || -> Result<Pairs, StoreError> {
        let store = open(engine, dir)?;
        let mut pairs = Pairs::new();
        for (key, value) in store.scan(&Scan::prefix("", usize::MAX))? {
            pairs.insert(key.to_vec(), value.to_vec());
        }
        for key in after(BATCHES).keys() {
            let got = store.get(key)?.map(|value| value.to_vec());
            assert_eq!(got.as_ref(), pairs.get(key), "a key differs by how it is read");
        }
        let backwards = store.scan(&Scan::prefix("", usize::MAX).reversed())?;
        assert_eq!(backwards.len(), pairs.len());
        Ok(pairs)
    };
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(match read() {
            Err(StoreError::Damaged(_) | StoreError::Io(_)) => Seen::Named,
            Err(other) => panic!("{other}"),
            Ok(pairs) if pairs == after(BATCHES) => Seen::Whole,
            Ok(pairs) => {
                let last =
                    pairs.get(NEVER_EMPTY).map(|last| u32::from_be_bytes(last[..].try_into().unwrap()));
                let was_there =
                    |pair: (&Vec<u8>, &Vec<u8>)| (0..BATCHES).any(|n| batch(n).get(pair.0) == Some(pair.1));
                match pairs == after(last.map_or(0, |last| last + 1)) {
                    true => Seen::Earlier,
                    false if pairs.iter().all(was_there) => Seen::Mixed,
                    false => Seen::Wrong,
                }
            }
        });
    }
    // What was noticed once may not pass for whole the next time.
    if seen[0] == Seen::Named && seen[1] > Seen::Whole { seen[1] } else { seen[0] }
}

/// Kinds of files, by name.
fn kind(file: &Path) -> String {
    let name = file.file_name().unwrap().to_string_lossy();
    match name.as_ref() {
        name if name.ends_with(".jnl") => "journal".to_owned(),
        name if name.starts_with("snap.") => "snapshot".to_owned(),
        name if file.parent().is_some_and(|parent| parent.ends_with("tables"))
            && name.parse::<u64>().is_ok() =>
        {
            "table".to_owned()
        }
        name if name.starts_with('v') && name[1..].parse::<u64>().is_ok() => "manifest".to_owned(),
        name => name.to_owned(),
    }
}

fn damage_everything(engine: Engine) -> BTreeMap<(String, Seen), u32> {
    let folder = tempfile::tempdir().unwrap();
    let (healthy, hurt) = (folder.path().join("healthy"), folder.path().join("hurt"));
    fill(engine, &healthy);
    assert_eq!(look(engine, &healthy), Seen::Whole);
    let mut names = Vec::new();
    files(&healthy, Path::new(""), &mut names);
    let mut table = BTreeMap::new();
    for name in &names {
        for harm in harms() {
            discard(&hurt).unwrap();
            copy(&healthy, &hurt);
            if inflict(harm, &hurt.join(name)) {
                let seen = look(engine, &hurt);
                println!("{engine} {} {harm:?}: {seen:?}", name.display());
                *table.entry((kind(name), seen)).or_default() += 1;
            }
        }
    }
    for ((file, seen), count) in &table {
        println!("{engine:6} {file:10} {seen:?}: {count}");
    }
    table
}

#[test]
fn fjall_names_its_damage_or_gives_the_store_of_an_earlier_moment_if_its_journal_was_cut() {
    let table = damage_everything(Engine::Fjall);
    assert!(table.keys().any(|(file, seen)| file == "table" && *seen == Seen::Named));
    for (file, seen) in table.keys() {
        assert!(*seen < Seen::Mixed, "{file} gave wrong answers");
        assert!(*seen != Seen::Earlier || file == "journal", "{file} lost what was written");
    }
}

#[test]
fn a_range_over_several_kinds_of_keys_is_one() {
    let keys = ["a", "d", "d1", "e", "e0", "f", "k", "k9", "l", "m", "r", "s", "u", "v", "x", "x7", "y"];
    let folder = tempfile::tempdir().unwrap();
    for engine in [Engine::Sled, Engine::Fjall] {
        let store = open(engine, &folder.path().join(engine.as_str())).unwrap();
        let mut writes = Batch::new();
        keys.iter().for_each(|key| writes.put(*key, *key));
        store.write(writes).unwrap();
        for (from, first) in keys.iter().enumerate() {
            for (last, end) in keys.iter().enumerate().skip(from) {
                for limit in [1, 3, usize::MAX] {
                    let range = Scan::prefix("", limit).after(*first).before(*end);
                    let found = |scan: &Scan| -> Vec<_> {
                        store.scan(scan).unwrap().into_iter().map(|(key, _)| key).collect()
                    };
                    let mut among: Vec<&str> = keys[from..last].iter().skip(1).copied().collect();
                    assert_eq!(found(&range), among[..among.len().min(limit)], "{first} to {end}");
                    among.reverse();
                    assert_eq!(found(&range.reversed()), among[..among.len().min(limit)], "{end} to {first}");
                }
            }
        }
    }
}

#[test]
fn sled_never_panics_and_names_what_it_notices() {
    let table = damage_everything(Engine::Sled);
    assert!(table.keys().any(|(file, seen)| file == "db" && *seen == Seen::Named));
    // What it does not notice is in `db`, and for the digests to find.
    assert!(table.keys().all(|(file, seen)| *seen <= Seen::Whole || file == "db"), "{table:?}");
}

fn flip(path: &Path, at: u64) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], at).unwrap();
}

#[test]
fn a_write_that_wakes_damage_in_a_merge_fails_and_does_not_wait_for_ever() {
    let folder = tempfile::tempdir().unwrap();
    fill(Engine::Fjall, folder.path());
    let [tables, _] = tables(folder.path());
    for entry in std::fs::read_dir(tables).unwrap() {
        flip(&entry.unwrap().path(), 2_000);
    }
    let store = open(Engine::Fjall, folder.path()).unwrap();
    let mut writes = (0..).map(|n| {
        let mut writes = Batch::new();
        batch(n).into_iter().for_each(|(key, value)| writes.put(key, value));
        store.write(writes)
    });
    assert!(matches!(writes.find_map(Result::err), Some(StoreError::Io(_) | StoreError::Damaged(_))));
    assert!(store.get(NEVER_EMPTY).is_err() && store.sync().is_err(), "it answers nothing more");
}

#[test]
fn a_hole_in_a_journal_that_another_follows_is_damage() {
    let folder = tempfile::tempdir().unwrap();
    let open = || FjallStore::open(folder.path(), &FjallConfig::default());
    let write = |store: &FjallStore, batches: std::ops::Range<u32>| {
        for n in batches {
            let mut writes = Batch::new();
            batch(n).into_iter().for_each(|(key, value)| writes.put(key, value));
            store.write(writes).unwrap();
        }
    };
    let [first, second] = ["fjall/0.jnl", "fjall/1.jnl"].map(|name| folder.path().join(name));
    write(&open().unwrap(), 0..BATCHES / 2);
    let store = open().unwrap();
    // Opening cut it behind its last batch.
    let half = std::fs::metadata(&first).unwrap().len() as usize;
    write(&store, BATCHES / 2..BATCHES);
    drop(store);
    // As if it had been full, and another begun, between two batches.
    let bytes = std::fs::read(&first).unwrap();
    std::fs::write(&first, &bytes[..half]).unwrap();
    std::fs::write(&second, &bytes[half..]).unwrap();

    for at in (0..half as u64).step_by(half / 50) {
        flip(&first, at);
        for _ in 0..2 {
            assert!(matches!(open(), Err(StoreError::Damaged(what)) if what.contains("0.jnl")), "byte {at}");
        }
        flip(&first, at);
    }
    let store = open().unwrap();
    let pairs = store.scan(&Scan::prefix("", usize::MAX)).unwrap();
    let pairs: Pairs = pairs.into_iter().map(|(key, value)| (key.to_vec(), value.to_vec())).collect();
    assert_eq!(pairs, after(BATCHES));
}

#[test]
fn a_journal_of_which_nothing_is_left_never_gives_one_kind_of_keys_as_it_was_later_than_another() {
    let folder = tempfile::tempdir().unwrap();
    let config = FjallConfig { cache_bytes: 1 << 20, write_buffer_bytes: 64 << 10 };
    let store = FjallStore::open(folder.path(), &config).unwrap();
    // Of one kind much is written, of the other little: they are written out at different times.
    for n in 0..5_000_u32 {
        let mut writes = Batch::new();
        writes.put("mposition", (n + 1).to_be_bytes().to_vec());
        writes.put([b"m", &n.to_be_bytes()[..]].concat(), vec![0; 40]);
        writes.put([b"u", &n.to_be_bytes()[..]].concat(), "");
        store.write(writes).unwrap();
    }
    store.sync().unwrap();
    let of_m = folder.path().join("fjall/keyspaces/4/tables");
    while std::fs::read_dir(&of_m).unwrap().next().is_none() {
        std::thread::yield_now();
    }
    drop(store);
    for begins in ["", "0"] {
        std::fs::write(folder.path().join("fjall/0.jnl"), begins).unwrap();
        let opened = FjallStore::open(folder.path(), &config);
        assert!(matches!(opened, Err(StoreError::Damaged(what)) if what.contains("ends before")));
    }
}
