//! Gets changes from the agents of other regions and applies them to the node.
//!
//! One stream per peer. The node says how far it is, again and again; the peer sends what is missing. Nothing is kept
//! here: a stream that broke begins again from the node's frontier, and what comes twice changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use cell_core::digest::Digest;
use cell_core::id::{ActorId, RegionId};
use cell_proto::v1::replication_client::ReplicationClient;
use cell_proto::{PROTOCOLS, v1};
use service_kit::Shutdown;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::backoff::Backoff;
use crate::board::{Board, Channel, Flow, STALLED_AFTER_MS, now_ms};
use crate::exchange::Exchange;
use crate::node::{NodeLink, read_frontier, write_front, write_said};
use crate::pack::unpack;
use crate::positions::Frontier;
use crate::recovery::{Recovery, Standing, Word};
use crate::transport::{MESSAGE_BYTES_MAX, PeerChannel, cause};

/// Batches given to the node and not answered.
const APPLYING_MAX: usize = 4;
/// How often the peer hears how far the node is, if it moved.
const REPORT_EVERY: Duration = Duration::from_millis(100);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
const FETCH_WITHIN: Duration = Duration::from_secs(5);
const BASELINE_WITHIN: Duration = Duration::from_secs(15);

/// The data channels of all peers; clones share them.
#[derive(Clone, Debug)]
pub(crate) struct Peers {
    channels: Arc<BTreeMap<RegionId, Channels>>,
}

/// Two connections to one data port. What somebody waits for has one of its own, made when it is first needed: on the other
/// megabytes of a backlog may be ahead of it.
#[derive(Clone, Debug)]
pub(crate) struct Channels {
    pub(crate) stream: PeerChannel,
    pub(crate) awaited: PeerChannel,
}

impl Peers {
    pub(crate) fn new(channels: BTreeMap<RegionId, Channels>) -> Peers {
        Peers { channels: Arc::new(channels) }
    }

    pub(crate) fn regions(&self) -> impl Iterator<Item = RegionId> + '_ {
        self.channels.keys().copied()
    }

    fn channels(&self, region: RegionId) -> Result<&Channels, Status> {
        self.channels.get(&region).ok_or_else(|| Status::not_found(format!("'{region}' is no peer")))
    }

    fn client(&self, region: RegionId) -> Result<ReplicationClient<PeerChannel>, Status> {
        Ok(client(self.channels(region)?.stream.clone()))
    }

    pub(crate) async fn digests(
        &self,
        region: RegionId,
        request: v1::DigestsRequest,
    ) -> Result<v1::DigestsReply, Status> {
        Ok(self.client(region)?.digests(request).await?.into_inner())
    }

    pub(crate) async fn entity_digests(
        &self,
        region: RegionId,
        request: v1::EntityDigestsRequest,
    ) -> Result<Streaming<v1::EntityDigestsReply>, Status> {
        Ok(self.client(region)?.entity_digests(request).await?.into_inner())
    }

    /// What a region knows beside its entities.
    pub(crate) async fn baseline(&self, region: RegionId) -> Result<v1::BaselineReply, Status> {
        let mut client = self.client(region)?;
        let asked = tokio::time::timeout(BASELINE_WITHIN, client.read_baseline(v1::BaselineRequest {})).await;
        Ok(asked.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner())
    }

    /// Entities that a message waits for, straight from a region.
    pub(crate) async fn fetch_awaited(
        &self,
        region: RegionId,
        request: v1::EntitiesRequest,
    ) -> Result<v1::EntitiesReply, Status> {
        fetch(client(self.channels(region)?.awaited.clone()), request).await
    }

    /// Entities in which this region and another differ.
    pub(crate) async fn fetch(
        &self,
        region: RegionId,
        request: v1::EntitiesRequest,
    ) -> Result<v1::EntitiesReply, Status> {
        fetch(self.client(region)?, request).await
    }
}

fn client(channel: PeerChannel) -> ReplicationClient<PeerChannel> {
    ReplicationClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}

async fn fetch(
    mut client: ReplicationClient<PeerChannel>,
    request: v1::EntitiesRequest,
) -> Result<v1::EntitiesReply, Status> {
    let asked = tokio::time::timeout(FETCH_WITHIN, client.fetch(request)).await;
    let mut reply = asked.map_err(|_| Status::deadline_exceeded("no answer"))??.into_inner();
    if let Some(packed) = reply.packed.take() {
        reply.entities.extend(unpack::<v1::EntitiesReply>(&packed)?.entities);
    }
    Ok(reply)
}

