//! Harm done to the files of a node that does not run.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::kind::{Kind, Target};
use crate::real::deployment::copy_folder;

const SECTOR: u64 = 512;
const PAGE: u64 = 4_096;
/// Bytes in front of each key that was found, where engines keep lengths and checks.
const BEFORE_KEY: u64 = 8;
const GARBAGE: usize = 3_000;
/// A frame of the log begins with this.
const FRAME: &[u8] = b"HCL";
/// Behind it the checksum of its body.
const FRAME_CHECK: u64 = 8;

/// The files at hand.
#[derive(Debug)]
pub(super) struct Files<'a> {
    /// The node's folder.
    pub(super) node: &'a Path,
    /// As it was a while ago, and whole.
    pub(super) older: &'a Path,
    /// Another region's.
    pub(super) other: &'a Path,
    /// Bytes that only the wanted keys have; the first that are found count.
    pub(super) needles: &'a [Vec<u8>],
    /// Chooses among files and places.
    pub(super) seed: u64,
}

/// Where in which file the harm is done.
#[derive(Clone, Debug)]
struct Spot {
    file: PathBuf,
    /// Where the keys begin, or frames.
    at: Vec<u64>,
    /// What `at` was found by; empty: it was not, and this is just the file.
    by: &'static str,
    /// Bytes of what was found.
    length: u64,
}

/// Every file below a folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.file_name().is_some_and(|name| !name.to_string_lossy().contains("lock")) {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn occurrences(bytes: &[u8], needle: &[u8]) -> Vec<u64> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(at) = bytes[from..].windows(needle.len()).position(|window| window == needle) {
        found.push((from + at) as u64);
        from += at + needle.len();
    }
    found
}

fn of_log(node: &Path) -> Result<Vec<Spot>> {
    let mut spots = Vec::new();
    for file in files(&node.join("log"))? {
        let at = occurrences(&std::fs::read(&file)?, FRAME);
        if !at.is_empty() {
            spots.push(Spot { file, at, by: "a frame of", length: 36 });
        }
    }
    Ok(spots)
}

/// How many files of the log there are to harm.
pub(super) fn segments(node: &Path) -> Result<usize> {
    Ok(of_log(node)?.len())
}

fn spots(target: Target, these: &Files<'_>) -> Result<Vec<Spot>> {
    if target.is_log() {
        return of_log(these.node);
    }
    let all = files(&these.node.join("view"))?;
    for needle in these.needles {
        let mut spots = Vec::new();
        for file in &all {
            let at = occurrences(&std::fs::read(file)?, needle);
            if !at.is_empty() {
                spots.push(Spot { file: file.clone(), at, by: "the key in", length: needle.len() as u64 });
            }
        }
        if !spots.is_empty() {
            return Ok(spots);
        }
    }
    // The engine keeps it in another form.
    let largest = all.into_iter().max_by_key(|file| file.metadata().map_or(0, |it| it.len()));
    let file = largest.context("the view has no file")?;
    let middle = std::fs::metadata(&file)?.len() / 2;
    Ok(vec![Spot { file, at: vec![middle], by: "", length: 16 }])
}

