//! What the agent counts: the table that `/metrics` and the glossary are made of.

use service_kit::Metric;

/// Labels whose values are the names of peers, known from the configuration.
pub(crate) const OF_PEERS: [&str; 2] = ["from", "peer"];

const ENDINGS: &[&str] =
    &["done", "refused", "expired", "discarded", "moved", "need-gone", "sender-replaced", "decoded"];

/// Every metric of an agent.
pub const METRICS: &[Metric] = &[
    Metric::gauge("cell_node_up", &[], "Whether the node is reached."),
    Metric::gauge(
        "cell_peer_up",
        &[("peer", &[]), ("channel", &["changes", "messages"])],
        "Whether the stream to a peer is open.",
    ),
    Metric::gauge(
        "cell_change_lag_seconds",
        &[("from", &[])],
        "Age of a region's newest heartbeat that was applied here: what it took on its way, or how overdue the next one is.",
    ),
    Metric::gauge("cell_message_lag_seconds", &[("from", &[])], "The same for the message channel."),
    Metric::counter("cell_changes_sent_total", &[], "Changes handed to subscribers."),
    Metric::counter(
        "cell_replication_conflicts_total",
        &[],
        "Changes that are not served: two contents for one dot.",
    ),
    Metric::counter(
        "cell_replication_stopped_total",
        &[("reason", &["conflict", "gap", "malformed", "not-a-member", "not-kept"])],
        "Actors of which nothing more is taken.",
    ),
    Metric::counter(
        "cell_compared_total",
        &[("peer", &[]), ("outcome", &["equal", "different", "inconclusive", "unreachable"])],
        "Comparisons with a peer of what both should have.",
    ),
    Metric::counter(
        "cell_repaired_entities_total",
        &[("peer", &[])],
        "Entities taken over from a peer where they differed.",
    ),
    Metric::counter(
        "cell_exchanged_entities_total",
        &[("peer", &[])],
        "Entities fetched where a peer's state was taken over as a whole.",
    ),
    Metric::gauge(
        "cell_divergence_age_seconds",
        &[("peer", &[])],
        "For how long a difference has been known; 0 without one.",
    ),
    Metric::gauge(
        "cell_gate_messages",
        &[("stage", &["waiting", "ready", "in-flight", "retrying"])],
        "Messages held by the gate.",
    ),
    Metric::gauge("cell_gate_dead_letters", &[], "Dead letters held by the gate."),
    Metric::counter(
        "cell_gate_dead_lettered_total",
        &[("reason", &["missing-dependency", "poison", "malformed"])],
        "Messages that became dead letters.",
    ),
    Metric::counter("cell_gate_ended_total", &[("ending", ENDINGS)], "Messages that ended, and how."),
    Metric::counter("cell_gate_warnings_total", &[], "Messages warned of because they wait long."),
    Metric::counter(
        "cell_gate_fetched_total",
        &[("from", &[])],
        "Entities fetched because a message waited for them.",
    ),
    Metric::histogram(
        "cell_gate_wake_seconds",
        &[],
        "From the apply of what a message waited for to the end of its delivery.",
    ),
    Metric::counter("cell_gate_records_total", &[], "Records written to the gate's log."),
];
