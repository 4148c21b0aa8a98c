//! The feed alone, and against a subscriber that is simulated.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use proptest::prelude::*;

use super::{Feed, FeedConfig, OWN_BACK_AFTER_MS, Offered};
use crate::cell::Front;
use crate::event::Entry;
use crate::id::{ActorId, Hash, NodeId, RegionId};
use crate::version::Dot;

const RELAY: u64 = 1_000;

fn region(name: &str) -> RegionId {
    RegionId::new(name).unwrap()
}

fn actor(name: &str, start: u64) -> ActorId {
    ActorId { node: NodeId { region: region(name), index: 0 }, start, nonce: 1 }
}

fn entry(actor: ActorId, seq: u64) -> Entry {
    let dot = Dot { actor, seq };
    let bytes = Bytes::from(seq.to_be_bytes().to_vec());
    Entry { dot, hash: hash(seq), bytes }
}

fn hash(seq: u64) -> Hash {
    Hash::of(&seq.to_be_bytes())
}

fn front(seq: u64) -> Front {
    Front { seq, hash: hash(seq) }
}

/// North serves south.
fn feed() -> Feed {
    Feed::new(region("north"), region("south"), FeedConfig { relay_after_ms: RELAY, held_bytes_max: 1 << 20 })
}

fn seqs(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(|entry| entry.dot.seq).collect()
}

#[test]
fn what_the_serving_region_wrote_goes_at_once() {
    let mut feed = feed();
    feed.report(0, [(actor("north", 1), front(1))]);
    for seq in 1..=3 {
        feed.offer(5, &entry(actor("north", 1), seq));
    }
    assert_eq!(feed.next_due_ms(), Some(5));
    assert_eq!(seqs(&feed.take(5, 1 << 20)), [2, 3]);
    assert_eq!((feed.held_bytes(), feed.next_due_ms()), (0, None));
}

#[test]
fn what_the_subscriber_wrote_itself_goes_back_only_if_it_has_lost_it() {
    let own = actor("south", 1);
    let mut feed = feed();
    for seq in 1..=3 {
        assert_eq!(feed.offer(0, &entry(own, seq)), Offered::Held);
    }
    feed.report(100, [(own, front(2))]);
    assert_eq!(feed.take(OWN_BACK_AFTER_MS, 1 << 20), [], "it says that it goes on: the wait begins anew");
    feed.report(200, [(own, front(3))]);
    assert_eq!((feed.held_bytes(), feed.next_due_ms()), (0, None), "it has all of it");
    feed.offer(1_000, &entry(own, 4));
    assert_eq!(feed.next_due_ms(), Some(1_000 + OWN_BACK_AFTER_MS));
    assert_eq!(seqs(&feed.take(1_000 + OWN_BACK_AFTER_MS, 1 << 20)), [4], "it is lost there");
}

#[test]
fn another_regions_entries_are_relayed_only_if_they_stay_missing() {
    let east = actor("east", 1);
    let mut feed = feed();
    feed.offer(0, &entry(east, 1));
    feed.offer(0, &entry(east, 2));
    assert_eq!(feed.take(RELAY - 1, 1 << 20), []);
    feed.report(900, [(east, front(1))]);
    assert_eq!(feed.take(RELAY, 1 << 20), [], "the direct road works: the wait begins anew");
    assert_eq!(seqs(&feed.take(900 + RELAY, 1 << 20)), [2]);
    feed.offer(2_000, &entry(east, 3));
    assert_eq!(
        seqs(&feed.take(2_000, 1 << 20)),
        [3],
        "while 2 is not reported back, the road is still broken"
    );
    feed.report(2_500, [(east, front(3))]);
    feed.offer(2_600, &entry(east, 4));
    assert_eq!(feed.take(2_700, 1 << 20), []);
}

#[test]
fn an_entry_that_arrived_elsewhere_is_not_sent() {
    let east = actor("east", 1);
    let mut feed = feed();
    feed.offer(0, &entry(east, 1));
    feed.report(500, [(east, front(1))]);
    assert_eq!(feed.take(60_000, 1 << 20), []);
    assert_eq!(feed.offer(60_000, &entry(east, 1)), Offered::Known);
}

#[test]
fn a_fresh_actor_does_not_queue_behind_a_backlog() {
    let (old, new) = (actor("north", 1), actor("north", 2));
    let mut feed = feed();
    (1..=50).for_each(|seq| assert_eq!(feed.offer(0, &entry(old, seq)), Offered::Held));
    assert_eq!(feed.offer_ahead(1, &entry(old, 90)), Offered::Early);
    assert_eq!(feed.offer_ahead(1, &entry(new, 1)), Offered::Held);
    let taken = feed.take(1, 300);
    assert_eq!(taken[0].dot, Dot { actor: new, seq: 1 });
    assert_eq!(seqs(&taken[1..]), [1]);
    assert!(!feed.wants_rewind(), "what was offered from ahead will come in its turn");
}

#[test]
fn a_full_feed_takes_nothing_more_until_something_was_taken() {
    let north = actor("north", 1);
    let config = FeedConfig { relay_after_ms: RELAY, held_bytes_max: 150 };
    let mut feed = Feed::new(region("north"), region("south"), config);
    assert_eq!(feed.offer(0, &entry(north, 1)), Offered::Held);
    assert_eq!(feed.offer(0, &entry(north, 2)), Offered::Full);
    assert_eq!(seqs(&feed.take(0, 1)), [1], "one entry goes whatever the budget");
    assert_eq!(feed.offer(0, &entry(north, 2)), Offered::Held);
}

