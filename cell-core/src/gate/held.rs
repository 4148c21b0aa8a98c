//! Everything held: in chunks, so that no growth copies it, each item at a small number, and by id.

use std::collections::BTreeSet;

use super::MessageId;
use super::item::Item;
use super::sorted::Sorted;

/// Items at most; they are numbered with 32 bits.
pub(super) const HELD_MAX: usize = u32::MAX as usize;
/// Items in one chunk: what fits into 32 KiB, since an allocator hands out powers of two without loss. The number of an
/// item within its chunk is one byte.
pub(super) const CHUNK: usize = (32 << 10) / size_of::<Option<Item>>();
const _: () = assert!(CHUNK <= 256);

/// Where an item is, valid while it is held. Orders name items by it: four bytes instead of the sixteen of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ItemIx(u32);

impl ItemIx {
    pub(super) const MIN: ItemIx = ItemIx(0);
    pub(super) const MAX: ItemIx = ItemIx(u32::MAX);

    fn parts(self) -> (usize, usize) {
        (self.0 as usize / CHUNK, self.0 as usize % CHUNK)
    }
}

#[derive(Debug, Default)]
struct Chunk {
    /// Grows to [`CHUNK`] within the room it takes at once.
    items: Vec<Option<Item>>,
    free: Vec<u8>,
}

/// The items, and the one order whose keys are ids.
#[derive(Debug, Default)]
pub(super) struct Held {
    ids: Sorted<(MessageId, ItemIx)>,
    chunks: Vec<Chunk>,
    /// Chunks with room. The first is filled first, so that the last ones become empty and give their memory back.
    roomy: BTreeSet<usize>,
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.ids.len()
    }

    pub(super) fn find(&self, id: &MessageId) -> Option<ItemIx> {
        let (found, ix) = self.ids.from((*id, ItemIx::MIN)).next()?;
        (found == id).then_some(*ix)
    }

    pub(super) fn get(&self, ix: ItemIx) -> Option<&Item> {
        let (chunk, at) = ix.parts();
        self.chunks.get(chunk)?.items.get(at)?.as_ref()
    }

    pub(super) fn get_mut(&mut self, ix: ItemIx) -> Option<&mut Item> {
        let (chunk, at) = ix.parts();
        self.chunks.get_mut(chunk)?.items.get_mut(at)?.as_mut()
    }

    /// Takes an item whose id is not held, while there are fewer than [`HELD_MAX`].
    pub(super) fn insert(&mut self, item: Item) -> ItemIx {
        let id = item.id;
        let nth = self.roomy.first().copied().unwrap_or(self.chunks.len());
        if nth == self.chunks.len() {
            self.chunks.push(Chunk::default());
            self.roomy.insert(nth);
        }
        let chunk = &mut self.chunks[nth];
        let at = match chunk.free.pop() {
            Some(at) => {
                chunk.items[usize::from(at)] = Some(item);
                usize::from(at)
            }
            None => {
                chunk.items.reserve_exact(CHUNK - chunk.items.len());
                chunk.items.push(Some(item));
                chunk.items.len() - 1
            }
        };
        if chunk.free.is_empty() && chunk.items.len() == CHUNK {
            self.roomy.remove(&nth);
        }
        let ix = ItemIx((nth * CHUNK + at) as u32);
        self.ids.insert((id, ix));
        ix
    }

    pub(super) fn remove(&mut self, ix: ItemIx) -> Option<Item> {
        let (nth, at) = ix.parts();
        let chunk = self.chunks.get_mut(nth)?;
        let item = chunk.items.get_mut(at)?.take()?;
        self.ids.remove(&(item.id, ix));
        chunk.free.push(at as u8);
        // The first stays, so that a gate with little to do takes and gives no memory.
        if chunk.free.len() == chunk.items.len() && nth > 0 {
            *chunk = Chunk::default();
        }
        self.roomy.insert(nth);
        Some(item)
    }

    /// All from a number on.
    pub(super) fn from(&self, first: ItemIx) -> impl Iterator<Item = (ItemIx, &Item)> {
        let (nth, at) = first.parts();
        let chunks = self.chunks.iter().enumerate().skip(nth);
        chunks.flat_map(move |(chunk, Chunk { items, .. })| {
            let from = if chunk == nth { at } else { 0 };
            let held = items.iter().enumerate().skip(from);
            held.filter_map(move |(at, item)| Some((ItemIx((chunk * CHUNK + at) as u32), item.as_ref()?)))
        })
    }

    /// All, in the order of their numbers.
    pub(super) fn iter(&self) -> impl Iterator<Item = (ItemIx, &Item)> {
        self.from(ItemIx::MIN)
    }

    /// Every number that an item may have; which of them have one may change while they are gone through.
    pub(super) fn numbers(&self) -> impl Iterator<Item = ItemIx> + use<> {
        (0..(self.chunks.len() * CHUNK) as u32).map(ItemIx)
    }

    /// All behind an id, in the order of ids.
    pub(super) fn by_id(&self, after: Option<MessageId>) -> impl Iterator<Item = &Item> {
        let from = after.map_or((MessageId([0; 16]), ItemIx::MIN), |id| (id, ItemIx::MAX));
        let behind = self.ids.from(from).filter(move |(id, _)| Some(*id) != after);
        behind.filter_map(|(_, ix)| self.get(*ix))
    }

    /// Bytes that one of many takes here.
    #[cfg(test)]
    pub(super) fn resident_bytes() -> usize {
        // The byte is its place in the list of free ones, once it was free.
        size_of::<Option<Item>>() + 1 + Sorted::<(MessageId, ItemIx)>::resident_bytes()
    }

    /// Chunks that take memory.
    #[cfg(test)]
    pub(super) fn chunks(&self) -> usize {
        self.chunks.iter().filter(|chunk| chunk.items.capacity() > 0).count()
    }
}
