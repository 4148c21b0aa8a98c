//! Takes over a peer's state where no peer's log reaches back to what is lacking here: after a disk was lost, or after
//! an absence longer than logs are kept.
//!
//! First the peer says how far it is, its *baseline*. Then its entities are compared with those here, in the order of
//! their ids, and what differs is fetched and merged; whatever is there already, from an attempt that broke off or from
//! before, is passed over. When all of it is here, the baseline is adopted, and the streams go on behind it. Changes are
//! written at both ends meanwhile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use cell_core::id::{ActorId, EntityId, RegionId, SLOT_COUNT};
use cell_proto::v1;
use service_kit::Shutdown;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Code, Status, Streaming};

use crate::compare::{Comparer, within};
use crate::transport::cause;

const LOOK_EVERY: Duration = Duration::from_millis(250);
/// What no peer could stream for so long, and nobody did, is taken over as state.
const STANDS_FOR: Duration = Duration::from_secs(2);
/// Pause after an attempt that broke off.
const RETRY_AFTER: Duration = Duration::from_secs(2);
/// Entities fetched in one go, and how many such fetches are under way at most: a round trip is not waited for. An answer
/// is at most some 5 MiB.
const FETCH_MAX: usize = 128;
const FETCHES_MAX: usize = 8;
/// A fetch that takes longer is one of too many.
const FETCH_SOON: Duration = Duration::from_secs(1);
/// How often the node hears that more is coming, and the log how far it is.
const SAY_EVERY: Duration = Duration::from_secs(1);
const LOG_EVERY: Duration = Duration::from_secs(10);

/// What a peer has, and this region lacks.
#[derive(Debug, Default)]
struct Ahead {
    actors: BTreeSet<ActorId>,
    only_as_state: BTreeSet<ActorId>,
}

/// Clones share everything.
#[derive(Clone, Debug)]
pub(crate) struct Exchange {
    comparer: Comparer,
    /// Of the peers that are connected.
    ahead: Arc<Mutex<BTreeMap<RegionId, Ahead>>>,
    adopted: Arc<watch::Sender<u64>>,
    /// Entities taken over in a second, at most.
    per_s: u32,
}

/// What an exchange came to.
#[derive(Clone, Copy, Debug)]
struct Tally {
    looked_at: u64,
    taken: u64,
}

/// Fetches under way, each with what it brings merged here.
struct Fetching {
    comparer: Comparer,
    peer: RegionId,
    open: JoinSet<Fetched>,
    /// So many at once: one more after each that was soon there, half as many after one that was not.
    most: usize,
    /// Those that were too many at once.
    again: Vec<Vec<EntityId>>,
    /// Entities that brought something new.
    taken: u64,
}

/// How a fetch ended.
struct Fetched {
    wanted: Vec<EntityId>,
    alone: bool,
    took: Duration,
    changed: Result<u64, Status>,
}

impl Fetching {
    fn new(comparer: Comparer, peer: RegionId) -> Fetching {
        Fetching { comparer, peer, open: JoinSet::new(), most: 1, again: Vec::new(), taken: 0 }
    }

    /// Fetches these as soon as not too many others are.
    async fn fetch(&mut self, wanted: Vec<EntityId>) -> Result<(), Status> {
        self.again.push(wanted);
        while let Some(wanted) = self.again.pop() {
            while self.open.len() >= self.most {
                self.one().await?;
            }
            self.begin(wanted);
        }
        Ok(())
    }

    fn begin(&mut self, wanted: Vec<EntityId>) {
        let (comparer, peer, alone) = (self.comparer.clone(), self.peer, self.most == 1);
        self.open.spawn(async move {
            let begun = Instant::now();
            let changed = comparer.take_over(peer, &wanted, true).await.map(|healed| healed.changed);
            Fetched { wanted, alone, took: begun.elapsed(), changed }
        });
    }

    /// Waits for one; `false` if none is under way.
    async fn one(&mut self) -> Result<bool, Status> {
        let Some(ended) = self.open.join_next().await else { return Ok(false) };
        let Fetched { wanted, alone, took, changed } =
            ended.map_err(|error| Status::internal(error.to_string()))?;
        match changed {
            Ok(changed) => {
                self.taken += changed;
                self.most = window(self.most, took);
                metrics::counter!("cell_exchanged_entities_total", "peer" => self.peer.to_string())
                    .increment(wanted.len() as u64);
            }
            // Together they may have been more than the link carries in time.
            Err(status) if !alone && status.code() == Code::DeadlineExceeded => {
                self.most = 1;
                self.again.push(wanted);
            }
            Err(status) => return Err(status),
        }
        Ok(true)
    }

    async fn rest(&mut self) -> Result<(), Status> {
        loop {
            while self.one().await? {}
            let Some(wanted) = self.again.pop() else { return Ok(()) };
            self.begin(wanted);
        }
    }
}

