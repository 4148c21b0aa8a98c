//! What is declared, on either side: the `.proto` files as compiled, and cell-core's `message!` and `codes!` as written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use cell_proto::FILE_DESCRIPTOR_SET;
use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};

/// A field of a message of the `.proto` files.
pub(crate) struct Field {
    /// `Message.field = number [optional|repeated] type [oneof]`.
    pub(crate) line: String,
    /// The message it holds, if it holds one.
    pub(crate) message: Option<String>,
}

/// All fields and enum values of `files` as lines, and the fields by message and number.
pub(crate) fn in_proto(files: &[&str]) -> (BTreeSet<String>, BTreeMap<(String, u32), Field>) {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut lines = BTreeSet::new();
    let mut fields = BTreeMap::new();
    for file in &set.file {
        let name = Path::new(file.name()).file_stem().unwrap().to_str().unwrap();
        if files.contains(&name) {
            file.message_type.iter().for_each(|message| fields_of(message, &mut lines, &mut fields));
            file.enum_type.iter().for_each(|codes| lines.extend(codes_of(codes)));
        }
    }
    lines.extend(fields.values().map(|field: &Field| field.line.clone()));
    (lines, fields)
}

fn fields_of(
    message: &DescriptorProto,
    lines: &mut BTreeSet<String>,
    fields: &mut BTreeMap<(String, u32), Field>,
) {
    lines.insert(format!("{}:", message.name()));
    for codes in &message.enum_type {
        lines.extend(codes_of(codes).map(|line| format!("{}.{line}", message.name())));
    }
    for field in &message.field {
        let line = format!("{}.{} = {}{}", message.name(), field.name(), field.number(), holds(field));
        let nested = field.type_name.as_deref().filter(|_| field.r#type() == Type::Message).map(last_segment);
        let at = (message.name().to_owned(), field.number().try_into().unwrap());
        fields.insert(at, Field { line, message: nested.map(str::to_owned) });
    }
}

fn last_segment(path: &str) -> &str {
    path.rsplit(['.', ':']).next().unwrap()
}

fn holds(field: &FieldDescriptorProto) -> String {
    let (label, oneof) = match field.label() {
        Label::Repeated => (" repeated", ""),
        _ if field.proto3_optional() => (" optional", ""),
        _ if field.oneof_index.is_some() => ("", " oneof"),
        _ => ("", ""),
    };
    let name = match field.r#type() {
        Type::Message | Type::Enum => last_segment(field.type_name()).to_owned(),
        scalar => format!("{scalar:?}").to_lowercase(),
    };
    format!("{label} {name}{oneof}")
}

fn codes_of(codes: &EnumDescriptorProto) -> impl Iterator<Item = String> {
    let value = |value: &prost_types::EnumValueDescriptorProto| (value.name().to_owned(), value.number());
    let values: Vec<_> = codes.value.iter().map(value).collect();
    values.into_iter().map(move |(name, number)| format!("{} {name} = {number}", codes.name()))
}

// === cell-core ===

/// One use of `message!` or `codes!`: the name it has in the `.proto` files, and its parts as written.
struct Declared {
    file: PathBuf,
    is_codes: bool,
    is_enum: bool,
    name: String,
    parts: Vec<(u32, String, String)>,
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        let name = entry.file_name().unwrap().to_str().unwrap();
        match entry.is_dir() {
            true if name != "tests" => sources(&entry, found),
            // canon.rs defines the macros; its samples are its tests'.
            false if name.ends_with(".rs") && name != "canon.rs" && name != "tests.rs" => found.push(entry),
            _ => {}
        }
    }
}

/// The text between the brace at the start of `text` and the one that closes it.
fn braced(text: &str) -> &str {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        depth += i32::from(c == '{') - i32::from(c == '}');
        if depth == 0 {
            return &text[1..i];
        }
    }
    panic!("a brace is never closed");
}

/// The gate's log says in its own words what elsewhere would be ambiguous.
fn proto_name(file: &Path, name: &str) -> String {
    let of_gate = file.ends_with("gate/record.rs") && name != "DeadReason";
    let gates_own = ["Record", "Accepted", "Undecoded", "DeadLettered", "Discarded", "Gone"].contains(&name);
    if of_gate && gates_own { format!("Gate{name}") } else { name.to_owned() }
}

