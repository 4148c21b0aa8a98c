//! The link to the agent's own node: one tail of its log, shared by everybody here.
//!
//! The tail feeds three: the gate (what was applied), the streams to subscribers (fresh changes), and the frontier that
//! is reported to peers. After each reconnect the place to tail from is taken from the node *before* the gate checks
//! what it has parked: what was applied earlier is in the answers, what comes later is in the tail, so no wake is lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use cell_core::canon::Message as _;
use cell_core::cell::{Baseline, Front};
use cell_core::digest::Digest;
use cell_core::event::{Body, Change, Entry};
use cell_core::fronts::{Fronts, Said};
use cell_core::gate::{Input, Requirement};
use cell_core::id::{ActorId, RegionId};
use cell_core::lives::{ActorLife, Lives};
use cell_core::version::Dot;
use cell_proto::v1::node_client::NodeClient;
use cell_proto::{Frontier as WireFrontier, PROTOCOLS, v1};
use service_kit::Shutdown;
use tokio::sync::{broadcast, watch};
use tonic::transport::Channel as GrpcChannel;
use tonic::{Status, Streaming};

use crate::backoff::Backoff;
use crate::board::{Board, Channel, now_ms};
use crate::gate::GateHandle;
use crate::holes::Holes;
use crate::positions::{Frontier, Positions};
use crate::transport::{MESSAGE_BYTES_MAX, cause};

/// Under this name the node knows the tail.
const TAILER: &str = "sync-agent";
/// How long the node may gather where batches are many: each wakes both processes and the subscribers' streams.
const TAIL_REST_MS: u32 = 1;
/// Tail batches a subscriber's stream may be behind before it reads the log by itself.
const NEWS_MAX: usize = 32;
/// A node that is not there for so long is said to be, once.
const SAY_AWAY_AFTER: Duration = Duration::from_secs(5);
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// Signs of life are small changes; larger ones need not be looked into.
const LIFE_BYTES_MAX: usize = 320;

/// What is known of the node.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    pub(crate) connected: bool,
    /// Rises with every connection: what was under way on an older one is void.
    pub(crate) life: u64,
    /// Rises when the node has another log than before.
    pub(crate) log: u64,
    pub(crate) fronts: Arc<Fronts>,
    /// What of that could not be applied.
    pub(crate) holes: Arc<Holes>,
    /// The actor it is.
    pub(crate) actor: Option<ActorId>,
    /// Everything before it was tailed.
    pub(crate) position: u64,
    /// It waits to hear that its peers hold nothing more of it.
    pub(crate) recovering: bool,
    /// It lacks a part of what it says it has, or knows less than it did: nobody concludes anything from what it lacks.
    pub(crate) lacking: bool,
    /// Regions of which it may lack a part, its own perhaps among them.
    pub(crate) unheard: BTreeSet<RegionId>,
}

impl Known {
    /// Whether another region's word that it holds nothing more of this node's is all there is: it has nothing of its own,
    /// and was not seen to have more.
    pub(crate) fn is_new(&self, region: &RegionId) -> bool {
        !self.lacking && self.unheard.contains(region)
    }
}

/// What is no region's name is none.
fn read_regions(names: &[String]) -> BTreeSet<RegionId> {
    names.iter().filter_map(|name| name.parse().ok()).collect()
}

/// Consecutive records of the node's log that hold changes.
#[derive(Debug)]
pub(crate) struct News {
    pub(crate) from: u64,
    pub(crate) next: u64,
    pub(crate) entries: Vec<(u64, Entry)>,
    /// What was taken over as state.
    adopted: Vec<Baseline>,
}

/// Clones share the link.
#[derive(Clone, Debug)]
pub(crate) struct NodeLink {
    region: RegionId,
    client: NodeClient<GrpcChannel>,
    known: Arc<watch::Sender<Known>>,
    news: broadcast::Sender<Arc<News>>,
    positions: Arc<Mutex<Positions>>,
    lives: Arc<Mutex<Lives>>,
    board: Board,
}

