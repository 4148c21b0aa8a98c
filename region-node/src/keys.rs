//! The view's keys. The first byte says what a key is; an engine may keep kinds apart. Few keys per order: each costs an
//! update.
//!
//! | prefix | rest | value |
//! |---|---|---|
//! | `e` | entity 17 · part 2 | part of the entity's canonical bytes; in the first before it the count of parts 2, its digest 32 |
//! | `k` | key · 0 · user | ids of the orders placed under it, 16 bytes each |
//! | `u` | user · 0 · created ms 8 · order 16 | – |
//! | `r` | external_ref · 0 · user · 0 · created ms 8 · order 16 | – |
//! | `p`, `b` | payer (`p`) or buyer (`b`) · 0 · created ms 8 · payment 16 | – |
//! | `n` | user · 0 · place (see [`NOTICE_BYTES`]) | a notice (see `notice::Kept`) |
//! | `o` | user · 0 · id hash 16 | the place of its `n` key |
//! | `d` | due ms 8 · entity 17 | – |
//! | `x` | entity 17 | the due ms of its `d` key |
//! | `c` | at ms 8 · entity 17 · id 8 | kind, class, open: an entry of the conflict journal |
//! | `g` | entity 17 | at ms 8 · id 8 · kind, class, open, of each of its `c` keys |
//! | `h` | actor · 0 · seq 8 · part 2 | a part of a quarantined change's bytes; the rest of it is the node's own state |
//! | `q` | as of `e` | what was damaged, as it was found |
//! | `m` | name | the node's own state (see `own`) |

use bytes::Bytes;
use cell_core::id::{EntityId, UserId};
use cell_core::version::Dot;

/// Parts of an entity's bytes stay below what sled keeps inside its pages' file.
pub(crate) const PART_BYTES_MAX: usize = 60 * 1024;

/// Every key of the node's own state begins with it.
pub(crate) const OWN: &[u8] = b"m";
/// Over all other keys of it.
pub(crate) const SUM: &[u8] = b"msum";
/// Numbers of the slots in doubt, 2 bytes each.
pub(crate) const DOUBTS: &[u8] = b"mdoubts";
/// Names of the regions that have to be heard before what they wrote is denied, a line each.
pub(crate) const DISTRUSTED: &[u8] = b"mdistrusted";
/// There as long as a part of the log is missing that the view does not have either, and no comparison made it good.
pub(crate) const GAP: &[u8] = b"mgap";
pub(crate) const POSITION: &[u8] = b"mposition";
/// The log may begin here: what was before it was deleted on purpose.
pub(crate) const TRIMMED: &[u8] = b"mtrimmed";
pub(crate) const IDENTITY: &[u8] = b"midentity";
/// Whose view it is.
pub(crate) const OWNER: &[u8] = b"mowner";
/// What the view's keys and values mean; another number is another version's.
pub(crate) const FORMAT: &[u8] = b"mformat";
/// Those of views that had no [`SUM`].
pub(crate) const FORMATS_WITHOUT_SUM: [&[u8]; 2] = [&[0, 1], &[0, 2]];
/// Of so many slots under each key: few keys where many orders come together, few bytes where one comes alone.
pub(crate) const DIGESTS: &[u8] = b"mdigests/";
pub(crate) const DIGESTS_OF_KEY: u16 = 64;
/// Every entity's key begins with it.
pub(crate) const ENTITIES: &[u8] = b"e";
/// No entity's key is as high as this.
pub(crate) const BEHIND_ENTITIES: &[u8] = b"f";
/// What was damaged, as it was found.
pub(crate) const ASIDE: &[u8] = b"q";
/// Every quarantined change, without its bytes.
pub(crate) const QUARANTINED: &[u8] = b"mquarantined/";
pub(crate) const FRONTIER: &[u8] = b"mfrontier/";
pub(crate) const EPOCHS: &[u8] = b"mepochs";
pub(crate) const CLOSED: &[u8] = b"mclosed/";
pub(crate) const LIVES: &[u8] = b"mlives/";
pub(crate) const BEYOND: &[u8] = b"mbeyond/";

fn join(parts: &[&[u8]]) -> Bytes {
    Bytes::from(parts.concat())
}

pub(crate) fn entity_part(id: &EntityId, part: u16) -> Bytes {
    join(&[b"e", &id.to_bytes(), &part.to_be_bytes()])
}

pub(crate) fn entity_prefix(id: &EntityId) -> Bytes {
    join(&[b"e", &id.to_bytes()])
}

fn of_dot(prefix: &[u8], dot: &Dot) -> Bytes {
    join(&[prefix, dot.actor.to_string().as_bytes(), &[0], &dot.seq.to_be_bytes()])
}

pub(crate) fn quarantined(dot: &Dot) -> Bytes {
    of_dot(QUARANTINED, dot)
}

/// The parts of its bytes begin with it.
pub(crate) fn quarantined_parts(dot: &Dot) -> Bytes {
    of_dot(b"h", dot)
}

pub(crate) fn quarantined_part(dot: &Dot, part: u16) -> Bytes {
    join(&[&quarantined_parts(dot), &part.to_be_bytes()])
}

