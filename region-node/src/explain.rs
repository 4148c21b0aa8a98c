//! Everything known here of one order or payment, for operators.

use cell_core::cell::View;
use cell_core::duty::{Act, Duty};
use cell_core::entity::{Blocked, Entity, Kind, Link, Reading};
use cell_core::event::Fact;
use cell_core::id::EntityId;
use cell_core::order::Order;
use cell_core::payment::Payment;
use cell_core::version::Dot;
use serde_json::{Value, json};

use crate::writer::NodeError;

fn line<D>(link: &Link<'_, D>, name: &str) -> Value {
    let mut line = json!({
        "epoch": link.decided.epoch.to_string(),
        "place": link.decided.place,
        "what": name,
        "dot": link.dot.to_string(),
        "at_ms": link.since.wall_ms,
    });
    if let Some(command) = link.command() {
        line["command"] = json!(command.op.as_str());
        line["by"] = json!(command.user.as_str());
    }
    line
}

/// The dot of the newest event held here of it, and when that was made.
fn version(entity: &Entity) -> Option<(Dot, u64)> {
    let newest = entity.items().map(|(_, item)| item).max_by_key(|item| item.since)?;
    Some((newest.origins.first()?.dot, newest.since.wall_ms))
}

fn fact_kind(fact: &Fact) -> &'static str {
    match fact {
        Fact::Capture(_) => "capture",
        Fact::Refund(_) => "refund",
        Fact::Failure(_) => "failure",
        Fact::Barred(_) => "barred",
    }
}

fn blocked(blocked: Blocked) -> &'static str {
    match blocked {
        Blocked::Orphan => "orphan: its record is not here",
        Blocked::Newer => "it holds an event that needs a newer version of this service",
        Blocked::Forked => "forked: the next epoch chooses",
    }
}

fn common<K: Kind>(reading: &Reading<'_, K>, name: impl Fn(&K::Decision) -> &'static str) -> Value {
    let lines = |links: &[Link<'_, K::Decision>]| -> Vec<Value> {
        links.iter().map(|link| line(link, name(link.body))).collect()
    };
    let facts: Vec<Value> = reading
        .facts
        .iter()
        .map(|(key, contents)| {
            let kind = contents.first().map(|(fact, _)| fact_kind(fact));
            json!({ "kind": kind, "outside": key.outside, "contents": contents.len() })
        })
        .collect();
    let version = version(reading.entity);
    json!({
        "id": reading.entity.id.to_string(),
        "epoch": reading.epoch.map(|epoch| epoch.to_string()),
        "version": version.map(|(dot, _)| dot.to_string()),
        "version_at_ms": version.map(|(_, at_ms)| at_ms),
        "blocked": reading.blocked.map(blocked),
        "history": lines(&reading.history),
        "strays": lines(&reading.strays),
        "facts": facts,
        "digest": reading.entity.digest().to_string(),
    })
}

/// The document, or `None` where the entity is unknown.
pub(crate) fn explain(view: &dyn View, id: EntityId, duties: &[Duty]) -> Result<Option<Value>, NodeError> {
    let Some(entity) = view.entity(id)? else { return Ok(None) };
    let entity: &Entity = &entity;
    let mut document = if id.order().is_some() {
        let reading = Reading::<Order>::of(entity);
        let mut document = common(&reading, |decision| decision.name());
        document["status"] = json!(reading.state.as_ref().map(|state| state.label()));
        document
    } else {
        let reading = Reading::<Payment>::of(entity);
        let mut document = common(&reading, |decision| decision.name());
        document["status"] = json!(reading.state.as_ref().map(|state| state.label()));
        document["order"] = json!(reading.record.as_ref().map(|permit| permit.order.to_string()));
        document
    };
    let pending = duties.iter().map(|duty| {
        let what = match &duty.act {
            Act::Decide => "decide".to_owned(),
            Act::Charge(charge) => format!("charge, attempt {}", charge.k),
            Act::CloseAtGateway { .. } => "close at the gateway".to_owned(),
            Act::Refund { .. } => "refund".to_owned(),
            Act::AskRefund { .. } => "ask after a refund".to_owned(),
            Act::Send(envelope) => format!("tell slot {}: {}", envelope.to_slot, envelope.kind),
        };
        json!({ "what": what, "due_ms": duty.due_ms })
    });
    document["pending"] = pending.collect();
    Ok(Some(document))
}
