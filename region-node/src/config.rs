//! The node's configuration.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use axum::http::Uri;
use cell_core::cell::ENTRY_BYTES_MAX;
use cell_core::id::RegionId;
use cell_core::rules::{PAY_WINDOW_MS, Rules};
use cell_store::Engine;
use serde::Deserialize;
use service_kit::{Problems, SecretFile, TelemetryConfig, Validate};

pub use cell_proto::placement_file::load as load_placement;

/// Signs of life and what starts write must fit, or every one of them is quarantined.
const CHANGE_BYTES_LEAST: usize = 256;

/// Which engine keeps the view.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EngineName {
    #[default]
    Sled,
    Fjall,
    Memory,
}

impl From<EngineName> for Engine {
    fn from(name: EngineName) -> Engine {
        match name {
            EngineName::Sled => Engine::Sled,
            EngineName::Fjall => Engine::Fjall,
            EngineName::Memory => Engine::Memory,
        }
    }
}

/// Where the node listens. Port 0 takes a free port; the announcement says which.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// The JSON API, behind the router.
    pub http: SocketAddr,
    /// For this cell's sync-agent and for operators; never reachable from outside the cell.
    pub grpc: SocketAddr,
    /// `/livez`, `/readyz`, `/metrics`, `/version`.
    pub admin: SocketAddr,
}

/// Times and bounds of the rules; what is absent keeps its default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RulesConfig {
    pub permit_window_ms: Option<u64>,
    pub attempt_margin_ms: Option<u64>,
    pub close_margin_ms: Option<u64>,
    pub message_deadline_ms: Option<u64>,
}

impl RulesConfig {
    #[must_use]
    pub fn rules(&self) -> Rules {
        let usual = Rules::default();
        Rules {
            permit_window_ms: self.permit_window_ms.unwrap_or(usual.permit_window_ms),
            attempt_margin_ms: self.attempt_margin_ms.unwrap_or(usual.attempt_margin_ms),
            close_margin_ms: self.close_margin_ms.unwrap_or(usual.close_margin_ms),
            message_deadline_ms: self.message_deadline_ms.unwrap_or(usual.message_deadline_ms),
            ..usual
        }
    }
}

/// The payment gateway.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayConfig {
    /// `http://host:port`, without a path.
    pub url: String,
    /// What callbacks are signed with.
    pub secret_file: SecretFile,
    /// Where the gateway reports, any region first that listens: `http://…/v1/payments/callback`.
    #[serde(default)]
    pub callback_urls: Vec<String>,
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Pause between two questions about one payment; after thirty it grows tenfold.
    #[serde(default = "default_ask_every_ms")]
    pub ask_every_ms: u64,
}

/// How the log is kept. Whole segments are deleted, never one with changes that no other region has.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogSettings {
    /// One segment's size. While a large one is deleted, a file system may keep syncs waiting.
    pub segment_kib: u64,
    /// Kept for a peer that does not have it yet; beyond it the peer takes over state.
    pub keep_mib: u64,
    pub keep_h: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        LogSettings { segment_kib: 16 << 10, keep_mib: 8 << 10, keep_h: 7 * 24 }
    }
}

fn default_low_water_mib() -> u64 {
    512
}
fn default_recovery_wait_ms() -> u64 {
    5_000
}
fn default_change_bytes_max() -> usize {
    8 << 20
}
fn default_scrub_every_ms() -> u64 {
    3_600_000
}
fn default_scrub_per_s() -> u32 {
    20_000
}
fn default_session_wait_ms() -> u64 {
    1_000
}
fn default_connections_max() -> usize {
    12_000
}
fn default_timeout_ms() -> u64 {
    3_000
}
fn default_ask_every_ms() -> u64 {
    60_000
}

