//! The museum: bugs that are planted to see them caught.

use cell_core::museum::Bug;

use super::run::run_with;

/// One planted bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhibit {
    /// After a gap in the link to its node, the gate is not told to check again.
    WakeLost,
    /// A message counts as done once it was acknowledged.
    RetiredByAck,
    /// The gateway is called before the attempt is durable.
    AttemptNotDurable,
    /// A message is handed over although what it requires is missing.
    DeliveryBeforeVersion,
    /// A restarted node goes on as the same actor.
    SequenceReused,
    /// Changes are streamed before they are synced.
    StreamBeyondDurable,
    /// Whatever arrives is believed.
    HashNotChecked,
    /// A peer's baseline is adopted before its state is here.
    AdoptedEarly,
    /// The baseline is read after the list of what there is.
    BaselineLate,
    /// What was adopted counts, although the log's beginning is gone and the view with it.
    AdoptedUnfounded,
    /// A log is trimmed beyond what any other region has.
    TrimmedAlone,
    Kernel(Bug),
}

impl Exhibit {
    /// All of them.
    pub const ALL: [Exhibit; 21] = [
        Exhibit::WakeLost,
        Exhibit::RetiredByAck,
        Exhibit::AttemptNotDurable,
        Exhibit::DeliveryBeforeVersion,
        Exhibit::SequenceReused,
        Exhibit::StreamBeyondDurable,
        Exhibit::HashNotChecked,
        Exhibit::AdoptedEarly,
        Exhibit::BaselineLate,
        Exhibit::AdoptedUnfounded,
        Exhibit::TrimmedAlone,
        Exhibit::Kernel(Bug::FactNotSettled),
        Exhibit::Kernel(Bug::RefundKeyedByPosition),
        Exhibit::Kernel(Bug::ActingOnAStray),
        Exhibit::Kernel(Bug::PermitReused),
        Exhibit::Kernel(Bug::SecondAttemptEarly),
        Exhibit::Kernel(Bug::SessionByActor),
        Exhibit::Kernel(Bug::PoisonSkipped),
        Exhibit::Kernel(Bug::StampIgnored),
        Exhibit::Kernel(Bug::InheritedNotCarried),
        Exhibit::Kernel(Bug::LatePredecessorsIgnored),
    ];

    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Exhibit::WakeLost => "a wake lost on reconnect",
            Exhibit::RetiredByAck => "a message retired by its ack",
            Exhibit::AttemptNotDurable => "an attempt not durable before the call",
            Exhibit::DeliveryBeforeVersion => "delivery before the version",
            Exhibit::SequenceReused => "a sequence number reused after a restart",
            Exhibit::StreamBeyondDurable => "a stream beyond the durable position",
            Exhibit::HashNotChecked => "a hash not checked",
            Exhibit::AdoptedEarly => "a baseline adopted before the state",
            Exhibit::BaselineLate => "a baseline read after the list",
            Exhibit::AdoptedUnfounded => "a baseline counted without its log",
            Exhibit::TrimmedAlone => "a log trimmed beyond what others have",
            Exhibit::Kernel(Bug::FactNotSettled) => "a fact not settled",
            Exhibit::Kernel(Bug::RefundKeyedByPosition) => "a refund keyed by position",
            Exhibit::Kernel(Bug::ActingOnAStray) => "acting on a stray",
            Exhibit::Kernel(Bug::PermitReused) => "a permit re-used with another amount",
            Exhibit::Kernel(Bug::SecondAttemptEarly) => "a second attempt while the first is unknown",
            Exhibit::Kernel(Bug::SessionByActor) => "a session answered by an older copy",
            Exhibit::Kernel(Bug::PoisonSkipped) => "a poisonous change passed over without a word",
            Exhibit::Kernel(Bug::StampIgnored) => "a stamp of ended actors not looked at",
            Exhibit::Kernel(Bug::InheritedNotCarried) => "a takeover without what it builds on",
            Exhibit::Kernel(Bug::LatePredecessorsIgnored) => {
                "a predecessor that comes late and is not followed"
            }
        }
    }

    pub(crate) fn kernel(self) -> Option<Bug> {
        match self {
            Exhibit::Kernel(bug) => Some(bug),
            _ => None,
        }
    }

    /// Runs seeds from `from` on until an invariant catches the bug, `seeds_max` at most.
    #[must_use]
    pub fn hunt(self, from: u64, seeds_max: u64) -> Option<Caught> {
        for seeds in 1..=seeds_max {
            let outcome = run_with(from + seeds - 1, Some(self), false);
            if let Some(violation) = outcome.violations.first() {
                return Some(Caught {
                    seeds,
                    invariant: violation.invariant,
                    detail: violation.detail.clone(),
                });
            }
        }
        None
    }
}

/// How a planted bug was caught.
#[derive(Clone, Debug)]
pub struct Caught {
    /// Seeds that were needed.
    pub seeds: u64,
    pub invariant: &'static str,
    pub detail: String,
}