/// Does it; returns what was done, in words.
pub(super) fn inflict(kind: Kind, target: Target, these: &Files<'_>) -> Result<String> {
    let home = these.node.join(if target.is_log() { "log" } else { "view" });
    if target == Target::LogAndView && kind != Kind::Control {
        std::fs::remove_dir_all(these.node.join("view"))?;
    }
    match kind {
        Kind::Control => return Ok("nothing".to_owned()),
        Kind::DeleteFolder => {
            std::fs::remove_dir_all(&home)?;
            return Ok(format!("the folder {}", name(&home)));
        }
        Kind::Backup => {
            let what = if target.is_log() { these.node.to_owned() } else { home };
            let from = if target.is_log() { these.older.to_owned() } else { these.older.join("view") };
            std::fs::remove_dir_all(&what)?;
            copy_folder(&from, &what)?;
            return Ok(format!("the folder {}", name(&what)));
        }
        _ => {}
    }
    let mut spots = spots(target, these)?;
    if !target.is_log() && these.seed % 2 == 1 {
        // Every other time one place alone, which may be one that the engine reads no more.
        let nth = usize::try_from(these.seed / 2 % spots.len() as u64).unwrap_or(0);
        spots.rotate_left(nth);
        spots.truncate(1);
        let nth = usize::try_from(these.seed / 2 % spots[0].at.len() as u64).unwrap_or(0);
        spots[0].at = vec![spots[0].at[nth]];
    }
    let nth = match kind {
        // What was written last is what a while ago was not there.
        Kind::StaleBlock | Kind::StaleFile => spots.len() - 1,
        _ => usize::try_from(these.seed % spots.len() as u64).unwrap_or(0),
    };
    // In the log one file has the harm; in the view every place where the keys are, so that the one in use is among them.
    let chosen = if target.is_log() { &spots[nth..=nth] } else { &spots[..] };
    for spot in chosen {
        to_file(kind, target, spot, these)?;
    }
    if kind == Kind::SwapFiles {
        swap(&spots, &home)?;
    }
    let count: usize = chosen.iter().map(|spot| spot.at.len()).sum();
    let names: Vec<String> = chosen.iter().map(|spot| name(&spot.file)).collect();
    let by = chosen[0].by;
    Ok(match (by, whole_file(kind)) {
        ("", _) => format!("{}, its keys not found as such", names.join(", ")),
        (_, true) => names.join(", "),
        (by, false) if target.is_log() => format!("{by} {}", names.join(", ")),
        (by, false) => format!("{by} {}, {count}×", names.join(", ")),
    })
}

fn name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Whether it matters only which file it is.
fn whole_file(kind: Kind) -> bool {
    matches!(
        kind,
        Kind::CutOneByte
            | Kind::CutHalf
            | Kind::CutToNothing
            | Kind::DeleteFile
            | Kind::StaleFile
            | Kind::AppendGarbage
            | Kind::SwapFiles
            | Kind::ForeignFile
            | Kind::FolderInPlace
    )
}

fn to_file(kind: Kind, target: Target, spot: &Spot, these: &Files<'_>) -> Result<()> {
    let path = &spot.file;
    let length = std::fs::metadata(path)?.len();
    let open =
        || File::options().read(true).write(true).open(path).with_context(|| path.display().to_string());
    let log = target.is_log();
    let (first, last) = (spot.at[0], spot.at[spot.at.len() - 1]);
    let middle = spot.at[spot.at.len() / 2];
    match kind {
        Kind::FlipHead if log => flip(&open()?, first + 5),
        Kind::FlipMiddle if log => flip(&open()?, middle + spot.length + 9),
        Kind::FlipTail if log => flip(&open()?, length - 2),
        Kind::FlipCheck if log => flip(&open()?, middle + FRAME_CHECK),
        Kind::ZeroSector | Kind::ZeroPage | Kind::GarbagePage if log => {
            block(kind, &open()?, middle + 40, path, these)
        }
        Kind::CutInFrame if log => Ok(open()?.set_len(last + 20)?),
        Kind::ZeroToEnd => {
            let from = if log { middle + 40 } else { first };
            Ok(open()?.write_all_at(&vec![0; (length - from) as usize], from)?)
        }
        Kind::CutInFrame => Ok(open()?.set_len(last + spot.length / 2)?),
        Kind::CutOneByte => Ok(open()?.set_len(length - 1)?),
        Kind::CutHalf => Ok(open()?.set_len(length / 2)?),
        Kind::CutToNothing => Ok(open()?.set_len(0)?),
        Kind::DeleteFile => Ok(std::fs::remove_file(path)?),
        Kind::AppendGarbage => Ok(open()?.write_all_at(&garbage(these.seed, GARBAGE), length)?),
        Kind::FolderInPlace => {
            std::fs::remove_file(path)?;
            Ok(std::fs::create_dir(path)?)
        }
        Kind::StaleFile => {
            let older = these.older.join(path.strip_prefix(these.node)?);
            // One that was not there a while ago was never written.
            if older.exists() {
                Ok(std::fs::copy(older, path).map(|_| ())?)
            } else {
                Ok(std::fs::remove_file(path)?)
            }
        }
        Kind::ForeignFile => {
            let mut theirs = these.other.join(path.strip_prefix(these.node)?);
            if !theirs.exists() {
                let home = these.other.join(if log { "log" } else { "view" });
                let largest =
                    files(&home)?.into_iter().max_by_key(|file| file.metadata().map_or(0, |it| it.len()));
                theirs = largest.context("the other node has no file")?;
            }
            Ok(std::fs::copy(theirs, path).map(|_| ())?)
        }
        Kind::DuplicateBlock => {
            let bytes = std::fs::read(path)?;
            let (from, to) = of_block(middle, length);
            let (from, to) = (from as usize, to as usize);
            Ok(std::fs::write(path, [&bytes[..to], &bytes[from..to], &bytes[to..]].concat())?)
        }
        Kind::SwapBlocks => {
            let mut bytes = std::fs::read(path)?;
            let (from, to) = of_block(middle, length);
            let (from, size) = (from as usize, (to - from) as usize);
            let block = |at: usize| at..at + size;
            // With one that says something else: of the harm before, the same may stand twice.
            let others = (0..=bytes.len() - size).step_by(PAGE as usize);
            let other = others
                .filter(|other| other.abs_diff(from) >= size && bytes[block(*other)] != bytes[block(from)])
                .min_by_key(|other| other.abs_diff(from));
            match other {
                Some(other) => {
                    let (mine, theirs) = (bytes[block(from)].to_vec(), bytes[block(other)].to_vec());
                    bytes[block(from)].copy_from_slice(&theirs);
                    bytes[block(other)].copy_from_slice(&mine);
                }
                // A file of one block, such as a segment that was just begun.
                None => bytes[block(from)].rotate_left(size / 2),
            }
            Ok(std::fs::write(path, bytes)?)
        }
        Kind::SwapFiles => Ok(()),
        _ => {
            let file = open()?;
            spot.at.iter().try_for_each(|at| match kind {
                Kind::FlipHead => flip(&file, *at),
                Kind::FlipMiddle => flip(&file, at + spot.length / 2),
                Kind::FlipTail => flip(&file, (at + spot.length + 3).min(length - 1)),
                Kind::FlipCheck => flip(&file, at.saturating_sub(BEFORE_KEY)),
                kind => block(kind, &file, *at, path, these),
            })
        }
    }
}