/// Follows one peer.
#[derive(Clone, Debug)]
pub(crate) struct Subscriber {
    pub(crate) own: RegionId,
    pub(crate) peer: RegionId,
    pub(crate) members: Vec<RegionId>,
    pub(crate) peers: Peers,
    pub(crate) node: NodeLink,
    pub(crate) board: Board,
    pub(crate) recovery: Recovery,
    pub(crate) exchange: Exchange,
}

/// Why a stream ended. Nothing was lost; it begins anew from the node's frontier.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("{}", cause(.0))]
    Peer(Status),
    #[error("the node: {}", cause(.0))]
    Node(Status),
    #[error("the peer has not answered for {ANSWER_WITHIN:?}")]
    Silent,
    #[error("the peer ended the stream")]
    Ended,
    #[error("changes of {0} came with a gap")]
    Gap(ActorId),
    #[error("the peer speaks protocol {0} on this stream, which is not spoken here")]
    Protocol(u32),
    /// The peer looks anew from where to stream.
    #[error("state was taken over")]
    Adopted,
}

/// Gaps that a new stream was begun for: where the node stood when something further came.
type Gaps = BTreeSet<(ActorId, u64)>;
/// Remembered at most; then all are forgotten, and tried again.
const GAPS_MAX: usize = 1_000;

/// How one stream does.
struct Progress {
    /// Of the node.
    life: u64,
    /// Actors of which nothing more is taken on this stream, and why; everything else flows.
    stopped: BTreeMap<ActorId, String>,
    /// How far the peer says it is.
    theirs: Frontier,
    /// What the peer's word about this region is worth.
    word: Word,
    /// What of it the peer cannot stream to here.
    only_as_state: BTreeSet<ActorId>,
    owed: Owed,
    moved_ms: u64,
}

/// Up to where actors were known to be when they were found to be further than here, and since when.
#[derive(Debug, Default)]
struct Owed(BTreeMap<ActorId, (u64, u64)>);

impl Owed {
    /// `ahead`: how far each actor is there and here. Since when the oldest of it is owed.
    fn look(&mut self, ahead: &BTreeMap<ActorId, (u64, u64)>, now_ms: u64) -> Option<u64> {
        self.0.retain(|actor, (target, _)| ahead.get(actor).is_some_and(|(_, here)| here < target));
        for (actor, (there, _)) in ahead {
            self.0.entry(*actor).or_insert((*there, now_ms));
        }
        self.0.values().map(|(_, since_ms)| *since_ms).min()
    }
}