#[test]
fn another_content_under_a_known_dot_stops_that_actor_alone() {
    let (north, later) = (actor("north", 1), actor("north", 2));
    let mut feed = feed();
    feed.report(0, [(north, Front { seq: 1, hash: Hash::of(b"other") })]);
    assert_eq!(feed.offer(0, &entry(north, 1)), Offered::Conflict);
    assert_eq!(feed.offer(0, &entry(north, 2)), Offered::Known);
    assert_eq!(feed.offer(0, &entry(later, 1)), Offered::Held);
    assert_eq!(feed.take(0, 1 << 20).len(), 1);
}

#[test]
fn entries_behind_a_hole_go_when_the_hole_was_filled_from_elsewhere() {
    let north = actor("north", 1);
    let mut feed = feed();
    feed.offer(0, &entry(north, 1));
    for seq in [3, 4] {
        assert_eq!(feed.offer(0, &entry(north, seq)), Offered::Early);
    }
    assert_eq!(seqs(&feed.take(0, 1 << 20)), [1]);
    assert!(!feed.wants_rewind());
    feed.report(9, [(north, front(2))]);
    assert!(feed.wants_rewind() && !feed.wants_rewind());
    for seq in [1, 3, 4] {
        feed.offer(10, &entry(north, seq));
    }
    assert_eq!(seqs(&feed.take(10, 1 << 20)), [3, 4]);
}

// === against a subscriber ===

#[derive(Clone, Debug)]
enum Op {
    /// The log is offered up to this many entries.
    Read(usize),
    /// Some entry from ahead.
    Ahead(usize),
    Take(usize),
    /// The subscriber gets some of an actor's entries from another region.
    Elsewhere(usize, u64),
    Report,
    Wait(u64),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        (1..8usize).prop_map(Op::Read),
        (0..60usize).prop_map(Op::Ahead),
        (1..600usize).prop_map(Op::Take),
        (0..4usize, 1..4u64).prop_map(|(actor, count)| Op::Elsewhere(actor, count)),
        Just(Op::Report),
        (1..700u64).prop_map(Op::Wait),
    ];
    proptest::collection::vec(op, 0..60)
}

struct World {
    feed: Feed,
    log: Vec<Entry>,
    read: usize,
    now_ms: u64,
    /// What the subscriber's node has.
    has: BTreeMap<ActorId, u64>,
    sent: BTreeSet<Dot>,
}

impl World {
    fn read(&mut self, count: usize) {
        for _ in 0..count {
            let Some(next) = self.log.get(self.read) else { return };
            match self.feed.offer(self.now_ms, next) {
                Offered::Full => return,
                Offered::Conflict => panic!("nothing here differs"),
                Offered::Held | Offered::Known | Offered::Early => self.read += 1,
            }
        }
    }

    fn take(&mut self, bytes_max: usize) {
        for entry in self.feed.take(self.now_ms, bytes_max) {
            assert!(self.sent.insert(entry.dot), "{} was sent twice", entry.dot);
            let has = self.has.entry(entry.dot.actor).or_default();
            assert!(entry.dot.seq <= *has + 1, "{} leaves a gap behind {has}", entry.dot);
            *has = entry.dot.seq.max(*has);
        }
    }

    fn report(&mut self) {
        let has: Vec<_> = self.has.iter().map(|(actor, seq)| (*actor, front(*seq))).collect();
        self.feed.report(self.now_ms, has);
        if self.feed.wants_rewind() {
            self.read = 0;
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_skipped_nothing_sent_twice_and_everything_arrives(
        order in proptest::collection::vec(0..4usize, 1..60),
        lost in proptest::collection::vec(any::<bool>(), 60),
        ops in ops(),
    ) {
        let actors = [actor("north", 1), actor("north", 2), actor("east", 1), actor("south", 1)];
        let mut seqs = [0; 4];
        let mut whole = Vec::new();
        for which in order {
            seqs[which] += 1;
            whole.push(entry(actors[which], seqs[which]));
        }
        // Holes in this region's log; the subscriber can get those from elsewhere only.
        let holed = whole.iter().zip(&lost).filter(|(entry, lost)| !**lost || entry.dot.seq % 7 != 3);
        let log: Vec<Entry> = holed.map(|(entry, _)| entry.clone()).collect();
        let config = FeedConfig { relay_after_ms: RELAY, held_bytes_max: 700 };
        let feed = Feed::new(region("north"), region("south"), config);
        let mut world = World { feed, log, read: 0, now_ms: 0, has: BTreeMap::new(), sent: BTreeSet::new() };
        for op in ops {
            match op {
                Op::Read(count) => world.read(count),
                Op::Ahead(at) => {
                    if let Some(ahead) = world.log.get(world.read + at).cloned() {
                        world.feed.offer_ahead(world.now_ms, &ahead);
                    }
                }
                Op::Take(bytes_max) => world.take(bytes_max),
                Op::Elsewhere(which, count) => {
                    let has = world.has.entry(actors[which]).or_default();
                    *has = (*has + count).min(seqs[which]);
                }
                Op::Report => world.report(),
                Op::Wait(ms) => world.now_ms += ms,
            }
            prop_assert!(world.feed.held_bytes() <= 700);
        }
        // The other regions fill the holes, and then this region sends all the rest by itself.
        for _ in 0..200 {
            world.now_ms += RELAY;
            for (which, seq) in seqs.iter().enumerate() {
                let has = world.has.entry(actors[which]).or_default();
                let next = Dot { actor: actors[which], seq: *has + 1 };
                if *has < *seq && !world.log.iter().any(|entry| entry.dot == next) {
                    *has += 1;
                }
            }
            world.report();
            world.read(usize::MAX);
            world.take(200);
        }
        for (which, seq) in seqs.iter().enumerate() {
            prop_assert_eq!(world.has.get(&actors[which]).copied().unwrap_or(0), *seq);
        }
    }
}
