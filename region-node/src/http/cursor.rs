//! Where a reader of notices is: opaque, and good in any region.
//!
//! Notices are derived from decisions, and a decision of another region may arrive here long after its time. A cursor by
//! time would pass over it. In the view where it was read last, a cursor is a place in the order of arrival: exact. For
//! any other view it holds a frontier, how far the reader has seen each actor's changes; whatever that does not cover is
//! owed there. Of a node's earlier starts it holds a digest, which is good wherever as much of them is known. What it does
//! not cover although it was seen is told once more, and told apart by its id.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use cell_core::id::ActorId;
use cell_core::version::Dot;

use super::problem::Problem;
use crate::keys::NOTICE_BYTES;

/// Actors named in one frontier; beyond it the oldest starts are left out.
const ACTORS_MAX: usize = 48;
/// Starts of one node that are named: the one that runs, and the one that ended last, which may still be on its way here or
/// there.
const NAMED_STARTS: usize = 2;
const TEXT_BYTES_MAX: usize = 12 * 1024;
const VERSION: &str = "1";

/// How far each actor's changes were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    named: BTreeMap<ActorId, u64>,
    /// Of nodes' earlier starts: the last of them, and in place of its nonce the [`digest`] of all of that node up to it.
    earlier: BTreeSet<ActorId>,
}

impl Seen {
    /// Of a frontier in the order of its actors, in a view that does not show some actor's changes from one on.
    pub(super) fn of(frontier: &BTreeMap<ActorId, u64>, first_open: &BTreeMap<ActorId, u64>) -> Seen {
        let shown = |actor: &ActorId, seq: u64| first_open.get(actor).map_or(seq, |first| seq.min(first - 1));
        let known: Vec<(ActorId, u64)> =
            frontier.iter().map(|(actor, seq)| (*actor, shown(actor, *seq))).collect();
        let mut seen = Seen::default();
        for of_node in known.chunk_by(|(one, _), (next, _)| one.node == next.node) {
            let mut starts: Vec<u64> = of_node.iter().map(|(actor, _)| actor.start).collect();
            starts.dedup();
            let first = starts.get(starts.len().saturating_sub(NAMED_STARTS)).copied().unwrap_or(0);
            let (earlier, named) =
                of_node.split_at(of_node.partition_point(|(actor, _)| actor.start < first));
            seen.named.extend(named.iter().copied());
            seen.earlier.extend(earlier.last().map(|(last, _)| ActorId { nonce: digest(earlier), ..*last }));
        }
        while seen.named.len() > ACTORS_MAX {
            // Actors of the lowest start: what they wrote is longest ago.
            let oldest = seen.named.keys().min_by_key(|actor| (actor.start, **actor)).copied();
            oldest.map(|oldest| seen.named.remove(&oldest));
        }
        seen
    }

    /// The same in a view that knows this much: with every earlier start by name of which as much is known there.
    pub(super) fn in_view(&self, frontier: &BTreeMap<ActorId, u64>) -> Seen {
        let mut seen = Seen { named: self.named.clone(), earlier: BTreeSet::new() };
        for last in &self.earlier {
            let first = ActorId { start: 0, nonce: 0, ..*last };
            let known = frontier.range(first..=ActorId { nonce: u64::MAX, ..*last });
            let known: Vec<(ActorId, u64)> = known.map(|(actor, seq)| (*actor, *seq)).collect();
            if digest(&known) == last.nonce {
                seen.named.extend(known);
            }
        }
        seen
    }

    /// Whether everything a notice derives from was seen.
    pub(super) fn covers(&self, dots: &[Dot]) -> bool {
        let is_seen = |dot: &Dot| self.named.get(&dot.actor).is_some_and(|&seq| seq >= dot.seq);
        !dots.is_empty() && dots.iter().all(is_seen)
    }
}

