//! Quarantined changes for operators, and what they decide about them.

use cell_core::cell::Quarantined;
use cell_core::event::Audit;
use cell_core::id::EntityId;
use cell_core::version::Dot;
use cell_proto::v1;
use serde_json::{Value, json};
use tonic::Status;

use super::status;
use crate::node::Node;

fn bad(detail: impl Into<String>) -> Status {
    Status::invalid_argument(detail.into())
}

/// A dot as it is printed: `north-0.3.9f2c0000deadbeef#17`.
fn dot(text: &str) -> Result<Option<Dot>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let read = || {
        let (actor, seq) = text.split_once('#')?;
        Some(Dot { actor: actor.parse().ok()?, seq: seq.parse().ok()? })
    };
    read().map(Some).ok_or_else(|| bad(format!("'{text}' is no change; it is written as `list` prints it")))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn document(node: &Node, kept: &Quarantined) -> Value {
    let withheld = |id: &EntityId| node.working().withheld_by(*id).is_some();
    let state = if kept.given_up {
        "given up"
    } else if kept.obscure || kept.entities.iter().any(withheld) {
        "withheld"
    } else {
        // State that came otherwise holds what it would have changed.
        "made good"
    };
    let entities: Vec<String> = kept.entities.iter().map(ToString::to_string).collect();
    json!({
        "dot": kept.entry.dot.to_string(),
        "cause": kept.cause,
        "detail": kept.detail,
        "entities": entities,
        "entities_complete": !kept.obscure,
        "since_ms": kept.since_ms,
        "software": kept.software,
        "given_up": kept.given_up,
        "state": state,
        "hash": hex(&kept.entry.hash.0),
    })
}

pub(super) async fn list(
    node: &Node,
    request: v1::QuarantinedRequest,
) -> Result<v1::QuarantinedReply, Status> {
    let found = node.quarantined(dot(&request.dot)?, request.with_bytes).await.map_err(status)?;
    let document = |kept: &Quarantined| {
        let mut document = document(node, kept);
        if request.with_bytes {
            document["bytes"] = json!(hex(&kept.entry.bytes));
        }
        document.to_string()
    };
    Ok(v1::QuarantinedReply { json: found.iter().map(document).collect() })
}

pub(super) async fn retry(
    node: &Node,
    request: v1::QuarantineAction,
) -> Result<v1::QuarantineOutcome, Status> {
    act(node, request, false).await
}

pub(super) async fn discard(
    node: &Node,
    request: v1::QuarantineAction,
) -> Result<v1::QuarantineOutcome, Status> {
    if request.dot.is_empty() {
        return Err(bad("name the change that is to be done without"));
    }
    if request.reason.trim().is_empty() {
        return Err(bad("doing without a change needs a reason"));
    }
    act(node, request, true).await
}

async fn act(
    node: &Node,
    request: v1::QuarantineAction,
    give_up: bool,
) -> Result<v1::QuarantineOutcome, Status> {
    let v1::QuarantineAction { dot: text, dry_run, identity, reason } = request;
    let wanted = dot(&text)?;
    if identity.trim().is_empty() {
        return Err(bad("an operator's action needs an identity"));
    }
    let heads = node.quarantined(wanted, false).await.map_err(status)?;
    if heads.is_empty() && wanted.is_some() {
        return Err(Status::not_found(format!("{text} is not quarantined here")));
    }
    let mut json = Vec::with_capacity(heads.len());
    for head in heads {
        let (kept, what) = if dry_run {
            (head, if give_up { "would be given up" } else { "would be tried" })
        } else {
            // One at a time: each may be large.
            let whole = node.quarantined(Some(head.entry.dot), true).await.map_err(status)?.pop();
            let Some(whole) = whole else { continue };
            let action = if give_up { "quarantine discard" } else { "quarantine retry" };
            let (subject, action) = (whole.entry.dot.to_string(), action.to_owned());
            let audit = Audit { identity: identity.clone(), action, subject, reason: reason.clone() };
            let outcome = match give_up {
                true => node.give_up(whole, audit).await,
                false => node.retry(whole, Some(audit)).await,
            };
            let outcome = outcome.map_err(status)?;
            (outcome.kept, outcome.what)
        };
        let mut document = document(node, &kept);
        document["outcome"] = json!(what);
        json.push(document.to_string());
    }
    Ok(v1::QuarantineOutcome { json })
}
