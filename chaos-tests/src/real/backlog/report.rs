//! What is said of each case.

use std::fmt;
use std::path::PathBuf;

use anyhow::Result;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use service_kit::line;

use super::Format;
use super::case::Case;

/// Local orders may take so many times as long while a backlog drains.
const TIMES_MAX: f64 = 2.0;
/// What is faster than this, in milliseconds, is not told apart from the machine's own hiccups.
const FLOOR_MS: f64 = 10.0;

/// What was timed, second by second, milliseconds.
pub(super) type Windows = Vec<Vec<f64>>;

/// One case.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Row {
    engine: &'static str,
    case: &'static str,
    orders: u64,
    /// Orders acknowledged in all, and of them paid.
    pub(super) acknowledged: u64,
    pub(super) paid: u64,
    /// Changes that the peer lacked when it returned.
    pub(super) behind: u64,
    /// Home's node and agent, before and at most; the peer's node and agent at most.
    pub(super) node_mib: [f64; 2],
    pub(super) agent_mib: [f64; 2],
    pub(super) peer_mib: [f64; 2],
    /// The home's log, bytes.
    pub(super) log_most: u64,
    /// Orders a second while they piled up.
    pub(super) piled_per_s: f64,
    pub(super) log_end: u64,
    /// The longest lag that an agent told while the fault lasted, and of whom.
    pub(super) lag_s: f64,
    pub(super) said: String,
    /// From a request made after the return to its payer seeing it, and to its buyer seeing it paid.
    pub(super) first_s: f64,
    pub(super) paid_s: f64,
    /// From the return to everything being there that was lacking then, to every lag being below a second.
    pub(super) drained_s: f64,
    pub(super) per_s: f64,
    pub(super) fresh_s: f64,
    /// Every local order that was timed: before, while the fault lasts and nothing piles up, while the backlog drains.
    #[serde(serialize_with = "quantile")]
    pub(super) before_ms: Windows,
    #[serde(serialize_with = "quantile")]
    pub(super) during_ms: Windows,
    #[serde(serialize_with = "quantile")]
    pub(super) drain_ms: Windows,
    pub(super) total_s: f64,
    /// Why it does not pass.
    pub(super) failed: Option<String>,
    /// Where logs and data of what failed are.
    pub(super) kept: Option<PathBuf>,
}

fn quantile<S: serde::Serializer>(timed: &[Vec<f64>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(p99(&timed.concat()))
}

/// The 99th percentile; 0 of nothing.
fn p99(timed: &[f64]) -> f64 {
    let mut timed = timed.to_vec();
    timed.sort_by(f64::total_cmp);
    timed.get((timed.len() * 99).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0.0)
}

impl Row {
    pub(super) fn new(engine: &'static str, case: Case, orders: u64) -> Row {
        Row {
            engine,
            case: case.as_str(),
            orders,
            acknowledged: 0,
            paid: 0,
            behind: 0,
            node_mib: [0.0; 2],
            agent_mib: [0.0; 2],
            peer_mib: [0.0; 2],
            log_most: 0,
            piled_per_s: 0.0,
            log_end: 0,
            lag_s: 0.0,
            said: String::new(),
            first_s: 0.0,
            paid_s: 0.0,
            drained_s: 0.0,
            per_s: 0.0,
            fresh_s: 0.0,
            before_ms: Vec::new(),
            during_ms: Vec::new(),
            drain_ms: Vec::new(),
            total_s: 0.0,
            failed: None,
            kept: None,
        }
    }

    pub(super) fn passed(&self) -> bool {
        self.failed.is_none()
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let failed = self.failed.as_deref().unwrap_or("came back");
        write!(f, "{} {}: {failed}", self.engine, self.case)?;
        self.kept.iter().try_for_each(|kept| write!(f, "; logs and data are kept in {}", kept.display()))
    }
}

/// What all cases of an engine did to local orders. Whatever stops the machine for a moment is in the 99th percentile of every
/// case, before as well as while a backlog drains: so the seconds of all cases are taken together, and the p99 of the middle
/// one is judged.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Beside {
    engine: &'static str,
    #[serde(serialize_with = "of_middle")]
    before_ms: Windows,
    #[serde(serialize_with = "of_middle")]
    drain_ms: Windows,
}

