//! `demo`: a whole deployment on this machine, to look at or to be guided through.
//!
//! Every process is real, and is this very program in another role, so that one build serves all of them.

mod stage;
mod steps;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use chaos_tests::harness::{CLAIM, Cluster, ClusterError, Latency, Plan, Role};
use clap::{Args, ValueEnum};
use region_node::Node;
use tokio::signal::unix::{SignalKind, signal};

use crate::bench::EngineArg;
use crate::output::{Refused, line, remark};
use stage::Stage;

/// The first argument that makes this program play a role.
pub(crate) const ROLE: &str = "role";
const REGIONS: [&str; 3] = ["north", "east", "south"];
const NAMES: [&str; 12] =
    ["bob", "alice", "carol", "dave", "erin", "frank", "grace", "heidi", "ivan", "judy", "mallory", "peggy"];

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Distance {
    /// As fast as loopback is.
    None,
    /// 30 to 120 ms each way, with jitter.
    Wan,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Walk through the guided tour, check every step, and end.
    #[arg(long)]
    tour: bool,
    /// Delay between regions.
    #[arg(long, value_enum, default_value_t = Distance::None)]
    latency: Distance,
    /// Which engine keeps the view of each node; `fjall` places more orders, `sled` is the default everywhere.
    #[arg(long, value_enum, default_value_t = EngineArg::Sled)]
    engine: EngineArg,
    /// Keep data, configuration and logs here; else a temporary folder that goes with the demo.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
}

/// If the program was started to play a role, plays it to its end.
pub(crate) fn play_role(mut args: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let program = args.next()?;
    if args.next()? != ROLE {
        return None;
    }
    let role = args.next()?;
    let args = std::iter::once(program).chain(args);
    match role.to_str()? {
        "region-node" => Some(region_node::process(args)),
        "sync-agent" => Some(sync_agent::process(args)),
        "router" => Some(router::process(args)),
        "sandbox-gateway" => Some(sandbox_gateway::process(args)),
        role if crate::bench::is_role(role) => Some(crate::bench::play_role(args)),
        _ => None,
    }
}

/// How this program is started in a role.
pub(crate) fn program(role: Role) -> (PathBuf, Vec<String>) {
    // Without it no role can be started; the attempt names what is missing.
    let me = std::env::current_exe().unwrap_or_else(|_| PathBuf::from("cellctl"));
    (me, vec![ROLE.to_owned(), role.program().to_owned()])
}

pub(crate) async fn run(args: DemoArgs) -> Result<(), Refused> {
    let temporary = match &args.data {
        Some(_) => None,
        None => Some(tempfile::tempdir().map_err(|error| Refused::Failed(error.to_string()))?),
    };
    let folder = match (&args.data, &temporary) {
        (Some(folder), _) => folder.clone(),
        (None, Some(temporary)) => temporary.path().to_owned(),
        (None, None) => return Err(Refused::Failed("no folder".to_owned())),
    };
    let folder = prepare(&folder, args.engine).map_err(|error| Refused::Usage(format!("{error:#}")))?;
    let played = play(&args, folder.clone()).await;
    if played.is_err()
        && let Some(temporary) = temporary
    {
        // What went wrong can be looked up.
        remark(format_args!("cellctl: logs and data are kept in {}", temporary.keep().display()));
    }
    played.map_err(refused)
}

fn refused(error: anyhow::Error) -> Refused {
    match error.downcast_ref::<ClusterError>() {
        Some(error @ (ClusterError::InUse(_) | ClusterError::Folder { .. })) => {
            Refused::Usage(format!("--data {error}"))
        }
        _ => Refused::Failed(format!("{error:#}")),
    }
}

/// Makes the folder, and refuses one that holds something else than a demo, or a demo of another engine.
fn prepare(folder: &Path, engine: EngineArg) -> Result<PathBuf> {
    let shown = folder.display();
    std::fs::create_dir_all(folder).with_context(|| format!("--data {shown}"))?;
    let mut entries = std::fs::read_dir(folder).with_context(|| format!("--data {shown}"))?;
    // A demo that never came up has left its claim at least.
    let of_a_demo = ["cluster.toml", CLAIM].iter().any(|name| folder.join(name).exists());
    if entries.next().is_some() && !of_a_demo {
        bail!(
            "--data {shown}: the folder holds something else; name an empty one, or one of an earlier demo"
        );
    }
    let asked = engine.name();
    if REGIONS.iter().any(|region| Node::fits(&folder.join(region).join("node"), asked).is_err()) {
        bail!(
            "--engine {}: the demo in {shown} was made with the other one; name that, or another folder",
            engine.as_str()
        );
    }
    folder.canonicalize().with_context(|| format!("--data {shown}"))
}

fn plan(args: &DemoArgs, folder: PathBuf) -> Plan {
    let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect();
    // The tour shows in seconds what otherwise takes minutes; the demo keeps the usual times.
    let (rules, gate, ask_every_ms): (Vec<String>, Vec<String>, u64) = if args.tour {
        let rules = ["attempt_margin_ms = 500", "close_margin_ms = 1000", "message_deadline_ms = 8000"];
        (lines(&rules), lines(&["fetch_after_ms = 1000", "warn_after_ms = 2000"]), 500)
    } else {
        (Vec::new(), Vec::new(), 60_000)
    };
    Plan {
        latency: if args.latency == Distance::Wan { Latency::WAN } else { Latency::NONE },
        rules,
        gate,
        ask_every_ms,
        engine: args.engine.as_str().to_owned(),
        ..Plan::new(&REGIONS, &folder, program)
    }
}

