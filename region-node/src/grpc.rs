//! What the node serves to its own sync-agent and to operators.

pub(crate) mod conflicts;
mod digests;
mod quarantine;
mod tail;

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cell_core::canon::Message as _;
use cell_core::cell::{Answer, Baseline, Delivery, Front, Hole, Incoming, Refused};
use cell_core::entity::{Entity, EntityShape};
use cell_core::event::Entry;
use cell_core::gate::{Envelope, MessageId, Requirement};
use cell_core::id::{ActorId, EntityId, RegionId, Slot};
use cell_core::version::Dot;
use cell_proto::v1::node_server::Node as NodeService;
use cell_proto::v1::{self, deliver_reply, deliver_request};
use cell_proto::{BadWire, Frontier, PROTOCOLS, Protocols};
use futures::stream::FuturesOrdered;
use futures::{Stream, StreamExt};
use prost::Message as _;
use service_kit::Shutdown;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::node::Node;
use crate::scrub;
use crate::writer::NodeError;

/// Batches on their way to a client at most: a slow one is waited for.
const BATCHES_MAX: usize = 4;
/// Changes, or entities, that are read between two requests: some ten microseconds each.
const READ_ALONG_MAX: usize = 16;
/// Entities read in one call at most.
const ENTITIES_MAX: usize = 256;
/// An answer ends when it is larger than this; an entity is at most some 1 MiB.
const ENTITIES_BYTES: usize = 4 << 20;
const OUTBOX_LOOK_EVERY: Duration = Duration::from_millis(100);
const OUTBOX_MAX: usize = 256;

#[derive(Clone, Debug)]
pub(crate) struct Grpc {
    pub(crate) node: Node,
    pub(crate) shutdown: Shutdown,
    pub(crate) may_damage: bool,
    pub(crate) tails: Arc<Semaphore>,
}

type Served<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn status(error: NodeError) -> Status {
    match error {
        NodeError::Busy => Status::resource_exhausted(error.to_string()),
        NodeError::Unavailable(_) => Status::unavailable(error.to_string()),
    }
}

fn bad(error: BadWire) -> Status {
    Status::invalid_argument(error.to_string())
}

fn entity_id(bytes: &[u8]) -> Result<EntityId, Status> {
    let bytes = bytes.try_into().map_err(|_| Status::invalid_argument("an entity id has 17 bytes"))?;
    Ok(EntityId::from_bytes(bytes))
}

fn wire_hole(dot: Dot, hole: &Hole) -> v1::Hole {
    let entities = wire_ids(hole.entities.iter().copied());
    v1::Hole { dot: Some(dot.into()), entities, obscure: hole.obscure, given_up: hole.given_up }
}

fn wire_ids(ids: impl IntoIterator<Item = EntityId>) -> Vec<bytes::Bytes> {
    ids.into_iter().map(|id| bytes::Bytes::copy_from_slice(&id.to_bytes())).collect()
}

/// What is asked for, as far as it can be given in one answer.
fn entities_of(node: &Node, request: &v1::EntitiesRequest) -> Result<v1::EntitiesReply, Status> {
    let v1::EntitiesRequest { entities: wanted, alone, incomplete_too, .. } = request;
    let (mut entities, mut given, mut bytes, mut looked) = (Vec::new(), BTreeSet::new(), 0, 0);
    let mut withheld = Vec::new();
    for wanted in wanted {
        if bytes > ENTITIES_BYTES {
            break;
        }
        let id = entity_id(wanted)?;
        let is_withheld = |id| node.working().withheld_by(id).is_some();
        let beside = match *alone || is_withheld(id) {
            true => Vec::new(),
            false => node.beside(id).map_err(status)?,
        };
        for id in [id].into_iter().chain(beside) {
            if !given.insert(id) {
                continue;
            }
            let entity = match is_withheld(id) {
                false => node.entity(id),
                true if *incomplete_too => node.known_of(id),
                // Nobody takes a part for the whole.
                true => {
                    withheld.push(id);
                    continue;
                }
            };
            if let Some(entity) = entity.map_err(status)? {
                let shape = v1::EntityShape::from(entity.to_shape());
                bytes += shape.encoded_len();
                entities.push(shape);
            }
        }
        looked += 1;
    }
    Ok(v1::EntitiesReply { entities, looked, withheld: wire_ids(withheld), ..v1::EntitiesReply::default() })
}