/// Everything a node is told at start.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This node's region; a member of the placement.
    pub region: String,
    /// There is one node per cell so far: 0.
    #[serde(default)]
    pub node_index: u64,
    pub listen: Listen,
    /// Log and view live here; one process at a time.
    pub data_dir: PathBuf,
    #[serde(default)]
    pub engine: EngineName,
    /// With less free disk than this many MiB new orders are refused; payments, replication and reads go on.
    #[serde(default = "default_low_water_mib")]
    pub low_water_mib: u64,
    /// After a start it waits at most this long to hear from its agent what peers hold of it, before it decides anything;
    /// with a damaged log until one of them was heard. 0: not at all.
    #[serde(default = "default_recovery_wait_ms")]
    pub recovery_wait_ms: u64,
    /// A larger change of another region is not applied but quarantined.
    #[serde(default = "default_change_bytes_max")]
    pub change_bytes_max: usize,
    /// A request that presents a `Cell-Version` waits at most this long for it to be here.
    #[serde(default = "default_session_wait_ms")]
    pub session_wait_ms: u64,
    /// Clients of the API connected at a time; those above it are answered 503. Fewer where the process may have too few
    /// open files.
    #[serde(default = "default_connections_max")]
    pub connections_max: usize,
    /// Pause between two readings of the whole view, which find what is damaged or gone; the first is at start.
    #[serde(default = "default_scrub_every_ms")]
    pub scrub_every_ms: u64,
    /// Keys read in a second by it.
    #[serde(default = "default_scrub_per_s")]
    pub scrub_per_s: u32,
    /// Lets a test damage the view through the internal port. Never in production.
    #[serde(default)]
    pub allow_damage: bool,
    /// Which slot has which home.
    pub placement_file: PathBuf,
    #[serde(default)]
    pub log: LogSettings,
    pub gateway: GatewayConfig,
    #[serde(default)]
    pub rules: RulesConfig,
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

impl Validate for Config {
    fn locate(&mut self, folder: &Path) {
        if !self.data_dir.as_os_str().is_empty() {
            self.data_dir = folder.join(&self.data_dir);
        }
        self.placement_file = folder.join(&self.placement_file);
        self.gateway.secret_file = self.gateway.secret_file.located(folder);
    }

    fn validate(&self, problems: &mut Problems) {
        let region = self.region.parse::<RegionId>();
        if let Err(error) = &region {
            problems.push("region", error);
        }
        match load_placement(&self.placement_file) {
            Err(error) => problems.push("placement_file", error),
            Ok(placement) => {
                // A name that is none was named above.
                let member = region.map_or(true, |region| placement.members().contains(&region));
                problems.check(member, "region", format!("'{}' is no member of the placement", self.region));
            }
        }
        let Listen { http, grpc, admin } = self.listen;
        problems.check_distinct([("listen.http", http), ("listen.grpc", grpc), ("listen.admin", admin)]);
        problems.check(self.node_index == 0, "node_index", "must be 0: there is one node per cell so far");
        if let Err(error) = self.gateway.secret_file.load() {
            problems.push("gateway.secret_file", error);
        }
        problems.check(!self.data_dir.as_os_str().is_empty(), "data_dir", "names no folder");
        let fits = (16..=4 << 20).contains(&self.log.segment_kib);
        problems.check(fits, "log.segment_kib", "must be 16 to 4194304 (4 GiB)");
        problems.check(self.scrub_per_s > 0, "scrub_per_s", "must be above 0");
        let rules = self.rules.rules();
        let fits = rules.attempt_margin_ms < rules.permit_window_ms;
        problems.check(fits, "rules.attempt_margin_ms", "must be shorter than rules.permit_window_ms");
        let fits = rules.permit_window_ms <= PAY_WINDOW_MS;
        let detail = format!("must not be longer than orders can be paid, {PAY_WINDOW_MS}");
        problems.check(fits, "rules.permit_window_ms", detail);
        let fits = (CHANGE_BYTES_LEAST..=ENTRY_BYTES_MAX).contains(&self.change_bytes_max);
        let bounds = format!("must be {CHANGE_BYTES_LEAST} to {ENTRY_BYTES_MAX}");
        problems.check(fits, "change_bytes_max", bounds);
        let fits = (1..=1_000_000).contains(&self.connections_max);
        problems.check(fits, "connections_max", "must be 1 to 1000000");
        problems.section("gateway", &self.gateway);
        problems.section("telemetry", &self.telemetry);
    }
}

