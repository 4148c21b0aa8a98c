//! Where a reader of notices is: opaque, and good in any region.
//!
//! Notices are derived from decisions, and a decision of another region may arrive here long after its time. A cursor by
//! time would pass over it. In the view where it was read last, a cursor is a place in the order of arrival: exact. For
//! any other view it holds a frontier, how far the reader has seen each actor's changes; whatever that does not cover is
//! owed there. What the frontier forgets (it is bounded) is told once more, and told apart by its id.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use cell_core::id::ActorId;
use cell_core::version::Dot;

use super::problem::Problem;
use crate::keys::NOTICE_BYTES;

/// Actors in one frontier; beyond it the oldest starts are left out.
const ACTORS_MAX: usize = 48;
const TEXT_BYTES_MAX: usize = 12 * 1024;
const VERSION: &str = "1";

/// How far each actor's changes were seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen(BTreeMap<ActorId, u64>);

impl Seen {
    pub(super) fn of(frontier: impl IntoIterator<Item = (ActorId, u64)>) -> Seen {
        let mut seen: BTreeMap<ActorId, u64> = frontier.into_iter().collect();
        while seen.len() > ACTORS_MAX {
            // Actors of the lowest start: what they wrote is longest ago.
            let Some(oldest) = seen.keys().min_by_key(|actor| (actor.start, **actor)).copied() else { break };
            seen.remove(&oldest);
        }
        Seen(seen)
    }

    /// Whether everything a notice derives from was seen.
    pub(super) fn covers(&self, dots: &[Dot]) -> bool {
        !dots.is_empty() && dots.iter().all(|dot| self.0.get(&dot.actor).is_some_and(|&seq| seq >= dot.seq))
    }
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
        self.0.into_iter()
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(actor, seq)| write!(f, "~{actor}.{seq}"))
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
        let mut seen = BTreeMap::new();
        for part in text.split('~').skip(1) {
            let (actor, seq) = part.rsplit_once('.').ok_or(())?;
            seen.insert(actor.parse().map_err(|_| ())?, seq.parse().map_err(|_| ())?);
        }
        Ok(Seen(seen))
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

    #[test]
    fn a_cursor_is_read_as_it_was_written() {
        let seen = Seen::of([
            (actor("north-0.3.9f2c0000deadbeef"), 17),
            (actor("south-east-1.1.0000000000000001"), 4),
        ]);
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
        for text in
            ["", "2", "x", "1x", "1~north", "1~north-0.1.01.x", "1_", "1_v", "1_v00", "1_n0", "1_é", "1__"]
        {
            assert!(Cursor::read(text).is_err(), "{text}");
        }
        assert!(Cursor::read(&format!("1{}", "~".repeat(20_000))).is_err());
    }

    #[test]
    fn a_notice_is_owed_until_all_it_derives_from_was_seen_and_a_bounded_cursor_forgets_the_oldest() {
        let (old, new) = (actor("north-0.1.0000000000000001"), actor("north-0.2.0000000000000001"));
        let seen = Seen::of([(old, 5), (new, 2)]);
        let dot = |actor, seq| Dot { actor, seq };
        assert!(seen.covers(&[dot(old, 5)]) && seen.covers(&[dot(old, 1), dot(new, 2)]));
        assert!(
            !seen.covers(&[dot(old, 6)]) && !seen.covers(&[dot(old, 1), dot(new, 3)]) && !seen.covers(&[])
        );
        let many = (1..=100).map(|start| (ActorId { start, ..old }, 9));
        let bounded = Seen::of(many);
        assert!(bounded.covers(&[dot(ActorId { start: 100, ..old }, 9)]));
        assert!(!bounded.covers(&[dot(ActorId { start: 1, ..old }, 9)]));
        assert!(Cursor { seen: bounded, here: None }.to_string().len() < TEXT_BYTES_MAX / 2);
    }
}
