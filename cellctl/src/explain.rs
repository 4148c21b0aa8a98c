//! `order get|explain`, `payment get|explain`: what every region knows of one entity, side by side.

use std::collections::BTreeMap;

use cell_proto::v1::{ExplainRequest, ListHeldRequest};
use clap::Subcommand;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Region};
use crate::output::{Format, Refused, show};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// State and version in every region.
    Get { id: String },
    /// State, effective history, facts, strays and waits in every region.
    Explain { id: String },
}

pub(crate) async fn run(cluster: &Cluster, prefix: &str, verb: Verb, format: Format) -> Result<(), Refused> {
    let (Verb::Get { id } | Verb::Explain { id }) = &verb;
    if !id.starts_with(prefix) {
        return Err(Refused::Usage(format!("'{id}' is no id of this kind: they begin with '{prefix}'")));
    }
    let asked = cluster.regions.iter().map(async |region| (region.name.clone(), ask(region, id).await));
    let seen: BTreeMap<String, Result<Value, String>> = join_all(asked).await.into_iter().collect();
    let known = seen.values().any(|seen| seen.as_ref().is_ok_and(|seen| !seen.is_null()));
    let json: BTreeMap<&String, Value> = seen
        .iter()
        .map(|(region, seen)| {
            let seen = seen.clone().unwrap_or_else(|error| serde_json::json!({ "unreachable": error }));
            (region, seen)
        })
        .collect();
    let rows = match verb {
        Verb::Get { .. } => seen.iter().map(|(region, seen)| summary(region, seen)).collect(),
        Verb::Explain { .. } => details(&seen),
    };
    let head: &[&str] = match verb {
        Verb::Get { .. } => &["region", "status", "decisions", "facts", "strays", "digest"],
        Verb::Explain { .. } => &["in", "what", ""],
    };
    show(format, head, rows, &json);
    if known { Ok(()) } else { Err(Refused::Failed(format!("{id} is known in no region that answers"))) }
}

/// What a region's node knows of it, and what waits for it or about it in the region's gate.
async fn ask(region: &Region, id: &str) -> Result<Value, String> {
    let reply = region.node().await?.explain(ExplainRequest { id: id.to_owned() }).await;
    let json = reply.map_err(|status| status.message().to_owned())?.into_inner().json;
    let mut document: Value = match json.is_empty() {
        true => Value::Null,
        false => serde_json::from_str(&json).map_err(|error| error.to_string())?,
    };
    let held = held(region, id).await.unwrap_or_default();
    if document.is_null() && !held.is_empty() {
        document = json!({ "status": "not known here" });
    }
    if !document.is_null() {
        document["held"] = held.into();
    }
    Ok(document)
}

async fn held(region: &Region, id: &str) -> Result<Vec<Value>, String> {
    let request = ListHeldRequest { subject: id.to_owned(), ..ListHeldRequest::default() };
    let reply = region.agent().await?.list_held(request).await;
    let messages = reply.map_err(|status| status.message().to_owned())?.into_inner().messages;
    let held = messages.into_iter().map(|held| {
        json!({ "id": held.id, "state": held.state, "kind": held.kind, "from": held.from_region,
            "missing": held.missing })
    });
    Ok(held.collect())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".to_owned(),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| format!("{name} {}", text(value));
            members.iter().map(member).collect::<Vec<_>>().join(", ")
        }
        value => value.to_string(),
    }
}

fn summary(region: &str, seen: &Result<Value, String>) -> Vec<String> {
    let count = |name: &str, seen: &Value| seen[name].as_array().map_or(0, Vec::len).to_string();
    let mut row = match seen {
        Err(error) => vec![region.to_owned(), error.clone()],
        Ok(Value::Null) => vec![region.to_owned(), "not known here".to_owned()],
        Ok(seen) => {
            let digest: String = text(&seen["digest"]).chars().take(16).collect();
            let counts = ["history", "facts", "strays"].map(|name| count(name, seen));
            [vec![region.to_owned(), text(&seen["status"])], counts.into(), vec![digest]].concat()
        }
    };
    row.resize(6, String::new());
    row
}

/// One decision of a history, as people read it.
fn decision(link: &Value) -> String {
    let by = link["by"].as_str().map(|by| format!("  by {by} ({})", text(&link["command"])));
    format!("{}  {}{}", text(&link["place"]), text(&link["what"]), by.unwrap_or_default())
        + &format!("  [{} at {} ms]", text(&link["dot"]), text(&link["at_ms"]))
}

/// A line for every item of the document; what is the same in several regions is said once.
fn details(seen: &BTreeMap<String, Result<Value, String>>) -> Vec<Vec<String>> {
    let mut lines: Vec<(String, String, Vec<&str>)> = Vec::new();
    let mut say = |what: &str, value: String, region| {
        let known = lines.iter_mut().find(|(known, text, _)| known == what && *text == value);
        match known {
            Some((_, _, regions)) => regions.push(region),
            None => lines.push((what.to_owned(), value, vec![region])),
        }
    };
    const FIRST: [&str; 8] = ["status", "epoch", "history", "facts", "strays", "pending", "held", "digest"];
    for what in FIRST {
        for (region, seen) in seen {
            let value = match seen {
                Ok(document) if document.is_null() && what == "status" => "not known here".into(),
                Ok(document) => document[what].clone(),
                Err(error) if what == "status" => error.clone().into(),
                Err(_) => continue,
            };
            match value {
                Value::Array(items) if matches!(what, "history" | "strays") => {
                    items.iter().for_each(|item| say(what, decision(item), region));
                }
                Value::Array(items) => items.iter().for_each(|item| say(what, text(item), region)),
                Value::Null => {}
                value => say(what, text(&value), region),
            }
        }
    }
    let row = |(what, value, regions): (String, String, Vec<&str>)| {
        let whom = if regions.len() == seen.len() { "all".to_owned() } else { regions.join(" ") };
        vec![whom, what, value]
    };
    lines.into_iter().map(row).collect()
}
