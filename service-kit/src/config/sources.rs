//! Merging the sources into one table, remembering where each key came from.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use toml::de::{DeTable, DeValue};
use toml::{Table, Value};

/// Variables under the prefix that steer the process itself and are no configuration keys.
const RESERVED: [&str; 2] = ["EXIT_WITH_STDIN", "CONFIG"];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Origin {
    File { file: String, line: usize },
    Env { variable: String, text: String },
    Flag { text: String },
}

impl Origin {
    /// The text as the operator typed it; `None` for a file, whose values carry their type.
    pub(super) fn text(&self) -> Option<&str> {
        match self {
            Self::File { .. } => None,
            Self::Env { text, .. } | Self::Flag { text } => Some(text),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, line } => write!(f, "{file}:{line}"),
            Self::Env { variable, .. } => write!(f, "environment {variable}"),
            Self::Flag { .. } => f.write_str("--set"),
        }
    }
}

/// Where each key of a loaded configuration was set. Empty (`Default`) where nobody keeps track, e.g. in tests.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    by_key: BTreeMap<String, Origin>,
    file: Option<String>,
}

impl Origins {
    /// `north.toml:3`, `environment CELL_HTTP__LISTEN` or `--set`; of the nearest section for a key that is not set
    /// itself, and the file as a whole where neither was. `None` without a file.
    pub fn describe(&self, key: &str) -> Option<String> {
        self.nearest(key).map(|(_, origin)| origin.to_string()).or_else(|| self.file.clone())
    }

    /// The key itself or its nearest enclosing section or array that was set.
    pub(super) fn nearest<'a>(&'a self, key: &'a str) -> Option<(&'a str, &'a Origin)> {
        let mut key = key;
        loop {
            if let Some(origin) = self.by_key.get(key) {
                return Some((key, origin));
            }
            key = &key[..key.rfind(['.', '['])?];
        }
    }

    fn forget_below(&mut self, key: &str) {
        let below = |known: &str| known.strip_prefix(key).is_some_and(|rest| rest.starts_with(['.', '[']));
        self.by_key.retain(|known, _| !below(known));
    }
}

#[derive(Default)]
pub(super) struct Sources {
    table: Table,
    origins: Origins,
    problems: Vec<String>,
}

impl Sources {
    /// Must come first. A file that cannot be read ends the loading: what it would have set is unknown, and complaining
    /// about missing keys would bury the reason.
    pub(super) fn add_file(&mut self, path: &Path) -> Result<(), Vec<String>> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| vec![format!("{file}: cannot be read: {error}")])?;
        let (positions, mut errors) = DeTable::parse_recoverable(&text);
        if errors.is_empty() {
            match text.parse::<Table>() {
                Ok(table) => self.table = table,
                Err(error) => errors.push(error),
            }
        }
        if !errors.is_empty() {
            errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
            let problems = errors.iter().map(|error| {
                let line = error.span().map_or(1, |span| line_of(&text, span.start));
                format!("{file}:{line}: not TOML: {}", error.message().replace('\n', "; "))
            });
            return Err(problems.collect());
        }
        self.note_lines("", positions.get_ref(), &file, &text);
        self.origins.file = Some(file);
        Ok(())
    }

    fn note_lines(&mut self, prefix: &str, table: &DeTable<'_>, file: &str, text: &str) {
        for (name, value) in table.iter() {
            let key = super::join_key(prefix, name.get_ref());
            let line = line_of(text, name.span().start);
            self.origins.by_key.insert(key.clone(), Origin::File { file: file.to_owned(), line });
            self.note_value(&key, value.get_ref(), file, text);
        }
    }

    fn note_value(&mut self, key: &str, value: &DeValue<'_>, file: &str, text: &str) {
        match value {
            DeValue::Table(nested) => self.note_lines(key, nested, file, text),
            DeValue::Array(items) => {
                for (i, item) in items.iter().enumerate() {
                    let key = format!("{key}[{i}]");
                    let line = line_of(text, item.span().start);
                    self.origins.by_key.insert(key.clone(), Origin::File { file: file.to_owned(), line });
                    self.note_value(&key, item.get_ref(), file, text);
                }
            }
            _ => {}
        }
    }

    pub(super) fn add_environment(
        &mut self,
        prefix: &str,
        variables: impl IntoIterator<Item = (String, String)>,
    ) {
        let prefix = format!("{prefix}_");
        // Sorted, so that the same environment gives the same errors in the same order.
        let ours: BTreeMap<String, String> = variables
            .into_iter()
            .filter(|(name, _)| name.strip_prefix(&prefix).is_some_and(|rest| !RESERVED.contains(&rest)))
            .collect();
        for (variable, text) in ours {
            let key = variable[prefix.len()..].to_ascii_lowercase();
            let segments: Vec<&str> = key.split("__").collect();
            self.put(&segments, Origin::Env { variable: variable.clone(), text });
        }
    }

    pub(super) fn add_overrides(&mut self, overrides: &[String]) {
        for text in overrides {
            let Some((key, value)) = text.split_once('=') else {
                self.problems.push(format!("--set {text}: must be section.key=value"));
                continue;
            };
            let segments: Vec<&str> = key.trim().split('.').collect();
            self.put(&segments, Origin::Flag { text: value.to_owned() });
        }
    }

    fn put(&mut self, segments: &[&str], origin: Origin) {
        let key = segments.join(".");
        let Some((name, sections)) = segments.split_last().filter(|_| segments.iter().all(|s| !s.is_empty()))
        else {
            return self.problems.push(format!("{key}: a part of the key is empty ({origin})"));
        };
        let mut table = &mut self.table;
        for (depth, section) in sections.iter().enumerate() {
            let section_key = segments[..=depth].join(".");
            let value = table.entry(section.to_string()).or_insert_with(|| {
                self.origins.by_key.insert(section_key.clone(), origin.clone());
                Value::Table(Table::new())
            });
            let Value::Table(nested) = value else {
                return self.problems.push(format!("{key}: {section_key} is not a section ({origin})"));
            };
            table = nested;
        }
        let text = origin.text().unwrap_or_default();
        let value = text.parse::<Value>().unwrap_or_else(|_| Value::String(text.to_owned()));
        table.insert(name.to_string(), value);
        self.origins.forget_below(&key);
        self.origins.by_key.insert(key, origin);
    }

    pub(super) fn finish(self) -> (Table, Origins, Vec<String>) {
        (self.table, self.origins, self.problems)
    }
}

fn line_of(text: &str, offset: usize) -> usize {
    let end = offset.min(text.len());
    text.as_bytes()[..end].iter().filter(|byte| **byte == b'\n').count() + 1
}
