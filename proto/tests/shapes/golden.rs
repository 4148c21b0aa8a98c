//! Version 1 on paper. `GOLDEN_WRITE=1 cargo test -p cell-proto` adds what is missing; nothing is ever overwritten or
//! taken out by it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use cell_core::canon::{Raw, Reader};

use crate::declared::{Field, in_proto};
use crate::samples::Samples;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn may_write() -> bool {
    std::env::var_os("GOLDEN_WRITE").is_some()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Vec<u8> {
    let digits = text.trim_end().as_bytes().chunks(2);
    digits.map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
}

/// Name of the file without `.hex` → its bytes.
fn golden() -> BTreeMap<String, Vec<u8>> {
    let files = std::fs::read_dir(folder()).unwrap().map(|file| file.unwrap().path());
    let hex = files.filter(|path| path.extension().is_some_and(|end| end == "hex"));
    let read = |path: PathBuf| (path.file_stem().unwrap().to_str().unwrap().to_owned(), path);
    hex.map(read).map(|(name, path)| (name, from_hex(&std::fs::read_to_string(path).unwrap()))).collect()
}

#[test]
fn the_golden_bytes_of_version_1_are_read_and_written_again_unchanged() {
    let golden = golden();
    let mut names = BTreeSet::new();
    let mut missing = Vec::new();
    // Ordinary values are enough on disk; the extremes are long and say nothing more.
    for sample in Samples::Plain(1).all() {
        match golden.get(&sample.name) {
            // The sample was read from these bytes by both, and both wrote them again.
            Some(bytes) => {
                let written = [&sample.canon, &sample.by_prost, &sample.by_core].map(|bytes| to_hex(bytes));
                let before = to_hex(bytes);
                assert_eq!(
                    written,
                    [&before; 3].map(Clone::clone),
                    "{} of v1 has to be read for ever",
                    sample.name
                );
            }
            None if may_write() => {
                let path = folder().join(format!("{}.hex", sample.name));
                std::fs::write(path, to_hex(&sample.canon) + "\n").unwrap();
            }
            None => missing.push(sample.name.clone()),
        }
        names.insert(sample.name);
    }
    assert_eq!(missing, Vec::<String>::new(), "no golden file: run with GOLDEN_WRITE=1 and commit it");
    let orphans: Vec<_> = golden.keys().filter(|name| !names.contains(*name)).collect();
    assert_eq!(orphans, Vec::<&String>::new(), "golden, but nothing writes it any more");
}

/// Notes every field of `message` that occurs in `bytes`, nested ones too.
fn walk(
    fields: &BTreeMap<(String, u32), Field>,
    message: &str,
    bytes: &[u8],
    seen: &mut BTreeSet<(String, u32)>,
) {
    let mut reader = Reader::new(bytes);
    while let Some((number, raw)) = reader.next_field().unwrap() {
        let at = (message.to_owned(), number);
        let field = fields.get(&at).unwrap_or_else(|| panic!("{message} has no field {number}"));
        if let (Some(nested), Raw::Bytes(bytes)) = (&field.message, raw) {
            walk(fields, nested, bytes, seen);
        }
        seen.insert(at);
    }
}

#[test]
fn every_field_and_every_kind_of_a_persisted_shape_occurs_in_some_golden_file() {
    let (_, fields) = in_proto(&["core", "gate"]);
    let mut seen = BTreeSet::new();
    for (name, bytes) in golden() {
        let message = match name.split('.').next().unwrap() {
            "event" => "EventShape",
            "change" => "ChangeShape",
            "entry" => "Entry",
            "entity" => "EntityShape",
            "quarantined" => "Quarantined",
            "actor-life" => "ActorLife",
            "baseline" => "Baseline",
            "message-body" => "MessageBody",
            "envelope" => "Envelope",
            "gate-record" => "GateRecord",
            other => panic!("which shape is {other}?"),
        };
        walk(&fields, message, &bytes, &mut seen);
    }
    // The front of an EventShape, under a name of its own.
    seen.insert(("EventAddress".into(), 1));
    let never: Vec<_> =
        fields.iter().filter(|(at, _)| !seen.contains(*at)).map(|(_, field)| &field.line).collect();
    assert_eq!(never, Vec::<&String>::new());
}

#[test]
fn no_number_of_version_1_is_ever_changed_or_given_away() {
    let (lines, _) = in_proto(&["core", "gate", "node", "agent"]);
    let path = folder().join("numbers.txt");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let before: BTreeSet<String> = before.lines().map(str::to_owned).collect();
    let gone: Vec<_> = before.difference(&lines).collect();
    assert_eq!(gone, Vec::<&String>::new(), "other versions still speak so");
    let new: Vec<_> = lines.difference(&before).collect();
    if may_write() {
        std::fs::write(&path, lines.iter().map(|line| format!("{line}\n")).collect::<String>()).unwrap();
    } else {
        assert_eq!(new, Vec::<&String>::new(), "not on paper yet: run with GOLDEN_WRITE=1 and commit it");
    }
}
