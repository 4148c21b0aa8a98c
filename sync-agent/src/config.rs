//! The agent's configuration.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use cell_core::gate;
use cell_core::id::RegionId;
use serde::Deserialize;
use service_kit::{Problems, TelemetryConfig, Validate};

use crate::placement;
use crate::transport;

/// Where the agent listens. Port 0 takes a free port; the announcement says which.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listen {
    /// Changes, for the agents of other regions.
    pub data: SocketAddr,
    /// Messages, for the agents of other regions: apart from the data, so that neither waits for the other.
    pub messages: SocketAddr,
    /// For operators, with health and reflection; never reachable from outside the cell.
    pub grpc: SocketAddr,
    /// `/livez`, `/readyz`, `/metrics`, `/version`.
    pub admin: SocketAddr,
}

/// The agent of another region.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    pub region: String,
    /// `http://host:port` of its data listener.
    pub data: String,
    /// `http://host:port` of its message listener.
    pub messages: String,
}

/// The gate's patience and room; what is absent keeps its default.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GateConfig {
    pub fetch_after_ms: Option<u64>,
    pub fetch_pause_max_ms: Option<u64>,
    pub warn_after_ms: Option<u64>,
    pub retry_after_ms: Option<u64>,
    pub retry_pause_max_ms: Option<u64>,
    pub attempts_max: Option<u8>,
    pub answer_within_ms: Option<u64>,
    pub in_flight_max: Option<usize>,
    pub waiting_max: Option<usize>,
    pub items_max: Option<usize>,
}

impl GateConfig {
    /// With the defaults filled in.
    #[must_use]
    pub fn gate(&self) -> gate::Config {
        let usual = gate::Config::default();
        gate::Config {
            fetch_after_ms: self.fetch_after_ms.unwrap_or(usual.fetch_after_ms),
            fetch_pause_max_ms: self.fetch_pause_max_ms.unwrap_or(usual.fetch_pause_max_ms),
            warn_after_ms: self.warn_after_ms.unwrap_or(usual.warn_after_ms),
            retry_after_ms: self.retry_after_ms.unwrap_or(usual.retry_after_ms),
            retry_pause_max_ms: self.retry_pause_max_ms.unwrap_or(usual.retry_pause_max_ms),
            attempts_max: self.attempts_max.unwrap_or(usual.attempts_max),
            answer_within_ms: self.answer_within_ms.unwrap_or(usual.answer_within_ms),
            in_flight_max: self.in_flight_max.unwrap_or(usual.in_flight_max),
            waiting_max: self.waiting_max.unwrap_or(usual.waiting_max),
            items_max: self.items_max.unwrap_or(usual.items_max),
            ..usual
        }
    }
}

/// What bounds memory, in bytes, and how long a relay waits, in milliseconds.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// One streamed batch of changes, about.
    pub batch_bytes: usize,
    /// Changes held in memory for one subscriber.
    pub held_bytes_max: usize,
    /// What a peer lacks of a third region for this long is relayed.
    pub relay_after_ms: u64,
    /// Pause between two comparisons with a peer.
    pub compare_every_ms: u64,
    /// Entities taken over from a peer in a second where they differ.
    pub repair_per_s: u32,
    /// Entities taken over in a second where a peer's state is taken over as a whole.
    pub take_over_per_s: u32,
    /// Pause between two looks at which ended actors can be closed, and what of the log is not needed any more.
    pub upkeep_every_ms: u64,
    /// An ended actor is closed once it was silent for so long.
    pub close_after_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            batch_bytes: 256 << 10,
            held_bytes_max: 8 << 20,
            relay_after_ms: 1_000,
            compare_every_ms: 5_000,
            repair_per_s: 500,
            take_over_per_s: 20_000,
            upkeep_every_ms: 5_000,
            close_after_ms: 60_000,
        }
    }
}

/// Everything an agent is told at start.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// This agent's region; a member of the placement.
    pub region: String,
    pub listen: Listen,
    /// `http://host:port` of its own node's internal port.
    pub node: String,
    /// The gate's records live here; one process at a time.
    pub data_dir: PathBuf,
    /// Which slot has which home.
    pub placement_file: PathBuf,
    /// One for every other member.
    #[serde(default)]
    pub peers: Vec<PeerConfig>,
    #[serde(default)]
    pub gate: GateConfig,
    #[serde(default)]
    pub limits: Limits,
    #[serde(default)]
    pub telemetry: TelemetryConfig,
}

