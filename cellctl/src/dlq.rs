//! `dlq list|inspect|redrive|discard`: messages that wait in vain, and what an operator can do about them.

use cell_proto::v1::agent_admin_client::AgentAdminClient;
use cell_proto::v1::{DiscardRequest, HeldMessage, InspectHeldRequest, ListHeldRequest, RedriveRequest};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use tonic::transport::Channel;
use tonic::{Code, Response, Status};

use crate::cluster::{Cluster, Region, refusal};
use crate::output::{Format, Refused, Silent, age, now_ms, relative, remark, rfc3339, show};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Dead letters, and with `--parked` what waits and may still arrive.
    List {
        #[command(flatten)]
        filter: FilterArgs,
        /// Also those that are parked: waiting for their data, inside their deadline.
        #[arg(long)]
        parked: bool,
    },
    /// Everything known of one message.
    Inspect {
        /// As `dlq list` shows it.
        id: String,
        /// Only the gate of this region is asked.
        #[arg(long)]
        region: Option<String>,
    },
    /// Hand messages to the node again. Any number of redrives has the effect of one.
    Redrive {
        /// One message; without it, all that match the filter.
        id: Option<String>,
        #[command(flatten)]
        filter: FilterArgs,
        /// All that match, even if the filter is empty.
        #[arg(long)]
        all: bool,
        /// At most so many in a second.
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        per_second: u32,
        /// Why; kept in the audit.
        #[arg(long, default_value = "")]
        reason_text: String,
        #[command(flatten)]
        act: ActArgs,
    },
    /// Give a message up: its payment ends as failed.
    Discard {
        /// As `dlq list` shows it.
        id: String,
        /// Only in the gate of this region.
        #[arg(long)]
        region: Option<String>,
        /// Why; kept in the audit.
        #[arg(long, alias = "reason-text", value_parser = clap::builder::NonEmptyStringValueParser::new())]
        reason: String,
        #[command(flatten)]
        act: ActArgs,
    },
}