fn flip(file: &File, at: u64) -> Result<()> {
    let mut byte = [0];
    file.read_exact_at(&mut byte, at)?;
    Ok(file.write_all_at(&[byte[0] ^ 0x10], at)?)
}

/// The page around a place, as far as the file goes.
fn of_block(at: u64, length: u64) -> (u64, u64) {
    let from = at / PAGE * PAGE;
    (from, (from + PAGE).min(length))
}

fn block(kind: Kind, file: &File, at: u64, path: &Path, these: &Files<'_>) -> Result<()> {
    let length = file.metadata()?.len();
    let size = if kind == Kind::ZeroSector { SECTOR } else { PAGE };
    let from = at / size * size;
    let size = size.min(length - from) as usize;
    let bytes = match kind {
        Kind::ZeroSector | Kind::ZeroPage => vec![0; size],
        Kind::GarbagePage => garbage(these.seed ^ at, size),
        Kind::StaleBlock => stale(&these.older.join(path.strip_prefix(these.node)?), from, size)?,
        kind => bail!("{kind} is done to no block"),
    };
    Ok(file.write_all_at(&bytes, from)?)
}

/// The block as it was a while ago; zeroes where the file did not go so far.
fn stale(older: &Path, from: u64, size: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; size];
    if let Ok(older) = File::open(older) {
        let mut got = 0;
        while got < size {
            match older.read_at(&mut bytes[got..], from + got as u64)? {
                0 => break,
                more => got += more,
            }
        }
    }
    Ok(bytes)
}

/// Two files have each other's names; in the log two neighbours, in the view the one with the keys and any other.
fn swap(spots: &[Spot], home: &Path) -> Result<()> {
    let one = &spots[0].file;
    let all = files(home)?;
    let other = match spots.get(1) {
        Some(other) => other.file.clone(),
        None => all.into_iter().find(|file| file != one).context("there is one file alone")?,
    };
    let aside = one.with_extension("aside");
    std::fs::rename(one, &aside)?;
    std::fs::rename(&other, one)?;
    Ok(std::fs::rename(&aside, &other)?)
}

/// Bytes without a pattern (xorshift).
fn garbage(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 24) as u8
    };
    std::iter::repeat_with(next).take(count).collect()
}
