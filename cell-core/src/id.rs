//! Identities: regions, nodes, actors, users, slots, and public ids that route by themselves.

use std::fmt;
use std::str::FromStr;

use crate::canon::{Field, Malformed, Raw, Repeated, message, put_bytes};

/// Number of slots of a cluster, fixed when it is created.
pub const SLOT_COUNT: u16 = 1024;
/// Longest user id accepted, in bytes.
pub const USER_ID_BYTES_MAX: usize = 128;

/// Why a text is not an identity; the caller's input is at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("a region is 1 to 16 characters of a-z, 0-9 and '-', and starts with a letter")]
    Region,
    #[error("a user id is 1 to {USER_ID_BYTES_MAX} bytes without control characters")]
    User,
    #[error("a public id is 'ord_' or 'pay_' and 26 characters of Crockford base 32")]
    Public,
    #[error("a slot is a number below {SLOT_COUNT}")]
    Slot,
}

// === Hash ===

/// A BLAKE3 hash, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash of nothing yet: what the first entry of an actor is chained to.
    pub const ZERO: Hash = Hash([0; 32]);

    #[must_use]
    pub fn of(bytes: &[u8]) -> Hash {
        Hash(*blake3::hash(bytes).as_bytes())
    }

    /// The hash of several parts, each prefixed by its length so that no two lists of parts collide.
    #[must_use]
    pub fn of_parts(parts: &[&[u8]]) -> Hash {
        let mut hasher = blake3::Hasher::new();
        for part in parts {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Hash(*hasher.finalize().as_bytes())
    }

    /// The first half, where 128 bits are enough.
    #[must_use]
    pub fn short(&self) -> [u8; 16] {
        std::array::from_fn(|i| self.0[i])
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
impl Field for Hash {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        self.0.put(tag, out);
    }
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
        let mut inner = None;
        <[u8; 32]>::take(&mut inner, raw)?;
        *slot = inner.map(Hash);
        Ok(())
    }
    fn absent() -> Option<Self> {
        None
    }
}
impl Repeated for Hash {}

// === RegionId, NodeId, ActorId ===

/// A short lower-case region name such as `north`. Inline, so that actors and dots are `Copy`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegionId([u8; 16]);

impl RegionId {
    /// # Errors
    /// [`IdError::Region`] unless 1–16 characters of `a-z0-9-`, the first a letter.
    pub fn new(name: &str) -> Result<Self, IdError> {
        let bytes = name.as_bytes();
        let legal = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
        if bytes.is_empty() || bytes.len() > 16 || !bytes[0].is_ascii_lowercase() || !bytes.iter().all(legal)
        {
            return Err(IdError::Region);
        }
        let mut inline = [0; 16];
        inline[..bytes.len()].copy_from_slice(bytes);
        Ok(RegionId(inline))
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        let len = self.0.iter().position(|&b| b == 0).unwrap_or(16);
        std::str::from_utf8(&self.0[..len]).unwrap_or("")
    }
}
impl fmt::Display for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl fmt::Debug for RegionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
impl FromStr for RegionId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        RegionId::new(text)
    }
}
impl Field for RegionId {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        put_bytes(tag, self.as_str().as_bytes(), out);
    }
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
        let text =
            std::str::from_utf8(raw.bytes()?).map_err(|_| Malformed::Value("a region is not UTF-8"))?;
        *slot = Some(RegionId::new(text).map_err(|_| Malformed::Value("not a region name"))?);
        Ok(())
    }
    fn absent() -> Option<Self> {
        None
    }
}
impl Repeated for RegionId {}

message! {
    /// One node of a cell: region and index within it.
    #[derive(Copy, PartialOrd, Ord, Hash)]
    pub struct NodeId { 1 => region: RegionId, 2 => index: u64 }
}
impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.region, self.index)
    }
}

message! {
    /// One start of one node. Never used twice, so neither is a sequence number: not after a lost disk, a restored
    /// backup or a cloned machine. Ordered by node, then start, then nonce, so a restart outranks what came before it.
    #[derive(Copy, PartialOrd, Ord, Hash)]
    pub struct ActorId { 1 => node: NodeId, 2 => start: u64, 3 => nonce: u64 }
}
impl ActorId {
    #[must_use]
    pub fn region(&self) -> RegionId {
        self.node.region
    }
}
impl fmt::Display for ActorId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{:016x}", self.node, self.start, self.nonce)
    }
}
impl FromStr for ActorId {
    type Err = Malformed;
    /// Reads what `Display` writes: `north-0.3.9f2c0000deadbeef`.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        const BAD: Malformed = Malformed::Value("an actor is REGION-INDEX.START.NONCE");
        let mut parts = text.split('.');
        let (Some(node), Some(start), Some(nonce), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(BAD);
        };
        let (region, index) = node.rsplit_once('-').ok_or(BAD)?;
        Ok(ActorId {
            node: NodeId {
                region: RegionId::new(region).map_err(|_| BAD)?,
                index: index.parse().map_err(|_| BAD)?,
            },
            start: start.parse().map_err(|_| BAD)?,
            nonce: u64::from_str_radix(nonce, 16).map_err(|_| BAD)?,
        })
    }
}

