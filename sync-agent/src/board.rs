//! What operators and metrics see of the agent's links. Nothing is decided by it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cell_core::gate::Counts;
use cell_core::id::RegionId;
use cell_proto::v1;
use metrics::gauge;
use service_kit::Shutdown;

/// How often a node writes a heartbeat, and how often an agent says its time on the message channel: until the next one
/// can be here, a lag is what the last one took.
const CHANGE_BEAT_MS: u64 = 1_000;
pub(crate) const MESSAGE_BEAT_MS: u64 = 500;
/// Something is to be had, or a heartbeat is overdue, for this long.
pub(crate) const STALLED_AFTER_MS: u64 = 3_000;
const PUBLISH_EVERY: Duration = Duration::from_secs(1);

/// Wall milliseconds since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Channel {
    Changes,
    Messages,
}

/// How a channel to a peer does. Stalled is not idle: there is something to get, and it does not come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Flow {
    #[default]
    Unreachable,
    Idle,
    Flowing,
    Stalled,
}

impl Flow {
    /// A link on which not even heartbeats come is stalled, whatever is known to be missing.
    fn by_lag(self, lag_ms: u64) -> Flow {
        match self {
            Flow::Idle if lag_ms > STALLED_AFTER_MS => Flow::Stalled,
            flow => flow,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Flow::Unreachable => "unreachable",
            Flow::Idle => "idle",
            Flow::Flowing => "flowing",
            Flow::Stalled => "stalled",
        }
    }
}

/// Up to when everything of a region is here, by its own clock, and how long the last of it was on its way by ours.
#[derive(Clone, Copy, Debug)]
struct Beat {
    wall_ms: u64,
    transit_ms: u64,
}

impl Beat {
    /// What the newest one took, or the time since the next one is overdue. Never negative, whatever the clocks.
    fn lag_ms(&self, now_ms: u64, every_ms: u64) -> u64 {
        self.transit_ms.max(now_ms.saturating_sub(self.wall_ms).saturating_sub(every_ms))
    }

    /// Everything up to `wall_ms` is here now. A clock that runs ahead makes nobody fresher than now; less than was known
    /// means that something older turned out to be missing.
    fn heard(self, wall_ms: u64, now_ms: u64) -> Beat {
        let wall_ms = wall_ms.min(now_ms);
        if wall_ms <= self.wall_ms {
            return Beat { wall_ms, ..self };
        }
        Beat { wall_ms, transit_ms: now_ms - wall_ms }
    }
}

#[derive(Debug)]
struct PeerLine {
    changes: Flow,
    messages: Flow,
    change_detail: String,
    message_detail: String,
    change_beat: Beat,
    message_beat: Beat,
    /// Since when it is known that the peer's region wrote something that is not here yet.
    owed_since_ms: Option<u64>,
    /// When a comparison found no difference last, and since when one is known that is not healed.
    agreed_at_ms: Option<u64>,
    diverged_at_ms: Option<u64>,
    protocol: u32,
    quarantined: u64,
}

#[derive(Debug, Default)]
struct Lines {
    node_connected: bool,
    /// When the node's tail last brought something; its own heartbeats come that way.
    node_heard_ms: u64,
    node_position: u64,
    node_protocol: u32,
    quarantined: u64,
    /// Since when the node took none of the messages that wait for nothing else.
    untaken_since_ms: Option<u64>,
    /// Since when none is taken here, for want of room on the agent's disk.
    full_since_ms: Option<u64>,
    /// A peer's state is on its way, and how far that is.
    takes_over: Option<String>,
    gate: Counts,
    peers: BTreeMap<RegionId, PeerLine>,
}

impl PeerLine {
    /// By the last sign of life of whoever has not ended; and at least as long as something is known to be lacking.
    fn change_lag_ms(&self, now_ms: u64) -> u64 {
        let owed_ms = self.owed_since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
        self.change_beat.lag_ms(now_ms, CHANGE_BEAT_MS).max(owed_ms)
    }
}

