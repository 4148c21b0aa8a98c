//! What operators see and do: the agent's links, and the messages its gate holds.

use std::time::Duration;

use bytes::Bytes;
use cell_core::gate::{Action, DeadReason, Entry, Filter, Gate, MessageId, Stage};
use cell_core::id::{EntityId, RegionId};
use cell_proto::v1;
use cell_proto::v1::agent_admin_server::AgentAdmin;
use tonic::{Request, Response, Status};

use crate::board::{Board, now_ms};
use crate::compare::Comparer;
use crate::gate::{GateHandle, Shelf};
use crate::node::NodeLink;
use crate::transport::cause;

/// Messages in one answer.
const LIST_MAX: usize = 1_000;
const LIST_USUAL: usize = 100;
/// Redriven in one second unless the operator says otherwise.
const PER_SECOND_USUAL: u32 = 100;

/// Serves operators.
#[derive(Clone, Debug)]
pub(crate) struct Operators {
    pub(crate) gate: GateHandle,
    pub(crate) node: NodeLink,
    pub(crate) board: Board,
    pub(crate) comparer: Comparer,
}

fn named(identity: String) -> Result<String, Status> {
    match identity.trim().is_empty() {
        true => Err(Status::invalid_argument("an operator's action needs an identity")),
        false => Ok(identity),
    }
}

fn ending() -> Status {
    Status::unavailable("the agent is ending")
}

#[tonic::async_trait]
impl AgentAdmin for Operators {
    async fn agent_status(
        &self,
        _: Request<v1::AgentStatusRequest>,
    ) -> Result<Response<v1::AgentStatusReply>, Status> {
        Ok(Response::new(self.board.status()))
    }

    async fn compare(
        &self,
        request: Request<v1::CompareRequest>,
    ) -> Result<Response<v1::CompareReply>, Status> {
        let v1::CompareRequest { peer, repair, identity } = request.into_inner();
        let peer = peer.parse::<RegionId>().map_err(|error| Status::invalid_argument(error.to_string()))?;
        if repair {
            let identity = named(identity)?;
            let audit = v1::AuditRequest {
                identity,
                action: "repair".to_owned(),
                subject: peer.to_string(),
                reason: String::new(),
            };
            let recorded = self.node.client().record_audit(audit).await;
            recorded.map_err(|status| self.node.relayed(status))?;
        }
        let reported = self.comparer.report(peer, repair).await;
        reported.map(Response::new).map_err(|status| match status.code() {
            // Of the way there: one of the two asked said nothing.
            _ if std::error::Error::source(&status).is_some() => {
                Status::unavailable(format!("{peer} does not answer: {}", cause(&status)))
            }
            tonic::Code::Unknown | tonic::Code::DeadlineExceeded => {
                let connected = self.node.known().borrow().connected;
                let silent = if connected { peer.to_string() } else { "the node here".to_owned() };
                Status::unavailable(format!("{silent} does not answer: {}", cause(&status)))
            }
            _ => status,
        })
    }

    async fn list_held(
        &self,
        request: Request<v1::ListHeldRequest>,
    ) -> Result<Response<v1::ListHeldReply>, Status> {
        let wanted = Wanted::read(request.into_inner())?;
        let list = move |gate: &Gate, shelf: &Shelf| {
            wanted.list(gate).iter().map(|entry| held(entry, gate, shelf, false)).collect()
        };
        let messages = self.gate.look(list).await.ok_or_else(ending)?;
        Ok(Response::new(v1::ListHeldReply { messages }))
    }

    async fn inspect_held(
        &self,
        request: Request<v1::InspectHeldRequest>,
    ) -> Result<Response<v1::HeldMessage>, Status> {
        let id = message_id(&request.into_inner().id)?;
        let look =
            move |gate: &Gate, shelf: &Shelf| gate.inspect(&id).map(|entry| held(&entry, gate, shelf, true));
        let message = self.gate.look(look).await.ok_or_else(ending)?;
        Ok(Response::new(message.ok_or_else(|| not_held(&id))?))
    }

    async fn redrive(
        &self,
        request: Request<v1::RedriveRequest>,
    ) -> Result<Response<v1::RedriveReply>, Status> {
        let request = request.into_inner();
        let ids = match (request.id.is_empty(), request.filter) {
            (false, None) => self.redrive_one(&request.id, request.identity, request.dry_run).await?,
            (true, Some(filter)) => {
                let filter = v1::ListHeldRequest { state: "dead".to_owned(), limit: u32::MAX, ..filter };
                let wanted = Wanted::read(filter)?;
                let per_second = match request.per_second_max {
                    0 => PER_SECOND_USUAL,
                    some => some,
                };
                self.redrive_many(wanted, request.identity, request.dry_run, per_second).await?
            }
            _ => return Err(Status::invalid_argument("name one message, or give a filter, not both")),
        };
        Ok(Response::new(v1::RedriveReply { ids: texts(&ids) }))
    }

    async fn discard(
        &self,
        request: Request<v1::DiscardRequest>,
    ) -> Result<Response<v1::DiscardReply>, Status> {
        let v1::DiscardRequest { id, reason, identity, dry_run } = request.into_inner();
        let id = message_id(&id)?;
        if reason.trim().is_empty() {
            return Err(Status::invalid_argument("to discard a message needs a reason"));
        }
        if dry_run {
            return Ok(Response::new(v1::DiscardReply { ids: texts(&self.held_ids(id).await?) }));
        }
        let ids = self.operate(identity, Action::Discard { id, reason }).await?;
        Ok(Response::new(v1::DiscardReply { ids: texts(&ids) }))
    }
}