/// Of actors in order, and how far each is known.
fn digest(known: &[(ActorId, u64)]) -> u64 {
    let mut hasher = blake3::Hasher::new();
    for (actor, seq) in known {
        hasher.update(format!("{actor}.{seq}~").as_bytes());
    }
    hasher.finalize().as_bytes().first_chunk().map_or(0, |head| u64::from_be_bytes(*head))
}

/// A reader's place: what it has seen of every region, and where it is in the view that it read last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Cursor {
    pub(super) seen: Seen,
    pub(super) here: Option<Here>,
}

/// Behind which notice of which view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Here {
    pub(super) view: u64,
    pub(super) place: [u8; NOTICE_BYTES],
    /// The reader came from another view, and passes over what it has seen there until it is through.
    pub(super) newcomer: bool,
}

impl IntoIterator for Seen {
    type Item = (ActorId, u64);
    type IntoIter = std::collections::btree_map::IntoIter<ActorId, u64>;
    fn into_iter(self) -> Self::IntoIter {
        self.named.into_iter()
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.earlier.iter().try_for_each(|last| write!(f, "~-{last}"))?;
        self.named.iter().try_for_each(|(actor, seq)| write!(f, "~{actor}.{seq}"))
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{VERSION}{}", self.seen)?;
        let Some(Here { view, place, newcomer }) = &self.here else { return Ok(()) };
        write!(f, "_{}{view:016x}", if *newcomer { 'n' } else { 'v' })?;
        place.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Seen {
    type Err = ();
    fn from_str(text: &str) -> Result<Seen, ()> {
        let mut seen = Seen::default();
        for part in text.split('~').skip(1) {
            if let Some(earlier) = part.strip_prefix('-') {
                seen.earlier.insert(earlier.parse().map_err(|_| ())?);
                continue;
            }
            let (actor, seq) = part.rsplit_once('.').ok_or(())?;
            seen.named.insert(actor.parse().map_err(|_| ())?, seq.parse().map_err(|_| ())?);
        }
        Ok(seen)
    }
}

impl Cursor {
    /// # Errors
    /// A 400 problem: it is none of ours.
    pub(super) fn read(text: &str) -> Result<Cursor, Problem> {
        let bad = || Problem::new("bad-cursor", "the cursor is none of this list");
        if text.len() > TEXT_BYTES_MAX {
            return Err(bad());
        }
        let rest = text.strip_prefix(VERSION).ok_or_else(bad)?;
        let (seen, here) = match rest.split_once('_') {
            Some((seen, here)) => (seen, Some(Here::read(here).ok_or_else(bad)?)),
            None => (rest, None),
        };
        if !(seen.is_empty() || seen.starts_with('~')) {
            return Err(bad());
        }
        Ok(Cursor { seen: seen.parse().map_err(|()| bad())?, here })
    }
}

impl Here {
    fn read(text: &str) -> Option<Here> {
        let newcomer = text.starts_with('n');
        let bytes = super::from_hex(text.strip_prefix(if newcomer { 'n' } else { 'v' })?)?;
        let (view, place) = bytes.split_first_chunk()?;
        Some(Here { view: u64::from_be_bytes(*view), place: place.try_into().ok()?, newcomer })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn actor(text: &str) -> ActorId {
        text.parse().unwrap()
    }

    fn whole(frontier: &BTreeMap<ActorId, u64>) -> Seen {
        Seen::of(frontier, &BTreeMap::new())
    }

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let seen = whole(&BTreeMap::from([
            (actor("north-0.1.9f2c0000deadbeef"), 17),
            (actor("north-0.2.9f2c0000deadbeef"), 1),
            (actor("north-0.3.9f2c0000deadbeef"), 17),
            (actor("south-east-1.1.0000000000000001"), 4),
        ]));
        assert_eq!((seen.named.len(), seen.earlier.len()), (3, 1));
        let here = |newcomer| Here { view: 77, place: [7; NOTICE_BYTES], newcomer };
        for cursor in [
            Cursor::default(),
            Cursor { seen: seen.clone(), here: None },
            Cursor { seen: seen.clone(), here: Some(here(true)) },
            Cursor { seen, here: Some(here(false)) },
            Cursor { seen: Seen::default(), here: Some(here(false)) },
        ] {
            let text = cursor.to_string();
            assert!(
                text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)),
                "{text}"
            );
            assert_eq!(Cursor::read(&text).unwrap(), cursor);
        }
    }