fn in_file(file: &Path) -> Vec<Declared> {
    let text = std::fs::read_to_string(file).unwrap();
    let is_prose = |line: &&str| !["//", "#["].iter().any(|mark| line.trim_start().starts_with(mark));
    let text: String = text.lines().filter(is_prose).collect::<Vec<_>>().join("\n");
    let mut all = Vec::new();
    for (macro_name, is_codes) in [("message! {", false), ("codes! {", true)] {
        for (at, _) in text.match_indices(macro_name) {
            let block = braced(&text[at + macro_name.len() - 1..]).trim();
            let (head, _) = block.split_once('{').unwrap();
            let name = head.split_whitespace().last().unwrap();
            let parts = braced(&block[head.len()..]).split(',').filter(|part| !part.trim().is_empty());
            let parts = parts.map(|part| {
                let (number, rest) = part.split_once("=>").unwrap();
                let (name, ty) = rest.split_once([':', '(']).unwrap();
                let ty = ty.trim().trim_end_matches(')').to_owned();
                (number.trim().parse().unwrap(), name.trim().to_owned(), ty)
            });
            all.push(Declared {
                file: file.to_owned(),
                is_codes,
                is_enum: head.contains("enum "),
                name: proto_name(file, name),
                parts: parts.collect(),
            });
        }
    }
    all
}

fn snake(name: &str) -> String {
    let mut out = String::new();
    for (i, c) in name.char_indices() {
        if c.is_uppercase() && i > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// What a field of Rust type `ty` is in a `.proto` file; `true` if it is a message or an enum.
fn proto_type(file: &Path, ty: &str) -> (String, bool) {
    match last_segment(ty) {
        "u64" | "Slot" => ("uint64".to_owned(), false),
        "bool" => ("bool".to_owned(), false),
        "String" | "RegionId" | "UserId" => ("string".to_owned(), false),
        "Bytes" | "Hash" | "OrderId" | "PaymentId" | "EntityId" | "MessageId" => ("bytes".to_owned(), false),
        array if array.starts_with("[u8;") => ("bytes".to_owned(), false),
        other => (proto_name(file, other), true),
    }
}

fn line_of(declared: &Declared, part: &(u32, String, String), codes: &BTreeSet<String>) -> String {
    let (number, name, ty) = part;
    if declared.is_codes {
        let prefix = snake(&declared.name).to_uppercase();
        return format!("{} {prefix}_{} = {number}", declared.name, snake(name).to_uppercase());
    }
    // A shared value is as what it holds.
    let ty = ty.strip_prefix("Arc<").and_then(|rest| rest.strip_suffix('>')).unwrap_or(ty);
    let inside = |outer: &str| ty.strip_prefix(outer).and_then(|rest| rest.strip_suffix('>'));
    let (label, ty) = match (inside("Vec<"), inside("Option<")) {
        (Some(item), _) => (" repeated", item),
        (_, Some(item)) => (" optional", item),
        _ => ("", ty),
    };
    let (ty, named) = proto_type(&declared.file, ty);
    // A message is optional as it is; a code is not.
    let label = if label == " optional" && named && !codes.contains(&ty) { "" } else { label };
    let oneof = if declared.is_enum { " oneof" } else { "" };
    format!("{}.{} = {number}{label} {ty}{oneof}", declared.name, snake(name))
}

#[test]
fn core_proto_and_gate_proto_declare_exactly_what_cell_core_does() {
    let mut files = Vec::new();
    sources(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../cell-core/src"), &mut files);
    let declared: Vec<_> = files.iter().flat_map(|file| in_file(file)).collect();
    let (messages, codes): (Vec<_>, Vec<_>) = declared.iter().partition(|declared| !declared.is_codes);
    // Codes that no message holds are names for people; they never leave the process as numbers.
    let held = |codes: &&&Declared| {
        let holds = |message: &&Declared, ty: &str| {
            proto_type(&message.file, ty.trim_end_matches('>').rsplit('<').next().unwrap()).0
        };
        messages.iter().any(|message| message.parts.iter().any(|(_, _, ty)| holds(message, ty) == codes.name))
    };
    let messages_named: BTreeSet<_> = messages.iter().map(|message| &message.name).collect();
    let codes: Vec<_> =
        codes.iter().filter(held).filter(|codes| !messages_named.contains(&codes.name)).collect();
    let code_names: BTreeSet<_> = codes.iter().map(|codes| codes.name.clone()).collect();

    let mut core = BTreeSet::new();
    for declared in messages.iter().chain(codes.iter().copied()) {
        core.extend(declared.parts.iter().map(|part| line_of(declared, part, &code_names)));
        if declared.is_codes {
            core.insert(format!(
                "{} {}_UNSPECIFIED = 0",
                declared.name,
                snake(&declared.name).to_uppercase()
            ));
        } else {
            core.insert(format!("{}:", declared.name));
        }
    }
    let (proto, _) = in_proto(&["core", "gate"]);
    let only_core: Vec<_> = core.difference(&proto).collect();
    let only_proto: Vec<_> = proto.difference(&core).collect();
    assert_eq!((only_core, only_proto), (vec![], vec![]), "(only in cell-core, only in the .proto files)");
}
