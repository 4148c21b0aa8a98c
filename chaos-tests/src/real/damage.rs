//! `damage`: every kind of harm × what of a node it is done to × engine, on real processes. A cell of the table passes if the
//! harm was named and everything is whole again, and nothing acknowledged was denied meanwhile.
//!
//! One deployment for an engine and a target goes through all kinds, one after the other, as a node goes through its life:
//! trade → stop north's node → harm its files → start it → look, all the while asking for every order.

mod harm;
mod kind;
mod report;
mod stage;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use service_kit::remark;

pub use kind::{Kind, Target};
use report::Row;
use stage::Stage;

/// The engines that keep files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum EngineName {
    Sled,
    Fjall,
}

impl EngineName {
    pub(super) const ALL: [EngineName; 2] = [EngineName::Sled, EngineName::Fjall];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            EngineName::Sled => "sled",
            EngineName::Fjall => "fjall",
        }
    }
}

/// How the table is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    #[default]
    Table,
    Json,
}

/// Which cells of the table.
#[derive(Clone, Debug, Args)]
pub struct DamageArgs {
    /// Only this engine; may be repeated.
    #[arg(long)]
    engine: Vec<EngineName>,
    /// Only this kind of harm; may be repeated.
    #[arg(long)]
    kind: Vec<Kind>,
    /// Only this part of a node; may be repeated.
    #[arg(long)]
    target: Vec<Target>,
    /// Chooses files, places and bytes.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(short, long, default_value = "table")]
    output: Format,
}

/// What was asked for, or all.
pub(super) fn chosen<T: Copy>(given: &[T], all: &[T]) -> Vec<T> {
    if given.is_empty() { all.to_vec() } else { given.to_vec() }
}

/// Runs the cells, prints the table.
///
/// # Errors
/// A cell is silent or not healed, or none was run.
pub async fn run(args: &DamageArgs) -> Result<()> {
    let (engines, targets) = (chosen(&args.engine, &EngineName::ALL), chosen(&args.target, &Target::ALL));
    // In the order of the table: what was harmed before is named again at a later start, and a control begins with nothing.
    let given = chosen(&args.kind, Kind::ALL);
    let kinds: Vec<Kind> = Kind::ALL.iter().copied().filter(|kind| given.contains(kind)).collect();
    let cells = |target: Target| kinds.iter().filter(move |kind| kind.fits(target));
    let count = engines.len() * targets.iter().map(|target| cells(*target).count()).sum::<usize>();
    if count == 0 {
        bail!("no kind fits a target: the log has no keys to harm through an engine");
    }
    let bar = ProgressBar::new(count as u64);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} cells, {elapsed}, {msg}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let mut rows = Vec::new();
    for engine in engines {
        for target in &targets {
            let mut stage = None;
            for kind in cells(*target) {
                bar.set_message(format!("{engine:?} {target} {kind}"));
                let row = cell(&mut stage, engine, *target, *kind, args.seed + rows.len() as u64).await;
                if !row.passed() {
                    bar.suspend(|| remark(&row));
                }
                rows.push(row);
                bar.inc(1);
            }
            if let Some(stage) = stage {
                stage.end().await?;
            }
        }
    }
    bar.finish_and_clear();
    report::print(&rows, args.output)?;
    let failed = rows.iter().filter(|row| !row.passed()).count();
    if failed > 0 {
        bail!("{failed} of {} cells are silent or not healed", rows.len());
    }
    Ok(())
}

/// One cell; what fails leaves no stage behind, so that the next one begins with a sound one.
async fn cell(stage: &mut Option<Stage>, engine: EngineName, target: Target, kind: Kind, seed: u64) -> Row {
    let begun = std::time::Instant::now();
    let mut row = Row::new(engine.as_str(), target, kind, seed);
    let played = async {
        let mut ready = match stage.take() {
            Some(ready) => ready,
            None => Stage::open(engine.as_str(), target, seed).await?,
        };
        let played = ready.play(kind, seed, &mut row).await;
        if played.is_ok() {
            *stage = Some(ready);
        } else {
            row.kept = ready.keep();
        }
        played
    };
    if let Err(error) = played.await {
        row.failed = Some(format!("{error:#}"));
    }
    row.total_s = begun.elapsed().as_secs_f64();
    row
}
