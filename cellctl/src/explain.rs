//! `order get|explain`, `payment get|explain`: what every region knows of one entity, side by side.

use std::collections::BTreeMap;

use cell_core::id::{OrderId, PaymentId};
use cell_proto::v1::{ExplainRequest, ListHeldRequest};
use clap::Subcommand;
use futures::future::join_all;
use serde_json::{Value, json};

use crate::cluster::{Cluster, Region, refusal};
use crate::output::{Format, Refused, Silent, line, now_ms, relative, rfc3339, show};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// State and version in every region.
    Get {
        /// `ord_…` or `pay_…`.
        id: String,
    },
    /// State, version, effective history, facts, strays and waits in every region.
    Explain {
        /// `ord_…` or `pay_…`.
        id: String,
    },
}

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Of {
    Orders,
    Payments,
}

impl Of {
    /// That the text is an id of this kind.
    fn check(self, id: &str) -> Result<(), Refused> {
        let (what, read) = match self {
            Of::Orders => ("an order's id: 'ord_'", id.parse::<OrderId>().err()),
            Of::Payments => ("a payment's id: 'pay_'", id.parse::<PaymentId>().err()),
        };
        match read {
            None => Ok(()),
            Some(_) => {
                Err(Refused::Usage(format!("'{id}' is not {what} and 26 characters of Crockford base 32")))
            }
        }
    }
}

type Seen = BTreeMap<String, Result<Value, String>>;

pub(crate) async fn run(cluster: &Cluster, of: Of, verb: Verb, format: Format) -> Result<(), Refused> {
    let (Verb::Get { id } | Verb::Explain { id }) = &verb;
    of.check(id)?;
    let asked = cluster.regions.iter().map(async |region| (region.name.clone(), ask(region, id).await));
    let (mut seen, mut silent) = (Seen::new(), Silent::default());
    for (region, answer) in join_all(asked).await {
        let (known, gate) = answer.map_or_else(|error| (Err(error), None), |(known, gate)| (Ok(known), gate));
        let gate = gate.map(|error| format!("its agent: {error}"));
        known.as_ref().err().or(gate.as_ref()).into_iter().for_each(|error| silent.note(&region, error));
        seen.insert(region, known);
    }
    let known = seen.values().any(|seen| seen.as_ref().is_ok_and(|seen| !seen.is_null()));
    let json: BTreeMap<&String, Value> = seen
        .iter()
        .map(|(region, seen)| {
            let seen = seen.clone().unwrap_or_else(|error| json!({ "unreachable": error }));
            (region, seen)
        })
        .collect();
    match verb {
        Verb::Get { .. } => {
            let head = ["region", "status", "version", "decisions", "facts", "strays", "digest"];
            show(format, &head, seen.iter().map(|(region, seen)| summary(region, seen)).collect(), &json);
        }
        Verb::Explain { .. } => show(format, &["in", "what", ""], details(&seen, now_ms()), &json),
    }
    if format == Format::Table {
        line("version: the dot of the newest event of it that the region holds");
    }
    if known { silent.end() } else { Err(silent.not_found(format!("{id} is known in no region"))) }
}

/// What a region's node knows of it, and what waits for it or about it in the region's gate; and why that is not known.
async fn ask(region: &Region, id: &str) -> Result<(Value, Option<String>), String> {
    let reply = region.node().await?.explain(ExplainRequest { id: id.to_owned() }).await;
    let json = reply.map_err(|status| refusal(&region.node, &status))?.into_inner().json;
    let mut document: Value = match json.is_empty() {
        true => Value::Null,
        false => serde_json::from_str(&json).map_err(|error| error.to_string())?,
    };
    let (held, silent) = match held(region, id).await {
        Ok(held) => (held, None),
        Err(error) => (Vec::new(), Some(error)),
    };
    if document.is_null() && !held.is_empty() {
        document = json!({ "status": "not known here" });
    }
    if !document.is_null() {
        document["held"] = held.into();
    }
    Ok((document, silent))
}

async fn held(region: &Region, id: &str) -> Result<Vec<Value>, String> {
    let request = ListHeldRequest { subject: id.to_owned(), ..ListHeldRequest::default() };
    let reply = region.agent().await?.list_held(request).await;
    let messages = reply.map_err(|status| refusal(&region.agent, &status))?.into_inner().messages;
    let held = messages.into_iter().map(|held| {
        json!({ "id": held.id, "state": held.state, "kind": held.kind, "from": held.from_region,
            "reason": held.reason, "missing": held.missing })
    });
    Ok(held.collect())
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".to_owned(),
        value => value.to_string(),
    }
}

fn texts(values: &Value, between: &str) -> String {
    values.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(between)
}

fn version(seen: &Value) -> String {
    let at = seen["version_at_ms"].as_u64().map(|at_ms| format!("  {}", rfc3339(at_ms)));
    text(&seen["version"]) + &at.unwrap_or_default()
}

fn summary(region: &str, seen: &Result<Value, String>) -> Vec<String> {
    let count = |name: &str, seen: &Value| seen[name].as_array().map_or(0, Vec::len).to_string();
    let mut row = match seen {
        Err(_) => vec![region.to_owned(), "does not answer".to_owned()],
        Ok(Value::Null) => vec![region.to_owned(), "not known here".to_owned()],
        Ok(seen) => {
            let digest: String = text(&seen["digest"]).chars().take(16).collect();
            let counts = ["history", "facts", "strays"].map(|name| count(name, seen));
            let first = vec![region.to_owned(), text(&seen["status"]), text(&seen["version"])];
            [first, counts.into(), vec![digest]].concat()
        }
    };
    row.resize(7, String::new());
    row
}