impl Validate for Config {
    fn locate(&mut self, folder: &Path) {
        if !self.data_dir.as_os_str().is_empty() {
            self.data_dir = folder.join(&self.data_dir);
        }
        self.placement_file = folder.join(&self.placement_file);
    }

    fn validate(&self, problems: &mut Problems) {
        let region = self.region.parse::<RegionId>();
        if let Err(error) = &region {
            problems.push("region", error);
        }
        match placement::load(&self.placement_file) {
            Err(error) => problems.push("placement_file", error),
            Ok(placement) => {
                if let Ok(region) = region {
                    self.check_members(&region, placement.members(), problems);
                }
            }
        }
        let Listen { data, messages, grpc, admin } = self.listen;
        problems.check_distinct([
            ("listen.data", data),
            ("listen.messages", messages),
            ("listen.grpc", grpc),
            ("listen.admin", admin),
        ]);
        for (i, peer) in self.peers.iter().enumerate() {
            for (key, address) in [("data", &peer.data), ("messages", &peer.messages)] {
                let detail = format!("'{address}' is no http:// address");
                problems.check(transport::is_address(address), &format!("peers[{i}].{key}"), detail);
            }
        }
        let addresses: Vec<(String, &str)> = (0..)
            .zip(&self.peers)
            .flat_map(|(i, peer): (usize, _)| {
                [(format!("peers[{i}].data"), &*peer.data), (format!("peers[{i}].messages"), &*peer.messages)]
            })
            .collect();
        for (i, (key, address)) in addresses.iter().enumerate() {
            if let Some((other, _)) = addresses[..i].iter().find(|(_, other)| other == address) {
                problems.push(key, format!("{address} is {other}'s already"));
            }
        }
        problems.check(
            transport::is_address(&self.node),
            "node",
            format!("'{}' is no http:// address", self.node),
        );
        problems.check(!self.data_dir.as_os_str().is_empty(), "data_dir", "names no folder");
        let gate = self.gate.gate();
        problems.check(gate.fetch_after_ms > 0, "gate.fetch_after_ms", "must be above 0");
        problems.check(gate.attempts_max > 0, "gate.attempts_max", "must be above 0");
        problems.check(gate.in_flight_max > 0, "gate.in_flight_max", "must be above 0");
        let room = gate.waiting_max <= gate.items_max;
        problems.check(room, "gate.waiting_max", "must not be above gate.items_max");
        problems.check(self.limits.batch_bytes >= 4 << 10, "limits.batch_bytes", "must be at least 4096");
        problems.check(self.limits.compare_every_ms > 0, "limits.compare_every_ms", "must be above 0");
        problems.check(self.limits.repair_per_s > 0, "limits.repair_per_s", "must be above 0");
        problems.check(self.limits.take_over_per_s > 0, "limits.take_over_per_s", "must be above 0");
        problems.check(self.limits.upkeep_every_ms > 0, "limits.upkeep_every_ms", "must be above 0");
        let room = self.limits.held_bytes_max >= self.limits.batch_bytes;
        problems.check(room, "limits.held_bytes_max", "must not be below limits.batch_bytes");
        problems.section("telemetry", &self.telemetry);
    }
}

impl Config {
    fn check_members(&self, region: &RegionId, members: &[RegionId], problems: &mut Problems) {
        problems.check(
            members.contains(region),
            "region",
            format!("'{region}' is no member of the placement"),
        );
        let mut named = BTreeSet::new();
        for peer in &self.peers {
            let known = members.iter().any(|member| member.as_str() == peer.region);
            problems.check(known, "peers", format!("'{}' is no member of the placement", peer.region));
            problems.check(peer.region != self.region, "peers", "an agent is no peer of itself");
            problems.check(
                named.insert(peer.region.as_str()),
                "peers",
                format!("'{}' is named twice", peer.region),
            );
        }
        for member in members {
            let served = member == region || named.contains(member.as_str());
            problems.check(served, "peers", format!("'{member}' is a member and has no address here"));
        }
    }
}