// === UserId, Slot ===

/// An opaque user id, 1 to 128 bytes of UTF-8 without control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserId(std::sync::Arc<str>);

impl UserId {
    /// # Errors
    /// [`IdError::User`] if empty, too long, or with control characters.
    pub fn new(id: &str) -> Result<Self, IdError> {
        if id.is_empty() || id.len() > USER_ID_BYTES_MAX || id.chars().any(char::is_control) {
            return Err(IdError::User);
        }
        Ok(UserId(id.into()))
    }
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
    #[must_use]
    pub fn slot(&self) -> Slot {
        Slot::of_user(&self.0)
    }
}
impl fmt::Display for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for UserId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl Field for UserId {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        put_bytes(tag, self.0.as_bytes(), out);
    }
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
        let text =
            std::str::from_utf8(raw.bytes()?).map_err(|_| Malformed::Value("a user id is not UTF-8"))?;
        *slot = Some(UserId::new(text).map_err(|_| Malformed::Value("not a user id"))?);
        Ok(())
    }
    fn absent() -> Option<Self> {
        None
    }
}
impl Repeated for UserId {}

/// One of [`SLOT_COUNT`] shares of the users. Slots, not users, have homes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u16);

impl Slot {
    /// # Errors
    /// [`IdError::Slot`] if `number` is not below [`SLOT_COUNT`].
    pub fn new(number: u16) -> Result<Self, IdError> {
        if number < SLOT_COUNT { Ok(Slot(number)) } else { Err(IdError::Slot) }
    }
    /// The slot of a user: the first 16 bits (big endian) of BLAKE3(user id), modulo [`SLOT_COUNT`].
    #[must_use]
    pub fn of_user(user: &str) -> Slot {
        let hash = blake3::hash(user.as_bytes());
        let bytes = hash.as_bytes();
        Slot(u16::from_be_bytes([bytes[0], bytes[1]]) % SLOT_COUNT)
    }
    #[must_use]
    pub fn number(self) -> u16 {
        self.0
    }
    pub fn all() -> impl Iterator<Item = Slot> {
        (0..SLOT_COUNT).map(Slot)
    }
}
impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "slot {}", self.0)
    }
}
impl Field for Slot {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        u64::from(self.0).put(tag, out);
    }
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
        let number = u16::try_from(raw.varint()?).map_err(|_| Malformed::Value("not a slot"))?;
        *slot = Some(Slot::new(number).map_err(|_| Malformed::Value("not a slot"))?);
        Ok(())
    }
    fn absent() -> Option<Self> {
        Some(Slot(0))
    }
}
impl Repeated for Slot {
    fn put_always(&self, tag: u32, out: &mut Vec<u8>) {
        u64::from(self.0).put_always(tag, out);
    }
}

// === PublicId and what wears it ===

/// 128 bits: 48 of time (ms), 16 of slot, 64 of content hash. Sorts by time; anything that knows it can route by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicId(pub [u8; 16]);

impl PublicId {
    /// `time_ms` is cut to 48 bits.
    #[must_use]
    pub fn new(time_ms: u64, slot: Slot, hash: &Hash) -> PublicId {
        let mut id = [0; 16];
        id[..6].copy_from_slice(&time_ms.to_be_bytes()[2..]);
        id[6..8].copy_from_slice(&slot.0.to_be_bytes());
        id[8..].copy_from_slice(&hash.0[..8]);
        PublicId(id)
    }
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        let mut wide = [0; 8];
        wide[2..].copy_from_slice(&self.0[..6]);
        u64::from_be_bytes(wide)
    }
    /// The slot it routes to. Foreign bits above the slot range fold into it, so that this is total.
    #[must_use]
    pub fn slot(&self) -> Slot {
        Slot(u16::from_be_bytes([self.0[6], self.0[7]]) % SLOT_COUNT)
    }

    fn write_text(&self, prefix: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = u128::from_be_bytes(self.0);
        f.write_str(prefix)?;
        (0..26).rev().try_for_each(|i| {
            let digit = (value >> (i * 5)) as usize & 31;
            write!(f, "{}", CROCKFORD[digit] as char)
        })
    }

    fn read_text(prefix: &str, text: &str) -> Result<PublicId, IdError> {
        let digits = text.strip_prefix(prefix).ok_or(IdError::Public)?.as_bytes();
        if digits.len() != 26 || digits[0] > b'7' {
            return Err(IdError::Public);
        }
        let mut value = 0u128;
        for digit in digits {
            let index = CROCKFORD.iter().position(|c| c == digit).ok_or(IdError::Public)?;
            value = value << 5 | index as u128;
        }
        Ok(PublicId(value.to_be_bytes()))
    }
}

const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

