//! What an operator sets, and the checks that need no other file.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cell_core::id::RegionId;
use http::uri::Authority;
use serde::{Deserialize, Serialize};
use service_kit::{ConfigError, Origins, Problems, TelemetryConfig, Validate, config};

/// Environment variables of this prefix override the file: `CELL_LISTEN`, `CELL_ADMIN__LISTEN`.
const ENV_PREFIX: &str = "CELL";

/// The whole configuration. See `configs/north/router.toml` for one with every key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where clients connect, HTTP/1.1 and HTTP/2 without TLS.
    pub listen: SocketAddr,
    /// The region this router runs in: asked first by requests that any region can answer.
    pub region: String,
    /// The placement file.
    pub placement_file: PathBuf,
    #[serde(default)]
    pub identity: Identity,
    pub admin: AdminConfig,
    /// `host:port` of the API of each region, this one included.
    pub upstreams: BTreeMap<String, String>,
    #[serde(default)]
    pub timeouts: Timeouts,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

/// How the caller is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Identity {
    /// Development: whoever `X-User-Id` says, believed without proof.
    #[default]
    Header,
}

/// `[admin]`: health, metrics and version, never to be reached from outside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminConfig {
    pub listen: SocketAddr,
}

/// `[timeouts]`, all in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// A client's request head, and the silence between two requests of a connection. Exceeded: the connection is closed.
    pub head_ms: u64,
    /// One attempt to connect to a region.
    pub connect_ms: u64,
    /// From the last byte of the request to the head of the response (504), and between two pieces of the request (408).
    pub response_ms: u64,
    /// From the first to the last byte of a request's body (408), however steadily it drips.
    pub upload_ms: u64,
    /// Between two pieces of a response body. Event streams have no such limit.
    pub body_idle_ms: u64,
    /// A kept connection to a region is closed after this silence; keep it below the region's own, a minute.
    pub upstream_idle_ms: u64,
    /// How long a stopping router waits for requests under way.
    pub drain_ms: u64,
}

/// `[limits]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Clients connected at a time; those above it are answered 503.
    pub connections_max: usize,
    /// Requests at a time on one HTTP/2 connection.
    pub streams_max: u32,
    /// Longest request body; above it 413. A node takes 64 KiB, so more is of no use.
    pub body_bytes_max: u64,
    /// Attempts to connect to a region before a request is answered 502 or 504.
    pub connect_attempts: u32,
}

impl Config {
    /// Loads and checks a configuration: file, environment (`CELL_…`), `overrides` (`section.key=value`).
    ///
    /// # Errors
    /// Every problem found, each on its own line.
    pub fn load(path: Option<&Path>, overrides: &[String]) -> Result<(Self, Origins), ConfigError> {
        config::load_traced::<Self>(path, ENV_PREFIX, overrides)
    }
}

/// `host:port`, the port given.
pub(crate) fn read_address(text: &str) -> Result<Authority, String> {
    let complaint = || format!("{text:?} is not host:port");
    let authority: Authority = text.parse().map_err(|_| complaint())?;
    let complete = authority.port_u16().is_some_and(|port| port != 0) && !authority.host().is_empty();
    // User info would be sent to the region with every request.
    if complete && !text.contains('@') { Ok(authority) } else { Err(complaint()) }
}

// === impl Validate ===

impl Validate for Config {
    fn locate(&mut self, folder: &Path) {
        self.placement_file = folder.join(&self.placement_file);
    }

    fn validate(&self, problems: &mut Problems) {
        if let Err(error) = RegionId::new(&self.region) {
            problems.push("region", error);
        }
        problems.check_distinct([("listen", self.listen), ("admin.listen", self.admin.listen)]);
        problems.check(!self.upstreams.is_empty(), "upstreams", "names no region");
        for (region, address) in &self.upstreams {
            let key = format!("upstreams.{region}");
            if let Err(error) = RegionId::new(region) {
                problems.push(&key, error);
            }
            if let Err(complaint) = read_address(address) {
                problems.push(&key, complaint);
            }
        }
        problems.section("timeouts", &self.timeouts);
        problems.section("limits", &self.limits);
        problems.section("telemetry", &self.telemetry);
    }
}