    #[test]
    fn anything_else_is_refused() {
        for text in [
            "",
            "2",
            "x",
            "1x",
            "1~north",
            "1~north-0.1.01.x",
            "1~-",
            "1~-north-0.1",
            "1_",
            "1_v",
            "1_v00",
            "1_n0",
            "1_é",
            "1__",
        ] {
            assert!(Cursor::read(text).is_err(), "{text}");
        }
        assert!(Cursor::read(&format!("1{}", "~".repeat(20_000))).is_err());
    }

    #[test]
    fn a_notice_is_owed_until_all_it_derives_from_was_seen() {
        let (old, new) = (actor("north-0.1.0000000000000001"), actor("north-0.2.0000000000000001"));
        let seen = whole(&BTreeMap::from([(old, 5), (new, 2)]));
        let dot = |actor, seq| Dot { actor, seq };
        assert!(seen.covers(&[dot(old, 5)]) && seen.covers(&[dot(old, 1), dot(new, 2)]));
        assert!(
            !seen.covers(&[dot(old, 6)]) && !seen.covers(&[dot(old, 1), dot(new, 3)]) && !seen.covers(&[])
        );
        // What the view does not show was not seen in it, nor what may build on that.
        let seen = Seen::of(&BTreeMap::from([(old, 5), (new, 2)]), &BTreeMap::from([(old, 4)]));
        assert!(seen.covers(&[dot(old, 3), dot(new, 2)]));
        assert!(!seen.covers(&[dot(old, 4)]) && !seen.covers(&[dot(old, 5)]));
    }

    #[test]
    fn a_hundred_starts_take_no_more_room_than_three_and_are_covered_where_as_much_is_known_of_them() {
        let (east, north) = (actor("east-0.1.0000000000000001"), actor("north-0.1.0000000000000001"));
        let starts = |many| -> BTreeMap<ActorId, u64> {
            let of_east = (1..=many).map(|start| (ActorId { start, ..east }, 9));
            of_east.chain([(north, 7)]).collect()
        };
        let covers = |seen: &Seen, start| seen.covers(&[Dot { actor: ActorId { start, ..east }, seq: 9 }]);
        let (few, many) = (whole(&starts(3)), whole(&starts(100)));
        assert!(many.to_string().len() <= few.to_string().len() + 6, "{few} {many}");
        assert!(many.covers(&[Dot { actor: north, seq: 7 }]), "who never restarted is not forgotten for it");
        assert!(covers(&many, 100) && covers(&many, 99) && !covers(&many, 98), "what it names");
        let read: Cursor = Cursor::read(&Cursor { seen: many.clone(), here: None }.to_string()).unwrap();
        let there = read.seen.in_view(&starts(100));
        assert!((1..=100).all(|start| covers(&there, start)));
        assert!(!covers(&there, 101));
        // Later starts are no matter; one of before that was not known, or not as far, may hold what was not seen.
        assert!(covers(&many.in_view(&starts(120)), 50) && !covers(&many.in_view(&starts(120)), 110));
        for (actor, seq) in [(ActorId { nonce: 2, ..east }, 1), (ActorId { start: 4, ..east }, 8)] {
            let mut other = starts(100);
            other.insert(actor, seq);
            assert!(!covers(&many.in_view(&other), 50), "{actor} {seq}");
            assert!(covers(&many.in_view(&other), 100));
        }
    }
}