/// Why the tail ended. Nothing was lost; it begins anew.
#[derive(Debug, thiserror::Error)]
enum TailError {
    #[error("{}", cause(.0))]
    Refused(#[from] Status),
    #[error("the node has not answered for {ANSWER_WITHIN:?}")]
    Silent,
    #[error("this is the node of region '{0}'")]
    Foreign(String),
    #[error("the node says that it speaks protocol {0}, which is not spoken here")]
    Protocol(u32),
    #[error("the node ended the stream")]
    Ended,
    #[error("the node became another actor meanwhile")]
    Other,
}

impl NodeLink {
    pub(crate) fn new(region: RegionId, channel: GrpcChannel, board: Board) -> NodeLink {
        let client = NodeClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let known = Arc::new(watch::Sender::new(Known::default()));
        NodeLink {
            region,
            client,
            known,
            news: broadcast::Sender::new(NEWS_MAX),
            positions: Arc::default(),
            lives: Arc::default(),
            board,
        }
    }

    /// When an actor was heard of last, wall milliseconds at its origin; 0: never.
    pub(crate) fn beat_ms(&self, actor: &ActorId) -> u64 {
        self.lives().iter().find(|life| life.actor == *actor).map_or(0, |life| life.beat_ms)
    }

    pub(crate) fn region(&self) -> RegionId {
        self.region
    }

    pub(crate) fn client(&self) -> NodeClient<GrpcChannel> {
        self.client.clone()
    }

    /// What the node says, as others are told it; where it says nothing, that.
    pub(crate) fn relayed(&self, status: Status) -> Status {
        match std::error::Error::source(&status) {
            Some(_) => Status::unavailable(format!(
                "the node of {} does not answer: {}",
                self.region,
                cause(&status)
            )),
            None => status,
        }
    }

    pub(crate) async fn digests(&self, request: v1::DigestsRequest) -> Result<v1::DigestsReply, Status> {
        let reply = self.client().digests(request).await;
        Ok(reply.map_err(|status| self.relayed(status))?.into_inner())
    }

    pub(crate) async fn agreed(&self, request: v1::AgreedRequest) -> Result<(), Status> {
        self.client().agreed(request).await.map(drop)
    }

    /// Its sums are at odds with its entities, or a peer's are.
    pub(crate) async fn recount(&self) -> Result<(), Status> {
        self.client().recount(v1::RecountRequest {}).await.map(drop)
    }

    pub(crate) async fn entity_digests(
        &self,
        request: v1::EntityDigestsRequest,
    ) -> Result<Streaming<v1::EntityDigestsReply>, Status> {
        let reply = self.client().entity_digests(request).await;
        Ok(reply.map_err(|status| self.relayed(status))?.into_inner())
    }

    pub(crate) async fn merge(&self, request: v1::MergeRequest) -> Result<v1::MergeReply, Status> {
        Ok(self.client().merge_entities(request).await?.into_inner())
    }

    /// More is to be had of a peer, and it is coming.
    pub(crate) async fn catching_up(&self, by_state: bool) -> Result<(), Status> {
        self.client().catching_up(v1::CatchingUpRequest { by_state, lost: false }).await.map(drop)
    }

    /// Its disk is an older one.
    async fn has_lost(&self) -> Result<(), Status> {
        // One that knows nothing of `lost` denies nothing, either.
        self.client().catching_up(v1::CatchingUpRequest { by_state: true, lost: true }).await.map(drop)
    }

    pub(crate) async fn adopt(&self, request: v1::AdoptRequest) -> Result<(), Status> {
        self.client().adopt(request).await.map(drop)
    }

    pub(crate) fn known(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.known.borrow().connected
    }

    /// Rises with every connection.
    pub(crate) fn life(&self) -> u64 {
        self.known.borrow().life
    }

    /// How far the node is.
    pub(crate) fn fronts(&self) -> Arc<Fronts> {
        Arc::clone(&self.known.borrow().fronts)
    }

    /// What of its frontier the node could not apply.
    pub(crate) fn holes(&self) -> Arc<Holes> {
        Arc::clone(&self.known.borrow().holes)
    }

    /// Everything before it was tailed.
    pub(crate) fn position(&self) -> u64 {
        self.known.borrow().position
    }

    /// Waits until the node answers.
    pub(crate) async fn connected(&self) -> Known {
        let mut known = self.known.subscribe();
        match known.wait_for(|known| known.connected).await {
            Ok(known) => known.clone(),
            // This link holds the sender.
            Err(_) => unreachable!("the link outlives its watchers"),
        }
    }