/// How many fetches at once after one that took so long.
fn window(most: usize, took: Duration) -> usize {
    if took < FETCH_SOON { (most + 1).min(FETCHES_MAX) } else { most.div_ceil(2) }
}

impl Exchange {
    pub(crate) fn new(comparer: Comparer, per_s: u32) -> Exchange {
        Exchange { comparer, ahead: Arc::default(), adopted: Arc::new(watch::Sender::new(0)), per_s }
    }

    /// Changes when a baseline was adopted: whoever streams to here looks anew.
    pub(crate) fn adopted(&self) -> watch::Receiver<u64> {
        let mut adopted = self.adopted.subscribe();
        adopted.mark_unchanged();
        adopted
    }

    fn ahead(&self) -> MutexGuard<'_, BTreeMap<RegionId, Ahead>> {
        // Only assignments run under the lock.
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The peer is ahead in these actors, and cannot stream some of them.
    pub(crate) fn heard(&self, peer: RegionId, actors: &BTreeSet<ActorId>, only: &BTreeSet<ActorId>) {
        let only_as_state: BTreeSet<ActorId> = actors.intersection(only).copied().collect();
        let mut ahead = self.ahead();
        let of_peer = ahead.entry(peer).or_default();
        if of_peer.actors != *actors || of_peer.only_as_state != only_as_state {
            *of_peer = Ahead { actors: actors.clone(), only_as_state };
        }
    }

    pub(crate) fn away(&self, peer: RegionId) {
        self.ahead().remove(&peer);
    }

    /// Takes state over whenever that is the only way; until the shutdown begins.
    pub(crate) async fn keep(self, shutdown: Shutdown) {
        let (mut since, mut refused) = (Instant::now(), BTreeSet::new());
        let mut stood = Vec::new();
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            let needed = needed(&self.ahead());
            let fronts = self.comparer.node.fronts();
            let stands: Vec<_> = needed.iter().map(|actor| (*actor, fronts.seq(actor))).collect();
            if needed.is_empty() || stands != stood || !self.comparer.node.is_connected() {
                (stood, since) = (stands, Instant::now());
                continue;
            }
            if since.elapsed() < STANDS_FOR {
                continue;
            }
            let Some(peer) = choose(&self.ahead(), &needed, &refused) else {
                refused.clear();
                continue;
            };
            let taken = tokio::select! {
                () = shutdown.begun() => return,
                taken = self.take_over(peer) => taken,
            };
            self.comparer.board.takes_over(None);
            match taken {
                Ok(Tally { looked_at, taken }) => {
                    tracing::info!(%peer, looked_at, taken, "has the state of a peer");
                    refused.clear();
                }
                Err(error) => {
                    tracing::warn!(%peer, error = cause(&error), "the state of a peer was not taken over; tried again");
                    refused.insert(peer);
                    tokio::time::sleep(RETRY_AFTER).await;
                }
            }
            since = Instant::now();
        }
    }

    /// The node hears all the while that more is coming.
    async fn take_over(&self, peer: RegionId) -> Result<Tally, Status> {
        let node = &self.comparer.node;
        tracing::info!(%peer, "no log reaches back to what is lacking here: takes a peer's state over");
        node.catching_up(true).await?;
        self.comparer.board.takes_over(Some(format!("takes over the state of {peer}")));
        let mut say = tokio::time::interval_at(Instant::now() + SAY_EVERY, SAY_EVERY);
        let mut taking = std::pin::pin!(self.take_all(peer));
        loop {
            tokio::select! {
                taken = &mut taking => return taken,
                _ = say.tick() => node.catching_up(true).await?,
            }
        }
    }

    async fn take_all(&self, peer: RegionId) -> Result<Tally, Status> {
        let Comparer { node, peers, .. } = &self.comparer;
        let mut looked_at = 0;
        let baseline = peers.baseline(peer).await?.baseline;
        let all = v1::EntityDigestsRequest { slots: (0..u32::from(SLOT_COUNT)).collect() };
        let mut theirs = Listing::new(peers.entity_digests(peer, all.clone()).await?);
        let mut ours = Listing::new(node.entity_digests(all).await?);
        let mut fetching = Fetching::new(self.comparer.clone(), peer);
        let (mut wanted, mut logged, mut due) = (Vec::new(), Instant::now(), Instant::now());
        loop {
            let next = theirs.next().await?;
            let ended = next.is_none();
            if let Some((id, digest)) = next {
                looked_at += 1;
                if ours.digest_of(id).await?.as_ref() != Some(&digest) {
                    wanted.push(id);
                }
            }
            if wanted.len() >= FETCH_MAX || (ended && !wanted.is_empty()) {
                // Time in which nothing was fetched earns nothing.
                let pause = Duration::from_secs_f64(wanted.len() as f64 / f64::from(self.per_s));
                due = due.max(Instant::now()) + pause;
                fetching.fetch(std::mem::take(&mut wanted)).await?;
                let taken = fetching.taken;
                let progress =
                    format!("takes over the state of {peer}: {looked_at} looked at, {taken} taken");
                self.comparer.board.takes_over(Some(progress));
                tokio::time::sleep_until(due).await;
            }
            if logged.elapsed() > LOG_EVERY {
                tracing::info!(%peer, looked_at, taken = fetching.taken, "takes state over");
                logged = Instant::now();
            }
            if ended {
                break;
            }
        }
        fetching.rest().await?;
        node.adopt(v1::AdoptRequest { baseline, from_region: peer.to_string() }).await?;
        self.adopted.send_modify(|times| *times += 1);
        Ok(Tally { looked_at, taken: fetching.taken })
    }
}

