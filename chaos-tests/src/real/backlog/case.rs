//! The ways in which a region falls behind, and how each begins and ends.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use anyhow::Result;

use crate::harness::{Kind, Link, LinkState, Role};
use crate::real::deployment::Deployment;

/// Whose orders pile up, and for whom.
pub(super) const HOME: &str = "north";
pub(super) const PEER: &str = "east";
/// Has everything in time where the case is about retention: what nobody else has is never deleted.
pub(super) const THIRD: &str = "south";

/// A link that flaps is cut for so long, and open for so long.
const FLAP: Duration = Duration::from_millis(1_000);
/// A node on a slow disk: it stands still for so long, and goes on for so long.
const SLOW: (Duration, Duration) = (Duration::from_millis(200), Duration::from_millis(50));
/// Of a link with little bandwidth: bytes of an order on the wire, about, alone and in a large batch, which is packed; and how
/// long what piles up takes it, beside what is placed meanwhile, whose bytes have room too.
const ORDER_WIRE_BYTES: u64 = 470;
const PACKED_ORDER_BYTES: u64 = 150;
const NARROW_TAKES_S: u64 = 60;

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Case {
    /// The peer's node and agent are killed, and started again.
    Away,
    /// What travels from the home to the peer is held; the other way is open.
    HeldOneWay,
    /// Both ways are held.
    Held,
    /// Both ways are cut every other second.
    Flapping,
    /// The peer's node stands still (SIGSTOP).
    PausedNode,
    /// The peer's agent stands still.
    PausedAgent,
    /// The home's own agent stands still.
    PausedHomeAgent,
    /// The link to the peer has little bandwidth, and keeps it while the backlog drains.
    SlowLink,
    /// The peer's node stands still for four fifths of the time, and does while the backlog drains: what a disk that
    /// answers late does to whoever syncs.
    SlowDisk,
    /// The peer is away for longer than logs are kept.
    Retention,
    /// Resident memory of the home with the peer away and with it following, each with a backlog and with three times
    /// as much.
    Memory,
}

impl Case {
    pub(super) const ALL: &[Case] = &[
        Case::Away,
        Case::HeldOneWay,
        Case::Held,
        Case::Flapping,
        Case::PausedNode,
        Case::PausedAgent,
        Case::PausedHomeAgent,
        Case::SlowLink,
        Case::SlowDisk,
        Case::Retention,
        Case::Memory,
    ];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Case::Away => "away",
            Case::HeldOneWay => "held-one-way",
            Case::Held => "held",
            Case::Flapping => "flapping",
            Case::PausedNode => "paused-node",
            Case::PausedAgent => "paused-agent",
            Case::PausedHomeAgent => "paused-home-agent",
            Case::SlowLink => "slow-link",
            Case::SlowDisk => "slow-disk",
            Case::Retention => "retention",
            Case::Memory => "memory",
        }
    }

    pub(super) fn regions(self) -> &'static [&'static str] {
        if self == Case::Retention { &[HOME, PEER, THIRD] } else { &[HOME, PEER] }
    }

    /// Nothing at all passes while it lasts.
    pub(super) fn is_silence(self) -> bool {
        !matches!(self, Case::Flapping | Case::SlowLink | Case::SlowDisk | Case::Memory)
    }

    /// It does not end before the backlog is drained.
    pub(super) fn lasts(self) -> bool {
        matches!(self, Case::SlowLink | Case::SlowDisk)
    }

    pub(super) async fn begin(self, it: &mut Deployment, orders: u64, beside_per_s: u64) -> Result<()> {
        match self {
            Case::Away | Case::Retention => {
                it.cluster.kill(Role::Agent, PEER).await?;
                it.cluster.kill(Role::Node, PEER).await?;
            }
            Case::HeldOneWay => links(it, HOME, PEER)?.iter().for_each(|link| link.set(LinkState::Held)),
            Case::Held => both_ways(it)?.iter().for_each(|link| link.set(LinkState::Held)),
            Case::PausedNode => it.cluster.pause(Role::Node, PEER)?,
            Case::PausedAgent => it.cluster.pause(Role::Agent, PEER)?,
            Case::PausedHomeAgent => it.cluster.pause(Role::Agent, HOME)?,
            Case::SlowLink => {
                let bytes_per_s =
                    orders * PACKED_ORDER_BYTES / NARROW_TAKES_S + beside_per_s * ORDER_WIRE_BYTES;
                links(it, HOME, PEER)?.iter().for_each(|link| link.set_bandwidth(bytes_per_s));
            }
            // They are on and off: see `lasting`.
            Case::Flapping | Case::SlowDisk | Case::Memory => {}
        }
        Ok(())
    }

    pub(super) async fn end(self, it: &mut Deployment) -> Result<()> {
        match self {
            Case::Away | Case::Retention => {
                it.cluster.restart(Role::Node, PEER).await?;
                it.cluster.restart(Role::Agent, PEER).await?;
            }
            Case::HeldOneWay | Case::Held | Case::Flapping => {
                both_ways(it)?.iter().for_each(|link| link.set(LinkState::Open));
            }
            Case::PausedNode | Case::SlowDisk => it.cluster.resume(Role::Node, PEER)?,
            Case::PausedAgent => it.cluster.resume(Role::Agent, PEER)?,
            Case::PausedHomeAgent => it.cluster.resume(Role::Agent, HOME)?,
            Case::SlowLink => both_ways(it)?.iter().for_each(|link| link.set_bandwidth(0)),
            Case::Memory => {}
        }
        Ok(())
    }

    /// Does some work while the fault goes on and off, if it is of that kind. Leave it with [`Case::end`].
    pub(super) async fn lasting<T>(
        self,
        it: &Deployment,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        tokio::select! {
            done = work => done,
            error = self.on_and_off(it) => error.map(|never| match never {}),
        }
    }

    async fn on_and_off(self, it: &Deployment) -> Result<Infallible> {
        loop {
            match self {
                Case::Flapping => {
                    for state in [LinkState::Cut, LinkState::Open] {
                        both_ways(it)?.iter().for_each(|link| link.set(state));
                        tokio::time::sleep(FLAP).await;
                    }
                }
                Case::SlowDisk => {
                    it.cluster.pause(Role::Node, PEER)?;
                    tokio::time::sleep(SLOW.0).await;
                    it.cluster.resume(Role::Node, PEER)?;
                    tokio::time::sleep(SLOW.1).await;
                }
                _ => std::future::pending().await,
            }
        }
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn links<'a>(it: &'a Deployment, from: &str, to: &str) -> Result<[&'a Link; 2]> {
    Ok([it.cluster.link(from, to, Kind::Data)?, it.cluster.link(from, to, Kind::Messages)?])
}

fn both_ways(it: &Deployment) -> Result<Vec<&Link>> {
    Ok([links(it, HOME, PEER)?, links(it, PEER, HOME)?].concat())
}
