//! Of which slots it is not known that the view has all of them, and why that is so.

use std::collections::BTreeSet;

use cell_core::id::Slot;

/// Ends when a comparison with a peer, as of this very doubt, finds no difference.
#[derive(Debug, Default)]
pub(crate) struct Doubt {
    slots: BTreeSet<Slot>,
    /// Rises with every new doubt.
    generation: u64,
    /// The last one that was no part of taking state over; 0: none.
    lacking: u64,
    /// The last one that began as an older disk took the place of a newer one; 0: none.
    older: u64,
    /// Which one it was when state began to be taken over that is not all here.
    taking_over: Option<u64>,
}

impl Doubt {
    pub(crate) fn slots(&self) -> &BTreeSet<Slot> {
        &self.slots
    }

    /// Not zero while there is doubt: which one.
    pub(crate) fn generation(&self) -> u64 {
        if self.slots.is_empty() { 0 } else { self.generation }
    }

    /// These slots lack something.
    pub(crate) fn lack(&mut self, slots: impl IntoIterator<Item = Slot>) {
        self.raise(slots);
        if !self.slots.is_empty() {
            self.lacking = self.generation;
        }
    }

    /// All that is here is as it was once, and it was more.
    pub(crate) fn is_older(&mut self) {
        self.raise(Slot::all());
        self.older = self.generation;
    }

    /// A peer's state is being taken over, or still is.
    pub(crate) fn take_over(&mut self) {
        let before = self.generation;
        self.raise(Slot::all());
        self.taking_over.get_or_insert(before);
    }

    /// All of it is here, and with it whatever was lacking when that began. It is compared nevertheless.
    pub(crate) fn taken_over(&mut self) {
        if self.taking_over.take().is_some_and(|begun| self.lacking <= begun) {
            self.lacking = 0;
        }
        self.raise(Slot::all());
    }

    /// A peer had nothing more as of this doubt, or could not say so of some slots; whether that changed anything.
    pub(crate) fn agree(&mut self, generation: u64, but: &BTreeSet<Slot>) -> bool {
        if generation == 0 || self.generation() != generation {
            return false;
        }
        let before = self.slots.len();
        self.slots.retain(|slot| but.contains(slot));
        if self.slots.is_empty() {
            (self.lacking, self.older) = (0, 0);
        }
        self.slots.len() < before
    }

    /// Whether another region may build on what is here. It may while state is taken over, and before that was compared:
    /// how far this region says it is, it is. Two regions that each need the other's state, or lost their disks while a
    /// third one is away, would otherwise wait for each other.
    pub(crate) fn may_be_built_on(&self) -> bool {
        self.lacking == 0
    }

    /// Whether another region may conclude from what is not here that it never was. Not from an older disk, although all
    /// that it says to have it has.
    pub(crate) fn may_found(&self) -> bool {
        self.may_be_built_on() && self.older == 0
    }

    fn raise(&mut self, slots: impl IntoIterator<Item = Slot>) {
        self.slots.extend(slots);
        self.generation += u64::from(!self.slots.is_empty());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> [Slot; 1] {
        [Slot::new(7).unwrap()]
    }

    #[test]
    fn nobody_builds_on_what_lacks_something() {
        let mut doubt = Doubt::default();
        doubt.lack([]);
        assert!(doubt.may_be_built_on());
        doubt.lack(some());
        assert!(!doubt.may_be_built_on());
        doubt.lack([]);
        let none = BTreeSet::new();
        assert!(!doubt.agree(1, &none), "that was another doubt");
        assert!(doubt.agree(2, &none) && doubt.may_be_built_on());
        assert!(!doubt.agree(0, &none));
    }

    #[test]
    fn state_that_is_taken_over_is_built_on_before_it_was_compared() {
        let mut doubt = Doubt::default();
        doubt.take_over();
        assert!(doubt.may_be_built_on(), "it is as far as it says, and goes on");
        doubt.lack(some());
        assert!(!doubt.may_be_built_on());
        doubt.taken_over();
        doubt.take_over();
        assert!(!doubt.may_be_built_on());
        doubt.taken_over();
        assert!(doubt.may_be_built_on() && doubt.generation() > 0, "and yet it denies nothing");
        assert!(
            !doubt.agree(doubt.generation() - 1, &BTreeSet::new()),
            "a comparison from before it says nothing of it"
        );
    }

    #[test]
    fn an_older_disk_is_built_on_and_founds_nothing_until_a_peer_agrees() {
        let mut doubt = Doubt::default();
        doubt.is_older();
        assert!(doubt.may_be_built_on() && !doubt.may_found());
        doubt.take_over();
        doubt.taken_over();
        assert!(!doubt.may_found(), "the peer may have been wiped itself");
        assert!(doubt.agree(doubt.generation(), &some().into()) && !doubt.may_found());
        assert!(doubt.agree(doubt.generation(), &BTreeSet::new()) && doubt.may_found());
    }

    #[test]
    fn what_was_found_lacking_meanwhile_still_is() {
        let mut doubt = Doubt::default();
        doubt.take_over();
        doubt.lack(some());
        doubt.taken_over();
        assert!(!doubt.may_be_built_on());
        let doubted = doubt.generation();
        assert!(doubt.agree(doubted, &some().into()) && doubt.slots().len() == 1, "but for one slot");
        assert!(!doubt.may_be_built_on() && doubt.generation() == doubted);
        assert!(doubt.agree(doubted, &BTreeSet::new()) && doubt.may_be_built_on());
    }
}
