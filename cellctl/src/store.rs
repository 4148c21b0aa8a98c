//! `store migrate`: a stopped node's view moved to another engine.

use std::path::PathBuf;

use cell_store::{Engine, MigrateError, Stage};
use clap::{Args, Subcommand, ValueEnum};
use indicatif::{HumanBytes, ProgressBar, ProgressStyle};
use region_node::{StoppedError, StoppedNode};
use serde_json::json;

use crate::output::{Format, NOTHING_DONE, Refused, remark, show};

#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    /// Copy the view of a stopped node into another engine, read the copy back, and put it in the old one's place.
    Migrate(MigrateArgs),
}

/// Engines that keep a view on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kept {
    Sled,
    Fjall,
}

#[derive(Debug, Args)]
pub(crate) struct MigrateArgs {
    /// The node's `data_dir`.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The engine that keeps the view from then on.
    #[arg(long, value_enum)]
    to: Kept,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
}

impl From<Kept> for Engine {
    fn from(kept: Kept) -> Engine {
        match kept {
            Kept::Sled => Engine::Sled,
            Kept::Fjall => Engine::Fjall,
        }
    }
}

impl From<StoppedError> for Refused {
    fn from(error: StoppedError) -> Refused {
        let message = error.to_string();
        match error {
            StoppedError::InUse { .. } => Refused::Unsafe(message),
            StoppedError::NoNode { .. }
            | StoppedError::Link { .. }
            | StoppedError::Migrate(
                MigrateError::NoView { .. } | MigrateError::Already { .. } | MigrateError::KeepsNothing(_),
            ) => Refused::Usage(message),
            StoppedError::Truncated { .. }
            | StoppedError::Store { .. }
            | StoppedError::Medium(_)
            | StoppedError::Migrate(_) => Refused::Failed(message),
        }
    }
}

pub(crate) fn run(verb: Verb, format: Format) -> Result<(), Refused> {
    let Verb::Migrate(args) = verb;
    migrate(&args, format)
}

fn migrate(args: &MigrateArgs, format: Format) -> Result<(), Refused> {
    let to = Engine::from(args.to);
    let node = StoppedNode::open(&args.data)?;
    let next = format!("set engine = \"{to}\" in the node's configuration before it is started");
    if args.dry_run {
        let from = node.may_migrate(to)?;
        let failed = |error: std::io::Error| Refused::Failed(error.to_string());
        let (bytes, free) = (node.view_bytes(), cell_store::free_bytes(&args.data).map_err(failed)?);
        let row =
            [from.to_string(), to.to_string(), HumanBytes(bytes).to_string(), HumanBytes(free).to_string()];
        let json =
            json!({ "from": from.as_str(), "to": to.as_str(), "view_bytes": bytes, "free_bytes": free });
        show(format, &["from", "to", "view on disk", "free"], vec![row.into()], &json);
        remark(NOTHING_DONE);
        return Ok(());
    }
    let bar = ProgressBar::no_length();
    let tell = |stage| match stage {
        Stage::Copied(keys) => {
            style(&bar, "{spinner} {pos} keys copied, {per_sec}");
            bar.set_position(keys);
        }
        Stage::Verified(keys, of) => {
            style(&bar, "{bar:40} {pos}/{len} keys read back, {per_sec}");
            bar.set_length(of);
            bar.set_position(keys);
        }
    };
    let moved = node.migrate(to, tell);
    bar.finish_and_clear();
    let moved = moved?;
    let checksum = format!("{:032x}", moved.checksum);
    let json = json!({
        "from": moved.from.as_str(), "to": to.as_str(), "keys": moved.keys, "bytes": moved.bytes,
        "checksum": checksum, "next": next,
    });
    let row =
        [moved.from.to_string(), to.to_string(), moved.keys.to_string(), HumanBytes(moved.bytes).to_string()];
    let row = row.into_iter().chain([checksum]).collect();
    show(format, &["from", "to", "keys", "keys and values", "checksum"], vec![row], &json);
    remark(next);
    Ok(())
}

/// A template that does not parse leaves the bar as it was.
fn style(bar: &ProgressBar, template: &str) {
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
}
