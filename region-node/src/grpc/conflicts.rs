//! The conflict journal for operators, and what they decide about it.

use std::collections::VecDeque;

use bytes::Bytes;
use cell_core::cell::{Problem, Resolve, View};
use cell_core::conflict::{Class, Conflict, Kind, Side, conflicts};
use cell_core::duty::every_permit;
use cell_core::entity::{Entity, Reading};
use cell_core::id::{EntityId, RegionId};
use cell_core::order::{Order, Remedy};
use cell_core::payment::Payment;
use cell_proto::v1;
use serde_json::{Value, json};
use tonic::Status;

use super::status;
use crate::conflict::{self, Mark};
use crate::node::Node;
use crate::writer::NodeError;

const LIMIT_MAX: usize = 1_000;
const LIMIT_USUAL: usize = 100;
/// Entries of the index read for one answer.
const LOOKED_AT_MAX: usize = 10_000;
const REASON_BYTES_MAX: usize = 1_000;

/// Which entries are wanted.
struct Filter {
    kind: Option<Kind>,
    class: Option<Class>,
    user: String,
    region: Option<RegionId>,
    since_ms: u64,
    open_only: bool,
}

fn bad(detail: impl Into<String>) -> Status {
    Status::invalid_argument(detail.into())
}

fn named<T: Copy>(
    what: &str,
    text: &str,
    all: &[T],
    name: impl Fn(T) -> &'static str,
) -> Result<Option<T>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let found = all.iter().copied().find(|it| name(*it) == text);
    let names = || all.iter().map(|it| name(*it)).collect::<Vec<_>>().join(", ");
    found.map(Some).ok_or_else(|| bad(format!("there is no {what} '{text}'; there are {}", names())))
}

impl Filter {
    fn read(request: &v1::ConflictsRequest) -> Result<Filter, Status> {
        let region = (!request.region.is_empty()).then(|| request.region.parse());
        Ok(Filter {
            kind: named("kind", &request.kind, &Kind::ALL, Kind::as_str)?,
            class: named("class", &request.class, &Class::ALL, Class::as_str)?,
            user: request.user.clone(),
            region: region.transpose().map_err(|error| bad(format!("region: {error}")))?,
            since_ms: request.since_ms,
            open_only: request.open_only,
        })
    }

    fn may_fit(&self, mark: Mark) -> bool {
        self.kind.is_none_or(|kind| kind == mark.kind)
            && self.class.is_none_or(|class| class == mark.class)
            && (mark.open || !self.open_only)
    }

    fn fits(&self, conflict: &Conflict, users: &[String]) -> bool {
        let mark = Mark { kind: conflict.kind, class: conflict.class, open: conflict.open };
        let sides = || conflict.stands.iter().chain(&conflict.other);
        let of_user = || {
            let theirs = |side: &Side| side.user.as_ref().is_some_and(|user| user.as_str() == self.user);
            users.contains(&self.user) || sides().any(theirs)
        };
        self.may_fit(mark)
            && conflict.at.wall_ms >= self.since_ms
            && (self.user.is_empty() || of_user())
            && self.region.is_none_or(|region| sides().any(|side| side.dot.actor.region() == region))
    }
}

/// The order of an entity, and whom it concerns.
fn around(entity: &Entity) -> (String, Vec<String>) {
    if entity.id.order().is_some() {
        let reading = Reading::<Order>::of(entity);
        let payers = every_permit(&reading).map(|(_, permit)| permit.payer.to_string());
        let buyer = reading.record.iter().map(|record| record.user.to_string());
        return (entity.id.to_string(), buyer.chain(payers).collect());
    }
    let record = Reading::<Payment>::of(entity).record;
    let order = record.as_ref().map(|permit| permit.order.to_string()).unwrap_or_default();
    let users = record.into_iter().flat_map(|permit| [permit.payer.to_string(), permit.buyer.to_string()]);
    (order, users.collect())
}

