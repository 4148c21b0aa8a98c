//! What many messages name alike, kept once.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use crate::id::{ActorId, RegionId};
use crate::placement::Epoch;

/// A short name for a value, valid while somebody holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Short<T>(u32, PhantomData<T>);

/// Where a message comes from, and the epoch under which its slot was owned there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Sender {
    pub(super) region: RegionId,
    pub(super) epoch: Epoch,
}

#[derive(Debug, Default)]
pub(super) struct Names {
    pub(super) actors: Interned<ActorId>,
    pub(super) senders: Interned<Sender>,
}

/// Values, once each, for as long as somebody holds them.
#[derive(Debug)]
pub(super) struct Interned<T> {
    held: Vec<(T, u32)>,
    known: BTreeMap<T, Short<T>>,
    free: Vec<Short<T>>,
}

impl<T> Default for Interned<T> {
    fn default() -> Self {
        Interned { held: Vec::new(), known: BTreeMap::new(), free: Vec::new() }
    }
}

impl<T: Copy + Ord> Interned<T> {
    pub(super) fn hold(&mut self, value: T) -> Short<T> {
        if let Some(&short) = self.known.get(&value) {
            self.held[short.0 as usize].1 += 1;
            return short;
        }
        let short = match self.free.pop() {
            Some(short) => {
                self.held[short.0 as usize] = (value, 1);
                short
            }
            None => {
                self.held.push((value, 1));
                Short((self.held.len() - 1) as u32, PhantomData)
            }
        };
        self.known.insert(value, short);
        short
    }

    pub(super) fn release(&mut self, short: Short<T>) {
        let (value, holders) = &mut self.held[short.0 as usize];
        *holders -= 1;
        if *holders == 0 {
            self.known.remove(value);
            self.free.push(short);
        }
    }

    pub(super) fn get(&self, short: Short<T>) -> T {
        self.held[short.0 as usize].0
    }

    pub(super) fn find(&self, value: &T) -> Option<Short<T>> {
        self.known.get(value).copied()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }
}
