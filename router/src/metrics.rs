//! What the router counts: the table that `/metrics` and the glossary are made of.

use service_kit::Metric;

use crate::problem::PROBLEMS;

/// As `reason`: a connection above all limits, closed without a word.
pub(crate) const DROPPED: &str = "connection-dropped";

const fn reasons<const N: usize>() -> [&'static str; N] {
    let mut reasons = [DROPPED; N];
    let mut i = 0;
    while i < PROBLEMS.len() {
        reasons[i] = PROBLEMS[i].0;
        i += 1;
    }
    reasons
}

const REASONS: [&str; PROBLEMS.len() + 1] = reasons();

/// Every metric of a router.
pub const METRICS: &[Metric] = &[
    Metric::counter(
        "cell_router_requests_total",
        &[("route", &[]), ("region", &[]), ("status", &[])],
        "Requests answered: the route or `unknown`, the region that answered or `none`, the status as `2xx`.",
    ),
    Metric::counter(
        "cell_router_refused_total",
        &[("reason", &REASONS)],
        "Requests and connections that the router itself refused: the name of the problem, or `connection-dropped`.",
    ),
    Metric::counter(
        "cell_router_followed_total",
        &[],
        "Requests sent on because a region named another home.",
    ),
    Metric::histogram(
        "cell_router_upstream_seconds",
        &[("region", &[])],
        "From a request's first byte to a region to the head of its answer.",
    ),
];