pub(crate) fn digests(nth: u16) -> Bytes {
    join(&[DIGESTS, &nth.to_be_bytes()])
}

/// The entity and the part of an `e` key.
pub(crate) fn entity_of_part(key: &[u8]) -> Option<(EntityId, u16)> {
    let (id, part) = key.get(1..)?.split_first_chunk::<17>()?;
    Some((EntityId::from_bytes(id), u16::from_be_bytes(part.try_into().ok()?)))
}

/// Ordered by the key first: keys that are UUIDv7 come in time order, which keeps the tree fast.
pub(crate) fn command(user: &UserId, key: &str) -> Bytes {
    join(&[b"k", key.as_bytes(), &[0], user.as_str().as_bytes()])
}

pub(crate) fn of_user(prefix: u8, user: &UserId) -> Bytes {
    join(&[&[prefix], user.as_str().as_bytes(), &[0]])
}

/// Bytes behind the head of a per-user entry: created ms and id.
pub(crate) const STAMPED_BYTES: usize = 24;

/// A user's orders with this number of the platform's own.
pub(crate) fn of_ref(external_ref: &str, user: &UserId) -> Bytes {
    join(&[b"r", external_ref.as_bytes(), &[0], user.as_str().as_bytes(), &[0]])
}

pub(crate) fn ref_entry(external_ref: &str, user: &UserId, created_ms: u64, id: &[u8; 16]) -> Bytes {
    join(&[&of_ref(external_ref, user), &created_ms.to_be_bytes(), id])
}

pub(crate) fn user_entry(prefix: u8, user: &UserId, created_ms: u64, id: &[u8; 16]) -> Bytes {
    join(&[&of_user(prefix, user), &created_ms.to_be_bytes(), id])
}

/// Bytes of a notice's place among its user's: the view's position when it came, its own time, its id.
pub(crate) const NOTICE_BYTES: usize = 40;

/// Notices are in the order in which they came to this view, so that a reader goes on behind the last one it read.
pub(crate) fn notice_place(position: u64, wall_ms: u64, counter: u64, id: &[u8; 16]) -> [u8; NOTICE_BYTES] {
    let mut place = [0; NOTICE_BYTES];
    place[..8].copy_from_slice(&position.to_be_bytes());
    place[8..16].copy_from_slice(&wall_ms.to_be_bytes());
    place[16..24].copy_from_slice(&counter.to_be_bytes());
    place[24..].copy_from_slice(id);
    place
}

pub(crate) fn notice(user: &UserId, place: &[u8]) -> Bytes {
    join(&[&of_user(b'n', user), place])
}

pub(crate) fn place_of_notice(user: &UserId, id: &[u8; 16]) -> Bytes {
    join(&[&of_user(b'o', user), id])
}

pub(crate) fn due(due_ms: u64, id: &EntityId) -> Bytes {
    join(&[b"d", &due_ms.to_be_bytes(), &id.to_bytes()])
}

pub(crate) fn due_of(id: &EntityId) -> Bytes {
    join(&[b"x", &id.to_bytes()])
}

/// Every entry of the conflict journal begins with it, oldest first.
pub(crate) const CONFLICTS: &[u8] = b"c";

pub(crate) fn conflict(at_ms: u64, entity: &EntityId, id: &[u8; 8]) -> Bytes {
    join(&[CONFLICTS, &at_ms.to_be_bytes(), &entity.to_bytes(), id])
}

pub(crate) fn conflicts_of(entity: &EntityId) -> Bytes {
    join(&[b"g", &entity.to_bytes()])
}

/// When, of what, and which one, of a `c` key.
pub(crate) fn entry_of_conflict(key: &[u8]) -> Option<(u64, EntityId, [u8; 8])> {
    let (at_ms, rest) = key.get(1..)?.split_first_chunk::<8>()?;
    let (entity, id) = rest.split_first_chunk::<17>()?;
    Some((u64::from_be_bytes(*at_ms), EntityId::from_bytes(entity), id.try_into().ok()?))
}

/// When, and the entity, of a `d` key.
pub(crate) fn entity_of_due(key: &[u8]) -> Option<(u64, EntityId)> {
    let ms = u64::from_be_bytes(key.get(1..9)?.try_into().ok()?);
    Some((ms, EntityId::from_bytes(key.get(9..26)?.try_into().ok()?)))
}

/// The last 16 bytes of a per-user key: an order's or a payment's id.
pub(crate) fn id_of_user_entry(key: &[u8]) -> Option<[u8; 16]> {
    key.get(key.len().checked_sub(16)?..)?.try_into().ok()
}

/// The entity of an `x` key.
pub(crate) fn entity_of_due_of(key: &[u8]) -> Option<EntityId> {
    Some(EntityId::from_bytes(key.get(1..)?.try_into().ok()?))
}

/// Whose a per-user key is, with `rest` bytes behind the name and its zero.
pub(crate) fn user_of(key: &[u8], rest: usize) -> Option<UserId> {
    let name = key.get(1..key.len().checked_sub(rest + 1)?)?;
    UserId::new(std::str::from_utf8(name).ok()?).ok()
}