impl Subscriber {
    /// Subscribes, and again after every break; until the shutdown begins.
    pub(crate) async fn follow(self, shutdown: Shutdown) {
        let mut backoff = Backoff::default();
        let (mut gaps, mut said) = (Gaps::new(), String::new());
        loop {
            let ended = tokio::select! {
                () = shutdown.begun() => return,
                ended = self.follow_once(&mut gaps, &mut backoff) => ended,
            };
            if let Err(broken) = ended {
                let why = broken.to_string();
                match broken {
                    // It answers, and will not: something is to be put right.
                    Broken::Peer(status) if status.source().is_none() && said != why => {
                        tracing::warn!(peer = %self.peer, why, "the peer does not stream to here");
                        said.clone_from(&why);
                    }
                    _ => tracing::debug!(peer = %self.peer, why, "subscription ended"),
                }
                self.board.flow(self.peer, Channel::Changes, Flow::Unreachable, &why);
                self.recovery.stands(self.peer, Standing::Away);
                self.exchange.away(self.peer);
            }
            tokio::select! {
                () = shutdown.begun() => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    async fn follow_once(&self, gaps: &mut Gaps, backoff: &mut Backoff) -> Result<(), Broken> {
        let mut known = self.node.known();
        let at_start = self.node.connected().await;
        known.mark_unchanged();
        let (reports, reporting) = mpsc::channel(2);
        let mut adopted = self.exchange.adopted();
        let (mut frontier, stamp, all) = write_said(at_start.fronts.say(None));
        at_start.holes.tell(&mut frontier);
        let first = v1::SubscribeRequest {
            region: self.own.to_string(),
            members: self.members.iter().map(ToString::to_string).collect(),
            protocol: PROTOCOLS.max,
            protocol_min: PROTOCOLS.min,
            frontier,
            stamp,
            all,
            takes_packed: true,
        };
        reports.try_send(first).map_err(|_| Broken::Ended)?;
        let mut client = self.peers.client(self.peer).map_err(Broken::Peer)?;
        let asked = tokio::time::timeout(ANSWER_WITHIN, client.subscribe(ReceiverStream::new(reporting)));
        let mut changes = asked.await.map_err(|_| Broken::Silent)?.map_err(Broken::Peer)?.into_inner();
        let (batches, applying) = mpsc::channel(APPLYING_MAX);
        let mut node = self.node.client();
        let mut replies = node.apply(ReceiverStream::new(applying)).await.map_err(Broken::Node)?.into_inner();
        tracing::info!(peer = %self.peer, "subscribed");
        backoff.reset();
        let mut report = tokio::time::interval(REPORT_EVERY);
        let (mut open, mut moved) = (0usize, true);
        let mut progress = Progress {
            life: at_start.life,
            stopped: BTreeMap::new(),
            theirs: Frontier::new(),
            word: Word::Whole,
            only_as_state: BTreeSet::new(),
            owed: Owed::default(),
            moved_ms: now_ms(),
        };
        self.recovery.stands(self.peer, Standing::Unheard);
        loop {
            tokio::select! {
                batch = next(&mut changes), if open < APPLYING_MAX => {
                    let mut batch = batch?;
                    if let Some(packed) = batch.packed.take() {
                        let entries = unpack::<v1::ChangeBatch>(&packed).map_err(Broken::Peer)?.entries;
                        batch.entries.extend(entries);
                    }
                    self.heard_protocol(batch.protocol)?;
                    if batch.name_all {
                        // Another stamp than the peer's: it is told everything.
                        let said = self.node.fronts().say(Some(Digest::default())).fronts;
                        let frontier = said.into_iter().map(|(actor, front)| write_front(actor, front));
                        let all = v1::SubscribeRequest {
                            frontier: frontier.collect(),
                            all: true,
                            ..v1::SubscribeRequest::default()
                        };
                        reports.send(all).await.map_err(|_| Broken::Ended)?;
                    }
                    if !batch.frontier.is_empty() {
                        let quarantined = batch.frontier.iter().map(|front| front.quarantined.len()).sum();
                        self.board.peer_quarantined(self.peer, quarantined);
                        progress.theirs = read_frontier(batch.frontier);
                        progress.word = Word::of(batch.lacking, batch.unconfirmed);
                        let only = batch.only_as_state.into_iter();
                        progress.only_as_state = only.filter_map(|actor| ActorId::try_from(actor).ok()).collect();
                    }
                    let entries = progress.wanted(batch.entries);
                    if !entries.is_empty() {
                        open += 1;
                        progress.moved_ms = now_ms();
                        let batch = v1::ApplyBatch { batch: 0, entries };
                        batches.send(batch).await.map_err(|_| Broken::Ended)?;
                    }
                    self.tell(&mut progress);
                }
                reply = replies.message() => {
                    let ended = || Broken::Node(Status::unavailable("the node ended the stream"));
                    let reply = reply.map_err(Broken::Node)?.ok_or_else(ended)?;
                    open = open.saturating_sub(1);
                    progress.moved_ms = now_ms();
                    self.refused(reply.refusals, &mut progress, gaps)?;
                }
                changed = known.changed() => {
                    changed.map_err(|_| Broken::Ended)?;
                    if known.borrow_and_update().life != at_start.life {
                        return Err(Broken::Node(Status::unavailable("the node was away")));
                    }
                    moved = true;
                }
                changed = adopted.changed() => {
                    changed.map_err(|_| Broken::Ended)?;
                    return Err(Broken::Adopted);
                }
                _ = report.tick() => {
                    // If the peer is slow to listen, the next report says it all.
                    if moved && let Ok(permit) = reports.try_reserve() {
                        let (mut frontier, stamp, _) = write_said(self.node.fronts().say(None));
                        self.node.holes().tell(&mut frontier);
                        permit.send(v1::SubscribeRequest { frontier, stamp, ..v1::SubscribeRequest::default() });
                        moved = false;
                    }
                    self.tell(&mut progress);
                }
            }
        }
    }

    fn heard_protocol(&self, protocol: u32) -> Result<(), Broken> {
        // One that does not say is of before there was a choice.
        let protocol = protocol.max(1);
        self.board.peer_protocol(self.peer, protocol);
        if PROTOCOLS.speaks(protocol) { Ok(()) } else { Err(Broken::Protocol(protocol)) }
    }

    /// What the node would not apply: a gap begins the stream anew, once; anything else stops that actor with an alarm.
    fn refused(
        &self,
        refusals: Vec<v1::ApplyRefusal>,
        progress: &mut Progress,
        gaps: &mut Gaps,
    ) -> Result<(), Broken> {
        for refusal in refusals {
            let actor = refusal.dot.as_ref().and_then(|dot| dot.actor.clone());
            let Some(actor) = actor.and_then(|actor| ActorId::try_from(actor).ok()) else {
                // Nobody can say whose it is; what follows it of that actor is a gap.
                metrics::counter!("cell_replication_stopped_total", "reason" => refusal.reason.clone())
                    .increment(1);
                tracing::error!(peer = %self.peer, reason = refusal.reason, "an entry without a readable dot");
                continue;
            };
            if progress.stopped.contains_key(&actor) {
                continue;
            }
            if refusal.reason == "gap" {
                if gaps.len() >= GAPS_MAX {
                    gaps.clear();
                }
                let have = refusal.have.as_ref().map_or(0, |have| have.seq);
                if gaps.insert((actor, have)) {
                    return Err(Broken::Gap(actor));
                }
            }
            let seq = refusal.dot.map_or(0, |dot| dot.seq);
            metrics::counter!("cell_replication_stopped_total", "reason" => refusal.reason.clone())
                .increment(1);
            tracing::error!(peer = %self.peer, %actor, seq, reason = refusal.reason, "no more changes of this actor are taken");
            progress.stopped.insert(actor, format!("{actor} stopped at {seq}: {}", refusal.reason));
        }
        Ok(())
    }

    fn tell(&self, progress: &mut Progress) {
        let ours = self.node.fronts();
        let theirs = progress.theirs.iter().map(|(actor, front)| (*actor, (front.seq, ours.seq(actor))));
        let mut of_both: BTreeMap<ActorId, (u64, u64)> =
            theirs.filter(|(_, (there, here))| here < there).collect();
        let ahead: BTreeSet<ActorId> = of_both.keys().copied().collect();
        of_both.retain(|actor, _| actor.region() == self.peer);
        self.board.owes(self.peer, progress.owed.look(&of_both, now_ms()));
        let behind = |of: RegionId| ahead.iter().any(|actor| actor.region() == of);
        self.exchange.heard(self.peer, &ahead, &progress.only_as_state);
        if !progress.theirs.is_empty() {
            let standing = match behind(self.own) {
                true => Standing::Ahead,
                false => Standing::Confirmed { life: progress.life, word: progress.word },
            };
            self.recovery.stands(self.peer, standing);
        }
        let flow = match behind(self.peer) {
            false => Flow::Idle,
            true if now_ms().saturating_sub(progress.moved_ms) > STALLED_AFTER_MS => Flow::Stalled,
            true => Flow::Flowing,
        };
        let detail: Vec<&str> = progress.stopped.values().map(String::as_str).collect();
        self.board.flow(self.peer, Channel::Changes, flow, &detail.join("; "));
    }
}

impl Progress {
    fn wanted(&self, mut entries: Vec<v1::Entry>) -> Vec<v1::Entry> {
        if !self.stopped.is_empty() {
            entries.retain(|entry| {
                let actor = entry.dot.as_ref().and_then(|dot| dot.actor.clone());
                let actor = actor.and_then(|actor| ActorId::try_from(actor).ok());
                actor.is_none_or(|actor| !self.stopped.contains_key(&actor))
            });
        }
        entries
    }
}

async fn next(changes: &mut Streaming<v1::ChangeBatch>) -> Result<v1::ChangeBatch, Broken> {
    changes.message().await.map_err(Broken::Peer)?.ok_or(Broken::Ended)
}

#[cfg(test)]
mod tests {
    use cell_core::id::NodeId;

    use super::*;

    #[test]
    fn what_is_owed_is_as_old_as_the_moment_it_was_heard_of() {
        let node = NodeId { region: RegionId::new("north").unwrap(), index: 0 };
        let actor = |start| ActorId { node, start, nonce: 1 };
        let mut owed = Owed::default();
        let mut look = |ahead: &[(u64, u64, u64)], now_ms| {
            let ahead = ahead.iter().map(|(start, there, here)| (actor(*start), (*there, *here)));
            owed.look(&ahead.collect(), now_ms)
        };
        assert_eq!(look(&[(2, 10, 9)], 1_000), Some(1_000));
        assert_eq!(look(&[(2, 12, 10)], 1_010), Some(1_010), "a stream brings one after the other");
        assert_eq!(look(&[(1, 500, 0), (2, 13, 12)], 1_020), Some(1_020));
        assert_eq!(
            look(&[(1, 500, 0), (2, 90, 89)], 5_000),
            Some(1_020),
            "and nothing of what only state can bring"
        );
        assert_eq!(look(&[(2, 91, 90)], 6_000), Some(6_000));
        assert_eq!(look(&[], 6_001), None);
    }
}