impl Lines {
    /// How long a message is held up here once it came, and why: by a full disk, or by a node that is silent or takes none.
    fn untaken(&self, now_ms: u64) -> (u64, &'static str) {
        let since = |since_ms: Option<u64>| since_ms.map_or(0, |since_ms| now_ms.saturating_sub(since_ms));
        let silent_ms = now_ms.saturating_sub(self.node_heard_ms).saturating_sub(CHANGE_BEAT_MS);
        let untaken_ms = silent_ms.max(since(self.untaken_since_ms));
        match since(self.full_since_ms) {
            0 => (untaken_ms, "this region's node has taken no message"),
            full_ms => (full_ms.max(untaken_ms), "this agent's disk has no room for messages"),
        }
    }

    /// End to end: on its way here, and from here to the node.
    fn message_lag_ms(&self, line: &PeerLine, now_ms: u64) -> u64 {
        line.message_beat.lag_ms(now_ms, MESSAGE_BEAT_MS).max(self.untaken(now_ms).0)
    }
}

/// Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Board {
    region: RegionId,
    lines: Arc<Mutex<Lines>>,
}

impl Board {
    pub(crate) fn new(region: RegionId, peers: impl IntoIterator<Item = RegionId>) -> Board {
        // Before anything was heard, a lag is at least the time that was listened.
        let node_heard_ms = now_ms();
        let beat = Beat { wall_ms: node_heard_ms, transit_ms: 0 };
        let line = || PeerLine {
            changes: Flow::default(),
            messages: Flow::default(),
            change_detail: String::new(),
            message_detail: String::new(),
            change_beat: beat,
            message_beat: beat,
            owed_since_ms: None,
            agreed_at_ms: None,
            diverged_at_ms: None,
            protocol: 0,
            quarantined: 0,
        };
        let peers = peers.into_iter().map(|peer| (peer, line())).collect();
        let lines = Lines { node_heard_ms, peers, ..Lines::default() };
        Board { region, lines: Arc::new(Mutex::new(lines)) }
    }

    fn lines(&self) -> MutexGuard<'_, Lines> {
        // Only assignments run under the lock.
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn node(&self, connected: bool, position: u64) {
        let mut lines = self.lines();
        lines.node_connected = connected;
        lines.node_position = position;
        if connected {
            lines.node_heard_ms = now_ms();
        }
    }

    /// What is spoken with the node.
    pub(crate) fn node_protocol(&self, protocol: u32) {
        self.lines().node_protocol = protocol;
    }

    /// So many changes could not be applied here.
    pub(crate) fn quarantined(&self, count: usize) {
        self.lines().quarantined = count as u64;
    }

    /// What is spoken with a peer.
    pub(crate) fn peer_protocol(&self, peer: RegionId, protocol: u32) {
        if let Some(line) = self.lines().peers.get_mut(&peer) {
            line.protocol = protocol;
        }
    }

    /// So many changes could not be applied at a peer.
    pub(crate) fn peer_quarantined(&self, peer: RegionId, count: usize) {
        if let Some(line) = self.lines().peers.get_mut(&peer) {
            line.quarantined = count as u64;
        }
    }

    /// What the gate holds, whether the node took a message since this was said last, and whether there is no room for more.
    pub(crate) fn gate(&self, counts: &Counts, taken: bool, is_full: bool) {
        let mut lines = self.lines();
        lines.gate = *counts;
        let before_ms = lines.untaken_since_ms.filter(|_| !taken);
        let waits_for_node = counts.ready + counts.in_flight + counts.retrying > 0;
        lines.untaken_since_ms = waits_for_node.then(|| before_ms.unwrap_or_else(now_ms));
        lines.full_since_ms = is_full.then(|| lines.full_since_ms.unwrap_or_else(now_ms));
    }

    pub(crate) fn flow(&self, peer: RegionId, channel: Channel, flow: Flow, detail: &str) {
        let mut lines = self.lines();
        let Some(line) = lines.peers.get_mut(&peer) else { return };
        let (flow_now, detail_now) = match channel {
            Channel::Changes => (&mut line.changes, &mut line.change_detail),
            Channel::Messages => (&mut line.messages, &mut line.message_detail),
        };
        *flow_now = flow;
        detail.clone_into(detail_now);
    }

    /// Up to when everything of each peer is here, as far as that is known.
    pub(crate) fn heard(&self, channel: Channel, up_to: impl Fn(RegionId) -> Option<u64>) {
        let now_ms = now_ms();
        let mut lines = self.lines();
        for (peer, line) in &mut lines.peers {
            let Some(wall_ms) = up_to(*peer) else { continue };
            let beat = match channel {
                Channel::Changes => &mut line.change_beat,
                Channel::Messages => &mut line.message_beat,
            };
            *beat = beat.heard(wall_ms, now_ms);
        }
    }