fn side(side: &Side) -> Value {
    json!({
        "what": side.what,
        "value": side.value,
        "region": side.dot.actor.region().to_string(),
        "dot": side.dot.to_string(),
        "epoch": side.epoch.map(|epoch| epoch.to_string()),
        "at_ms": side.at.wall_ms,
        "user": side.user.as_ref().map(ToString::to_string),
    })
}

fn name(entity: EntityId, id: &[u8; 8]) -> String {
    let digits: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{entity}:{digits}")
}

fn document(conflict: &Conflict, order: &str) -> Value {
    let id = name(conflict.entity, &conflict.id);
    let commands = conflict
        .remedies
        .iter()
        .map(|remedy| format!("cellctl conflict resolve {id} --with {remedy} --reason TEXT"));
    json!({
        "id": id,
        "kind": conflict.kind.as_str(),
        "class": conflict.class.as_str(),
        "subject": conflict.subject,
        "order": order,
        "at_ms": conflict.at.wall_ms,
        "open": conflict.open,
        "ruling": conflict.ruling,
        "why": conflict.why,
        "stands": conflict.stands.as_ref().map(side),
        "other": conflict.other.as_ref().map(side),
        "remedies": conflict.remedies.iter().map(|remedy| remedy.as_str()).collect::<Vec<_>>(),
        "commands": commands.collect::<Vec<_>>(),
    })
}

/// The entries of one entity that fit, newest first.
fn of_entity(node: &Node, id: EntityId, filter: &Filter) -> Result<Vec<Value>, NodeError> {
    let Some(entity) = node.working().entity(id)? else { return Ok(Vec::new()) };
    let (order, users) = around(&entity);
    let mut found = conflicts(&entity);
    found.retain(|conflict| filter.fits(conflict, &users));
    found.sort_by_key(|conflict| std::cmp::Reverse(conflict.at));
    Ok(found.iter().map(|conflict| document(conflict, &order)).collect())
}

pub(crate) async fn list(node: &Node, request: v1::ConflictsRequest) -> Result<v1::ConflictsReply, Status> {
    let filter = Filter::read(&request)?;
    let limit = match request.limit as usize {
        0 => LIMIT_USUAL,
        limit => limit.min(LIMIT_MAX),
    };
    if !request.about.is_empty() {
        let about: EntityId =
            request.about.parse().map_err(|error| bad(format!("{}: {error}", request.about)))?;
        let mut found = of_entity(node, about, &filter).map_err(status)?;
        for beside in node.beside(about).map_err(status)? {
            found.extend(of_entity(node, beside, &filter).map_err(status)?);
        }
        found.truncate(limit);
        let json = found.iter().map(Value::to_string).collect();
        return Ok(v1::ConflictsReply { json, next: Bytes::new() });
    }
    let (node, after) = (node.clone(), (!request.after.is_empty()).then_some(request.after));
    let listed = tokio::task::spawn_blocking(move || by_time(&node, &filter, limit, after)).await;
    listed.map_err(|error| Status::internal(error.to_string()))?.map_err(status)
}

fn by_time(
    node: &Node,
    filter: &Filter,
    limit: usize,
    mut after: Option<Bytes>,
) -> Result<v1::ConflictsReply, NodeError> {
    let unavailable = |error: cell_store::StoreError| NodeError::Unavailable(error.to_string());
    let (mut json, mut looked_at) = (Vec::new(), 0);
    loop {
        let (entries, next) =
            conflict::page(node.store(), filter.since_ms, after.clone()).map_err(unavailable)?;
        looked_at += entries.len();
        let mut entries: VecDeque<_> = entries.into();
        while let Some((at_ms, entity, id, mark)) = entries.pop_front() {
            after = Some(crate::keys::conflict(at_ms, &entity, &id));
            if !filter.may_fit(mark) {
                continue;
            }
            let Some(state) = node.working().entity(entity)? else { continue };
            let (order, users) = around(&state);
            let found = conflicts(&state).into_iter().find(|conflict| conflict.id == id);
            let found = found.filter(|conflict| filter.fits(conflict, &users));
            json.extend(found.map(|conflict| document(&conflict, &order).to_string()));
            if json.len() == limit {
                let more = !entries.is_empty() || next.is_some();
                let next = after.filter(|_| more).unwrap_or_default();
                return Ok(v1::ConflictsReply { json, next });
            }
        }
        match next {
            None => return Ok(v1::ConflictsReply { json, next: Bytes::new() }),
            Some(next) if looked_at >= LOOKED_AT_MAX => return Ok(v1::ConflictsReply { json, next }),
            Some(next) => after = Some(next),
        }
    }
}

