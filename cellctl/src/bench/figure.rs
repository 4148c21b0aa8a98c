//! What was measured, beside what was aimed at; of several runs the middle of each figure.

use anyhow::{Result, bail, ensure};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::machine::Ticks;
use crate::output::{self, Format, remark};

/// Above this a run says more of the neighbours than of the services.
pub(super) const STEAL_MAX: f64 = 3.0;
pub(super) const TRIES_MAX: usize = 6;

#[derive(Clone, Copy, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Aim {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Clone, Debug, Serialize)]
pub(super) struct Figure {
    what: String,
    value: f64,
    unit: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    aim: Option<Aim>,
    #[serde(skip_serializing_if = "Option::is_none")]
    met: Option<bool>,
}

impl Figure {
    pub(super) fn new(what: impl Into<String>, value: f64, unit: &'static str) -> Figure {
        Figure { what: what.into(), value, unit, aim: None, met: None }
    }

    pub(super) fn aim(self, aim: Aim) -> Figure {
        Figure { aim: Some(aim), ..self }.judged()
    }

    fn judged(self) -> Figure {
        let met = self.aim.map(|aim| match aim {
            Aim::AtLeast(least) => self.value >= least,
            Aim::AtMost(most) => self.value <= most,
        });
        Figure { met, ..self }
    }

    fn line(&self) -> Vec<String> {
        let aim = match self.aim {
            None => String::new(),
            Some(Aim::AtLeast(least)) => format!("≥ {}", number(least)),
            Some(Aim::AtMost(most)) => format!("≤ {}", number(most)),
        };
        let met = self.met.map_or("", |met| if met { "met" } else { "missed" });
        vec![self.what.clone(), number(self.value), self.unit.to_owned(), aim, met.to_owned()]
    }
}

/// With as many digits as mean something.
fn number(value: f64) -> String {
    match value.abs() {
        100.0.. => format!("{value:.0}"),
        10.0..100.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// p50, p99 and p99.9 of microseconds, as milliseconds.
pub(super) fn quantiles(what: &str, of: &Histogram<u64>, aims: [Option<f64>; 3]) -> Vec<Figure> {
    let named = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)].into_iter().zip(aims);
    let figure = |((name, quantile), aim): ((&str, f64), Option<f64>)| {
        let ms = of.value_at_quantile(quantile) as f64 / 1e3;
        let figure = Figure::new(format!("{what} {name}"), ms, "ms");
        aim.map_or(figure.clone(), |aim| figure.aim(Aim::AtMost(aim)))
    };
    named.map(figure).collect()
}

/// Runs `run` until `runs` of it were undisturbed by the host, and takes the middle of each figure.
pub(super) async fn middle(
    runs: usize,
    mut run: impl AsyncFnMut() -> Result<Vec<Figure>>,
) -> Result<Vec<Figure>> {
    let mut good: Vec<Vec<Figure>> = Vec::new();
    for nth in 1..=runs + TRIES_MAX {
        let ticks = Ticks::now();
        let mut figures = run().await?;
        let steal = Ticks::now().steal_since(&ticks);
        remark(format_args!("  run {nth}: steal {steal:.1} %"));
        if steal > STEAL_MAX {
            continue;
        }
        figures.push(Figure::new("taken by the host", steal, "%"));
        good.push(figures);
        if good.len() == runs {
            return middle_of(good);
        }
    }
    bail!("the host took more than {STEAL_MAX} % of the time in too many runs: nothing to report")
}

fn middle_of(runs: Vec<Vec<Figure>>) -> Result<Vec<Figure>> {
    let middle = runs.len() / 2;
    let Some(first) = runs.first().cloned() else { return Ok(Vec::new()) };
    let mut figures = Vec::with_capacity(first.len());
    for (nth, figure) in first.into_iter().enumerate() {
        let mut values: Vec<f64> = runs.iter().filter_map(|run| Some(run.get(nth)?.value)).collect();
        ensure!(values.len() == runs.len(), "runs with different figures");
        values.sort_by(f64::total_cmp);
        figures.push(Figure { value: values[middle], ..figure }.judged());
    }
    Ok(figures)
}

pub(super) fn show(format: Format, note: &str, figures: &[Figure]) {
    if format == Format::Table {
        output::line(note);
    }
    let lines = figures.iter().map(Figure::line).collect();
    output::show(format, &["what", "value", "", "aim", ""], lines, &figures);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_run_decides_each_figure_and_whether_it_meets_its_aim() {
        let run = |a, b| {
            vec![
                Figure::new("rate", a, "/s").aim(Aim::AtLeast(10.0)),
                Figure::new("lag", b, "ms").aim(Aim::AtMost(1.0)),
            ]
        };
        let figures = middle_of(vec![run(9.0, 0.5), run(12.0, 3.0), run(11.0, 0.7)]).unwrap();
        assert_eq!((figures[0].value, figures[0].met), (11.0, Some(true)));
        assert_eq!((figures[1].value, figures[1].met), (0.7, Some(true)));
    }
}