    /// Fresh changes, from now on.
    pub(crate) fn news(&self) -> broadcast::Receiver<Arc<News>> {
        self.news.subscribe()
    }

    /// Where to read the log for a subscriber that is this far.
    pub(crate) fn start_for(&self, subscriber: &Frontier) -> u64 {
        self.positions().start_for(subscriber)
    }

    /// A tail of its own, for a subscriber with a backlog.
    pub(crate) async fn tail_from(&self, position: u64) -> Result<Streaming<v1::TailBatch>, Status> {
        let request =
            v1::TailRequest { tailer: TAILER.to_owned(), from_position: position, rest_ms: TAIL_REST_MS };
        let opened = tokio::time::timeout(ANSWER_WITHIN, self.client().tail(request)).await;
        Ok(opened.map_err(|_| Status::deadline_exceeded("the node does not answer"))??.into_inner())
    }

    /// Actors of whose changes the node lacks the first, although it has later ones; none if it does not say.
    pub(crate) async fn headless(&self) -> Vec<ActorId> {
        let status = self.status().await;
        let headless = status.map(|status| status.headless).unwrap_or_default();
        headless.into_iter().filter_map(|actor| ActorId::try_from(actor).ok()).collect()
    }

    fn positions(&self) -> MutexGuard<'_, Positions> {
        self.positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // === the shared tail ===

    /// Tails the node, and again after every break; until the shutdown begins.
    pub(crate) async fn follow(self, gate: GateHandle, shutdown: Shutdown) {
        let mut backoff = Backoff::default();
        let (mut away_since, mut said) = (Instant::now(), String::new());
        loop {
            let ended = tokio::select! {
                () = shutdown.begun() => return,
                ended = self.follow_once(&gate, &mut backoff) => ended,
            };
            let was_connected = self.known.borrow().connected;
            self.known.send_modify(|known| known.connected = false);
            self.board.node(false, self.known.borrow().position);
            if let Err(error) = ended {
                let why = error.to_string();
                if was_connected {
                    tracing::warn!(why, "lost the node");
                    (away_since, said) = (Instant::now(), why);
                } else if said == why {
                    tracing::debug!(why, "no node yet");
                } else if matches!(error, TailError::Foreign(_) | TailError::Protocol(_)) {
                    tracing::error!(why, "the address `node` leads to another one than this agent's");
                    said = why;
                } else if away_since.elapsed() > SAY_AWAY_AFTER {
                    tracing::warn!(why, "this agent has no node");
                    said = why;
                }
            }
            tokio::select! {
                () = shutdown.begun() => return,
                () = tokio::time::sleep(backoff.next()) => {}
            }
        }
    }

    async fn follow_once(&self, gate: &GateHandle, backoff: &mut Backoff) -> Result<(), TailError> {
        let mut begun = self.status().await?;
        let (from, now) = (begun.durable_position, take_fronts(&mut begun));
        let known = Arc::clone(&self.known.borrow().fronts);
        if known.iter().any(|(actor, front)| now.seq(actor) < front.seq) {
            tracing::error!(
                "the node knows less than it did: its disk is an older one. Until a comparison with a peer agrees it \
                 denies nothing"
            );
            let told = tokio::time::timeout(ANSWER_WITHIN, self.has_lost()).await;
            told.map_err(|_| TailError::Silent)??;
        }
        let mut tail = self.tail_from(from).await?;
        // Asked after the position was taken, so that it covers everything before it; and after it was told what it lost.
        let mut status = self.status().await?;
        if status.actor != begun.actor {
            return Err(TailError::Other);
        }
        let fronts = Arc::new(take_fronts(&mut status));
        let actor = status.actor.and_then(|actor| ActorId::try_from(actor).ok());
        let lives = status.lives.into_iter().filter_map(|life| ActorLife::try_from(life).ok());
        *self.lives() = lives.fold(Lives::default(), |mut lives, life| {
            lives.restore(life);
            lives
        });
        self.board.node_protocol(status.protocol);
        let holes = Arc::new(Holes::read(status.holes));
        self.connect(Known {
            position: from,
            fronts: Arc::clone(&fronts),
            holes: Arc::clone(&holes),
            actor,
            recovering: status.recovering,
            lacking: status.lacking,
            unheard: read_regions(&status.unheard),
            ..Known::default()
        });
        backoff.reset();
        tracing::info!(position = from, actors = fronts.live().len(), "tailing the node");
        gate.tell(Input::Reconnected).await;
        gate.tell(applied(&fronts, &holes)).await;
        loop {
            let batch = tail.message().await?.ok_or(TailError::Ended)?;
            self.take(batch, gate).await;
        }
    }

