//! What travels between regions: a message, what it requires, and who speaks.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use crate::canon::{Field, Malformed, Raw, Repeated, codes, message};
use crate::id::{EntityId, Hash, RegionId, Slot};
use crate::placement::Epoch;
use crate::version::Dot;

/// Most requirements of one message; a message with more is kept as undecodable, so that memory stays bounded.
pub const REQUIRES_MAX: usize = 16;

/// The id of the duty a message carries out: the same need has the same id, whoever owns the slot and in which epoch.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(pub [u8; 16]);

impl MessageId {
    /// The id under which bytes that could not be decoded are kept: the first half of their hash.
    #[must_use]
    pub fn of_undecoded(bytes: &[u8]) -> MessageId {
        MessageId(Hash::of(bytes).short())
    }
}
impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for MessageId {
    type Err = Malformed;
    /// Reads what `Display` writes: 32 hexadecimal digits.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        const BAD: Malformed = Malformed::Value("a message id is 32 hexadecimal digits");
        if text.len() != 32 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(BAD);
        }
        let value = u128::from_str_radix(text, 16).map_err(|_| BAD)?;
        Ok(MessageId(value.to_be_bytes()))
    }
}
impl Field for MessageId {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        self.0.put(tag, out);
    }
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
        let mut inner = None;
        <[u8; 16]>::take(&mut inner, raw)?;
        *slot = inner.map(MessageId);
        Ok(())
    }
    fn absent() -> Option<Self> {
        None
    }
}
impl Repeated for MessageId {}

codes! {
    /// What a message is for. The gate treats all kinds alike; operators filter by it.
    pub enum MessageKind {
        1 => PayRequest: "pay-request",
        2 => Withdrawal: "withdrawal",
        3 => Result: "result",
        4 => RefundOrder: "refund-order",
        5 => StalledNotice: "stalled-notice",
    }
}

message! {
    /// A version that must be present at the receiver before the message means anything there. It is present where
    /// the frontier covers the dot, or where this very entity contains it (it came by a fetch).
    #[derive(Copy, PartialOrd, Ord, Hash)]
    pub struct Requirement { 1 => entity: EntityId, 2 => dot: Dot }
}
impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.entity, self.dot)
    }
}

message! {
    /// A message between the owners of two slots: what travels, and what the gate keeps.
    open pub struct Envelope {
        1 => id: MessageId,
        2 => kind: MessageKind,
        3 => from: RegionId,
        4 => to_slot: Slot,
        /// What it is about, for instance the payment.
        5 => subject: EntityId,
        /// Empty for a withdrawal or a notice: they mean something also where nothing else is known.
        6 => requires: Vec<Requirement>,
        /// Under which the sender owned `from_slot`.
        7 => epoch: Epoch,
        /// Absolute; by then its requirement must be met, else it is a dead letter. 0: none.
        8 => deadline_ms: u64,
        /// Absolute; past it the node decides that what was asked has expired. 0: none.
        9 => until_ms: u64,
        /// W3C `traceparent`, may be empty.
        10 => trace: String,
        11 => from_slot: Slot,
        /// For the node, opaque here.
        12 => body: Bytes,
        13 => created_ms: u64,
    }
}