/// One decision of a history: its place, when it was made, what it is, on whose word, and its dot on a line below.
fn decision(link: &Value) -> String {
    let at = rfc3339(link["at_ms"].as_u64().unwrap_or(0));
    let by = link["by"].as_str().map(|by| format!(" ({} by {by})", text(&link["command"])));
    let by = by.unwrap_or_default();
    format!("{:>2}  {at}  {}{by}\n    {}", text(&link["place"]), text(&link["what"]), text(&link["dot"]))
}

fn fact(fact: &Value) -> String {
    let contents = fact["contents"].as_u64().filter(|contents| *contents > 1);
    let contents = contents.map(|contents| format!(", {contents} different contents")).unwrap_or_default();
    format!("{} {}{contents}", text(&fact["kind"]), text(&fact["outside"]))
}

fn pending(duty: &Value, now_ms: u64) -> String {
    let due = match duty["due_ms"].as_u64() {
        Some(due_ms) if due_ms > now_ms => relative(due_ms, now_ms),
        _ => "now".to_owned(),
    };
    format!("{}, {due}", text(&duty["what"]))
}

fn waiting(held: &Value) -> String {
    let reason = held["reason"].as_str().filter(|reason| !reason.is_empty());
    let reason = reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
    let missing = texts(&held["missing"], "\n    ");
    let missing = if missing.is_empty() { missing } else { format!("\n    lacks {missing}") };
    let [kind, from, state, id] = ["kind", "from", "state", "id"].map(|name| text(&held[name]));
    format!("{kind} from {from}: {state}{reason}\n    {id}{missing}")
}

/// A line for every item of the document; what is the same in several regions is said once.
fn details(seen: &Seen, now_ms: u64) -> Vec<Vec<String>> {
    let mut lines: Vec<(String, String, Vec<&str>)> = Vec::new();
    let mut say = |what: &str, value: String, region| {
        let known = lines.iter_mut().find(|(known, text, _)| known == what && *text == value);
        match known {
            Some((_, _, regions)) => regions.push(region),
            None => lines.push((what.to_owned(), value, vec![region])),
        }
    };
    const FIRST: [&str; 10] =
        ["status", "blocked", "version", "epoch", "history", "facts", "strays", "pending", "held", "digest"];
    for what in FIRST {
        for (region, seen) in seen {
            let document = match seen {
                Ok(Value::Null) if what == "status" => &json!({ "status": "not known here" }),
                Ok(document) => document,
                Err(_) if what == "status" => &json!({ "status": "does not answer" }),
                Err(_) => continue,
            };
            match (&document[what], what) {
                (Value::Null, _) => {}
                (_, "version") => say(what, version(document), region),
                (Value::Array(items), _) => {
                    for item in items {
                        let item = match what {
                            "history" | "strays" => decision(item),
                            "facts" => fact(item),
                            "pending" => pending(item, now_ms),
                            _ => waiting(item),
                        };
                        say(what, item, region);
                    }
                }
                (value, _) => say(what, text(value), region),
            }
        }
    }
    let mut last = String::new();
    let row = |(what, value, regions): (String, String, Vec<&str>)| {
        let whom = if regions.len() == seen.len() { "all".to_owned() } else { regions.join(" ") };
        // A heading is said once.
        let head = if what == last { String::new() } else { what.clone() };
        last = what;
        vec![whom, head, value]
    };
    lines.into_iter().map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_explained_fits_a_screen_of_120_columns_and_says_moments_as_people_do() {
        let dot = "north-0.3.9f2c0000deadbeef#17";
        let document = json!({
            "status": "PendingPayment", "version": dot, "version_at_ms": 1_709_251_199_999_u64,
            "epoch": "1.0.north-0", "digest": "0".repeat(64),
            "history": [{ "place": 0, "what": "permit-opened", "at_ms": 0, "dot": dot, "by": "bob", "command": "ask" }],
            "facts": [{ "kind": "capture", "outside": "in_1", "contents": 2 }],
            "pending": [{ "what": "close at the gateway", "due_ms": 13_000 }, { "what": "decide", "due_ms": 0 }],
            "held": [{ "id": "1".repeat(64), "state": "dead", "kind": "pay-request", "from": "south",
                "reason": "missing-dependency", "missing": [dot, dot] }],
        });
        let seen: Seen = [
            ("east".to_owned(), Ok(Value::Null)),
            ("north".to_owned(), Ok(document.clone())),
            ("south".to_owned(), Ok(document)),
        ]
        .into();
        let rows = details(&seen, 1_000);
        let text = rows.iter().map(|row| row.join("  ")).collect::<Vec<_>>().join("\n");
        for line in [
            "east  status  not known here",
            "north south    PendingPayment",
            "north south  version  north-0.3.9f2c0000deadbeef#17  2024-02-29T23:59:59.999Z",
            "north south  history   0  1970-01-01T00:00:00.000Z  permit-opened (ask by bob)",
            "north south  facts  capture in_1, 2 different contents",
            "north south  pending  close at the gateway, in 12.0 s",
            "north south    decide, now",
            "north south  held  pay-request from south: dead (missing-dependency)",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
        for line in text.lines() {
            assert!(line.chars().count() <= 100, "{line}");
        }
    }

    #[test]
    fn an_id_of_another_kind_or_of_none_is_a_usage_error_of_one_line() {
        for id in ["ord_zzz", "pay_00000000000000000000000000", "", "ord_"] {
            let Err(Refused::Usage(said)) = Of::Orders.check(id) else { panic!("{id} was taken") };
            assert!(said.contains("not an order's id") && !said.contains('\n'), "{said}");
        }
    }
}