#[tonic::async_trait]
impl NodeService for Grpc {
    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusReply>, Status> {
        let v1::StatusRequest { protocol, protocol_min } = request.into_inner();
        // An operator's tool does not say: what it reads, every version reads.
        let protocol = match protocol {
            0 => 0,
            max => PROTOCOLS
                .spoken_with(Protocols::said(max, protocol_min))
                .map_err(|error| Status::failed_precondition(error.to_string()))?,
        };
        let known = self.node.known().await.map_err(status)?;
        let mut quarantined: BTreeMap<ActorId, Vec<u64>> = BTreeMap::new();
        for (dot, _) in known.holes.iter().filter(|(_, hole)| !hole.given_up) {
            quarantined.entry(dot.actor).or_default().push(dot.seq);
        }
        let frontier = known.fronts.iter().map(|(actor, front)| v1::ActorFrontier {
            quarantined: quarantined.remove(actor).unwrap_or_default(),
            ..v1::ActorFrontier::from(Frontier { actor: *actor, seq: front.seq, hash: front.hash })
        });
        let closed = known.fronts.closed().iter();
        let closed = closed.map(|(actor, last)| v1::Closed { actor: Some((*actor).into()), last: *last });
        let beats = known.heard.into_iter();
        Ok(Response::new(v1::StatusReply {
            region: self.node.actor().region().to_string(),
            actor: Some(self.node.actor().into()),
            durable_position: self.node.durable_position(),
            frontier: frontier.collect(),
            members: self.node.members().iter().map(ToString::to_string).collect(),
            beats: beats
                .map(|(region, wall_ms)| v1::RegionBeat { region: region.to_string(), wall_ms })
                .collect(),
            lives: known.lives.into_iter().map(v1::ActorLife::from).collect(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            recovering: self.node.is_unconfirmed(),
            closed: closed.collect(),
            first_position: self.node.log().first().0,
            holes: known.holes.iter().map(|(dot, hole)| wire_hole(*dot, hole)).collect(),
            protocol,
            lacking: !self.node.working().may_found(),
            headless: known.headless.into_iter().map(Into::into).collect(),
            unheard: tail::unheard(&self.node),
        }))
    }

    type TailStream = Served<v1::TailBatch>;

    async fn tail(&self, request: Request<v1::TailRequest>) -> Result<Response<Self::TailStream>, Status> {
        let place = Arc::clone(&self.tails).try_acquire_owned();
        let place = place.map_err(|_| Status::resource_exhausted("as many tails as there may be"))?;
        let (sender, receiver) = mpsc::channel(BATCHES_MAX);
        let (node, shutdown) = (self.node.clone(), self.shutdown.clone());
        self.shutdown.spawn("tail", async move {
            tail::serve(node, request.into_inner(), sender, shutdown).await;
            drop(place);
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    type ApplyStream = Served<v1::ApplyReply>;

    async fn apply(
        &self,
        request: Request<Streaming<v1::ApplyBatch>>,
    ) -> Result<Response<Self::ApplyStream>, Status> {
        let mut batches = request.into_inner();
        let (sender, receiver) = mpsc::channel(BATCHES_MAX);
        let (node, shutdown) = (self.node.clone(), self.shutdown.clone());
        self.shutdown.spawn("apply", async move {
            // The next batch is run while the one before it becomes durable; answers keep the order.
            let (mut open, mut more) = (FuturesOrdered::new(), true);
            loop {
                let reply = tokio::select! {
                    () = shutdown.begun() => return,
                    batch = batches.message(), if more && open.len() < BATCHES_MAX => {
                        match batch {
                            Ok(Some(batch)) => {
                                match read_along(batch.entries.len(), || Batch::read(batch)).await {
                                    Ok(batch) => open.push_back(apply_batch(&node, batch)),
                                    Err(error) => {
                                        tracing::error!(%error, "a batch could not be read; the stream ends");
                                        return;
                                    }
                                }
                            }
                            Ok(None) | Err(_) => more = false,
                        }
                        continue;
                    }
                    Some(reply) = open.next() => reply,
                    else => return,
                };
                let stop = reply.is_err();
                if sender.send(reply).await.is_err() || stop {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn present(
        &self,
        request: Request<v1::PresentRequest>,
    ) -> Result<Response<v1::PresentReply>, Status> {
        let requires = request.into_inner().requires.into_iter().map(Requirement::try_from);
        let requires = requires.collect::<Result<Vec<_>, _>>().map_err(bad)?;
        let missing = self.node.missing(requires).await.map_err(status)?;
        Ok(Response::new(v1::PresentReply { missing: missing.into_iter().map(Into::into).collect() }))
    }

    async fn read_entities(
        &self,
        request: Request<v1::EntitiesRequest>,
    ) -> Result<Response<v1::EntitiesReply>, Status> {
        let request = request.into_inner();
        if request.entities.len() > ENTITIES_MAX {
            return Err(Status::invalid_argument(format!("at most {ENTITIES_MAX} entities at once")));
        }
        let (count, node) = (request.entities.len(), self.node.clone());
        let read = read_along(count, move || entities_of(&node, &request)).await;
        read.map_err(|error| Status::internal(error.to_string()))?.map(Response::new)
    }

    async fn merge_entities(
        &self,
        request: Request<v1::MergeRequest>,
    ) -> Result<Response<v1::MergeReply>, Status> {
        let (mut entities, mut refused) = (Vec::new(), Vec::new());
        for shape in request.into_inner().entities {
            let id = shape.id.clone();
            let read = EntityShape::try_from(shape).map_err(|error| error.to_string());
            match read.and_then(|shape| Entity::from_shape(shape).map_err(|error| error.to_string())) {
                Ok(entity) => entities.push(entity),
                Err(error) => {
                    tracing::error!(?id, error, "the state of an entity cannot be taken from another region");
                    refused.push(id);
                }
            }
        }
        let (changed, not_taken) = self.node.merge(entities).await.map_err(status)?;
        refused.extend(wire_ids(not_taken));
        let durable_position = self.node.durable_position();
        Ok(Response::new(v1::MergeReply { durable_position, changed: changed as u64, refused }))
    }

    async fn digests(
        &self,
        request: Request<v1::DigestsRequest>,
    ) -> Result<Response<v1::DigestsReply>, Status> {
        digests::digests(&self.node, request.into_inner()).await.map(Response::new)
    }

    type EntityDigestsStream = Served<v1::EntityDigestsReply>;

    async fn entity_digests(
        &self,
        request: Request<v1::EntityDigestsRequest>,
    ) -> Result<Response<Self::EntityDigestsStream>, Status> {
        digests::of_entities(&self.node, &self.shutdown, request.into_inner()).map(Response::new)
    }

    type OutboxStream = Served<v1::Envelope>;

    async fn outbox(
        &self,
        request: Request<Streaming<v1::OutboxAck>>,
    ) -> Result<Response<Self::OutboxStream>, Status> {
        let mut acks = request.into_inner();
        let (sender, receiver) = mpsc::channel(OUTBOX_MAX);
        let (node, shutdown) = (self.node.clone(), self.shutdown.clone());
        node.tray().sends_afresh();
        self.shutdown.spawn("outbox", async move {
            let mut look = tokio::time::interval(OUTBOX_LOOK_EVERY);
            loop {
                tokio::select! {
                    () = shutdown.begun() => return,
                    () = sender.closed() => return,
                    ack = acks.message() => match ack {
                        Ok(Some(ack)) => {
                            if let Ok(id) = <[u8; 16]>::try_from(ack.message_id.as_ref()) {
                                node.tray().sent(&MessageId(id), ack.accepted, crate::writer::now_ms());
                            }
                            continue;
                        }
                        Ok(None) | Err(_) => return,
                    },
                    () = node.tray().send_news() => {}
                    _ = look.tick() => {}
                }
                let free = sender.capacity();
                for envelope in node.tray().take_sends(crate::writer::now_ms(), free) {
                    if sender.send(Ok(v1::Envelope::from(envelope))).await.is_err() {
                        return;
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn deliver(
        &self,
        request: Request<v1::DeliverRequest>,
    ) -> Result<Response<v1::DeliverReply>, Status> {
        let request = request.into_inner();
        let why = match request.why() {
            deliver_request::Why::Ready => Delivery::Ready,
            deliver_request::Why::Expired => Delivery::Expired,
            deliver_request::Why::Discarded => Delivery::Discarded,
            deliver_request::Why::Unspecified => {
                return Err(Status::invalid_argument("why the message is delivered is missing"));
            }
        };
        let envelope = request.envelope.ok_or_else(|| Status::invalid_argument("the envelope is missing"))?;
        let envelope = Envelope::try_from(envelope).map_err(bad)?;
        let (answer, detail) = match self.node.deliver(envelope, why).await {
            Ok(Answer::Done) => (deliver_reply::Answer::Done, String::new()),
            Ok(Answer::Refused(reason)) => (deliver_reply::Answer::Refused, reason),
            Ok(Answer::Moved) => (deliver_reply::Answer::Moved, String::new()),
            Ok(Answer::Busy) | Err(NodeError::Busy) => (deliver_reply::Answer::Busy, String::new()),
            Ok(Answer::Failed(error)) => (deliver_reply::Answer::Failed, error),
            Err(error) => return Err(status(error)),
        };
        Ok(Response::new(v1::DeliverReply { answer: answer.into(), detail }))
    }

    type GateHintsStream = Served<v1::GateHint>;

    async fn gate_hints(
        &self,
        _: Request<v1::GateHintsRequest>,
    ) -> Result<Response<Self::GateHintsStream>, Status> {
        let (sender, receiver) = mpsc::channel(OUTBOX_MAX);
        let (node, shutdown) = (self.node.clone(), self.shutdown.clone());
        self.shutdown.spawn("hints", async move {
            let mut signals = node.signals();
            loop {
                let changed = tokio::select! {
                    () = shutdown.begun() => return,
                    () = sender.closed() => return,
                    changed = signals.recv() => changed,
                };
                // Missed signals cost nothing but a later drop: the node answers such a message anyway.
                let Ok(changed) = changed else { continue };
                for id in changed.iter() {
                    for hint in node.hints(*id) {
                        if sender.send(Ok(hint)).await.is_err() {
                            return;
                        }
                    }
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn record_audit(
        &self,
        request: Request<v1::AuditRequest>,
    ) -> Result<Response<v1::AuditReply>, Status> {
        let v1::AuditRequest { identity, action, subject, reason } = request.into_inner();
        if identity.is_empty() {
            return Err(Status::invalid_argument("an operator's action needs an identity"));
        }
        let audit = cell_core::event::Audit { identity, action, subject, reason };
        self.node.audit(audit).await.map_err(status)?;
        Ok(Response::new(v1::AuditReply {}))
    }

    async fn recovered(
        &self,
        request: Request<v1::RecoveredRequest>,
    ) -> Result<Response<v1::RecoveredReply>, Status> {
        let v1::RecoveredRequest { confirmed_by, unfounded } = request.into_inner();
        tracing::info!(?confirmed_by, unfounded, "peers hold nothing more of this node");
        self.node.confirmed(unfounded).await.map_err(status)?;
        Ok(Response::new(v1::RecoveredReply {}))
    }

    async fn catching_up(
        &self,
        request: Request<v1::CatchingUpRequest>,
    ) -> Result<Response<v1::CatchingUpReply>, Status> {
        let v1::CatchingUpRequest { by_state, lost } = request.into_inner();
        self.node.catching_up(by_state, lost).await.map_err(status)?;
        Ok(Response::new(v1::CatchingUpReply {}))
    }

    async fn read_baseline(
        &self,
        _: Request<v1::BaselineRequest>,
    ) -> Result<Response<v1::BaselineReply>, Status> {
        let baseline = self.node.baseline().await.map_err(status)?;
        Ok(Response::new(v1::BaselineReply { baseline: baseline.to_canon().into() }))
    }

    async fn adopt(&self, request: Request<v1::AdoptRequest>) -> Result<Response<v1::AdoptReply>, Status> {
        let v1::AdoptRequest { baseline, from_region } = request.into_inner();
        let baseline = Baseline::decode(&baseline)
            .map_err(|error| Status::invalid_argument(format!("the baseline of '{from_region}': {error}")))?;
        tracing::info!(from_region, "everything that a peer knew was merged");
        self.node.adopt(baseline).await.map_err(status)?;
        Ok(Response::new(v1::AdoptReply { durable_position: self.node.durable_position() }))
    }

    async fn close_actors(
        &self,
        request: Request<v1::CloseActorsRequest>,
    ) -> Result<Response<v1::CloseActorsReply>, Status> {
        let actors = request.into_inner().actors.into_iter().map(|front| {
            let Frontier { actor, seq, hash } = Frontier::try_from(front).map_err(bad)?;
            Ok::<_, Status>((actor, Front { seq, hash }))
        });
        let closed = self.node.close_actors(actors.collect::<Result<_, _>>()?).await.map_err(status)?;
        Ok(Response::new(v1::CloseActorsReply { closed }))
    }

    async fn trim(&self, request: Request<v1::TrimRequest>) -> Result<Response<v1::TrimReply>, Status> {
        let v1::TrimRequest { all_have, some_have, actor } = request.into_inner();
        if actor != Some(self.node.actor().into()) {
            return Err(Status::failed_precondition("the positions are another start's"));
        }
        let first_position = self.node.trim(all_have, some_have).await.map_err(status)?;
        Ok(Response::new(v1::TrimReply { first_position }))
    }

    async fn agreed(&self, request: Request<v1::AgreedRequest>) -> Result<Response<v1::AgreedReply>, Status> {
        let v1::AgreedRequest { doubt, but_slots } = request.into_inner();
        let slot = |slot| u16::try_from(slot).ok().and_then(|slot| Slot::new(slot).ok());
        let but = but_slots.into_iter().filter_map(slot).collect();
        if self.node.working().resolve(doubt, &but)
            && let Err(error) = scrub::keep_doubts(&self.node).await
        {
            // The next start doubts what is whole, until it is compared.
            tracing::warn!(%error, "that the doubt is over is not kept");
        }
        Ok(Response::new(v1::AgreedReply {}))
    }

    async fn recount(&self, _: Request<v1::RecountRequest>) -> Result<Response<v1::RecountReply>, Status> {
        self.node.working().recount();
        Ok(Response::new(v1::RecountReply {}))
    }

    async fn verify(&self, _: Request<v1::VerifyRequest>) -> Result<Response<v1::VerifyReply>, Status> {
        let ending = || Status::unavailable("the node is ending");
        let found = tokio::select! {
            () = self.shutdown.begun() => None,
            found = self.node.scrub().now() => found,
        };
        let found = found.ok_or_else(ending)?.map_err(Status::data_loss)?;
        let (keys, records, mut found) = (found.keys, found.records, found.lines());
        let in_doubt = self.node.working().doubted().len();
        if in_doubt > 0 {
            found.push(format!("{in_doubt} slots may lack something, until a peer is compared with"));
        }
        Ok(Response::new(v1::VerifyReply { keys, records, found }))
    }

    async fn damage(&self, request: Request<v1::DamageRequest>) -> Result<Response<v1::DamageReply>, Status> {
        if !self.may_damage {
            return Err(Status::unimplemented("only with allow_damage, and only for tests"));
        }
        let v1::DamageRequest { entity, how, part } = request.into_inner();
        let (id, working) = (entity_id(&entity)?, self.node.working().clone());
        if part == "sum" {
            scrub::miscount(&self.node, id.slot()).await.map_err(status)?;
            return Ok(Response::new(v1::DamageReply {}));
        }
        let damage = move || scrub::damage(&working, id, &part, &how);
        let damaged =
            tokio::task::spawn_blocking(damage).await.map_err(|error| Status::internal(error.to_string()))?;
        damaged.map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Response::new(v1::DamageReply {}))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainReply>, Status> {
        let id = request.into_inner().id;
        let id: EntityId = id.parse().map_err(|error| Status::invalid_argument(format!("{id}: {error}")))?;
        let document = self.node.explain(id).await.map_err(status)?;
        let json = document.map(|document| document.to_string()).unwrap_or_default();
        Ok(Response::new(v1::ExplainReply { json }))
    }

    async fn list_conflicts(
        &self,
        request: Request<v1::ConflictsRequest>,
    ) -> Result<Response<v1::ConflictsReply>, Status> {
        conflicts::list(&self.node, request.into_inner()).await.map(Response::new)
    }

    async fn get_conflict(
        &self,
        request: Request<v1::ConflictRequest>,
    ) -> Result<Response<v1::ConflictReply>, Status> {
        conflicts::get(&self.node, &request.into_inner().id).map(Response::new)
    }

    async fn list_quarantined(
        &self,
        request: Request<v1::QuarantinedRequest>,
    ) -> Result<Response<v1::QuarantinedReply>, Status> {
        quarantine::list(&self.node, request.into_inner()).await.map(Response::new)
    }

    async fn retry_quarantined(
        &self,
        request: Request<v1::QuarantineAction>,
    ) -> Result<Response<v1::QuarantineOutcome>, Status> {
        quarantine::retry(&self.node, request.into_inner()).await.map(Response::new)
    }

    async fn discard_quarantined(
        &self,
        request: Request<v1::QuarantineAction>,
    ) -> Result<Response<v1::QuarantineOutcome>, Status> {
        quarantine::discard(&self.node, request.into_inner()).await.map(Response::new)
    }

    async fn resolve_conflict(
        &self,
        request: Request<v1::ResolveRequest>,
    ) -> Result<Response<v1::ResolveReply>, Status> {
        conflicts::resolve(&self.node, request.into_inner()).await.map(Response::new)
    }
}

/// A batch of changes, read.
struct Batch {
    number: u64,
    changes: Vec<Incoming>,
    unreadable: Vec<v1::ApplyRefusal>,
}

impl Batch {
    fn read(batch: v1::ApplyBatch) -> Batch {
        let (mut changes, mut unreadable) = (Vec::with_capacity(batch.entries.len()), Vec::new());
        for entry in batch.entries {
            let dot = entry.dot.clone();
            match Entry::try_from(entry) {
                Ok(entry) => changes.push(Incoming::read(entry)),
                Err(error) => {
                    // Of its actor nothing more fits; everybody else's is as good.
                    tracing::error!(%error, ?dot, "an entry cannot be read");
                    unreadable.push(v1::ApplyRefusal { dot, reason: "malformed".to_owned(), have: None });
                }
            }
        }
        Batch { number: batch.batch, changes, unreadable }
    }
}

/// Reads so many; many are read where nobody's request waits for it.
async fn read_along<T: Send + 'static>(
    count: usize,
    read: impl FnOnce() -> T + Send + 'static,
) -> Result<T, JoinError> {
    if count <= READ_ALONG_MAX { Ok(read()) } else { tokio::task::spawn_blocking(read).await }
}

/// Gives a batch to the writer at once; what comes back is its answer, when it is durable.
fn apply_batch(
    node: &Node,
    Batch { number, changes, unreadable }: Batch,
) -> impl Future<Output = Result<v1::ApplyReply, Status>> + Send + use<> {
    let applied = node.replicate(changes);
    let node = node.clone();
    async move {
        let outcomes = applied.await.map_err(status)?;
        let refusals = outcomes.into_iter().map(|(dot, refused, have)| v1::ApplyRefusal {
            dot: Some(dot.into()),
            reason: match refused {
                Refused::Gap { .. } => "gap",
                Refused::Conflict => "conflict",
                Refused::NotKept => "not-kept",
                Refused::NotAMember => "not-a-member",
            }
            .to_owned(),
            have: have.map(|front| Frontier { actor: dot.actor, seq: front.seq, hash: front.hash }.into()),
        });
        Ok(v1::ApplyReply {
            batch: number,
            // First: what follows such an entry is a gap only because of it.
            refusals: unreadable.into_iter().chain(refusals).collect(),
            durable_position: node.durable_position(),
        })
    }
}

/// Named here so that region ids stay the kernel's on this side of the wire.
pub(crate) type Members = Vec<RegionId>;
