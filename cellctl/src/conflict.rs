//! `conflict list|show|resolve`: where two homes, or the world outside and a decision, said different things.

use cell_proto::v1::{ConflictRequest, ConflictsRequest, ResolveRequest};
use clap::{Args, Subcommand};
use serde_json::Value;

use crate::cluster::{Cluster, Region};
use crate::output::{Format, Refused, age, quoted, rfc3339, show};

/// Regions that a resolution is sent on to at most: a home may move meanwhile, not for ever.
const HOPS_MAX: usize = 3;

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// The journal, newest first; every region derives the same. `stands` is what counts, `other` what was said against it.
    List(ListArgs),
    /// Both sides of one entry, what was decided and why, and what a person may do.
    Show {
        /// As `list` prints it.
        id: String,
        /// The region that is asked; the first that answers without it.
        #[arg(long)]
        region: Option<String>,
    },
    /// Decide about a human case: carried out at the home of its order or payment, with an audit record.
    Resolve {
        /// As `list` prints it.
        id: String,
        /// keep, refund or cancel: what `show` says is possible.
        #[arg(long)]
        with: String,
        /// Why; kept in the audit, and in the case.
        #[arg(long)]
        reason: String,
        /// Who; kept in the audit.
        #[arg(long = "as", env = "USER", default_value = "operator")]
        identity: String,
        /// The region that is asked first; the home carries it out, wherever it is.
        #[arg(long)]
        region: Option<String>,
        /// Say what would be resolved, and do nothing.
        #[arg(long)]
        dry_run: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct ListArgs {
    /// stray, fork, capture or case.
    #[arg(long)]
    kind: Option<String>,
    /// For instance paid-versus-cancelled.
    #[arg(long)]
    class: Option<String>,
    /// Only of this order (or payment), and of what stands beside it.
    #[arg(long)]
    order: Option<String>,
    /// Only of this user's orders, payments and commands.
    #[arg(long)]
    user: Option<String>,
    /// Only where this region decided either side.
    #[arg(long)]
    of: Option<String>,
    /// Only younger than so many seconds.
    #[arg(long)]
    since: Option<u64>,
    /// Only what is not ruled upon, not given back, or not looked at.
    #[arg(long)]
    open: bool,
    /// At most so many.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// The region that is asked; the first that answers without it.
    #[arg(long)]
    region: Option<String>,
}

pub(crate) async fn run(cluster: &Cluster, verb: Verb, format: Format) -> Result<(), Refused> {
    match verb {
        Verb::List(args) => list(cluster, &args, format).await,
        Verb::Show { id, region } => {
            let request = ConflictRequest { id: id.clone() };
            for region in answering(cluster, region.as_deref()).await? {
                let json = region.node().await?.get_conflict(request.clone()).await?.into_inner().json;
                if !json.is_empty() {
                    return print(cluster, parsed(&json)?, format);
                }
            }
            Err(Refused::Failed(format!("no region that answers knows {id}")))
        }
        Verb::Resolve { id, with, reason, identity, region, dry_run } => {
            let request = ResolveRequest { id, with, identity, reason, dry_run };
            resolve(cluster, request, region.as_deref(), format).await
        }
    }
}

/// The region named, or all that answer.
async fn answering<'a>(cluster: &'a Cluster, name: Option<&str>) -> Result<Vec<&'a Region>, Refused> {
    let (mut living, mut silent) = (Vec::new(), Vec::new());
    for region in cluster.some(name)? {
        match region.node().await {
            Ok(_) => living.push(region),
            Err(error) => silent.push(error),
        }
    }
    if living.is_empty() { Err(Refused::Failed(silent.join("; "))) } else { Ok(living) }
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn parsed(json: &str) -> Result<Value, Refused> {
    serde_json::from_str(json).map_err(|error| Refused::Failed(error.to_string()))
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

async fn list(cluster: &Cluster, args: &ListArgs, format: Format) -> Result<(), Refused> {
    cluster.some(args.of.as_deref())?;
    let region = answering(cluster, args.region.as_deref()).await?[0];
    let mut node = region.node().await?;
    let mut request = ConflictsRequest {
        kind: args.kind.clone().unwrap_or_default(),
        class: args.class.clone().unwrap_or_default(),
        about: args.order.clone().unwrap_or_default(),
        user: args.user.clone().unwrap_or_default(),
        region: args.of.clone().unwrap_or_default(),
        since_ms: args.since.map_or(0, |since| now_ms().saturating_sub(since.saturating_mul(1_000))),
        open_only: args.open,
        limit: args.limit,
        after: Default::default(),
    };
    let mut found = Vec::new();
    while found.len() < args.limit as usize {
        request.limit = args.limit - found.len() as u32;
        let page = node.list_conflicts(request.clone()).await?.into_inner();
        for json in &page.json {
            found.push(pasteable(cluster, parsed(json)?));
        }
        if page.next.is_empty() {
            break;
        }
        request.after = page.next;
    }
    let row = |entry: &Value| {
        let at_ms = entry["at_ms"].as_u64().unwrap_or(0);
        let state = if entry["open"] == true { "open".to_owned() } else { text(&entry["ruling"]) };
        let what = |side: &Value| if side.is_null() { "–".to_owned() } else { text(&side["what"]) };
        vec![
            text(&entry["id"]),
            text(&entry["kind"]),
            text(&entry["class"]),
            state,
            what(&entry["stands"]),
            what(&entry["other"]),
            text(&entry["subject"]),
            age(now_ms().saturating_sub(at_ms)),
        ]
    };
    let rows = found.iter().map(row).collect();
    show(format, &["id", "kind", "class", "state", "stands", "other", "about", "age"], rows, &found);
    Ok(())
}

/// One side on one line.
fn side(side: &Value) -> String {
    if side.is_null() {
        return "–".to_owned();
    }
    let by = side["user"].as_str().map(|user| format!(", by {user}")).unwrap_or_default();
    let (what, value) = (text(&side["what"]), text(&side["value"]));
    let said = if value.is_empty() { what } else { format!("{what}: {value}") };
    format!("{said}  [{}{by}, {} at {}]", text(&side["region"]), text(&side["dot"]), moment(&side["at_ms"]))
}

fn moment(at_ms: &Value) -> String {
    rfc3339(at_ms.as_u64().unwrap_or(0))
}

/// With commands as they can be pasted: whoever derived them does not know how the cluster is named here.
fn pasteable(cluster: &Cluster, mut entry: Value) -> Value {
    let file = quoted(&cluster.file.display().to_string());
    for command in entry["commands"].as_array_mut().into_iter().flatten() {
        let text = command.as_str().unwrap_or_default();
        *command = text.replacen("cellctl", &format!("cellctl --cluster {file}"), 1).into();
    }
    entry
}

fn print(cluster: &Cluster, entry: Value, format: Format) -> Result<(), Refused> {
    let entry = pasteable(cluster, entry);
    let line = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        line("id", text(&entry["id"])),
        line("kind", format!("{} ({})", text(&entry["kind"]), text(&entry["class"]))),
        line("order", text(&entry["order"])),
        line("about", text(&entry["subject"])),
        line("stands", side(&entry["stands"])),
        line("other", side(&entry["other"])),
        line("decided", text(&entry["ruling"])),
        line("why", text(&entry["why"])),
        line("at", moment(&entry["at_ms"])),
        line("open", text(&entry["open"])),
    ];
    if let Some(would) = entry["dry_run"].as_str() {
        rows.push(line("dry run", would.to_owned()));
    }
    let commands = entry["commands"].as_array().into_iter().flatten();
    rows.extend(commands.map(|command| line("possible", text(command))));
    show(format, &["what", "value"], rows, &entry);
    Ok(())
}

async fn resolve(
    cluster: &Cluster,
    request: ResolveRequest,
    region: Option<&str>,
    format: Format,
) -> Result<(), Refused> {
    let mut region = answering(cluster, region).await?[0];
    for _ in 0..HOPS_MAX {
        let reply = region.node().await?.resolve_conflict(request.clone()).await?.into_inner();
        if reply.home.is_empty() {
            let mut entry = parsed(&reply.json)?;
            if request.dry_run {
                let ResolveRequest { with, identity, .. } = &request;
                entry["dry_run"] =
                    format!("nothing was done; it would be resolved with '{with}', by {identity}").into();
            }
            return print(cluster, entry, format);
        }
        region = cluster.some(Some(&reply.home))?[0];
    }
    Err(Refused::Failed("its home moves; try again".to_owned()))
}