/// Actors of which something is lacking that no connected peer can stream.
fn needed(ahead: &BTreeMap<RegionId, Ahead>) -> BTreeSet<ActorId> {
    let only = ahead.values().flat_map(|peer| peer.only_as_state.iter());
    let streamed = |actor: &ActorId| {
        ahead.values().any(|peer| peer.actors.contains(actor) && !peer.only_as_state.contains(actor))
    };
    only.filter(|actor| !streamed(actor)).copied().collect()
}

/// The peer that has the most of it, of those that did not refuse.
fn choose(
    ahead: &BTreeMap<RegionId, Ahead>,
    needed: &BTreeSet<ActorId>,
    refused: &BTreeSet<RegionId>,
) -> Option<RegionId> {
    let of = |peer: &Ahead| peer.only_as_state.intersection(needed).count();
    let peers = ahead.iter().filter(|(peer, _)| !refused.contains(peer));
    peers.map(|(peer, ahead)| (of(ahead), *peer)).filter(|(has, _)| *has > 0).max().map(|(_, peer)| peer)
}

/// Entities with their digests, in the order of their ids.
struct Listing {
    stream: Streaming<v1::EntityDigestsReply>,
    read: VecDeque<(EntityId, Bytes)>,
    ended: bool,
}

impl Listing {
    fn new(stream: Streaming<v1::EntityDigestsReply>) -> Listing {
        Listing { stream, read: VecDeque::new(), ended: false }
    }

    async fn fill(&mut self) -> Result<(), Status> {
        while self.read.is_empty() && !self.ended {
            let Some(batch) = within(self.stream.message()).await? else {
                self.ended = true;
                break;
            };
            for entity in batch.entities {
                let id = entity.entity.as_ref().try_into();
                let id = id.map_err(|_| Status::internal("an id of another length"))?;
                self.read.push_back((EntityId::from_bytes(id), entity.digest));
            }
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<(EntityId, Bytes)>, Status> {
        self.fill().await?;
        Ok(self.read.pop_front())
    }

    /// Of an entity that is not before those asked for earlier.
    async fn digest_of(&mut self, id: EntityId) -> Result<Option<Bytes>, Status> {
        loop {
            self.fill().await?;
            match self.read.front() {
                Some((first, _)) if *first < id => drop(self.read.pop_front()),
                Some((first, digest)) if *first == id => return Ok(Some(digest.clone())),
                _ => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use cell_core::id::NodeId;

    use super::*;

    #[test]
    fn fetches_at_once_are_many_where_they_are_soon_answered_and_few_where_not() {
        let [soon, late] = [Duration::from_millis(50), Duration::from_secs(2)];
        let after = |most, took: &[Duration]| took.iter().fold(most, |most, took| window(most, *took));
        assert_eq!(after(1, &[soon; 20]), FETCHES_MAX);
        assert_eq!(after(FETCHES_MAX, &[late; 20]), 1);
        assert_eq!(after(FETCHES_MAX, &[late, soon]), FETCHES_MAX / 2 + 1);
    }

    #[test]
    fn state_is_asked_for_only_where_nobody_can_stream() {
        let region = |name: &str| name.parse::<RegionId>().unwrap();
        let actor = |start| ActorId { node: NodeId { region: region("north"), index: 0 }, start, nonce: 1 };
        let set = |starts: &[u64]| starts.iter().copied().map(actor).collect::<BTreeSet<_>>();
        let ahead = |actors: &[u64], only: &[u64]| Ahead { actors: set(actors), only_as_state: set(only) };
        let (east, south) = (region("east"), region("south"));
        let mut peers = BTreeMap::from([(east, ahead(&[1, 2], &[1, 2])), (south, ahead(&[1], &[]))]);
        assert_eq!(needed(&peers), set(&[2]), "south streams the first");
        assert_eq!(choose(&peers, &set(&[2]), &BTreeSet::new()), Some(east));
        peers.remove(&south);
        assert_eq!(needed(&peers), set(&[1, 2]));
        peers.insert(south, ahead(&[1], &[1]));
        assert_eq!(choose(&peers, &set(&[1, 2]), &BTreeSet::from([east])), Some(south));
        assert_eq!(choose(&peers, &set(&[1, 2]), &BTreeSet::from([east, south])), None);
    }
}
