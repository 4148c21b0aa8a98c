//! The placement of a new cluster, from ranges of slots that cover everything once.

use super::Placement;
use crate::id::{RegionId, SLOT_COUNT, Slot};

/// Slots with one home, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SlotRange {
    pub from: u16,
    pub to: u16,
    pub home: RegionId,
}

/// Why ranges are no placement. Whoever wrote them is at fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    #[error("region {0} is listed twice")]
    MemberTwice(RegionId),
    #[error("slots {from}..={to}: \"{home}\" is not one of the regions")]
    UnknownHome { from: u16, to: u16, home: RegionId },
    #[error("slots {from}..={to}: 'from' is above 'to', or 'to' is above {}", SLOT_COUNT - 1)]
    Range { from: u16, to: u16 },
    #[error("slots {from}..={to} have no home")]
    Gap { from: u16, to: u16 },
    #[error("slots {from}..={to} have two homes, {first} and {second}")]
    Overlap { from: u16, to: u16, first: RegionId, second: RegionId },
}

impl Placement {
    /// The placement of a new cluster of `members`, one without slots among them or not. Ranges may come in any order.
    ///
    /// # Errors
    /// A slot without a home or with two, or a home that is no member: [`PlacementError`] names the range.
    pub fn from_ranges(
        members: Vec<RegionId>,
        ranges: impl IntoIterator<Item = SlotRange>,
    ) -> Result<Self, PlacementError> {
        for (index, member) in members.iter().enumerate() {
            if members[..index].contains(member) {
                return Err(PlacementError::MemberTwice(*member));
            }
        }
        let homes = homes(&members, ranges)?;
        Ok(Placement::initial(members, |slot: Slot| homes[usize::from(slot.number())]))
    }
}

/// One home for each slot. Sorted by their start, ranges that cover everything once follow each other without a step.
fn homes(
    members: &[RegionId],
    ranges: impl IntoIterator<Item = SlotRange>,
) -> Result<Vec<RegionId>, PlacementError> {
    let mut known = Vec::new();
    for range in ranges {
        let SlotRange { from, to, home } = range;
        if from > to || to >= SLOT_COUNT {
            return Err(PlacementError::Range { from, to });
        }
        if !members.contains(&home) {
            return Err(PlacementError::UnknownHome { from, to, home });
        }
        known.push(range);
    }
    known.sort_unstable();

    let mut homes: Vec<RegionId> = Vec::with_capacity(usize::from(SLOT_COUNT));
    let mut next = 0;
    for SlotRange { from, to, home } in known {
        if from > next {
            return Err(PlacementError::Gap { from: next, to: from - 1 });
        }
        if from < next {
            let first = homes[usize::from(from)];
            return Err(PlacementError::Overlap { from, to: to.min(next - 1), first, second: home });
        }
        next = to + 1;
        homes.resize(usize::from(next), home);
    }
    if next < SLOT_COUNT {
        return Err(PlacementError::Gap { from: next, to: SLOT_COUNT - 1 });
    }
    Ok(homes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(name: &str) -> RegionId {
        RegionId::new(name).unwrap()
    }

    fn placement(ranges: &[(u16, u16, &str)]) -> Result<Placement, PlacementError> {
        let members = ["north", "east", "idle"].map(region).to_vec();
        let ranges = ranges.iter().map(|&(from, to, home)| SlotRange { from, to, home: region(home) });
        Placement::from_ranges(members, ranges)
    }

    fn refusal(ranges: &[(u16, u16, &str)]) -> String {
        placement(ranges).unwrap_err().to_string()
    }

    #[test]
    fn ranges_in_any_order_give_every_slot_its_home() {
        let placement = placement(&[(600, 1023, "east"), (0, 599, "north")]).unwrap();
        let home = |n| placement.home(Slot::new(n).unwrap()).node.region.to_string();
        assert_eq!([home(0), home(599), home(600), home(1023)], ["north", "north", "east", "east"]);
        assert_eq!(placement.members(), ["north", "east", "idle"].map(region));
    }

    #[test]
    fn a_gap_is_named() {
        assert_eq!(refusal(&[]), "slots 0..=1023 have no home");
        assert_eq!(refusal(&[(0, 9, "north"), (12, 1023, "east")]), "slots 10..=11 have no home");
        assert_eq!(refusal(&[(0, 1022, "north")]), "slots 1023..=1023 have no home");
    }

    #[test]
    fn an_overlap_is_named_with_both_homes() {
        let across = [(0, 600, "north"), (500, 1023, "east")];
        assert_eq!(refusal(&across), "slots 500..=600 have two homes, north and east");
        let inside = [(0, 1023, "north"), (5, 6, "east")];
        assert_eq!(refusal(&inside), "slots 5..=6 have two homes, north and east");
    }

    #[test]
    fn a_range_beyond_the_slots_or_backwards_is_refused() {
        assert!(refusal(&[(0, 1024, "north")]).starts_with("slots 0..=1024: "));
        assert!(refusal(&[(9, 8, "north")]).starts_with("slots 9..=8: "));
    }

    #[test]
    fn a_home_outside_the_members_and_a_member_named_twice_are_refused() {
        assert_eq!(refusal(&[(0, 1023, "south")]), "slots 0..=1023: \"south\" is not one of the regions");
        let twice = Placement::from_ranges(vec![region("a"), region("a")], []).unwrap_err();
        assert_eq!(twice.to_string(), "region a is listed twice");
    }
}