impl Operators {
    /// No action without its record: the node must be there to take it.
    async fn operate(&self, identity: String, action: Action) -> Result<Vec<MessageId>, Status> {
        let identity = named(identity)?;
        if !self.node.is_connected() {
            let what = "the node is away, so the action could not be recorded; nothing was done";
            return Err(Status::unavailable(what));
        }
        self.gate.operate(identity, action).await.map_err(|why| Status::unavailable(why.to_string()))
    }

    async fn held_ids(&self, id: MessageId) -> Result<Vec<MessageId>, Status> {
        let held = self.gate.look(move |gate, _| gate.holds(&id)).await.ok_or_else(ending)?;
        if held { Ok(vec![id]) } else { Err(not_held(&id)) }
    }

    async fn redrive_one(&self, id: &str, identity: String, dry_run: bool) -> Result<Vec<MessageId>, Status> {
        let id = message_id(id)?;
        let held = self.held_ids(id).await?;
        if dry_run { Ok(held) } else { self.operate(identity, Action::Redrive { id }).await }
    }

    async fn redrive_many(
        &self,
        wanted: Wanted,
        identity: String,
        dry_run: bool,
        per_second: u32,
    ) -> Result<Vec<MessageId>, Status> {
        if dry_run {
            let list = move |gate: &Gate, _: &Shelf| wanted.list(gate);
            let entries = self.gate.look(list).await.ok_or_else(ending)?;
            return Ok(entries.iter().map(|entry| entry.id).collect());
        }
        let (mut moved, mut after) = (Vec::new(), None);
        loop {
            let filter = wanted.filter.clone();
            let action = Action::RedriveMatching { filter, after, limit: per_second as usize };
            let some = self.operate(identity.clone(), action).await?;
            let Some(last) = some.last() else { return Ok(moved) };
            after = Some(*last);
            let full = some.len() >= per_second as usize;
            moved.extend(some);
            if !full {
                return Ok(moved);
            }
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
}

/// A filter as operators give it.
#[derive(Clone, Debug)]
struct Wanted {
    filter: Filter,
    parked_only: bool,
    limit: usize,
}

impl Wanted {
    fn read(request: v1::ListHeldRequest) -> Result<Wanted, Status> {
        let bad = |what: String| Status::invalid_argument(what);
        let v1::ListHeldRequest { state, reason, from_region, subject, older_than_ms, limit } = request;
        let (stage, parked_only) = match state.as_str() {
            "" => (None, false),
            "dead" => (Some(Stage::Dead), false),
            "parked" => (None, true),
            other => return Err(bad(format!("state '{other}' is neither dead nor parked"))),
        };
        let reasons = [DeadReason::MissingDependency, DeadReason::Poison, DeadReason::Malformed];
        let reason = match reason.as_str() {
            "" => None,
            text => Some(
                reasons
                    .into_iter()
                    .find(|reason| reason.as_str() == text)
                    .ok_or_else(|| bad(format!("reason '{text}' is not one of {reasons:?}")))?,
            ),
        };
        let region = match from_region.as_str() {
            "" => None,
            text => Some(text.parse::<RegionId>().map_err(|error| bad(format!("region '{text}': {error}")))?),
        };
        let entity = match subject.as_str() {
            "" => None,
            text => Some(text.parse::<EntityId>().map_err(|error| bad(format!("'{text}': {error}")))?),
        };
        let older_than_ms = (older_than_ms > 0).then_some(older_than_ms);
        let limit =
            if limit == 0 { LIST_USUAL } else { usize::try_from(limit).unwrap_or(LIST_MAX).min(LIST_MAX) };
        Ok(Wanted { filter: Filter { stage, reason, region, entity, older_than_ms }, parked_only, limit })
    }

    fn list(&self, gate: &Gate) -> Vec<Entry> {
        let (mut found, mut after) = (Vec::new(), None);
        while found.len() < self.limit {
            let page = gate.list(now_ms(), &self.filter, after, LIST_MAX);
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            found.extend(page.into_iter().filter(|entry| !self.parked_only || entry.stage != Stage::Dead));
        }
        found.truncate(self.limit);
        found
    }
}

fn message_id(text: &str) -> Result<MessageId, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("'{text}': {error}")))
}

fn not_held(id: &MessageId) -> Status {
    Status::not_found(format!("no message {id} is held here"))
}

fn texts(ids: &[MessageId]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

/// `whole`: with the message itself, for one that is inspected.
fn held(entry: &Entry, gate: &Gate, shelf: &Shelf, whole: bool) -> v1::HeldMessage {
    let envelope = shelf.message(gate, &entry.id).ok().flatten();
    let raw = if whole { shelf.undecoded(gate, &entry.id).ok().flatten() } else { None };
    let message = entry.message.as_ref();
    v1::HeldMessage {
        id: entry.id.to_string(),
        state: if entry.stage == Stage::Dead { "dead".to_owned() } else { entry.stage.to_string() },
        kind: message.map(|message| message.kind.to_string()).unwrap_or_default(),
        reason: entry.reason.map(|reason| reason.to_string()).unwrap_or_default(),
        detail: entry.detail.clone(),
        from_region: entry.from.to_string(),
        subject: message.map(|message| message.subject.to_string()).unwrap_or_default(),
        missing: message
            .map(|message| message.missing.iter().map(ToString::to_string).collect())
            .unwrap_or_default(),
        arrived_ms: entry.arrived_ms,
        deadline_ms: message.map_or(0, |message| message.deadline_ms),
        until_ms: message.map_or(0, |message| message.until_ms),
        attempts: message.map_or(0, |message| message.attempts),
        trace: envelope.as_ref().map(|envelope| envelope.trace.clone()).unwrap_or_default(),
        envelope: if whole { envelope.map(v1::Envelope::from) } else { None },
        raw: raw.unwrap_or_else(Bytes::new),
    }
}
