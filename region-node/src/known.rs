//! Which ids and which commands are in the view: so that one whose key the engine forgets while the node runs is missed
//! when it is read, and so that the engine is not asked for what is new. It answers that as slowly as anything, and while
//! it writes down which files it has, it answers nothing.
//!
//! Five bytes each, in a table for each slot, which takes 7 to 14 bytes for one; two are taken for one once in about 10^8 at
//! ten million of them, and then one that never was is not denied. Filled by the first reading of the view, and with every
//! batch.

use std::hash::{BuildHasher, RandomState};
use std::sync::{PoisonError, RwLock};

use cell_core::id::{EntityId, SLOT_COUNT, Slot};
use hashbrown::HashTable;

const PRINT_BYTES: usize = 5;
/// An odd number with its bits spread: 2^64 by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

type Print = [u8; PRINT_BYTES];

/// Where in the table: it looks at the lowest and the highest bits.
fn place_of(print: &Print) -> u64 {
    let [a, b, c, d, e] = *print;
    u64::from_be_bytes([0, 0, 0, a, b, c, d, e]).wrapping_mul(SPREAD)
}

/// By slot.
#[derive(Debug)]
struct Prints(Vec<RwLock<HashTable<Print>>>);

impl Default for Prints {
    fn default() -> Prints {
        Prints((0..SLOT_COUNT).map(|_| RwLock::default()).collect())
    }
}

impl Prints {
    fn contains(&self, slot: Slot, print: &Print) -> bool {
        let of_slot = self.0[usize::from(slot.number())].read();
        let of_slot = of_slot.unwrap_or_else(PoisonError::into_inner);
        of_slot.find(place_of(print), |other| other == print).is_some()
    }

    fn add(&self, slot: Slot, print: Print) {
        let of_slot = self.0[usize::from(slot.number())].write();
        let mut of_slot = of_slot.unwrap_or_else(PoisonError::into_inner);
        // Found or not, it is there then.
        of_slot.entry(place_of(&print), |other| *other == print, place_of).or_insert(print);
    }
}

/// Shared by the applier and readers.
#[derive(Debug, Default)]
pub(crate) struct Known {
    ids: Prints,
    commands: Prints,
    of_command: RandomState,
}

/// Every bit of the id has a part in it, so that one with a flipped bit is another.
fn print_of(id: &EntityId) -> Print {
    let [place, hash] = [0, 8].map(|from| u64::from_be_bytes(std::array::from_fn(|i| id.id.0[from + i])));
    let mixed = (place ^ u64::from(id.kind.0)).wrapping_mul(SPREAD).rotate_left(29) ^ hash;
    let bytes = mixed.wrapping_mul(SPREAD).to_be_bytes();
    std::array::from_fn(|i| bytes[i])
}

impl Known {
    pub(crate) fn contains(&self, id: &EntityId) -> bool {
        self.ids.contains(id.slot(), &print_of(id))
    }

    pub(crate) fn add(&self, id: &EntityId) {
        self.ids.add(id.slot(), print_of(id));
    }

    /// Whether an order of a user of this slot was placed under this `k` key.
    pub(crate) fn contains_command(&self, slot: Slot, key: &[u8]) -> bool {
        self.commands.contains(slot, &self.print_of_command(key))
    }

    pub(crate) fn add_command(&self, slot: Slot, key: &[u8]) {
        self.commands.add(slot, self.print_of_command(key));
    }

    fn print_of_command(&self, key: &[u8]) -> Print {
        let bytes = self.of_command.hash_one(key).to_be_bytes();
        std::array::from_fn(|i| bytes[i])
    }
}

#[cfg(test)]
mod tests {
    use cell_core::id::{OrderId, PublicId, UserId};

    use super::*;
    use crate::keys;

    #[test]
    fn every_id_that_was_added_is_known_and_others_are_not() {
        let known = Known::default();
        let id = |n: u64| {
            let hash = cell_core::id::Hash::of(&n.to_be_bytes()).0;
            // Few slots, so that many are sorted in.
            let bytes = std::array::from_fn(|i| match i {
                6 => 0,
                7 => (n % 3) as u8,
                i => hash[i],
            });
            EntityId::from(OrderId(PublicId(bytes)))
        };
        (0..2_000).for_each(|n| known.add(&id(n)));
        (0..2_000).for_each(|n| known.add(&id(n)));
        assert!((0..2_000).all(|n| known.contains(&id(n))));
        assert!((2_000..4_000).all(|n| !known.contains(&id(n))));
        let kept: usize = known.ids.0.iter().map(|of_slot| of_slot.read().unwrap().len()).sum();
        assert_eq!(kept, 2_000);
    }

    #[test]
    fn a_command_is_known_by_its_user_and_its_key() {
        let known = Known::default();
        let command = |name, key| {
            let user = UserId::new(name).unwrap();
            (user.slot(), keys::command(&user, key))
        };
        let contains = |(slot, key): (Slot, bytes::Bytes)| known.contains_command(slot, &key);
        let (slot, key) = command("a", "one");
        known.add_command(slot, &key);
        assert!(contains(command("a", "one")));
        assert!(!contains(command("a", "two")) && !contains(command("b", "one")));
    }
}
