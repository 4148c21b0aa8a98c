//! `quarantine list|show|retry|discard`: changes that a region could not apply, and what an operator can do about them.

use cell_proto::v1::{QuarantineAction, QuarantinedRequest};
use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::cluster::{Cluster, Region, refusal};
use crate::output::{Format, Refused, Silent, age, now_ms, show};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// What could not be applied, region by region.
    List {
        /// Only this region.
        #[arg(long)]
        region: Option<String>,
    },
    /// Everything known of one change, its bytes too.
    Show {
        /// As `list` prints it.
        dot: String,
        /// Only this region.
        #[arg(long)]
        region: Option<String>,
    },
    /// Apply it now, if the region's software can by now. After an upgrade it does so by itself.
    Retry {
        /// As `list` prints it; without it, all of the region.
        dot: Option<String>,
        #[command(flatten)]
        act: ActArgs,
        /// Why; kept in the audit.
        #[arg(long, default_value = "")]
        reason: String,
    },
    /// Do without it in one region: what it would have changed is served again, without it.
    Discard {
        /// As `list` prints it.
        dot: String,
        #[command(flatten)]
        act: ActArgs,
        /// Why; kept in the audit.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ActArgs {
    /// The region where it is done.
    #[arg(long)]
    region: String,
    /// Who; kept in the audit.
    #[arg(long = "as", env = "USER", default_value = "operator")]
    identity: String,
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
}

const HEX_SHOWN: usize = 64;

pub(crate) async fn run(cluster: &Cluster, verb: Verb, format: Format) -> Result<(), Refused> {
    match verb {
        Verb::List { region } => list(cluster, region.as_deref(), format).await,
        Verb::Show { dot, region } => one(cluster, &dot, region.as_deref(), format).await,
        Verb::Retry { dot, act, reason } => {
            let region = cluster.some(Some(&act.region))?[0];
            let action = action(dot.unwrap_or_default(), act, reason);
            let reply = region.node().await?.retry_quarantined(action).await?.into_inner();
            outcomes(region, &reply.json, format)
        }
        Verb::Discard { dot, act, reason } => {
            let region = cluster.some(Some(&act.region))?[0];
            let reply =
                region.node().await?.discard_quarantined(action(dot, act, reason)).await?.into_inner();
            outcomes(region, &reply.json, format)
        }
    }
}

fn action(dot: String, act: ActArgs, reason: String) -> QuarantineAction {
    QuarantineAction { dot, dry_run: act.dry_run, identity: act.identity, reason }
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// The documents of a region, each with its region.
fn parsed(region: &Region, json: &[String]) -> Result<Vec<Value>, Refused> {
    let read = |text: &String| {
        let mut document: Value =
            serde_json::from_str(text).map_err(|error| Refused::Failed(error.to_string()))?;
        document["region"] = json!(region.name);
        Ok(document)
    };
    json.iter().map(read).collect()
}

/// What it would have changed, on one line.
fn about(document: &Value) -> String {
    let entities = document["entities"].as_array().into_iter().flatten().map(text);
    let more = (document["entities_complete"] == false).then(|| "what else cannot be read".to_owned());
    let all: Vec<String> = entities.chain(more).collect();
    if all.is_empty() { "no order or payment".to_owned() } else { all.join(", ") }
}

fn since(document: &Value) -> String {
    age(now_ms().saturating_sub(document["since_ms"].as_u64().unwrap_or(0)))
}

/// Of bytes in hex digits, as many as one looks at.
fn beginning(hex: &str) -> String {
    match hex.get(..HEX_SHOWN) {
        Some(begins) if hex.len() > HEX_SHOWN => {
            format!("{begins}… of {} bytes, all with -o json", hex.len() / 2)
        }
        _ => hex.to_owned(),
    }
}

async fn asked(region: &Region, request: &QuarantinedRequest) -> Result<Vec<String>, String> {
    let reply = region.node().await?.list_quarantined(request.clone()).await;
    reply.map(|reply| reply.into_inner().json).map_err(|status| refusal(&region.node, &status))
}

async fn list(cluster: &Cluster, only: Option<&str>, format: Format) -> Result<(), Refused> {
    let (mut found, mut silent) = (Vec::new(), Silent::default());
    for region in cluster.some(only)? {
        match asked(region, &QuarantinedRequest::default()).await {
            Ok(json) => found.extend(parsed(region, &json)?),
            Err(error) => silent.note(&region.name, error),
        }
    }
    let row = |document: &Value| {
        vec![
            text(&document["region"]),
            text(&document["dot"]),
            text(&document["cause"]),
            text(&document["state"]),
            about(document),
            since(document),
        ]
    };
    let rows = found.iter().map(row).collect();
    show(format, &["region", "change", "cause", "state", "about", "age"], rows, &found);
    silent.end()
}

async fn one(cluster: &Cluster, dot: &str, only: Option<&str>, format: Format) -> Result<(), Refused> {
    let request = QuarantinedRequest { dot: dot.to_owned(), with_bytes: true };
    let mut silent = Silent::default();
    for region in cluster.some(only)? {
        let found = match asked(region, &request).await {
            Ok(found) => found,
            Err(error) => {
                silent.note(&region.name, error);
                continue;
            }
        };
        if let Some(document) = parsed(region, &found)?.first() {
            let line = |name: &str, value: String| vec![name.to_owned(), value];
            let rows = vec![
                line("region", text(&document["region"])),
                line("change", text(&document["dot"])),
                line("cause", format!("{}: {}", text(&document["cause"]), text(&document["detail"]))),
                line("about", about(document)),
                line("age", since(document)),
                line("tried by", text(&document["software"])),
                line("state", text(&document["state"])),
                line("hash", text(&document["hash"])),
                line("bytes", beginning(&text(&document["bytes"]))),
            ];
            show(format, &["what", "value"], rows, document);
            return silent.end();
        }
    }
    Err(silent.not_found(format!("{dot} is quarantined in no region")))
}

fn outcomes(region: &Region, json: &[String], format: Format) -> Result<(), Refused> {
    let found = parsed(region, json)?;
    let row = |document: &Value| {
        let said = if document["outcome"] == "kept" { text(&document["detail"]) } else { String::new() };
        vec![text(&document["dot"]), text(&document["outcome"]), about(document), said]
    };
    show(format, &["change", "outcome", "about", "why"], found.iter().map(row).collect(), &found);
    let kept = found.iter().filter(|document| document["outcome"] == "kept").count();
    if kept == 0 { Ok(()) } else { Err(Refused::Failed(format!("{kept} could not be applied; see above"))) }
}