    async fn status(&self) -> Result<v1::StatusReply, TailError> {
        let mut client = self.client();
        let asked = client.status(v1::StatusRequest { protocol: PROTOCOLS.max, protocol_min: PROTOCOLS.min });
        let reply = tokio::time::timeout(ANSWER_WITHIN, asked).await.map_err(|_| TailError::Silent)??;
        let reply = reply.into_inner();
        match reply.protocol {
            // One that does not say is of before there was a choice.
            protocol if protocol != 0 && !PROTOCOLS.speaks(protocol) => Err(TailError::Protocol(protocol)),
            _ if reply.region == self.region.as_str() => Ok(reply),
            _ => Err(TailError::Foreign(reply.region)),
        }
    }

    /// It decides, in this life.
    pub(crate) fn has_recovered(&self, life: u64) {
        self.known.send_modify(|known| known.recovering &= known.life != life);
    }

    /// The node is there, and is as `now` says; what rises with a connection rises from what it was.
    fn connect(&self, now: Known) {
        let (from, fronts, holes) = (now.position, Arc::clone(&now.fronts), Arc::clone(&now.holes));
        self.known.send_modify(|known| {
            if from < known.position {
                tracing::warn!(
                    from,
                    was = known.position,
                    "the node's log is shorter than it was: it is another one"
                );
            }
            if known.actor != now.actor || from < known.position {
                // Its disk may be another one, or its log was cut and is as long again: positions mean something else.
                known.log += 1;
                self.positions().clear();
            }
            *known = Known { connected: true, life: known.life + 1, log: known.log, ..now };
        });
        self.board.quarantined(holes.count());
        self.positions().note(from, &fronts);
        self.board.node(true, from);
        self.hear(&fronts);
    }

    fn lives(&self) -> MutexGuard<'_, Lives> {
        // Only assignments run under the lock.
        self.lives.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the board up to when everything of each region is here.
    fn hear(&self, fronts: &Fronts) {
        let lives = self.lives();
        let known = |actor: &ActorId| fronts.seq(actor);
        self.board.heard(Channel::Changes, |region| lives.heard_of(region, known));
    }

    /// What came behind a hole and does not build on it wakes whom it concerns.
    async fn tell_present(self, behind: Vec<Requirement>, gate: GateHandle) {
        let requires = behind.iter().cloned().map(Into::into).collect();
        let mut client = self.client();
        let asked = tokio::time::timeout(ANSWER_WITHIN, client.present(v1::PresentRequest { requires }));
        // Without an answer, whoever waits for it fetches it after a while.
        let Ok(Ok(reply)) = asked.await.map(|reply| reply.map(tonic::Response::into_inner)) else { return };
        let missing: Vec<Requirement> =
            reply.missing.into_iter().filter_map(|need| Requirement::try_from(need).ok()).collect();
        let present: Vec<Requirement> = behind.into_iter().filter(|need| !missing.contains(need)).collect();
        if !present.is_empty() {
            gate.tell(Input::Present { present }).await;
        }
    }