#[derive(Debug, Args)]
pub(crate) struct FilterArgs {
    /// The region whose gate holds them.
    #[arg(long)]
    region: Option<String>,
    /// The region that sent them.
    #[arg(long)]
    from: Option<String>,
    /// Why they are dead letters.
    #[arg(long, value_parser = ["missing-dependency", "poison", "malformed"])]
    reason: Option<String>,
    /// An order or payment id.
    #[arg(long)]
    about: Option<String>,
    /// Seconds since arrival.
    #[arg(long, default_value_t = 0)]
    older_than: u64,
    /// At most so many of each region.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

#[derive(Debug, Args)]
pub(crate) struct ActArgs {
    /// Say what would be done, and do nothing.
    #[arg(long)]
    dry_run: bool,
    /// Who; kept in the audit.
    #[arg(long = "as", env = "USER", default_value = "operator")]
    identity: String,
}

impl FilterArgs {
    fn request(&self, state: &str) -> ListHeldRequest {
        ListHeldRequest {
            state: state.to_owned(),
            reason: self.reason.clone().unwrap_or_default(),
            from_region: self.from.clone().unwrap_or_default(),
            subject: self.about.clone().unwrap_or_default(),
            older_than_ms: self.older_than.saturating_mul(1_000),
            limit: self.limit,
        }
    }
    fn is_empty(&self) -> bool {
        self.from.is_none() && self.reason.is_none() && self.about.is_none() && self.older_than == 0
    }
}

pub(crate) async fn run(cluster: &Cluster, verb: Verb, format: Format) -> Result<(), Refused> {
    if let Verb::List { filter, .. } | Verb::Redrive { filter, .. } = &verb {
        cluster.some(filter.from.as_deref())?;
    }
    match verb {
        Verb::List { filter, parked } => list(cluster, &filter, parked, format).await,
        Verb::Inspect { id, region } => inspect(cluster, &id, region.as_deref(), format).await,
        Verb::Redrive { id, filter, all, per_second, reason_text, act } => {
            if id.is_none() && filter.is_empty() && !all {
                let all =
                    "this would redrive every dead letter; say --all if that is meant, or give a filter";
                return Err(Refused::Unsafe(all.to_owned()));
            }
            let request = RedriveRequest {
                filter: id.is_none().then(|| filter.request("dead")),
                id: id.unwrap_or_default(),
                dry_run: act.dry_run,
                per_second_max: per_second,
                identity: act.identity,
                reason: reason_text,
            };
            redrive(cluster, &request, filter.region.as_deref(), format).await
        }
        Verb::Discard { id, region, reason, act: ActArgs { dry_run, identity } } => {
            let request = DiscardRequest { id, reason, identity, dry_run };
            discard(cluster, &request, region.as_deref(), format).await
        }
    }
}

fn to_json(region: &str, held: &HeldMessage) -> Value {
    let hex: String = held.raw.iter().map(|byte| format!("{byte:02x}")).collect();
    json!({
        "region": region, "id": held.id, "state": held.state, "kind": held.kind, "reason": held.reason,
        "detail": held.detail, "from": held.from_region, "subject": held.subject, "missing": held.missing,
        "arrived_ms": held.arrived_ms, "deadline_ms": held.deadline_ms, "until_ms": held.until_ms,
        "attempts": held.attempts, "trace": held.trace, "raw": hex,
    })
}

type Agent = AgentAdminClient<Channel>;

/// What a region's agent says; nothing if it knows of no such message, or does not answer, which is noted: the others are
/// asked all the same.
async fn ask<T>(
    region: &Region,
    silent: &mut Silent,
    asked: impl AsyncFnOnce(Agent) -> Result<Response<T>, Status>,
) -> Result<Option<T>, Refused> {
    let agent = match region.agent().await {
        Ok(agent) => agent,
        Err(error) => {
            silent.note(&region.name, error);
            return Ok(None);
        }
    };
    match asked(agent).await {
        Ok(reply) => Ok(Some(reply.into_inner())),
        Err(status) => match status.code() {
            Code::NotFound => Ok(None),
            Code::InvalidArgument | Code::FailedPrecondition => Err(status.into()),
            _ => {
                silent.note(&region.name, refusal(&region.agent, &status));
                Ok(None)
            }
        },
    }
}

async fn list(cluster: &Cluster, filter: &FilterArgs, parked: bool, format: Format) -> Result<(), Refused> {
    let (mut rows, mut documents, mut silent) = (Vec::new(), Vec::new(), Silent::default());
    let state = if parked { "" } else { "dead" };
    for region in cluster.some(filter.region.as_deref())? {
        let asked = async |mut agent: Agent| agent.list_held(filter.request(state)).await;
        let Some(reply) = ask(region, &mut silent, asked).await? else { continue };
        for held in &reply.messages {
            rows.push(vec![
                region.name.clone(),
                held.id.clone(),
                held.state.clone(),
                held.kind.clone(),
                held.reason.clone(),
                held.from_region.clone(),
                held.subject.clone(),
                held.missing.join(" "),
                age(now_ms().saturating_sub(held.arrived_ms)),
            ]);
            documents.push(to_json(&region.name, held));
        }
    }
    let head = ["region", "id", "state", "kind", "reason", "from", "about", "missing", "age"];
    show(format, &head, rows, &documents);
    silent.end()
}

async fn inspect(cluster: &Cluster, id: &str, region: Option<&str>, format: Format) -> Result<(), Refused> {
    let mut silent = Silent::default();
    for region in cluster.some(region)? {
        let request = InspectHeldRequest { id: id.to_owned() };
        let asked = async |mut agent: Agent| agent.inspect_held(request.clone()).await;
        if let Some(held) = ask(region, &mut silent, asked).await? {
            let document = to_json(&region.name, &held);
            let rows = document.as_object().into_iter().flatten();
            let rows =
                rows.map(|(key, value)| vec![key.trim_end_matches("_ms").to_owned(), text(key, value)]);
            show(format, &["what", "value"], rows.collect(), &document);
            return Ok(());
        }
    }
    Err(silent.not_found(format!("{id} is held by no gate")))
}

/// A member of a message as people read it: moments from now, lists in a row.
fn text(key: &str, value: &Value) -> String {
    match value {
        Value::Number(at_ms) if key.ends_with("_ms") => match at_ms.as_u64().unwrap_or(0) {
            0 => "–".to_owned(),
            at_ms => format!("{} ({})", rfc3339(at_ms), relative(at_ms, now_ms())),
        },
        Value::Array(items) => items.iter().map(|item| text("", item)).collect::<Vec<_>>().join(" "),
        Value::String(text) => text.clone(),
        value => value.to_string(),
    }
}

async fn redrive(
    cluster: &Cluster,
    request: &RedriveRequest,
    region: Option<&str>,
    format: Format,
) -> Result<(), Refused> {
    let (mut done, mut silent) = (Vec::new(), Silent::default());
    for region in cluster.some(region)? {
        let asked = async |mut agent: Agent| agent.redrive(request.clone()).await;
        let reply = ask(region, &mut silent, asked).await?;
        done.extend(reply.into_iter().flat_map(|reply| reply.ids).map(|id| (region.name.clone(), id)));
    }
    let again = !done.is_empty() && !request.dry_run;
    let what = if request.dry_run { "would redrive" } else { "redriven" };
    let ended = acted(done, silent, !request.id.is_empty(), what, format);
    if again {
        remark("what its node refuses once more is in `cellctl dlq list` again, with the reason");
    }
    ended
}

async fn discard(
    cluster: &Cluster,
    request: &DiscardRequest,
    region: Option<&str>,
    format: Format,
) -> Result<(), Refused> {
    let (mut done, mut silent) = (Vec::new(), Silent::default());
    for region in cluster.some(region)? {
        let asked = async |mut agent: Agent| agent.discard(request.clone()).await;
        let reply = ask(region, &mut silent, asked).await?;
        done.extend(reply.into_iter().flat_map(|reply| reply.ids).map(|id| (region.name.clone(), id)));
    }
    acted(done, silent, true, if request.dry_run { "would discard" } else { "discarded" }, format)
}

/// `named`: one message was, so that none is a failure.
fn acted(
    done: Vec<(String, String)>,
    silent: Silent,
    named: bool,
    what: &str,
    format: Format,
) -> Result<(), Refused> {
    let json: Vec<Value> =
        done.iter().map(|(region, id)| json!({ "region": region, "id": id, "what": what })).collect();
    let found = !done.is_empty();
    let rows = done.into_iter().map(|(region, id)| vec![region, id, what.to_owned()]);
    show(format, &["region", "id", "what"], rows.collect(), &json);
    if found || !named {
        silent.end()
    } else {
        Err(silent.not_found("such a message is held by no gate".to_owned()))
    }
}