macro_rules! public_id {
    ($(#[$meta:meta])* $name:ident, $prefix:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub PublicId);
        impl $name {
            #[must_use]
            pub fn slot(&self) -> Slot {
                self.0.slot()
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write_text($prefix, f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.write_text($prefix, f)
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                PublicId::read_text($prefix, text).map($name)
            }
        }
        impl Field for $name {
            fn put(&self, tag: u32, out: &mut Vec<u8>) {
                self.0.0.put(tag, out);
            }
            fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
                let mut inner = None;
                <[u8; 16]>::take(&mut inner, raw)?;
                *slot = inner.map(|id| $name(PublicId(id)));
                Ok(())
            }
            fn absent() -> Option<Self> {
                None
            }
        }
        impl Repeated for $name {}
    };
}

public_id! {
    /// An order; belongs to the buyer's slot.
    OrderId, "ord_"
}
public_id! {
    /// A payment; belongs to the payer's slot.
    PaymentId, "pay_"
}

// === EntityId ===

/// What kind of thing an entity is. Kinds of a newer version keep their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityKind(pub u8);

impl EntityKind {
    pub const ORDER: EntityKind = EntityKind(1);
    pub const PAYMENT: EntityKind = EntityKind(2);
}

/// The key of an entity: its kind and public id, 17 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntityId {
    pub kind: EntityKind,
    pub id: PublicId,
}

impl EntityId {
    #[must_use]
    pub fn slot(&self) -> Slot {
        self.id.slot()
    }
    #[must_use]
    pub fn to_bytes(&self) -> [u8; 17] {
        let mut bytes = [self.kind.0; 17];
        bytes[1..].copy_from_slice(&self.id.0);
        bytes
    }
    #[must_use]
    pub fn from_bytes(bytes: &[u8; 17]) -> EntityId {
        EntityId { kind: EntityKind(bytes[0]), id: PublicId(std::array::from_fn(|i| bytes[i + 1])) }
    }
    #[must_use]
    pub fn order(&self) -> Option<OrderId> {
        (self.kind == EntityKind::ORDER).then_some(OrderId(self.id))
    }
    #[must_use]
    pub fn payment(&self) -> Option<PaymentId> {
        (self.kind == EntityKind::PAYMENT).then_some(PaymentId(self.id))
    }
}
impl From<OrderId> for EntityId {
    fn from(id: OrderId) -> Self {
        EntityId { kind: EntityKind::ORDER, id: id.0 }
    }
}
impl From<PaymentId> for EntityId {
    fn from(id: PaymentId) -> Self {
        EntityId { kind: EntityKind::PAYMENT, id: id.0 }
    }
}
impl fmt::Display for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            EntityKind::ORDER => self.id.write_text("ord_", f),
            EntityKind::PAYMENT => self.id.write_text("pay_", f),
            EntityKind(other) => {
                write!(f, "kind{other}_")?;
                self.id.write_text("", f)
            }
        }
    }
}
impl fmt::Debug for EntityId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
impl FromStr for EntityId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        text.parse::<OrderId>().map(EntityId::from).or_else(|_| text.parse::<PaymentId>().map(EntityId::from))
    }
}
impl Field for EntityId {
    fn put(&self, tag: u32, out: &mut Vec<u8>) {
        self.to_bytes().put(tag, out);
    }
    fn take(slot: &mut Option<Self>, raw: Raw<'_>) -> Result<(), Malformed> {
        let mut inner = None;
        <[u8; 17]>::take(&mut inner, raw)?;
        *slot = inner.map(|bytes| EntityId::from_bytes(&bytes));
        Ok(())
    }
    fn absent() -> Option<Self> {
        None
    }
}
impl Repeated for EntityId {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_never_change_for_a_user() {
        let seen: Vec<u16> =
            ["alice", "bob", "carol", "shop1:用户", ""].iter().map(|u| Slot::of_user(u).number()).collect();
        assert_eq!(seen, SLOT_VECTORS);
    }
    const SLOT_VECTORS: [u16; 5] = [434, 118, 669, 638, 787];

    #[test]
    fn an_id_carries_time_and_slot_and_survives_its_text() {
        let slot = Slot::new(777).unwrap();
        let id = OrderId(PublicId::new(1_790_000_000_123, slot, &Hash::of(b"x")));
        assert_eq!((id.0.time_ms(), id.slot()), (1_790_000_000_123, slot));
        assert_eq!(id.to_string().parse::<OrderId>(), Ok(id));
        assert_eq!(id.to_string().len(), 30);
        for bad in ["ord_", "pay_", "ord_zzzzzzzzzzzzzzzzzzzzzzzzzz", "ord_0000000000000000000000000u", "x"] {
            assert_eq!(bad.parse::<OrderId>(), Err(IdError::Public), "{bad}");
        }
    }

    #[test]
    fn an_actor_survives_its_text() {
        let node = NodeId { region: RegionId::new("north-2").unwrap(), index: 3 };
        let actor = ActorId { node, start: 7, nonce: 0xdead };
        assert_eq!(actor.to_string().parse::<ActorId>(), Ok(actor));
        assert!("north.1".parse::<ActorId>().is_err());
    }

    #[test]
    fn regions_are_short_and_lower_case() {
        for bad in ["", "North", "1n", "a_b", "seventeen-letters"] {
            assert_eq!(RegionId::new(bad), Err(IdError::Region), "{bad}");
        }
    }
}
