//! Bugs that can be planted in the kernel, to see that the simulator's invariants catch them.
//!
//! Only with the feature `museum`, and only on the thread that asked; otherwise every question here is answered "no" at
//! compile time.

/// A rule of the kernel that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// A capture on an order that is not payable any more is not settled.
    FactNotSettled,
    /// A refund's case depends on where in the history it was decided.
    RefundKeyedByPosition,
    /// Refunds that only a stray owes are carried out.
    ActingOnAStray,
    /// Asking again reuses the first permit's amount.
    PermitReused,
    /// The next attempt starts while the one before is unknown.
    SecondAttemptEarly,
    /// A session is taken for up to date where anything of its actor is known.
    SessionByActor,
    /// A change that cannot be applied is passed over without a word.
    PoisonSkipped,
    /// A region's word for what is folded there is taken for what is folded here.
    StampIgnored,
    /// The first decision of a new home does not bring along what it builds on.
    InheritedNotCarried,
    /// Of what its predecessors wrote a node expects nothing once it decides.
    LatePredecessorsIgnored,
}

#[cfg(feature = "museum")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants one bug, or none, on this thread.
#[cfg(feature = "museum")]
pub fn plant(bug: Option<Bug>) {
    PLANTED.with(|planted| planted.set(bug));
}

#[cfg(feature = "museum")]
pub(crate) fn planted(bug: Bug) -> bool {
    PLANTED.with(|planted| planted.get() == Some(bug))
}

#[cfg(not(feature = "museum"))]
pub(crate) const fn planted(_: Bug) -> bool {
    false
}
