//! The decision, pure: key, placement and reachability in, one upstream or a refusal out.

use cell_core::id::RegionId;
use cell_core::placement::Placement;
use http::uri::Authority;

use crate::identify::Key;

/// Most upstreams a router knows: [`Health`] is one machine word.
const UPSTREAMS_MAX: usize = 64;

/// One region as seen from here: its name and the `host:port` of its API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    pub region: RegionId,
    pub address: Authority,
    index: usize,
}

/// All regions this router can reach, at most 64, the one it runs in first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstreams(Vec<Upstream>);

/// More regions than a router can tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} upstreams; at most {UPSTREAMS_MAX}")]
pub struct TooManyUpstreams(usize);

/// A snapshot of which upstreams did not take connections lately. Default: all did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    unreachable: u64,
}

/// Why a request has nowhere to go. The request is fine and was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no address is configured for region {region}, the home of this request")]
    NoUpstream { region: RegionId },
    #[error("no region is configured")]
    NoRegion,
}

/// Chooses where a request goes.
///
/// A keyed request has one place, its home, reachable or not: another region would only refuse it, and trying is how the
/// router learns that the home is back. A request any region can answer goes to the nearest reachable one, and to the
/// nearest if none is.
///
/// # Errors
/// See [`Refusal`].
pub fn decide<'u>(
    key: &Key,
    placement: &Placement,
    upstreams: &'u Upstreams,
    health: Health,
) -> Result<&'u Upstream, Refusal> {
    let slot = match key {
        Key::User(user) => user.slot(),
        Key::Order(order) => order.slot(),
        Key::Payment(payment) => payment.slot(),
        Key::Any => {
            let mut nearest_first = upstreams.0.iter();
            let reachable = nearest_first.find(|upstream| health.is_reachable(upstream));
            return reachable.or(upstreams.0.first()).ok_or(Refusal::NoRegion);
        }
    };
    let region = placement.home(slot).node.region;
    upstreams.of(region).ok_or(Refusal::NoUpstream { region })
}

impl Upstream {
    /// Its place in [`Upstreams`], for what is kept beside it.
    pub(crate) fn index(&self) -> usize {
        self.index
    }
}

impl Upstreams {
    /// `local` comes first, the others keep their order.
    ///
    /// # Errors
    /// More than 64 of them.
    pub fn new(
        local: RegionId,
        addresses: impl IntoIterator<Item = (RegionId, Authority)>,
    ) -> Result<Self, TooManyUpstreams> {
        let mut addresses: Vec<_> = addresses.into_iter().collect();
        if addresses.len() > UPSTREAMS_MAX {
            return Err(TooManyUpstreams(addresses.len()));
        }
        addresses.sort_by_key(|(region, _)| *region != local);
        let upstreams = addresses.into_iter().enumerate();
        Ok(Self(upstreams.map(|(index, (region, address))| Upstream { region, address, index }).collect()))
    }

    #[must_use]
    pub fn of(&self, region: RegionId) -> Option<&Upstream> {
        self.0.iter().find(|upstream| upstream.region == region)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Upstream> {
        self.0.iter()
    }
}

impl Health {
    /// The same snapshot, with this one taken for unreachable.
    #[must_use]
    pub fn without(self, upstream: &Upstream) -> Self {
        Self { unreachable: self.unreachable | 1 << upstream.index }
    }

    #[must_use]
    pub fn is_reachable(self, upstream: &Upstream) -> bool {
        self.unreachable & 1 << upstream.index == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cell_core::id::{Hash, OrderId, PaymentId, PublicId, Slot, UserId};
    use cell_proto::placement_file;

    const FILE: &str = r#"
        version = 1
        regions = ["north", "east", "south"]
        slots = [
            { from = 0, to = 340, home = "north" },
            { from = 341, to = 681, home = "east" },
            { from = 682, to = 1023, home = "south" },
        ]"#;

    fn region(name: &str) -> RegionId {
        RegionId::new(name).unwrap()
    }

    fn upstreams(local: &str, names: &[&str]) -> Upstreams {
        let address = |name: &&str| (region(name), format!("{name}:80").parse().unwrap());
        Upstreams::new(region(local), names.iter().map(address)).unwrap()
    }

    fn id(slot: u16) -> PublicId {
        PublicId::new(1, Slot::new(slot).unwrap(), &Hash::of(b"x"))
    }

    #[test]
    fn a_key_goes_to_the_home_of_its_slot() {
        let placement = placement_file::parse(FILE).unwrap();
        let all = upstreams("south", &["north", "east", "south"]);
        let table = [
            (Key::User(UserId::new("bob").unwrap()), "north"), // slot 118
            (Key::User(UserId::new("alice").unwrap()), "east"), // slot 434
            (Key::User(UserId::new("carol").unwrap()), "east"), // slot 669
            (Key::Order(OrderId(id(340))), "north"),
            (Key::Order(OrderId(id(341))), "east"),
            (Key::Payment(PaymentId(id(681))), "east"),
            (Key::Payment(PaymentId(id(682))), "south"),
            (Key::Any, "south"),
        ];
        for (key, home) in table {
            let decided = decide(&key, &placement, &all, Health::default()).unwrap();
            assert_eq!(decided.region, region(home), "{key:?}");
            assert_eq!(decided.address, format!("{home}:80"));
        }
    }

    #[test]
    fn a_keyed_request_is_sent_home_even_if_home_was_unreachable() {
        let placement = placement_file::parse(FILE).unwrap();
        let all = upstreams("north", &["north", "east", "south"]);
        let health = Health::default().without(all.of(region("east")).unwrap());
        let decided = decide(&Key::Order(OrderId(id(400))), &placement, &all, health);
        assert_eq!(decided.unwrap().region, region("east"));
    }

    #[test]
    fn any_goes_to_the_nearest_region_that_is_reachable_and_to_the_nearest_if_none_is() {
        let placement = placement_file::parse(FILE).unwrap();
        let all = upstreams("east", &["north", "east", "south"]);
        let mut health = Health::default();
        for expected in ["east", "north", "south"] {
            let decided = decide(&Key::Any, &placement, &all, health).unwrap();
            assert_eq!(decided.region, region(expected));
            health = health.without(decided);
        }
        let decided = decide(&Key::Any, &placement, &all, health).unwrap();
        assert_eq!(decided.region, region("east"));
    }

    #[test]
    fn a_home_without_an_address_is_refused_by_name() {
        let placement = placement_file::parse(FILE).unwrap();
        let some = upstreams("north", &["north", "east"]);
        let refused = decide(&Key::Order(OrderId(id(1000))), &placement, &some, Health::default());
        let region = region("south");
        assert_eq!(refused, Err(Refusal::NoUpstream { region }));
        let none = upstreams("north", &[]);
        let refused = decide(&Key::Any, &placement, &none, Health::default());
        assert_eq!(refused, Err(Refusal::NoRegion));
    }

    #[test]
    fn more_regions_than_a_word_has_bits_are_refused() {
        let names: Vec<String> = (0..65).map(|n| format!("r{n}")).collect();
        let address = |name: &String| (region(name), "h:80".parse().unwrap());
        let refused = Upstreams::new(region("r0"), names.iter().map(address));
        assert_eq!(refused, Err(TooManyUpstreams(65)));
    }
}
