//! An ordered set for millions of small keys, which they fill nearly alone.
//!
//! A standard B-tree keeps eleven keys a node and leaves its nodes half empty when it is filled in rising order, as
//! sequence numbers and times are. Here keys lie in runs of 2 KiB. In rising order they fill them; in any order runs are
//! at least half full, but where keys went, at least three eighths with their neighbour. Growth copies half a run at most,
//! and now and then the list of runs, of which there is one for a hundred keys.

use std::collections::VecDeque;

/// What an allocator hands out without loss.
const RUN_BYTES: usize = 2 << 10;

/// The lowest key that belongs into a run, and its keys, at least one.
type Run<K> = (K, Vec<K>);

#[derive(Debug)]
pub(super) struct Sorted<K> {
    runs: VecDeque<Run<K>>,
    len: usize,
}

impl<K> Default for Sorted<K> {
    fn default() -> Self {
        Sorted { runs: VecDeque::new(), len: 0 }
    }
}

impl<K: Copy + Ord> Sorted<K> {
    const RUN: usize = RUN_BYTES / size_of::<K>();

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn first(&self) -> Option<&K> {
        self.runs.front()?.1.first()
    }

    /// `false` if it is there already.
    pub(super) fn insert(&mut self, key: K) -> bool {
        let nth = self.run_of(&key);
        let Some((lowest, run)) = self.runs.get_mut(nth) else {
            self.runs.push_back((key, Self::run(&[key])));
            self.len = 1;
            return true;
        };
        let Err(at) = run.binary_search(&key) else { return false };
        self.len += 1;
        *lowest = key.min(*lowest);
        if run.len() < Self::RUN {
            run.insert(at, key);
        } else if at == run.len() {
            // Between two runs: into the upper if that has room, else into one of its own. The lower stays full.
            match self.runs.get_mut(nth + 1) {
                Some((lowest, upper)) if upper.len() < Self::RUN => {
                    upper.insert(0, key);
                    *lowest = key;
                }
                _ => self.runs.insert(nth + 1, (key, Self::run(&[key]))),
            }
        } else {
            let mut upper = Self::run(&run[Self::RUN / 2..]);
            run.truncate(Self::RUN / 2);
            match at.checked_sub(run.len()) {
                // At the very end of the lower half it stays there: what is lowest above is higher.
                None | Some(0) => run.insert(at, key),
                Some(at) => upper.insert(at, key),
            }
            self.runs.insert(nth + 1, (upper[0], upper));
        }
        true
    }

    /// `false` if it was not there.
    pub(super) fn remove(&mut self, key: &K) -> bool {
        let nth = self.run_of(key);
        let Some((_, run)) = self.runs.get_mut(nth) else { return false };
        let Ok(at) = run.binary_search(key) else { return false };
        run.remove(at);
        self.len -= 1;
        if run.is_empty() {
            self.runs.remove(nth);
        } else if run.len() <= Self::RUN / 2 {
            self.join(nth);
            if let Some(before) = nth.checked_sub(1) {
                self.join(before);
            }
        }
        true
    }

    /// All from a key on, in order.
    pub(super) fn from(&self, key: K) -> impl Iterator<Item = &K> {
        let nth = self.run_of(&key);
        let mut at = self.runs.get(nth).map_or(0, |(_, run)| run.partition_point(|held| *held < key));
        self.runs.range(nth.min(self.runs.len())..).flat_map(move |(_, run)| &run[std::mem::take(&mut at)..])
    }

    /// The run that a key belongs into, if there is any.
    fn run_of(&self, key: &K) -> usize {
        self.runs.partition_point(|(lowest, _)| lowest <= key).saturating_sub(1)
    }

    /// Makes one of a run and the next, if that leaves room for some more.
    fn join(&mut self, nth: usize) {
        let len = |nth: usize| self.runs.get(nth).map_or(Self::RUN, |(_, run)| run.len());
        if len(nth) + len(nth + 1) <= Self::RUN * 3 / 4
            && let Some((_, above)) = self.runs.remove(nth + 1)
            && let Some((_, run)) = self.runs.get_mut(nth)
        {
            run.extend_from_slice(&above);
        }
    }

    fn run(keys: &[K]) -> Vec<K> {
        let mut run = Vec::with_capacity(Self::RUN);
        run.extend_from_slice(keys);
        run
    }

    /// Bytes that one of many keys takes that came in any order: runs that are split in halves are ln 2 full on average.
    #[cfg(test)]
    pub(super) fn resident_bytes() -> usize {
        // The list of runs doubles, so half of it may be empty.
        (RUN_BYTES + 2 * size_of::<Run<K>>()).div_ceil(Self::RUN * 69 / 100)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn check(sorted: &Sorted<u64>, model: &BTreeSet<u64>, from: u64) {
        assert_eq!((sorted.len(), sorted.first()), (model.len(), model.first()));
        assert!(sorted.from(0).eq(model));
        assert!(sorted.from(from).eq(model.range(from..)), "from {from}");
        assert!(sorted.runs.iter().all(|(lowest, run)| *lowest <= run[0] && run.len() <= Sorted::<u64>::RUN));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn it_holds_what_a_standard_set_holds(
            steps in prop::collection::vec((any::<bool>(), 0..3_000u64, 1..600u64), 1..60),
        ) {
            let (mut sorted, mut model) = (Sorted::default(), BTreeSet::new());
            for (insert, from, count) in steps {
                // Rising, falling and scattered.
                for n in 0..count {
                    let key = match count % 3 {
                        0 => from + n,
                        1 => from + count - n,
                        _ => (from + n * 7_919) % 3_000,
                    };
                    if insert {
                        prop_assert_eq!(sorted.insert(key), model.insert(key));
                    } else {
                        prop_assert_eq!(sorted.remove(&key), model.remove(&key));
                    }
                }
                check(&sorted, &model, from);
            }
            for key in model.clone() {
                prop_assert!(sorted.remove(&key));
            }
            prop_assert!(sorted.runs.is_empty());
        }
    }

    #[test]
    fn what_comes_in_rising_order_fills_its_runs_and_what_thins_out_gives_them_back() {
        let mut sorted: Sorted<u64> = Sorted::default();
        (0..100_000).for_each(|key| assert!(sorted.insert(key)));
        assert_eq!(sorted.runs.len(), 100_000_usize.div_ceil(Sorted::<u64>::RUN));
        (0..100_000).filter(|key| key % 50 != 0).for_each(|key| assert!(sorted.remove(&key)));
        assert!(sorted.from(0).copied().eq((0..100_000).step_by(50)));
        assert!(sorted.runs.len() <= 2_000 * 3 / Sorted::<u64>::RUN, "{} runs", sorted.runs.len());
    }

    #[test]
    fn what_comes_in_falling_order_behind_a_full_run_shares_one() {
        let run = Sorted::<u64>::RUN as u64;
        let mut sorted: Sorted<u64> = Sorted::default();
        (0..run).for_each(|key| assert!(sorted.insert(key)));
        (run..2 * run).rev().for_each(|key| assert!(sorted.insert(key)));
        assert_eq!(sorted.runs.len(), 2);
    }
}
