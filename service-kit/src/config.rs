//! Configuration from a TOML file, the environment and `--set` flags, later ones winning.
//!
//! | source | form | example |
//! |---|---|---|
//! | file | TOML | `[http]` `listen = "127.0.0.1:8080"` |
//! | environment | `PREFIX_SECTION__KEY`, lower-cased, `__` nests | `CELL_HTTP__LISTEN=127.0.0.1:8080` |
//! | flag | `section.key=value` | `--set http.listen=127.0.0.1:8080` |
//!
//! Values from the environment and from flags are read as TOML (`5`, `true`, `["a"]`) and, where the key wants a string,
//! as the plain text. Relative paths are taken from the folder of the configuration file, wherever they were set; without a
//! file from the working directory. Unknown keys are refused: give every configuration struct
//! `#[serde(deny_unknown_fields)]`. As many problems as possible are reported at once, each on a line of its own with its key
//! and where it was set.

mod read;
mod sources;

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::de::DeserializeOwned;

pub use sources::Origins;
use sources::Sources;

/// What a configuration must satisfy beyond its types. Keys are named as in the file: `section.key`.
pub trait Validate {
    /// Adds a problem for every key whose value cannot work; the default accepts everything.
    fn validate(&self, problems: &mut Problems) {
        let _ = problems;
    }

    /// Takes relative paths from `folder`, that of the configuration file: `self.path = folder.join(&self.path)`. Comes
    /// before [`Validate::validate`]; the default has no paths.
    fn locate(&mut self, folder: &Path) {
        let _ = folder;
    }
}

/// Collects what [`Validate`] finds, so that an operator corrects everything in one go.
#[derive(Debug, Default)]
pub struct Problems {
    prefix: String,
    found: Vec<(String, String)>,
}

impl Problems {
    /// Records that the value of `key` (relative to the section being validated) cannot work. An item of a list is
    /// `key[0]`, a key of such an item `key[0].name`.
    pub fn push(&mut self, key: &str, message: impl fmt::Display) {
        self.found.push((join_key(&self.prefix, key), message.to_string()));
    }

    /// Records `message` for `key` unless `holds`.
    pub fn check(&mut self, holds: bool, key: &str, message: impl fmt::Display) {
        if !holds {
            self.push(key, message);
        }
    }

    /// Records each of these addresses that another one before it takes already; port 0 is a free one every time, and
    /// the address of all interfaces takes the port of each.
    pub fn check_distinct<const N: usize>(&mut self, addresses: [(&str, SocketAddr); N]) {
        for (i, (key, address)) in addresses.iter().enumerate() {
            // `[::]` takes the old protocol's addresses, too.
            let covers = |all: IpAddr, one: IpAddr| all.is_unspecified() && (all.is_ipv6() || one.is_ipv4());
            let overlap = |other: &SocketAddr| {
                let (one, other_one) = (address.ip().to_canonical(), other.ip().to_canonical());
                let same = one == other_one || covers(one, other_one) || covers(other_one, one);
                address.port() != 0 && address.port() == other.port() && same
            };
            if let Some((other, taken)) = addresses[..i].iter().find(|(_, other)| overlap(other)) {
                let other = join_key(&self.prefix, other);
                self.push(key, format!("{address} is {other}'s already, which listens on {taken}"));
            }
        }
    }

    /// Validates a nested section, its keys prefixed by `section`.
    pub fn section(&mut self, section: &str, value: &impl Validate) {
        let outer = self.prefix.clone();
        self.prefix = join_key(&outer, section);
        value.validate(self);
        self.prefix = outer;
    }

    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

/// Why a configuration was refused. Nothing was started. [`fmt::Display`] is one line per problem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<String>,
}

impl ConfigError {
    /// An error about one key that was only found when its value was used, e.g. a folder held by another process.
    pub fn at(key: &str, message: impl fmt::Display, origins: &Origins) -> Self {
        Self { problems: vec![describe(key, &message.to_string(), origins)] }
    }

    /// One line per problem, in the order they were found.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problems.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// Loads and validates a configuration from `path`, the process's environment (`env_prefix`, usually `CELL`) and
/// `overrides` (`section.key=value`).
///
/// # Errors
/// Every problem found, see [`ConfigError`]. A file that is named but cannot be read is one.
pub fn load<T: DeserializeOwned + Validate>(
    path: Option<&Path>,
    env_prefix: &str,
    overrides: &[String],
) -> Result<T, ConfigError> {
    load_traced(path, env_prefix, overrides).map(|(config, _)| config)
}

/// Like [`load`], and tells where each key was set, for errors that only show when a value is used (see [`crate::bind`]).
///
/// # Errors
/// As [`load`].
pub fn load_traced<T: DeserializeOwned + Validate>(
    path: Option<&Path>,
    env_prefix: &str,
    overrides: &[String],
) -> Result<(T, Origins), ConfigError> {
    let environment = std::env::vars_os().filter_map(|(key, value)| Some((key.into_string().ok()?, value)));
    // A value that is not UTF-8 becomes visible as a wrong value of its key instead of being passed over.
    let environment = environment.map(|(key, value)| (key, value.to_string_lossy().into_owned()));
    load_from(path, env_prefix, environment, overrides)
}

/// [`load_traced`] with the environment as an argument.
///
/// # Errors
/// As [`load`].
pub fn load_from<T: DeserializeOwned + Validate>(
    path: Option<&Path>,
    env_prefix: &str,
    environment: impl IntoIterator<Item = (String, String)>,
    overrides: &[String],
) -> Result<(T, Origins), ConfigError> {
    let mut sources = Sources::default();
    if let Some(path) = path {
        sources.add_file(path).map_err(|problems| ConfigError { problems })?;
    }
    sources.add_environment(env_prefix, environment);
    sources.add_overrides(overrides);
    let (table, origins, mut problems) = sources.finish();

    let config = read::read::<T>(table, &origins, &mut problems);
    if path.is_none() && problems.iter().any(|problem| problem.ends_with(read::REQUIRED)) {
        problems.push(format!(
            "no configuration file is named: --config FILE, or {env_prefix}_CONFIG in the environment"
        ));
    }
    match config {
        Some(mut config) if problems.is_empty() => {
            if let Some(folder) = path.and_then(Path::parent) {
                config.locate(folder);
            }
            let mut semantic = Problems::default();
            config.validate(&mut semantic);
            if semantic.is_empty() {
                return Ok((config, origins));
            }
            let problems =
                semantic.found.iter().map(|(key, message)| describe(key, message, &origins)).collect();
            Err(ConfigError { problems })
        }
        _ => Err(ConfigError { problems }),
    }
}

fn join_key(prefix: &str, key: &str) -> String {
    match (prefix.is_empty(), key.is_empty()) {
        (true, _) => key.to_owned(),
        (false, true) => prefix.to_owned(),
        (false, false) => format!("{prefix}.{key}"),
    }
}

/// `key: message (where it was set)`, on one line.
fn describe(key: &str, message: &str, origins: &Origins) -> String {
    let message =
        message.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("; ");
    let key = if key.is_empty() { "configuration" } else { key };
    match origins.describe(key) {
        Some(origin) => format!("{key}: {message} ({origin})"),
        None => format!("{key}: {message}"),
    }
}