    /// Since when the peer's region is known to have something that is not here: beats alone do not tell of what a stream
    /// cannot bring.
    pub(crate) fn owes(&self, peer: RegionId, since_ms: Option<u64>) {
        if let Some(line) = self.lines().peers.get_mut(&peer) {
            line.owed_since_ms = since_ms;
        }
    }

    /// A peer's state is on its way, and how far that is.
    pub(crate) fn takes_over(&self, progress: Option<String>) {
        self.lines().takes_over = progress;
    }

    /// A comparison with the peer found no difference.
    pub(crate) fn agrees(&self, peer: RegionId) {
        if let Some(line) = self.lines().peers.get_mut(&peer) {
            (line.agreed_at_ms, line.diverged_at_ms) = (Some(now_ms()), None);
        }
    }

    /// A comparison with the peer found a difference.
    pub(crate) fn differs(&self, peer: RegionId) {
        if let Some(line) = self.lines().peers.get_mut(&peer) {
            line.diverged_at_ms.get_or_insert_with(now_ms);
        }
    }

    pub(crate) fn status(&self) -> v1::AgentStatusReply {
        let now_ms = now_ms();
        let lines = self.lines();
        let peers = lines.peers.iter().map(|(region, line)| {
            let lag_ms = line.change_lag_ms(now_ms);
            let comes = lines.takes_over.as_ref().filter(|_| line.owed_since_ms.is_some());
            let changes = match (line.changes, comes) {
                (Flow::Stalled, Some(_)) => Flow::Flowing,
                (flow, _) => flow.by_lag(lag_ms),
            };
            let silent = match changes == Flow::Stalled && line.changes != Flow::Stalled {
                true => format!("no sign of life for {} s", lag_ms / 1_000),
                false => String::new(),
            };
            let message_lag_ms = lines.message_lag_ms(line, now_ms);
            let messages = line.messages.by_lag(message_lag_ms);
            let untaken = match lines.untaken(now_ms) {
                (ms, why) if ms > STALLED_AFTER_MS => format!("{why} for {} s", ms / 1_000),
                _ => String::new(),
            };
            let comes = comes.map(String::as_str).unwrap_or_default();
            let details =
                [line.change_detail.as_str(), line.message_detail.as_str(), comes, &silent, &untaken];
            let details: Vec<&str> = details.into_iter().filter(|detail| !detail.is_empty()).collect();
            v1::PeerStatus {
                region: region.to_string(),
                changes: changes.as_str().to_owned(),
                messages: messages.as_str().to_owned(),
                change_lag_ms: Some(lag_ms),
                message_lag_ms: Some(message_lag_ms),
                detail: details.join("; "),
                agreed_ms: line.agreed_at_ms.map(|at_ms| now_ms.saturating_sub(at_ms)),
                diverged_ms: line.diverged_at_ms.map(|at_ms| now_ms.saturating_sub(at_ms)),
                protocol: line.protocol,
                quarantined: line.quarantined,
            }
        });
        v1::AgentStatusReply {
            region: self.region.to_string(),
            node_connected: lines.node_connected,
            peers: peers.collect(),
            parked: lines.gate.waiting as u64,
            dead_letters: (lines.gate.dead + lines.gate.undecoded) as u64,
            node_position: lines.node_position,
            node_protocol: lines.node_protocol,
            quarantined: lines.quarantined,
        }
    }