impl Validate for GatewayConfig {
    fn validate(&self, problems: &mut Problems) {
        let url = &self.url;
        let whole = authority(url).is_some_and(|authority| *url == format!("http://{authority}"));
        let detail = format!("'{url}' is not http:// and a host and a port, without a path");
        problems.check(whole, "url", detail);
        for (i, url) in self.callback_urls.iter().enumerate() {
            let detail = format!("'{url}' is not http:// and a host, a port and a path");
            problems.check(authority(url).is_some(), &format!("callback_urls[{i}]"), detail);
        }
        problems.check(self.timeout_ms > 0, "timeout_ms", "must be above 0");
        problems.check(self.ask_every_ms > 0, "ask_every_ms", "must be above 0");
    }
}

/// Host and port of an `http://` address.
fn authority(url: &str) -> Option<String> {
    let uri = url.parse::<Uri>().ok().filter(|uri| uri.scheme_str() == Some("http"))?;
    uri.authority().filter(|authority| !authority.host().is_empty()).map(ToString::to_string)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use service_kit::config::load_from;

    use super::*;

    fn example() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/north/node.toml")
    }

    fn problems(sets: &[&str]) -> Vec<String> {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        load_from::<Config>(Some(&example()), "UNSET", [], &sets).map_or_else(
            |error| {
                error
                    .problems()
                    .iter()
                    .map(|line| line.replace(&example().display().to_string(), "FILE"))
                    .collect()
            },
            |_| Vec::new(),
        )
    }

    #[test]
    fn what_cannot_work_is_named_by_its_own_key_and_blamed_on_who_set_it() {
        assert_eq!(problems(&[]), [""; 0]);
        for (set, expected) in [
            (
                "gateway.url=ftp://pay",
                "gateway.url: 'ftp://pay' is not http:// and a host and a port, without a path (--set)",
            ),
            (
                "gateway.url=http://pay/v1",
                "gateway.url: 'http://pay/v1' is not http:// and a host and a port, without a path (--set)",
            ),
            (
                "gateway.callback_urls=[\"http://a/x\", \"b\"]",
                "gateway.callback_urls[1]: 'b' is not http:// and a host, a port and a path (--set)",
            ),
            ("low_water_mib=-1", "low_water_mib: must be a whole number from 0 on, not -1 (--set)"),
            ("node_index=3", "node_index: must be 0: there is one node per cell so far (--set)"),
            ("region=west", "region: 'west' is no member of the placement (--set)"),
            ("engine=rocks", "engine: must be one of `sled`, `fjall`, `memory`, not `rocks` (--set)"),
        ] {
            assert_eq!(problems(&[set]), [expected]);
        }
    }

    #[test]
    fn an_address_in_the_file_is_named_by_its_own_line() {
        let text = std::fs::read_to_string(example()).unwrap();
        let (text, folder) = (text.replace("http://127.0.0.1:7201/", "east/"), tempfile::tempdir().unwrap());
        let line = text.lines().position(|line| line.contains("\"east/")).unwrap() + 1;
        let path = folder.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        let configs = example().parent().unwrap().join("..");
        let sets = [
            format!("placement_file={}", configs.join("placement.toml").display()),
            format!("gateway.secret_file={}", configs.join("gateway.secret").display()),
        ];
        let error = load_from::<Config>(Some(&path), "UNSET", [], &sets).unwrap_err().to_string();
        assert!(error.starts_with("gateway.callback_urls[1]: 'east/v1"), "{error}");
        assert!(error.ends_with(&format!("({}:{line})", path.display())), "{error}");
    }
}
