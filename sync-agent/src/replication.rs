//! Serves changes to the agents of other regions.
//!
//! One stream per subscriber. What it gets and in which order is [`Feed`]'s to say; here is where the entries come from:
//! the shared tail of the node's log while the subscriber keeps up, a tail of its own from where it fell behind. Fresh
//! entries are offered while a backlog is read, so that they do not wait behind it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use cell_core::digest::Digest;
use cell_core::event::Entry;
use cell_core::id::RegionId;
use cell_core::session::{Feed, FeedConfig, Offered};
use cell_proto::v1::replication_server::Replication;
use cell_proto::{PROTOCOLS, Protocols, v1};
use service_kit::Shutdown;
use tokio::sync::{broadcast, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::board::now_ms;
use crate::config::Limits;
use crate::node::{News, NodeLink, read_batch, read_frontier, read_said, write_said};
use crate::pack::Packer;
use crate::positions::Frontier;
use crate::transport::Served;
use crate::upkeep::{Report, Reports};

/// Batches on their way to a subscriber; a slow one is waited for.
const BATCHES_MAX: usize = 2;
/// How often a subscriber hears how far this region is, also where there is nothing to send.
const SAY_EVERY: Duration = Duration::from_millis(500);
const FIRST_WITHIN: Duration = Duration::from_secs(5);

/// Serves the data channel.
#[derive(Clone, Debug)]
pub(crate) struct Publisher {
    pub(crate) own: RegionId,
    pub(crate) members: Vec<RegionId>,
    pub(crate) node: NodeLink,
    pub(crate) limits: Limits,
    pub(crate) reports: Reports,
    pub(crate) shutdown: Shutdown,
}

#[tonic::async_trait]
impl Replication for Publisher {
    type SubscribeStream = Served<v1::ChangeBatch>;

    async fn subscribe(
        &self,
        request: Request<Streaming<v1::SubscribeRequest>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let requests = request.into_inner();
        let (batches, served) = mpsc::channel(BATCHES_MAX);
        let publisher = self.clone();
        self.shutdown.spawn("subscriber's stream", async move {
            let ended = tokio::select! {
                () = publisher.shutdown.begun() => return,
                ended = publisher.serve(requests, &batches) => ended,
            };
            if let Err(status) = ended {
                let _ = batches.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(served))))
    }

    async fn fetch(
        &self,
        request: Request<v1::EntitiesRequest>,
    ) -> Result<Response<v1::EntitiesReply>, Status> {
        let request = request.into_inner();
        let packer = request.takes_packed.then(Packer::new).transpose()?;
        let mut reply = self
            .node
            .client()
            .read_entities(request)
            .await
            .map_err(|status| self.node.relayed(status))?
            .into_inner();
        if let Some(mut packer) = packer {
            let entities = std::mem::take(&mut reply.entities);
            let of_entities = v1::EntitiesReply { entities, ..v1::EntitiesReply::default() };
            reply.packed = packer.pack(&of_entities);
            if reply.packed.is_none() {
                reply.entities = of_entities.entities;
            }
        }
        Ok(Response::new(reply))
    }

    async fn digests(
        &self,
        request: Request<v1::DigestsRequest>,
    ) -> Result<Response<v1::DigestsReply>, Status> {
        self.node.digests(request.into_inner()).await.map(Response::new)
    }

    async fn read_baseline(
        &self,
        request: Request<v1::BaselineRequest>,
    ) -> Result<Response<v1::BaselineReply>, Status> {
        self.node
            .client()
            .read_baseline(request.into_inner())
            .await
            .map_err(|status| self.node.relayed(status))
    }

    type EntityDigestsStream = Streaming<v1::EntityDigestsReply>;

    async fn entity_digests(
        &self,
        request: Request<v1::EntityDigestsRequest>,
    ) -> Result<Response<Self::EntityDigestsStream>, Status> {
        self.node.entity_digests(request.into_inner()).await.map(Response::new)
    }
}

impl Publisher {
    async fn serve(
        &self,
        mut requests: Streaming<v1::SubscribeRequest>,
        batches: &mpsc::Sender<Result<v1::ChangeBatch, Status>>,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(FIRST_WITHIN, requests.message()).await;
        let first =
            first.map_err(|_| Status::deadline_exceeded("the subscriber does not say who it is"))??;
        let first = first.ok_or_else(|| Status::invalid_argument("the subscriber said nothing"))?;
        let (subscriber, protocol) = self.admit(&first)?;
        let packer = first.takes_packed.then(Packer::new).transpose()?;
        // Listened to before the place to begin is chosen: what comes in between is in one of the two.
        let news = self.node.news();
        let log = self.node.connected().await.log;
        let stamp = read_stamp(&first.stamp);
        let said = read_said(first.frontier, &first.stamp, first.all);
        let frontier = match self.node.fronts().hear(said) {
            Some(frontier) => frontier,
            None => self.ask_all(protocol, &mut requests, batches).await?,
        };
        let config = FeedConfig {
            relay_after_ms: self.limits.relay_after_ms,
            held_bytes_max: self.limits.held_bytes_max,
        };
        let mut feed = Feed::new(self.own, subscriber, config);
        let at = self.node.start_for(&frontier);
        let report = self.reports.begin(subscriber, &frontier);
        feed.report(now_ms(), frontier);
        tracing::info!(%subscriber, from = at, "a subscriber begins");
        let pending = VecDeque::new();
        let mut stream = Stream {
            publisher: self,
            protocol,
            packer,
            feed,
            log,
            news,
            at,
            backlog: None,
            pending,
            report,
            stamp,
        };
        let ended = stream.run(&mut requests, batches).await;
        tracing::info!(%subscriber, at = stream.at, "a subscriber ended");
        ended
    }

    /// The subscriber's ended actors are not those that are known here: it is to name them.
    async fn ask_all(
        &self,
        protocol: u32,
        requests: &mut Streaming<v1::SubscribeRequest>,
        batches: &mpsc::Sender<Result<v1::ChangeBatch, Status>>,
    ) -> Result<Frontier, Status> {
        let ask = v1::ChangeBatch { name_all: true, protocol, ..v1::ChangeBatch::default() };
        batches.send(Ok(ask)).await.map_err(|_| Status::cancelled("the subscriber is gone"))?;
        loop {
            let request = tokio::time::timeout(FIRST_WITHIN, requests.message()).await;
            let request = request.map_err(|_| Status::deadline_exceeded("the subscriber names nobody"))??;
            let request = request.ok_or_else(|| Status::cancelled("the subscriber is gone"))?;
            if request.all {
                return Ok(read_frontier(request.frontier));
            }
        }
    }

    /// Who it is, and the protocol that is spoken with them.
    fn admit(&self, first: &v1::SubscribeRequest) -> Result<(RegionId, u32), Status> {
        let theirs = Protocols::said(first.protocol, first.protocol_min);
        let spoken = PROTOCOLS.spoken_with(theirs);
        let spoken = spoken.map_err(|error| Status::failed_precondition(error.to_string()))?;
        let region = first.region.parse::<RegionId>().ok();
        let region = region.filter(|region| *region != self.own && self.members.contains(region));
        let Some(region) = region else {
            let what = format!("'{}' is no other member of this cluster", first.region);
            return Err(Status::permission_denied(what));
        };
        let mut theirs = first.members.clone();
        let mut ours: Vec<String> = self.members.iter().map(ToString::to_string).collect();
        theirs.sort_unstable();
        ours.sort_unstable();
        if theirs != ours {
            let what = format!("this cluster has the members {ours:?}, the subscriber's has {theirs:?}");
            return Err(Status::failed_precondition(what));
        }
        Ok((region, spoken))
    }
}

/// One subscriber's stream.
struct Stream<'a> {
    publisher: &'a Publisher,
    protocol: u32,
    /// If the subscriber takes what is packed.
    packer: Option<Packer>,
    feed: Feed,
    /// Of the node: what positions are of.
    log: u64,
    news: broadcast::Receiver<Arc<News>>,
    /// Everything before it was offered.
    at: u64,
    /// Set while the shared tail is ahead of `at`.
    backlog: Option<Streaming<v1::TailBatch>>,
    /// Read and not offered yet, for want of room; then `at` is behind it.
    pending: VecDeque<Entry>,
    report: Report,
    /// Of what the subscriber's node has folded.
    stamp: Option<Digest>,
}