async fn play(args: &DemoArgs, folder: PathBuf) -> Result<()> {
    let begun = Instant::now();
    let plan = plan(args, folder.clone());
    let starting = Cluster::start(plan);
    let cluster = tokio::select! {
        cluster = starting => cluster?,
        () = told_to_stop() => bail!("interrupted"),
    };
    let users: Vec<(String, String)> =
        REGIONS.iter().map(|region| ((*region).to_owned(), cluster.user_of(region, &NAMES))).collect();
    line(format!(
        "three regions, a router and a payment gateway are up after {} ms, data in {}",
        begun.elapsed().as_millis(),
        folder.display()
    ));
    if args.tour {
        let mut stage = Stage::new(cluster, &users);
        let toured = tokio::select! {
            toured = steps::tour(&mut stage) => toured,
            () = told_to_stop() => Err(anyhow::anyhow!("interrupted")),
        };
        let dead = stage.cluster.dead();
        let stopped = stage.cluster.stop().await;
        toured?;
        if !dead.is_empty() {
            bail!("ended by themselves: {}", dead.join(", "));
        }
        stopped?;
        line(format!("\nevery step was verified, in {:.1} s", begun.elapsed().as_secs_f64()));
        return Ok(());
    }
    print_addresses(&cluster, &users)?;
    told_to_stop().await;
    line("\nstopping");
    cluster.stop().await?;
    Ok(())
}

/// Ctrl-C, or the gentle signal of whoever started this.
async fn told_to_stop() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut terminate) => drop(terminate.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminated => {}
    }
}

fn print_addresses(cluster: &Cluster, users: &[(String, String)]) -> Result<()> {
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING);
    table.set_header([
        "region",
        "a user at home there",
        "API of the node",
        "node gRPC",
        "agent gRPC",
        "node admin",
        "agent admin",
    ]);
    for (region, user) in users {
        table.add_row([
            region.clone(),
            user.clone(),
            format!("http://{}", cluster.node_http(region)?),
            cluster.node_grpc(region)?.to_string(),
            cluster.agent_grpc(region)?.to_string(),
            cluster.node_admin(region)?.to_string(),
            cluster.agent_admin(region)?.to_string(),
        ]);
    }
    line(table);
    line(format!(
        "router   http://{}   (send everything there); admin {}",
        cluster.router(),
        cluster.router_admin()
    ));
    line(format!("gateway  http://{}/control/ledger", cluster.gateway()));
    line("admin: /livez, /readyz, /metrics, /version\n");
    let (me, _) = program(Role::Node);
    let cellctl = format!("{} --cluster {}", quoted(&me), quoted(&cluster.cluster_file()));
    line(format!(
        "# how far the regions know each other, and what waits\n{cellctl} region status\n{cellctl} dlq list --parked"
    ));
    let (router, buyer, payer) = (cluster.router(), &users[0].1, &users[1].1);
    line(walk(&router.to_string(), buyer, payer, &cellctl));
    line("\nCtrl-C ends it.");
    Ok(())
}

/// A path as a shell reads it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,=:@%".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Lines to paste: one places an order, asks the other to pay, who accepts.
fn walk(router: &str, buyer: &str, payer: &str, cellctl: &str) -> String {
    format!(
        r#"# {buyer} places an order
ORDER=$(curl -s http://{router}/v1/orders -H 'X-User-Id: {buyer}' -H "Idempotency-Key: $RANDOM-1" \
  -d '{{"content":{{"currency":"CNY","lines":[{{"sku":"tea","quantity":2,"unit_minor":4500}}]}}}}' | grep -o 'ord_[0-9a-z]*' | head -1)
# and asks {payer} to pay for it
PAYMENT=$(curl -s http://{router}/v1/orders/$ORDER/pay-requests -H 'X-User-Id: {buyer}' -H "Idempotency-Key: $RANDOM-2" \
  -d '{{"payer":"{payer}"}}' | grep -o 'pay_[0-9a-z]*' | head -1)
# {payer} looks at what they are asked for, and accepts (a moment later: the request has to cross regions)
sleep 1
curl -s http://{router}/v1/pay-requests -H 'X-User-Id: {payer}'; echo
curl -s http://{router}/v1/pay-requests/$PAYMENT/accept -H 'X-User-Id: {payer}' -H "Idempotency-Key: $RANDOM-3" -d '{{"card_token":"visa"}}'; echo
# the order is paid, in every region
sleep 1
curl -s http://{router}/v1/orders/$ORDER -H 'X-User-Id: {buyer}'; echo
{cellctl} order get $ORDER
# what {buyer} was told from the beginning, and is told as it happens
curl -N 'http://{router}/v1/events?after=1' -H 'X-User-Id: {buyer}'"#
    )
}
