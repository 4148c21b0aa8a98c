//! What goes into the gate and what comes out of it: two closed sets.

use bytes::Bytes;

use super::{DeadReason, Envelope, Filter, MessageId, Record, Requirement};
use crate::canon::codes;
use crate::id::{ActorId, EntityId, RegionId, Slot};
use crate::placement::Epoch;

// === in ===

/// Something the gate is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// A message came from another region.
    Arrived { envelope: Envelope },
    /// Bytes came on the message channel that are no message this software knows.
    Malformed { bytes: Bytes, from: RegionId, reason: String },
    /// Answers [`Output::Decode`]; `None` if the kept bytes still cannot be read.
    Decoded { id: MessageId, envelope: Option<Envelope> },
    /// The node's frontier moved: of each actor every change up to the seq is applied.
    Applied { upto: Vec<(ActorId, u64)> },
    /// These entities now contain these versions, whatever the frontier says (a fetch was applied).
    Present { present: Vec<Requirement> },
    /// Answers [`Output::Check`] with what of it is present. Presence never ends, so an answer is never out of date.
    Checked { id: MessageId, present: Vec<Requirement> },
    /// Answers [`Output::Deliver`], [`Output::HandExpired`] or [`Output::HandDiscarded`].
    Answered { id: MessageId, attempt: u32, answer: Answer },
    /// In the node's view nobody needs this message any more (payment ended, permit closed, refund known).
    NeedGone { id: MessageId, why: String },
    /// The highest epoch the node knows of a slot.
    SlotHome { slot: Slot, epoch: Epoch },
    /// The link to the node is up again: everything it may have said meanwhile was missed.
    Reconnected,
    /// Time passed; asked for by [`Output::WakeAt`].
    Tick,
    /// An operator, named by `identity`, does something.
    Operator { identity: String, action: Action },
}

/// What the node made of something handed to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It is decided there, durably.
    Done,
    /// It was looked at and refused: an outcome like any other.
    Refused { reason: String },
    /// The slot's home is elsewhere (421).
    Moved,
    /// Not now. Also the answer to [`Output::HandExpired`] while the node's own clock does not say so yet.
    Busy,
    /// It could not be asked, or did not answer.
    Unreachable,
    /// The handler broke on it. Only this uses up the retry budget.
    Failed { error: String },
}

/// What operators can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Try again now, validated anew.
    Redrive { id: MessageId },
    /// Redrives up to `limit` dead letters that match, in id order, beginning behind `after`. The caller paces itself
    /// and goes on behind the last id of the audit; [`super::Gate::list`] with the same filter is the dry run.
    RedriveMatching { filter: Filter, after: Option<MessageId>, limit: usize },
    /// Give it up. The node is told, and the payment ends as failed.
    Discard { id: MessageId, reason: String },
}

// === out ===

/// Something to be done, in this order.
///
/// **Contract:** every [`Output::Persist`] is durable before any later output, of this step or the next ones, is
/// carried out, but for deliveries that wait for none ([`Output::delivers`]). Group commit is fine: sync once for several
/// steps, then carry out the rest in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    Persist {
        record: Box<Record>,
    },
    /// Tell the sender that the message is kept. It paces the sender's re-sending and retires nothing there.
    Ack {
        id: MessageId,
    },
    /// Tell the sender that the message is *not* kept. Nothing is lost: it is owed for as long as it is needed.
    Refuse {
        id: MessageId,
        why: Refusal,
    },
    /// Ask the node which of these are present; answered by [`Input::Checked`].
    Check {
        id: MessageId,
        requires: Vec<Requirement>,
    },
    /// Load the message and hand it to the node; answered by [`Input::Answered`].
    Deliver {
        id: MessageId,
        attempt: u32,
    },
    /// Load the message and let the node decide that it has expired; answered by [`Input::Answered`].
    HandExpired {
        id: MessageId,
        attempt: u32,
    },
    /// Load the message and let the node end what it asks as failed; answered by [`Input::Answered`].
    HandDiscarded {
        id: MessageId,
        attempt: u32,
        reason: String,
    },
    /// Get these from a region that has them, with what their change touched beside them. Carries no obligation to
    /// answer: what comes enters through the node's log.
    Fetch {
        id: MessageId,
        missing: Vec<Requirement>,
    },
    /// It has been waiting for long. Once per message and start.
    Warn {
        id: MessageId,
        waited_ms: u64,
        missing: Vec<Requirement>,
    },
    DeadLetter {
        id: MessageId,
        reason: DeadReason,
        missing: Vec<Requirement>,
        detail: String,
    },
    /// Tell the sender's slot that what it asked for does not get on.
    StalledNotice {
        id: MessageId,
        to: RegionId,
        to_slot: Slot,
        about: EntityId,
        why: Stall,
        missing: Vec<Requirement>,
    },
    /// Try to decode the bytes kept under this id again; answered by [`Input::Decoded`].
    Decode {
        id: MessageId,
    },
    /// The message is no longer kept, and this is why.
    Ended {
        id: MessageId,
        ending: Ending,
    },
    /// The one record of one operator action, with the messages it set in motion (none: nothing to do).
    Audit {
        identity: String,
        action: Action,
        ids: Vec<MessageId>,
    },
    /// Send [`Input::Tick`] at this time, and no longer at the one asked for before.
    WakeAt {
        ms: u64,
    },
}

impl Output {
    /// The message whose records alone this waits for, if it need not wait for those of others: it hands the message to the
    /// node, or looks for what that lacks. A crash before those of others are durable does it again, which changes nothing.
    #[must_use]
    pub fn waits_for(&self) -> Option<MessageId> {
        match self {
            Output::Deliver { id, .. }
            | Output::Check { id, .. }
            | Output::Fetch { id, .. }
            | Output::Warn { id, .. } => Some(*id),
            _ => None,
        }
    }
}

codes! {
    /// Why a message is not accepted.
    pub enum Refusal {
        /// The gate is full.
        1 => Busy: "busy",
        /// The slot it comes from has an owner of a higher term, who sends what is needed.
        2 => SenderReplaced: "sender-replaced",
        /// The slot it is for has its home in another region.
        3 => Moved: "moved",
    }
}

codes! {
    /// Why something does not get on.
    pub enum Stall {
        /// What it requires has not arrived.
        1 => MissingDependency: "missing-dependency",
        /// What it requires is here, but its deadline passed while the node was busy or away. It goes on trying.
        2 => Undeliverable: "undeliverable",
        /// The handler fails on it.
        3 => Poison: "poison",
    }
}

/// The one way in which an accepted message ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The node took it.
    Done,
    /// The node refused it.
    Refused { reason: String },
    /// The node ended it as expired.
    Expired,
    /// The node ended it as failed, since an operator discarded it.
    Discarded,
    /// Dropped: its slot has another home, the sender addresses it anew.
    Moved,
    /// Dropped: nobody needs it any more.
    NeedGone { why: String },
    /// Dropped: the sender's slot has an owner of a higher term.
    SenderReplaced,
    /// Could not be read before, and was accepted as this message now.
    Decoded { into: MessageId },
}