/// The entry of this name, with its order.
fn find(node: &Node, id: &str) -> Result<Option<(Conflict, String)>, Status> {
    let parsed = id.split_once(':').and_then(|(entity, _)| entity.parse::<EntityId>().ok());
    let entity = parsed.ok_or_else(|| bad(format!("'{id}' is no conflict's id: ord_…:0123456789abcdef")))?;
    let Some(state) = node.entity(entity).map_err(status)? else { return Ok(None) };
    let order = around(&state).0;
    let found = conflicts(&state).into_iter().find(|conflict| name(entity, &conflict.id) == id);
    Ok(found.map(|conflict| (conflict, order)))
}

pub(crate) fn get(node: &Node, id: &str) -> Result<v1::ConflictReply, Status> {
    let found = find(node, id)?;
    let json = found.map(|(conflict, order)| document(&conflict, &order).to_string());
    Ok(v1::ConflictReply { json: json.unwrap_or_default() })
}

pub(super) async fn resolve(node: &Node, request: v1::ResolveRequest) -> Result<v1::ResolveReply, Status> {
    let v1::ResolveRequest { id, with, identity, reason, dry_run } = request;
    let with = named("remedy", &with, Remedy::ALL, Remedy::as_str)?
        .ok_or_else(|| bad("a case is resolved with something: keep, refund or cancel"))?;
    if identity.trim().is_empty()
        || reason.trim().is_empty()
        || identity.len().max(reason.len()) > REASON_BYTES_MAX
    {
        let detail = format!("who and why are 1 to {REASON_BYTES_MAX} bytes each: both are kept");
        return Err(bad(detail));
    }
    let unknown = || Status::not_found(format!("no conflict {id} is known to the node that was asked"));
    let (conflict, _) = find(node, &id)?.ok_or_else(unknown)?;
    if conflict.kind != Kind::Case {
        let detail = format!("{id} is a {}: the rules resolve it, nobody is asked", conflict.kind.as_str());
        return Err(bad(detail));
    }
    if conflict.open && !conflict.remedies.contains(&with) {
        let names: Vec<_> = conflict.remedies.iter().map(|remedy| remedy.as_str()).collect();
        return Err(Status::aborted(format!("'{with}' is not possible by now; {}", names.join(", "))));
    }
    let resolved = if dry_run {
        if !conflict.open {
            return Err(Status::aborted(format!("{id} is resolved: {} ({})", conflict.ruling, conflict.why)));
        }
        node.may_resolve(conflict.entity).await
    } else {
        let (entity, subject) = (conflict.entity, conflict.subject);
        node.resolve(Resolve { entity, subject, with, identity, reason }).await
    };
    if let Err(refusal) = resolved.map_err(status)? {
        if refusal.problem == Problem::Misdirected {
            let home = refusal.home.map(|home| home.node.region.to_string());
            return Ok(v1::ResolveReply { json: String::new(), home: home.unwrap_or_default() });
        }
        return Err(match refusal.problem {
            Problem::NotFound => Status::not_found(refusal.detail),
            Problem::Recovering | Problem::Blocked => Status::unavailable(refusal.detail),
            _ => Status::aborted(refusal.detail),
        });
    }
    let (conflict, order) = find(node, &id)?.ok_or_else(unknown)?;
    Ok(v1::ResolveReply { json: document(&conflict, &order).to_string(), home: String::new() })
}