    async fn take(&self, batch: v1::TailBatch, gate: &GateHandle) {
        let (from, mut holes) = {
            let known = self.known.borrow();
            (known.position, Arc::clone(&known.holes))
        };
        if holes.count() > 0 || batch.items.iter().any(|item| item.hole.is_some()) {
            let holes = Arc::make_mut(&mut holes);
            batch.items.iter().for_each(|item| holes.note(item.entry.as_ref(), item.hole.clone()));
            self.board.quarantined(holes.count());
        }
        let (lacking, unheard) = (batch.lacking, read_regions(&batch.unheard));
        let news = read_batch(from, batch);
        let mut upto = BTreeMap::new();
        let mut fronts = Fronts::clone(&self.known.borrow().fronts);
        for (_, entry) in &news.entries {
            fronts.raise(entry.dot.actor, Front { seq: entry.dot.seq, hash: entry.hash });
            let known = fronts.seq(&entry.dot.actor);
            upto.insert(entry.dot.actor, holes.whole_to(&entry.dot.actor, known));
            note_life(entry, &mut fronts, &mut self.lives());
        }
        for baseline in &news.adopted {
            let open = baseline.quarantined.iter().map(|kept| kept.entry.dot);
            let new: Vec<Dot> = open.filter(|dot| !fronts.covers(dot)).collect();
            if !new.is_empty() {
                Arc::make_mut(&mut holes).take_over(new.into_iter());
                self.board.quarantined(holes.count());
            }
            for (actor, front) in baseline.fronts() {
                fronts.raise(actor, front);
                upto.insert(actor, holes.whole_to(&actor, fronts.seq(&actor)));
            }
            note_lives(baseline, &mut fronts, &mut self.lives());
        }
        let fronts = Arc::new(fronts);
        self.hear(&fronts);
        self.known.send_modify(|known| {
            known.fronts = Arc::clone(&fronts);
            known.holes = Arc::clone(&holes);
            known.position = news.next;
            known.lacking = lacking;
            known.unheard = unheard;
        });
        self.positions().note(news.next, &fronts);
        self.board.node(true, news.next);
        let behind = holes.behind(news.entries.iter().map(|(_, entry)| entry));
        if !behind.is_empty() {
            tokio::spawn(self.clone().tell_present(behind, gate.clone()));
        }
        // Nobody listening is no error.
        let _ = self.news.send(Arc::new(news));
        if !upto.is_empty() {
            gate.tell(Input::Applied { upto: upto.into_iter().collect() }).await;
        }
    }
}

fn applied(fronts: &Fronts, holes: &Holes) -> Input {
    let whole = |(actor, front): (&ActorId, &Front)| (*actor, holes.whole_to(actor, front.seq));
    Input::Applied { upto: fronts.iter().map(whole).collect() }
}

/// Reads what a node or a peer says of its frontier; what cannot be read is passed over, and asked for anew.
/// How far the node says it is.
fn take_fronts(status: &mut v1::StatusReply) -> Fronts {
    let mut fronts = Fronts::default();
    for (actor, front) in read_frontier(std::mem::take(&mut status.frontier)) {
        fronts.raise(actor, front);
    }
    for closed in std::mem::take(&mut status.closed) {
        let actor = closed.actor.and_then(|actor| ActorId::try_from(actor).ok());
        actor.into_iter().for_each(|actor| fronts.close(actor, closed.last));
    }
    fronts
}

pub(crate) fn read_frontier(wire: Vec<v1::ActorFrontier>) -> Frontier {
    let read = |front: v1::ActorFrontier| -> Option<(ActorId, Front)> {
        let WireFrontier { actor, seq, hash } = WireFrontier::try_from(front)
            .inspect_err(|error| tracing::warn!(%error, "a frontier cannot be read"))
            .ok()?;
        Some((actor, Front { seq, hash }))
    };
    wire.into_iter().filter_map(read).collect()
}

pub(crate) fn write_front(actor: ActorId, front: Front) -> v1::ActorFrontier {
    WireFrontier { actor, seq: front.seq, hash: front.hash }.into()
}

/// What was said, as it travels: the fronts, the stamp, and whether they are all.
pub(crate) fn write_said(said: Said) -> (Vec<v1::ActorFrontier>, Bytes, bool) {
    let fronts = said.fronts.into_iter().map(|(actor, front)| write_front(actor, front));
    (fronts.collect(), Bytes::copy_from_slice(&said.stamp.to_bytes()), said.all)
}

/// Who knows of no stamps names all.
pub(crate) fn read_said(frontier: Vec<v1::ActorFrontier>, stamp: &[u8], all: bool) -> Said {
    let known = <[u8; 32]>::try_from(stamp).ok().map(Digest::from_bytes);
    let fronts = read_frontier(frontier).into_iter().collect();
    Said { fronts, stamp: known.unwrap_or_default(), all: all || known.is_none() }
}

/// The changes of a batch that begins at `from`.
pub(crate) fn read_batch(from: u64, batch: v1::TailBatch) -> News {
    let read = |item: v1::TailItem| -> Option<(u64, Entry)> {
        let entry = Entry::try_from(item.entry?)
            .inspect_err(
                |error| tracing::error!(%error, position = item.position, "a logged change cannot be read"),
            )
            .ok()?;
        Some((item.position, entry))
    };
    let (next, mut adopted) = (batch.next_position, Vec::new());
    for item in batch.items.iter().filter(|item| !item.adopted.is_empty()) {
        match Baseline::decode(&item.adopted) {
            Ok(baseline) => adopted.push(baseline),
            Err(error) => {
                tracing::error!(%error, position = item.position, "a logged baseline cannot be read")
            }
        }
    }
    News { from, next, entries: batch.items.into_iter().filter_map(read).collect(), adopted }
}

/// What a small change says of its actor's life.
fn note_life(entry: &Entry, fronts: &mut Fronts, lives: &mut Lives) {
    if entry.bytes.len() > LIFE_BYTES_MAX {
        return;
    }
    let Ok(change) = Change::decode(&entry.bytes) else { return };
    for event in &change.events {
        match &event.body {
            Some(Body::Beat(beat)) => lives.beat(entry.dot.actor, beat.wall_ms, now_ms()),
            Some(Body::Succeeds(succeeds)) => lives.ended(succeeds.old, succeeds.last),
            Some(Body::Closed(closed)) => note_closed(closed.actor, closed.last, fronts, lives),
            _ => {}
        }
    }
}

/// The same of what was adopted: of who was closed meanwhile nobody waits for a sign of life.
fn note_lives(baseline: &Baseline, fronts: &mut Fronts, lives: &mut Lives) {
    baseline.lives.iter().for_each(|life| lives.learn(*life));
    baseline.closed.iter().for_each(|closed| note_closed(closed.actor, closed.last, fronts, lives));
}

fn note_closed(actor: ActorId, last: u64, fronts: &mut Fronts, lives: &mut Lives) {
    fronts.close(actor, last);
    lives.note_end(actor, fronts);
}

#[cfg(test)]
mod tests {
    use cell_core::event::Closed;
    use cell_core::id::{Hash, NodeId};