impl Stream<'_> {
    async fn run(
        &mut self,
        requests: &mut Streaming<v1::SubscribeRequest>,
        batches: &mpsc::Sender<Result<v1::ChangeBatch, Status>>,
    ) -> Result<(), Status> {
        let mut known = self.publisher.node.known();
        known.mark_changed();
        let mut say = tokio::time::interval(SAY_EVERY);
        let closed = || Status::cancelled("the subscriber is gone");
        self.catch_up().await?;
        loop {
            self.offer_pending();
            let due = self.feed.next_due_ms();
            let ready = due.is_some_and(|due_ms| due_ms <= now_ms());
            let reading = self.pending.is_empty();
            tokio::select! {
                biased;
                request = requests.message() => match request? {
                    Some(request) => self.reported(request),
                    None => return Ok(()),
                },
                _ = say.tick() => {
                    // If there is no room the subscriber is being sent something anyway.
                    if let Ok(permit) = batches.try_reserve() {
                        permit.send(Ok(self.batch(Vec::new(), true)));
                    }
                }
                permit = batches.reserve(), if ready => {
                    let permit = permit.map_err(|_| closed())?;
                    let entries = self.feed.take(now_ms(), self.publisher.limits.batch_bytes);
                    permit.send(Ok(self.batch(entries, false)));
                }
                () = sleep_until(due), if !ready && due.is_some() => {}
                news = self.news.recv(), if reading || self.backlog.is_some() => self.take_news(news).await?,
                batch = next_of(&mut self.backlog), if reading => self.take_backlog(batch?),
                changed = known.changed() => {
                    changed.map_err(|_| closed())?;
                    if known.borrow_and_update().log != self.log {
                        return Err(Status::aborted("the node has another log than before"));
                    }
                }
            }
            if self.feed.wants_rewind() {
                self.rewind().await?;
            }
        }
    }

    fn reported(&mut self, request: v1::SubscribeRequest) {
        self.stamp = read_stamp(&request.stamp).or(self.stamp);
        let frontier = read_frontier(request.frontier);
        self.report.goes_on(&frontier);
        self.feed.report(now_ms(), frontier);
    }

    fn batch(&mut self, entries: Vec<Entry>, with_frontier: bool) -> v1::ChangeBatch {
        let entries: Vec<v1::Entry> = entries.into_iter().map(v1::Entry::from).collect();
        metrics::counter!("cell_changes_sent_total").increment(entries.len() as u64);
        let of_entries = v1::ChangeBatch { entries, ..v1::ChangeBatch::default() };
        let packed = self.packer.as_mut().and_then(|packer| packer.pack(&of_entries));
        let entries = if packed.is_some() { Vec::new() } else { of_entries.entries };
        let (protocol, sent_wall_ms) = (self.protocol, now_ms());
        let batch = v1::ChangeBatch { entries, packed, sent_wall_ms, protocol, ..v1::ChangeBatch::default() };
        if !with_frontier {
            return batch;
        }
        let node = &self.publisher.node;
        let fronts = node.fronts();
        let (mut frontier, stamp, all) = write_said(fronts.say(self.stamp));
        node.holes().tell(&mut frontier);
        let all_read = self.pending.is_empty() && self.backlog.is_none() && self.at >= node.position();
        let unable = self.feed.unable(all_read.then_some(&*fronts));
        let only_as_state = unable.into_iter().map(v1::ActorId::from).collect();
        let (lacking, unconfirmed) = {
            let known = node.known();
            let known = known.borrow();
            (known.lacking || known.unheard.contains(&self.report.of()), known.is_new(&node.region()))
        };
        v1::ChangeBatch { frontier, stamp, all, only_as_state, lacking, unconfirmed, ..batch }
    }

    /// Offers what was read, until there is no room.
    fn offer_pending(&mut self) {
        while let Some(entry) = self.pending.front() {
            match self.feed.offer(now_ms(), entry) {
                Offered::Full => return,
                Offered::Conflict => {
                    tracing::error!(dot = %entry.dot, "the subscriber has another entry under this dot");
                    metrics::counter!("cell_replication_conflicts_total").increment(1);
                }
                Offered::Held | Offered::Known | Offered::Early => {}
            }
            self.pending.pop_front();
        }
    }

    async fn take_news(
        &mut self,
        news: Result<Arc<News>, broadcast::error::RecvError>,
    ) -> Result<(), Status> {
        let news = match news {
            Ok(news) => news,
            Err(broadcast::error::RecvError::Lagged(_)) => return self.catch_up().await,
            Err(broadcast::error::RecvError::Closed) => return Err(Status::cancelled("the agent ends")),
        };
        if news.next <= self.at {
            if news.next == self.at {
                // The shared tail is here too: from now on it is enough.
                self.backlog = None;
            }
            return Ok(());
        }
        if news.from > self.at {
            // Fresh first: whatever is its actor's next goes at once; the log brings the rest in its turn.
            for (_, entry) in &news.entries {
                self.feed.offer_ahead(now_ms(), entry);
            }
            return self.catch_up().await;
        }
        let at = self.at;
        self.backlog = None;
        self.at = news.next;
        self.pending
            .extend(news.entries.iter().filter(|(position, _)| *position >= at).map(|(_, e)| e.clone()));
        Ok(())
    }

    fn take_backlog(&mut self, batch: v1::TailBatch) {
        let news = read_batch(self.at, batch);
        self.at = news.next.max(self.at);
        self.pending.extend(news.entries.into_iter().map(|(_, entry)| entry));
    }

    /// Reads the log by itself if the shared tail is ahead.
    async fn catch_up(&mut self) -> Result<(), Status> {
        let behind = self.at < self.publisher.node.position();
        if behind && self.backlog.is_none() {
            self.backlog = Some(self.publisher.node.tail_from(self.at).await?);
        }
        Ok(())
    }

    /// The subscriber got elsewhere what this log has lost; what was passed over can be sent now.
    async fn rewind(&mut self) -> Result<(), Status> {
        self.pending.clear();
        self.at = 0;
        self.backlog = Some(self.publisher.node.tail_from(0).await?);
        Ok(())
    }
}

fn read_stamp(wire: &[u8]) -> Option<Digest> {
    wire.try_into().ok().map(Digest::from_bytes)
}

async fn next_of(backlog: &mut Option<Streaming<v1::TailBatch>>) -> Result<v1::TailBatch, Status> {
    match backlog {
        Some(backlog) => {
            let batch = backlog.message().await?;
            batch.ok_or_else(|| Status::unavailable("the node ended the stream"))
        }
        None => std::future::pending().await,
    }
}

async fn sleep_until(due_ms: Option<u64>) {
    let wait_ms = due_ms.unwrap_or(u64::MAX).saturating_sub(now_ms());
    tokio::time::sleep(Duration::from_millis(wait_ms.max(1))).await;
}
