//! `order get|explain`, `payment get|explain`: what every region knows of one entity, side by side.

use std::collections::BTreeMap;

use cell_proto::v1::ExplainRequest;
use clap::Subcommand;
use futures::future::join_all;
use serde_json::Value;

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
    let mut rows: Vec<Vec<String>> = seen.iter().map(|(region, seen)| summary(region, seen)).collect();
    if matches!(verb, Verb::Explain { .. }) {
        rows.extend(seen.iter().flat_map(|(region, seen)| details(region, seen)));
    }
    show(format, &["region", "what", "value"], rows, &json);
    if known { Ok(()) } else { Err(Refused::Failed(format!("{id} is known in no region that answers"))) }
}

async fn ask(region: &Region, id: &str) -> Result<Value, String> {
    let reply = region.node().await?.explain(ExplainRequest { id: id.to_owned() }).await;
    let json = reply.map_err(|status| status.message().to_owned())?.into_inner().json;
    if json.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&json).map_err(|error| error.to_string())
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn summary(region: &str, seen: &Result<Value, String>) -> Vec<String> {
    let value = match seen {
        Err(error) => error.clone(),
        Ok(Value::Null) => "not known here".to_owned(),
        Ok(seen) => text(&seen["status"]),
    };
    vec![region.to_owned(), "status".to_owned(), value]
}

/// Every list of the document, an item a line.
fn details(region: &str, seen: &Result<Value, String>) -> Vec<Vec<String>> {
    let Ok(Value::Object(document)) = seen else { return Vec::new() };
    let mut rows = Vec::new();
    for (what, value) in document.iter().filter(|(what, _)| *what != "status") {
        match value {
            Value::Array(items) => {
                rows.extend(items.iter().map(|item| vec![region.to_owned(), what.clone(), text(item)]));
            }
            value => rows.push(vec![region.to_owned(), what.clone(), text(value)]),
        }
    }
    rows
}