    use super::*;

    #[test]
    fn who_was_closed_before_a_baseline_was_adopted_is_waited_for_no_more() {
        let actor = |start| ActorId {
            node: NodeId { region: "east".parse().unwrap(), index: 0 },
            start,
            nonce: start,
        };
        let (mut fronts, mut lives) = (Fronts::default(), Lives::default());
        for start in 1..=3 {
            fronts.raise(actor(start), Front { seq: 5, hash: Hash([0; 32]) });
            lives.beat(actor(start), 1_000, 1_000);
        }
        let closed = [(1, 5), (2, 9)].map(|(start, last)| Closed { actor: actor(start), last });
        let baseline = Baseline {
            fronts: Vec::new(),
            closed: closed.into(),
            placed: Vec::new(),
            lives: Vec::new(),
            quarantined: Vec::new(),
        };
        note_lives(&baseline, &mut fronts, &mut lives);
        let known: Vec<_> = lives.iter().map(|life| (life.actor.start, life.last)).collect();
        assert_eq!(
            known,
            [(2, Some(9)), (3, None)],
            "of the first all is here, of the second the end is known"
        );
    }

    #[tokio::test]
    async fn a_log_that_was_cut_and_is_as_long_again_is_another_one() {
        let region: RegionId = "north".parse().unwrap();
        let channel = crate::transport::channel("http://127.0.0.1:1").unwrap();
        let link = NodeLink::new(region, channel, Board::new(region, []));
        let start = |start| ActorId { node: NodeId { region, index: 0 }, start, nonce: start };
        let mut logs = Vec::new();
        for (from, actor) in [(10, 1), (12, 1), (12, 2), (40, 3), (39, 3)] {
            link.connect(Known { position: from, actor: Some(start(actor)), ..Known::default() });
            logs.push(link.known().borrow().log);
        }
        assert_eq!(
            logs,
            [1, 1, 2, 3, 4],
            "a start of the node may have cut it; a mere break of the stream has not"
        );
    }
}
