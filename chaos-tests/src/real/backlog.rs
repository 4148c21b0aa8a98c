//! `backlog`: a region falls behind in every way, orders pile up for it at their home, and it has to come back by itself. A
//! row of the table passes if memory did not grow with what piled up, the log on disk is as long as retention says, operators
//! were told meanwhile, a message reached the region long before the backlog was drained, the lag was below a second soon
//! after it, nothing was restarted, and both have everything in the end.
//!
//! One deployment for each row. The other regions give way to the home on the processors they share here, as if each
//! region had its own.

mod case;
mod load;
mod memory;
mod report;
mod stage;
mod watch;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use service_kit::remark;
use tempfile::TempDir;
use tokio::time::Instant;

use super::damage::{EngineName, Format, chosen};
pub use case::Case;
use report::{Beside, Row};
use stage::Stage;

/// What piles up, for whom, and how that is looked at.
#[derive(Clone, Debug, Args)]
pub struct BacklogArgs {
    /// Only this engine; may be repeated.
    #[arg(long)]
    engine: Vec<EngineName>,
    /// Only this case; may be repeated.
    #[arg(long)]
    case: Vec<Case>,
    /// Orders that pile up; one of ten with somebody in the other region asked to pay, one of a hundred paid.
    #[arg(long, default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(100..))]
    orders: u64,
    /// Nothing is judged by the clock: for a machine that is busy with other things.
    #[arg(long)]
    untimed: bool,
    #[arg(short, long, default_value = "table")]
    output: Format,
}

/// Runs the cases, prints the table.
///
/// # Errors
/// A case fails; its logs and data are kept.
pub async fn run(args: &BacklogArgs) -> Result<()> {
    let (engines, cases) = (chosen(&args.engine, &EngineName::ALL), chosen(&args.case, Case::ALL));
    let bar = ProgressBar::new((engines.len() * cases.len()) as u64);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} cases, {elapsed}, {msg}")?);
    bar.enable_steady_tick(Duration::from_millis(200));
    let (mut rows, mut beside) = (Vec::new(), Vec::new());
    for engine in engines {
        let mut sums = Beside::new(engine.as_str());
        for case in &cases {
            bar.set_message(format!("{engine:?} {case}"));
            let row = row(engine, *case, args, &mut sums).await;
            if !row.passed() {
                bar.suspend(|| remark(&row));
            }
            rows.push(row);
            bar.inc(1);
        }
        beside.push(sums);
    }
    bar.finish_and_clear();
    report::print(&rows, &beside, args.output)?;
    let failed = rows.iter().filter(|row| !row.passed()).count();
    if failed > 0 {
        bail!("{failed} of {} cases fail", rows.len());
    }
    if let Some(harmed) = beside.iter().find(|sums| !args.untimed && !sums.passed()) {
        bail!("{harmed}");
    }
    Ok(())
}

async fn row(engine: EngineName, case: Case, args: &BacklogArgs, sums: &mut Beside) -> Row {
    let begun = Instant::now();
    let mut row = Row::new(engine.as_str(), case, args.orders);
    let played = async {
        let folder = TempDir::with_prefix("homecell-backlog-")?;
        let data = folder.path().join("cluster");
        let played = match case {
            Case::Memory => memory::play(&data, engine.as_str(), args.orders, &mut row).await,
            _ => {
                let stage = Stage::open(data, engine.as_str(), case, args.orders, args.untimed).await;
                match stage {
                    Ok(stage) => stage.play(&mut row, sums).await,
                    Err(error) => Err(error),
                }
            }
        };
        if played.is_err() {
            row.kept = Some(folder.keep());
        }
        played
    };
    if let Err(error) = played.await {
        row.failed = Some(format!("{error:#}"));
    }
    row.total_s = begun.elapsed().as_secs_f64();
    row
}
