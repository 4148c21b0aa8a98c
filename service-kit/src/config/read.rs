//! Turning the merged table into the caller's type, gathering every problem on the way.
//!
//! serde stops at the first error. So each error is recorded, the key behind it is taken out, and the rest is read again:
//! one round per problem, and an operator sees them all.

use std::collections::{BTreeMap, BTreeSet};

use serde::de::DeserializeOwned;
use serde_path_to_error::{Path, Segment};
use toml::{Table, Value};

use super::{Origins, describe, join_key};
use crate::words::Words;

/// Rounds of reading; a file with more problems than this is told about the first ones.
const PROBLEMS_MAX: usize = 64;

/// What is said of a key that is nowhere.
pub(super) const REQUIRED: &str = "is required and not set";

/// Returns the value only if it could be read whole, without a problem of its own or before.
pub(super) fn read<T: DeserializeOwned>(
    mut table: Table,
    origins: &Origins,
    problems: &mut Vec<String>,
) -> Option<T> {
    let mut taken_out = BTreeSet::new();
    // What was said of a value before it was read as text.
    let mut as_text: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..PROBLEMS_MAX {
        let error = match serde_path_to_error::deserialize(Value::Table(table.clone())) {
            Ok(value) => return problems.is_empty().then_some(value),
            Err(error) => error,
        };
        let key = dotted(error.path());
        let message = error.inner().message().trim().to_owned();

        if let Some(field) = missing_field(&message) {
            let missing = join_key(&key, field);
            if !taken_out.contains(&missing) {
                problems.push(describe(&missing, REQUIRED, origins));
            }
        } else if let Some((set_at, text)) = typed_as_text(&key, origins)
            && !as_text.contains_key(set_at)
            && let Some(value) = slot(&mut table, set_at).filter(|value| !value.is_str() && !value.is_table())
        {
            // `CELL_REGION=7` was read as a number; where the key wants a string, the text is what was meant.
            *value = Value::String(text.to_owned());
            as_text.insert(set_at.to_owned(), message);
            continue;
        } else {
            let message = as_text.get(&key).unwrap_or(&message);
            problems.push(describe(&key, &Words::Configuration.say(message), origins));
        }
        let whole = &key[..key.find('[').unwrap_or(key.len())];
        if whole.is_empty() || !take_out(&mut table, whole) {
            break;
        }
        taken_out.insert(whole.to_owned());
    }
    None
}

fn typed_as_text<'a>(key: &'a str, origins: &'a Origins) -> Option<(&'a str, &'a str)> {
    let (set_at, origin) = origins.nearest(key)?;
    Some((set_at, origin.text()?))
}

fn dotted(path: &Path) -> String {
    let mut key = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => key.push_str(&format!("[{index}]")),
            Segment::Map { key: name } => key = join_key(&key, name),
            Segment::Enum { .. } | Segment::Unknown => break,
        }
    }
    key
}

/// serde's fixed wording, the only place where it names a missing field.
fn missing_field(message: &str) -> Option<&str> {
    message.strip_prefix("missing field `")?.split('`').next()
}

fn slot<'a>(table: &'a mut Table, key: &str) -> Option<&'a mut Value> {
    let (sections, name) =
        key.rsplit_once('.').map_or((None, key), |(sections, name)| (Some(sections), name));
    section(table, sections)?.get_mut(name)
}

fn take_out(table: &mut Table, key: &str) -> bool {
    let (sections, name) =
        key.rsplit_once('.').map_or((None, key), |(sections, name)| (Some(sections), name));
    section(table, sections).is_some_and(|table| table.remove(name).is_some())
}

fn section<'a>(table: &'a mut Table, sections: Option<&str>) -> Option<&'a mut Table> {
    sections
        .into_iter()
        .flat_map(|key| key.split('.'))
        .try_fold(table, |table, name| table.get_mut(name)?.as_table_mut())
}