fn of_middle<S: serde::Serializer>(timed: &[Vec<f64>], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(middle(timed))
}

/// The p99 of the second in the middle, of all by their p99; 0 of none.
fn middle(timed: &[Vec<f64>]) -> f64 {
    let mut windows: Vec<f64> = timed.iter().map(|window| p99(window)).collect();
    windows.sort_by(f64::total_cmp);
    windows.get(windows.len() / 2).copied().unwrap_or(0.0)
}

impl Beside {
    pub(super) fn new(engine: &'static str) -> Beside {
        Beside { engine, before_ms: Windows::new(), drain_ms: Windows::new() }
    }

    pub(super) fn add(&mut self, row: &Row) {
        self.before_ms.extend_from_slice(&row.before_ms);
        self.drain_ms.extend_from_slice(&row.drain_ms);
    }

    pub(super) fn passed(&self) -> bool {
        middle(&self.drain_ms) <= TIMES_MAX * middle(&self.before_ms).max(FLOOR_MS)
    }
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (before, drain) = (middle(&self.before_ms), middle(&self.drain_ms));
        write!(
            f,
            "{}: p99 of local orders, the middle of {} seconds while backlogs drain: {drain:.1} ms; of {} before: {before:.1} ms; \
             {:.1} times",
            self.engine,
            self.drain_ms.len(),
            self.before_ms.len(),
            drain / before.max(0.001)
        )
    }
}

#[derive(Serialize)]
struct Report<'a> {
    cases: &'a [Row],
    beside: &'a [Beside],
}

pub(super) fn print(rows: &[Row], beside: &[Beside], format: Format) -> Result<()> {
    if format == Format::Json {
        line(serde_json::to_string_pretty(&Report { cases: rows, beside })?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_content_arrangement(ContentArrangement::Disabled);
    table.set_header([
        "engine",
        "case",
        "behind",
        "node MiB",
        "agent MiB",
        "peer's MiB",
        "log MiB",
        "told",
        "first s",
        "drained s",
        "changes/s",
        "fresh s",
        "p99 ms",
        "",
    ]);
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    for row in rows {
        table.add_row([
            row.engine.to_owned(),
            row.case.to_owned(),
            row.behind.to_string(),
            format!("{:.0}→{:.0}", row.node_mib[0], row.node_mib[1]),
            format!("{:.0}→{:.0}", row.agent_mib[0], row.agent_mib[1]),
            format!("{:.0}, {:.0}", row.peer_mib[0], row.peer_mib[1]),
            format!("{:.1}→{:.1}", mib(row.log_most), mib(row.log_end)),
            if row.lag_s > 0.0 { format!("{:.1} s, {}", row.lag_s, row.said) } else { row.said.clone() },
            format!("{:.2}, paid {:.2}", row.first_s, row.paid_s),
            format!("{:.1}", row.drained_s),
            format!("{:.0}", row.per_s),
            format!("{:.1}", row.fresh_s),
            format!(
                "{:.1}/{:.1}/{:.1}",
                p99(&row.before_ms.concat()),
                p99(&row.during_ms.concat()),
                p99(&row.drain_ms.concat())
            ),
            row.failed.as_ref().map_or_else(|| "came back".to_owned(), |why| format!("NOT: {why}")),
        ]);
    }
    line(table);
    for sums in beside.iter().filter(|sums| !sums.drain_ms.is_empty()) {
        line(sums);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_99th_percentile_is_the_slowest_of_a_hundred_but_one() {
        assert!(p99(&[]).abs() < f64::EPSILON);
        assert!((p99(&[7.0]) - 7.0).abs() < f64::EPSILON);
        let hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert!((p99(&hundred) - 99.0).abs() < f64::EPSILON);
    }
}