    /// Keeps the gauges; until the shutdown begins.
    pub(crate) async fn publish(self, shutdown: Shutdown) {
        let mut every = tokio::time::interval(PUBLISH_EVERY);
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                _ = every.tick() => self.publish_once(),
            }
        }
    }

    fn publish_once(&self) {
        let now_ms = now_ms();
        let lines = self.lines();
        gauge!("cell_node_up").set(f64::from(u8::from(lines.node_connected)));
        let gate = &lines.gate;
        let stages = [("waiting", gate.waiting), ("ready", gate.ready), ("in-flight", gate.in_flight)];
        for (stage, count) in stages.into_iter().chain([("retrying", gate.retrying)]) {
            gauge!("cell_gate_messages", "stage" => stage).set(count as f64);
        }
        gauge!("cell_gate_dead_letters").set((gate.dead + gate.undecoded) as f64);
        for (region, line) in &lines.peers {
            let up = |flow: Flow| f64::from(u8::from(flow != Flow::Unreachable));
            let peer = region.to_string();
            gauge!("cell_peer_up", "peer" => peer.clone(), "channel" => "changes").set(up(line.changes));
            gauge!("cell_peer_up", "peer" => peer.clone(), "channel" => "messages").set(up(line.messages));
            let seconds = |ms: u64| ms as f64 / 1_000.0;
            let lag_ms = line.change_lag_ms(now_ms);
            gauge!("cell_change_lag_seconds", "from" => peer.clone()).set(seconds(lag_ms));
            let lag_ms = lines.message_lag_ms(line, now_ms);
            gauge!("cell_message_lag_seconds", "from" => peer.clone()).set(seconds(lag_ms));
            let age_ms = line.diverged_at_ms.map_or(0, |at_ms| now_ms.saturating_sub(at_ms));
            gauge!("cell_divergence_age_seconds", "peer" => peer).set(seconds(age_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lag_is_what_the_last_beat_took_until_the_next_is_overdue_and_never_negative() {
        let beat = Beat { wall_ms: 10_000, transit_ms: 40 };
        assert_eq!(beat.lag_ms(10_900, 1_000), 40);
        assert_eq!(beat.lag_ms(14_000, 1_000), 3_000);
        assert_eq!(Beat { wall_ms: 20_000, transit_ms: 0 }.lag_ms(10_000, 1_000), 0);
    }

    #[test]
    fn a_clock_ahead_hides_no_silence_and_what_turns_out_to_be_missing_counts() {
        let beat = Beat { wall_ms: 9_000, transit_ms: 3 };
        let ahead = beat.heard(130_000, 10_000);
        assert_eq!((ahead.lag_ms(10_100, 1_000), ahead.lag_ms(20_000, 1_000)), (0, 9_000));
        let missing = ahead.heard(4_000, 10_200);
        assert_eq!(missing.lag_ms(10_200, 1_000), 5_200);
        assert_eq!(missing.heard(10_500, 10_504).lag_ms(10_504, 1_000), 4);
    }

    #[test]
    fn a_link_without_heartbeats_is_stalled_and_not_idle() {
        assert_eq!(Flow::Idle.by_lag(2_000), Flow::Idle);
        assert_eq!(Flow::Idle.by_lag(15_000), Flow::Stalled);
        assert_eq!(Flow::Unreachable.by_lag(15_000), Flow::Unreachable);
    }

    #[test]
    fn a_message_that_the_node_does_not_take_is_behind() {
        let board = Board::new("east".parse().unwrap(), ["north".parse().unwrap()]);
        let untaken_since = || board.lines().untaken_since_ms;
        board.gate(&Counts { waiting: 3, ..Counts::default() }, false, false);
        assert_eq!(untaken_since(), None, "it waits for its order");
        board.gate(&Counts { retrying: 1, ..Counts::default() }, false, false);
        board.lines().untaken_since_ms = Some(7);
        board.gate(&Counts { in_flight: 1, ..Counts::default() }, false, false);
        assert_eq!(untaken_since(), Some(7));
        let status = board.status();
        assert!(status.peers[0].message_lag_ms > Some(60_000), "{status:?}");
        assert!(status.peers[0].detail.contains("has taken no message for"), "{status:?}");
        board.gate(&Counts { in_flight: 1, ..Counts::default() }, true, false);
        assert!(untaken_since() > Some(7));
        board.gate(&Counts::default(), false, false);
        assert_eq!(untaken_since(), None);
        board.gate(&Counts::default(), false, true);
        board.lines().full_since_ms = Some(7);
        board.gate(&Counts::default(), true, true);
        let status = board.status();
        assert!(status.peers[0].detail.contains("disk has no room for messages for"), "{status:?}");
        board.gate(&Counts::default(), false, false);
        board.lines().node_heard_ms -= 9_000;
        assert!(board.status().peers[0].message_lag_ms >= Some(8_000), "nor would a silent one take any");
        board.node(true, 1);
        assert!(board.status().peers[0].message_lag_ms < Some(3_000));
    }
}