impl Validate for Timeouts {
    fn validate(&self, problems: &mut Problems) {
        const LONGEST: Duration = Duration::from_secs(3600);
        let all = [
            ("head_ms", self.head_ms),
            ("connect_ms", self.connect_ms),
            ("response_ms", self.response_ms),
            ("upload_ms", self.upload_ms),
            ("body_idle_ms", self.body_idle_ms),
            ("upstream_idle_ms", self.upstream_idle_ms),
            ("drain_ms", self.drain_ms),
        ];
        for (key, ms) in all {
            let fits = ms >= 1 && u128::from(ms) <= LONGEST.as_millis();
            problems.check(fits, key, "must be 1 to 3600000 (an hour)");
        }
    }
}

impl Validate for Limits {
    fn validate(&self, problems: &mut Problems) {
        let connections = (1..=1_000_000).contains(&self.connections_max);
        problems.check(connections, "connections_max", "must be 1 to 1000000");
        problems.check((1..=1000).contains(&self.streams_max), "streams_max", "must be 1 to 1000");
        problems.check(self.body_bytes_max >= 1, "body_bytes_max", "must be at least 1");
        let attempts = (1..=10).contains(&self.connect_attempts);
        problems.check(attempts, "connect_attempts", "must be 1 to 10");
    }
}

// === Defaults ===

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            head_ms: 15_000,
            connect_ms: 1_000,
            response_ms: 15_000,
            upload_ms: 60_000,
            body_idle_ms: 30_000,
            upstream_idle_ms: 10_000,
            drain_ms: 10_000,
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self { connections_max: 4_096, streams_max: 64, body_bytes_max: 64 * 1024, connect_attempts: 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems_of(overrides: &[&str]) -> Vec<String> {
        let text = r#"
            listen = "127.0.0.1:0"
            region = "north"
            placement_file = "placement.toml"
            admin.listen = "127.0.0.1:0"
            upstreams.north = "127.0.0.1:8081"
        "#;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("router.toml");
        std::fs::write(&path, text).unwrap();
        let overrides: Vec<String> = overrides.iter().map(|text| text.to_string()).collect();
        match Config::load(Some(&path), &overrides) {
            Ok((config, _)) => {
                assert_eq!(config.placement_file, folder.path().join("placement.toml"));
                Vec::new()
            }
            Err(error) => error.problems().to_vec(),
        }
    }

    #[test]
    fn a_minimal_file_is_enough_and_names_the_placement_beside_it() {
        assert_eq!(problems_of(&[]), [""; 0]);
    }

    #[test]
    fn a_region_that_is_no_member_is_refused() {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/north/router.toml");
        for (key, set) in [("region", "region=west"), ("upstreams.west", "upstreams.west=127.0.0.1:1")] {
            let (config, origins) = Config::load(Some(&example), &[set.to_owned()]).unwrap();
            let error = crate::Router::check(&config, &origins).unwrap_err().to_string();
            assert_eq!(error, format!("{key}: 'west' is no member of the placement (--set)"));
        }
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let problems = problems_of(&["limits.bodies=1"]);
        assert!(problems[0].contains("bodies"), "{problems:?}");
    }

    #[test]
    fn all_values_that_cannot_work_are_named_at_once() {
        let problems = problems_of(&[
            "region=North",
            "upstreams.east=127.0.0.1",
            "upstreams.south=me@host:80",
            "timeouts.response_ms=0",
            "limits.connect_attempts=11",
        ]);
        for key in
            ["region", "upstreams.east", "upstreams.south", "timeouts.response_ms", "limits.connect_attempts"]
        {
            assert!(
                problems.iter().any(|line| line.starts_with(&format!("{key}: "))),
                "{key} in {problems:?}"
            );
        }
    }
}
