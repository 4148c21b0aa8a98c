//! What the node counts: the table that `/metrics` and the glossary are made of.

use service_kit::Metric;

use crate::conflict::CLASSES;
use crate::http::PROBLEM_NAMES;
use crate::scrub::{FOUND, KINDS};

/// Every metric of a node.
pub const METRICS: &[Metric] = &[
    Metric::counter("cell_log_syncs_total", &[], "Groups made durable."),
    Metric::histogram("cell_log_sync_seconds", &[], "How long it took to make a group durable."),
    Metric::histogram("cell_log_group_records", &[], "Records of a group."),
    Metric::counter("cell_log_bytes_total", &[], "Bytes appended to the log."),
    Metric::counter("cell_log_full_total", &[], "Groups that found no room on the disk and had to wait."),
    Metric::gauge("cell_log_holes", &[], "Actors of whose changes some are missing here."),
    Metric::gauge(
        "cell_node_twins",
        &[],
        "Other processes that write as this node, such as one on a copy of its folder.",
    ),
    Metric::counter(
        "cell_log_trimmed_records_total",
        &[],
        "Records deleted from the log, since others have them.",
    ),
    Metric::counter(
        "cell_baselines_adopted_total",
        &[],
        "Times that a peer's state was taken over instead of changes.",
    ),
    Metric::gauge("cell_disk_free_bytes", &[], "Free under the data folder."),
    Metric::counter("cell_duties_computed_total", &[], "Duties found."),
    Metric::counter(
        "cell_alarms_total",
        &[("kind", &["orphan", "clock-ahead", "forked"])],
        "What was warned of.",
    ),
    Metric::counter("cell_problems_total", &[("type", &PROBLEM_NAMES)], "Requests answered with a problem."),
    Metric::gauge("cell_sessions_waiting", &[], "Requests that wait for the version they present."),
    Metric::counter(
        "cell_sessions_total",
        &[("outcome", &["met", "not-here", "never", "unavailable"])],
        "What came of requests that presented a version.",
    ),
    Metric::counter(
        "cell_conflicts_total",
        &[("class", &CLASSES)],
        "Entries of the conflict journal, as they came.",
    ),
    Metric::gauge(
        "cell_conflicts_open",
        &[("class", &CLASSES)],
        "Those not ruled upon, not given back, or not looked at; `paid-versus-cancelled` is worth an alarm.",
    ),
    Metric::counter("cell_scrubs_total", &[], "Readings of the whole view that came to their end."),
    Metric::counter("cell_scrubbed_keys_total", &[], "Keys of the view read by them."),
    Metric::counter("cell_damaged_entities_total", &[], "Entities found damaged by them."),
    Metric::counter(
        "cell_healed_keys_total",
        &[("kind", &KINDS), ("found", &FOUND)],
        "Other keys of the view that were not what its entities say, and were put right.",
    ),
    Metric::gauge(
        "cell_log_damaged_records",
        &[],
        "Records of the log that could not be read when it was read through last; a peer that lacks them takes over state.",
    ),
    Metric::gauge(
        "cell_quarantined_changes",
        &[],
        "Changes that could not be applied here and that nobody gave up; more than 0 is worth an alarm.",
    ),
    Metric::gauge(
        "cell_withheld_entities",
        &[],
        "Orders and payments that answer 503 since a change of them could not be applied.",
    ),
    Metric::counter(
        "cell_quarantined_total",
        &[("cause", &["malformed", "too-large", "panicked"])],
        "Changes that could not be applied, each time it was tried.",
    ),
    Metric::counter(
        "cell_contained_panics_total",
        &[("what", &["work", "duties", "view", "merge", "deliver"])],
        "Panics that ended one piece of work and nothing else: bugs.",
    ),
    Metric::gauge(
        "cell_doubted_slots",
        &[],
        "Slots that may lack something, until a comparison with a peer finds no difference.",
    ),
];
