//! `diff` and `repair`: what two regions have of what both should have.

use cell_proto::v1::{AgentStatusRequest, CompareReply, CompareRequest};
use clap::Args;
use serde::Serialize;

use crate::cluster::{Cluster, refusal};
use crate::output::{Format, NOTHING_DONE, Refused, age, line, remark, show};

/// A lag worth a remark. Signs of life come each second.
const BEHIND_MS: u64 = 3_000;

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    /// A region.
    here: String,
    /// The region it is compared with.
    there: String,
}

#[derive(Debug, Args)]
pub(crate) struct RepairArgs {
    /// A region.
    here: String,
    /// The region it is compared with; both take over what they lack.
    there: String,
    /// Only say what differs.
    #[arg(long)]
    dry_run: bool,
    /// Who does this, for the record.
    #[arg(long = "as", env = "USER", default_value = "operator")]
    identity: String,
}

#[derive(Debug, Serialize)]
struct Compared {
    here: String,
    there: String,
    /// Slots that differ at a version that both have.
    slots: Vec<u32>,
    differences: Vec<Difference>,
    /// Entities that got something.
    repaired: u64,
}

#[derive(Debug, Serialize)]
struct Difference {
    entity: String,
    what: String,
}

pub(crate) async fn diff(cluster: &Cluster, args: DiffArgs, format: Format) -> Result<(), Refused> {
    let compared = compare(cluster, &args.here, &args.there, None).await?;
    let same = compared.slots.is_empty();
    print(&[compared], false, format);
    if let Some(why) = behind(cluster, &args.there, &args.here).await {
        remark(why);
    }
    if same { Ok(()) } else { Err(Refused::Failed(format!("{} and {} differ", args.here, args.there))) }
}

pub(crate) async fn repair(cluster: &Cluster, args: RepairArgs, format: Format) -> Result<(), Refused> {
    let RepairArgs { here, there, dry_run, identity } = args;
    let identity = (!dry_run).then_some(identity.as_str());
    let one = compare(cluster, &here, &there, identity).await?;
    let other = compare(cluster, &there, &here, identity).await?;
    print(&[one, other], !dry_run, format);
    if dry_run {
        remark(NOTHING_DONE);
    }
    Ok(())
}

/// Asks the agent of `here`; it takes over what it lacks if somebody says who wants that.
async fn compare(
    cluster: &Cluster,
    here: &str,
    there: &str,
    identity: Option<&str>,
) -> Result<Compared, Refused> {
    let regions = cluster.some(Some(here))?;
    cluster.some(Some(there))?;
    if here == there {
        return Err(Refused::Usage(format!("'{here}' is named twice: two regions are compared")));
    }
    let Some(region) = regions.first() else {
        return Err(Refused::Usage(format!("there is no region '{here}'")));
    };
    let request = CompareRequest {
        peer: there.to_owned(),
        repair: identity.is_some(),
        identity: identity.unwrap_or_default().to_owned(),
    };
    let compared = region.agent().await?.compare(request).await.map_err(|status| match status.code() {
        tonic::Code::Unavailable => Refused::Failed(format!(
            "{here} cannot be compared with {there} now: {}; `region status` says who is behind or away",
            refusal(&region.agent, &status)
        )),
        tonic::Code::Cancelled | tonic::Code::DeadlineExceeded | tonic::Code::Unknown => {
            Refused::Failed(format!("{here}: its agent: {}", refusal(&region.agent, &status)))
        }
        _ => status.into(),
    });
    let CompareReply { slots, differences, repaired } = compared?.into_inner();
    let named = |what: String| match what.as_str() {
        "missing here" => format!("missing in {here}"),
        "missing there" => format!("missing in {there}"),
        _ => what,
    };
    let differences = differences
        .into_iter()
        .map(|difference| Difference { entity: difference.entity, what: named(difference.what) });
    Ok(Compared {
        here: here.to_owned(),
        there: there.to_owned(),
        slots,
        differences: differences.collect(),
        repaired,
    })
}

/// Why `there` may lack what `here` has without a difference being counted: it is on its way, or should be.
async fn behind(cluster: &Cluster, there: &str, here: &str) -> Option<String> {
    let regions = cluster.some(Some(there)).ok()?;
    let region = regions.first()?;
    let asked = async {
        let mut agent = region.agent().await?;
        let reply = agent.agent_status(AgentStatusRequest {}).await;
        reply.map_err(|status| refusal(&region.agent, &status))
    };
    let behind = match asked.await {
        Err(silent) => format!("how far {there} is behind {here} is not known: its agent: {silent}"),
        Ok(reply) => {
            let peers = reply.into_inner().peers;
            let peer = peers.into_iter().find(|peer| peer.region == here)?;
            let why = if peer.detail.is_empty() { String::new() } else { format!(" ({})", peer.detail) };
            match peer.change_lag_ms {
                Some(0..=BEHIND_MS) => return None,
                Some(lag_ms) => format!("{there} is {} behind {here}: {}{why}", age(lag_ms), peer.changes),
                None => format!("{there} has heard nothing of {here}: {}{why}", peer.changes),
            }
        }
    };
    Some(format!("{behind}; what it has not got yet is not compared"))
}

fn print(compared: &[Compared], repairs: bool, format: Format) {
    let rows = compared.iter().flat_map(|compared| {
        let row = |difference: &Difference| {
            vec![
                compared.here.clone(),
                compared.there.clone(),
                difference.entity.clone(),
                difference.what.clone(),
            ]
        };
        compared.differences.iter().map(row).collect::<Vec<_>>()
    });
    let rows: Vec<_> = rows.collect();
    // Without a difference the lines below say it all.
    if format == Format::Json || !rows.is_empty() {
        show(format, &["region", "with", "entity", "what"], rows, &compared);
    }
    if format == Format::Table {
        for Compared { here, there, slots, differences, repaired } in compared {
            match slots.len() {
                0 => line(format!("{here} has all that it should have of what {there} has")),
                count => {
                    let taken =
                        if repairs { format!("; {here} took over {repaired}") } else { String::new() };
                    line(format!(
                        "{here} and {there} differ: slots {count}, entities {}{taken}",
                        differences.len()
                    ));
                }
            }
        }
    }
}
