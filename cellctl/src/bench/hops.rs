//! The processes between two regions, in the order in which a change passes them, and what each spends on it.

use chaos_tests::harness::Role;

use super::figure::Figure;
use super::served::{FAR, ORIGIN, Served};

pub(super) const HOPS: [(&str, Role, &str); 4] = [
    ("node out", Role::Node, ORIGIN),
    ("agent out", Role::Agent, ORIGIN),
    ("agent in", Role::Agent, FAR),
    ("node in", Role::Node, FAR),
];

/// Processor seconds of each.
pub(super) fn hops(served: &Served) -> [f64; 4] {
    HOPS.map(|(_, role, region)| served.cpu_of(role, region))
}

/// What each spent between two moments, for each of so many.
pub(super) fn per_item(before: [f64; 4], after: [f64; 4], items: f64, item: &str, when: &str) -> Vec<Figure> {
    let spent = HOPS.iter().zip(before).zip(after);
    let figure = |(((name, _, _), before), after): ((&(&str, Role, &str), f64), f64)| {
        Figure::new(format!("CPU per {item}, {name}, {when}"), (after - before) / items * 1e6, "µs")
    };
    spent.map(figure).collect()
}
