//! `chaos-tests`: the simulator, and rehearsals with real processes, on the command line.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Result, bail};
use chaos_tests::real::backlog::{self, BacklogArgs};
use chaos_tests::real::damage::{self, DamageArgs};
use chaos_tests::real::kills::{self, KillsArgs};
use chaos_tests::real::play_role;
use chaos_tests::sim::{Coverage, Exhibit, RARE, SCHEDULES, SEEDS_THAT_COVER, run_seed};
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use service_kit::{Exit, line, main_exit};

#[derive(Debug, Parser)]
#[command(
    about = "Rehearse disasters: the simulator, its museum of planted bugs, the named schedules; damage, kills and backlogs"
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run random scripts.
    Sim {
        /// How many.
        #[arg(long, default_value_t = SEEDS_THAT_COVER, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: u64,
        /// The first of them.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Replay one seed and say everything that happens.
        #[arg(long)]
        seed: Option<u64>,
        /// End at this many failures.
        #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
        failures: u64,
    },
    /// Show that each planted bug is caught.
    Museum {
        /// At most so many for each.
        #[arg(long, default_value_t = 3_000, value_parser = clap::value_parser!(u64).range(1..))]
        seeds: u64,
    },
    /// Run the named schedules.
    Schedules {
        /// Only those whose name contains this.
        name: Option<String>,
    },
    /// Harm real nodes' files and keys in every way, and see each named and healed.
    Damage(DamageArgs),
    /// Kill real nodes and agents under load, and see that nothing is lost and nothing happens twice.
    Kills(KillsArgs),
    /// Let a region fall behind in every way while orders pile up for it, and see it come back by itself.
    Backlog(BacklogArgs),
}

fn main() -> ExitCode {
    if let Some(code) = play_role(std::env::args_os()) {
        return code;
    }
    main_exit("chaos-tests", || {
        run(Args::parse().command).map_err(|error| Exit::Failed(format!("{error:#}")))
    })
}

fn run(command: Command) -> Result<()> {
    let real = || tokio::runtime::Builder::new_multi_thread().enable_all().build();
    match command {
        Command::Sim { seed: Some(seed), .. } => replay(seed),
        Command::Sim { seeds, from, failures, seed: None } => simulate(seeds, from, failures),
        Command::Museum { seeds } => museum(seeds),
        Command::Schedules { name } => schedules(name.as_deref().unwrap_or("")),
        Command::Damage(args) => real()?.block_on(damage::run(&args)),
        Command::Kills(args) => real()?.block_on(kills::run(&args)),
        Command::Backlog(args) => real()?.block_on(backlog::run(&args)),
    }
}

fn replay(seed: u64) -> Result<()> {
    let outcome = run_seed(seed, true);
    line(format_args!("\n{}", outcome.report()));
    if !outcome.passed() {
        bail!("seed {seed} fails");
    }
    line(format_args!("seed {seed} passes, {} events", outcome.events));
    Ok(())
}

fn bar(length: u64) -> Result<ProgressBar> {
    let bar = ProgressBar::new(length);
    bar.set_style(ProgressStyle::with_template("{bar:40} {pos}/{len} seeds, {per_sec}, {msg}")?);
    Ok(bar)
}

fn simulate(seeds: u64, from: u64, failures_max: u64) -> Result<()> {
    let Some(end) = from.checked_add(seeds) else { bail!("there are no {seeds} seeds from {from} on") };
    let started = Instant::now();
    let bar = bar(seeds)?;
    let next = std::sync::atomic::AtomicU64::new(from);
    let total = std::sync::Mutex::new((Coverage::default(), Vec::new(), 0u64));
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    if seed >= end {
                        return;
                    }
                    let outcome = run_seed(seed, false);
                    bar.inc(1);
                    let Ok(mut total) = total.lock() else { return };
                    total.0.add(&outcome.coverage);
                    total.2 += outcome.events;
                    if !outcome.passed() {
                        bar.suspend(|| line(format_args!("{}\n", outcome.report())));
                        total.1.push(seed);
                        bar.set_message(format!("{} failed", total.1.len()));
                    }
                    if total.1.len() as u64 >= failures_max {
                        return;
                    }
                }
            });
        }
    });
    bar.finish_and_clear();
    let (coverage, failed, events) = total.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    for (kind, name, times) in coverage.table() {
        line(format_args!("{kind:>6} {times:>9}  {name}"));
    }
    let seconds = started.elapsed().as_secs_f64();
    line(format_args!(
        "{seeds} seeds, {:.0} seeds/s, {events} events, {seconds:.1} s",
        seeds as f64 / seconds
    ));
    if !failed.is_empty() {
        bail!("{} seeds fail: {failed:?}", failed.len());
    }
    line("no invariant was violated");
    let lacking = coverage.lacking(seeds);
    if !lacking.is_empty() {
        bail!("never fired, so nothing is proven: {}", lacking.join(", "));
    }
    let missing = coverage.missing();
    if !missing.is_empty() {
        let faults =
            coverage.table().iter().filter(|(kind, _, times)| *kind == "fault" && *times == 0).count();
        let (rows, (rare, rare_from)) = (missing.len() - faults, RARE);
        line(format_args!(
            "{rows} rows and {faults} faults never fired; judged from {SEEDS_THAT_COVER} seeds on, {} from {rare_from}",
            rare.join(", ")
        ));
    }
    Ok(())
}

fn museum(seeds: u64) -> Result<()> {
    let mut escaped = 0;
    for exhibit in Exhibit::ALL {
        match exhibit.hunt(1, seeds) {
            Some(caught) => line(format_args!(
                "{:<44} caught after {:>4} seeds by {}",
                exhibit.name(),
                caught.seeds,
                caught.invariant
            )),
            None => {
                escaped += 1;
                line(format_args!("{:<44} NOT caught in {seeds} seeds", exhibit.name()));
            }
        }
    }
    if escaped > 0 {
        let few = if seeds < SEEDS_THAT_COVER { "; some take more seeds than that to be met" } else { "" };
        bail!("{escaped} planted bugs escape{few}");
    }
    Ok(())
}

fn schedules(name: &str) -> Result<()> {
    let chosen: Vec<_> = SCHEDULES.iter().filter(|schedule| schedule.name.contains(name)).collect();
    if chosen.is_empty() {
        let known: Vec<&str> = SCHEDULES.iter().map(|schedule| schedule.name).collect();
        let message = format!("no schedule has '{name}' in its name; there are:\n  {}", known.join("\n  "));
        Args::command().error(ErrorKind::InvalidValue, message).exit();
    }
    let mut failed = 0;
    for schedule in &chosen {
        match (schedule.run)() {
            Ok(()) => line(format_args!("ok      {}", schedule.name)),
            Err(error) => {
                failed += 1;
                line(format_args!("FAILED  {}: {error}", schedule.name));
            }
        }
    }
    if failed > 0 {
        bail!("{failed} of {} schedules fail", chosen.len());
    }
    line(format_args!("{} of {} schedules, all ok", chosen.len(), SCHEDULES.len()));
    Ok(())
}
