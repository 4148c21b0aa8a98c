//! Which versions of the protocol between processes are spoken: both sides say what they can, and the lower of the two
//! newest is spoken. Bytes that are stored or hashed have nothing to do with it: they are read by every later version.

use std::fmt;

/// The versions that one side speaks: both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Protocols {
    pub min: u32,
    pub max: u32,
}

/// What this software speaks.
pub const PROTOCOLS: Protocols = Protocols { min: 1, max: 1 };

/// No version is spoken by both sides. Nothing was exchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{theirs} is spoken there, and {ours} here: upgrade the older side first")]
pub struct NotSpoken {
    pub ours: Protocols,
    pub theirs: Protocols,
}

impl Protocols {
    /// What the other side says of itself. One that names no oldest speaks its newest alone.
    #[must_use]
    pub fn said(max: u32, min: u32) -> Protocols {
        Protocols { min: if min == 0 { max } else { min }, max }
    }

    #[must_use]
    pub fn speaks(self, protocol: u32) -> bool {
        (self.min..=self.max).contains(&protocol)
    }

    /// What is spoken with a side that speaks `theirs`.
    ///
    /// # Errors
    /// [`NotSpoken`].
    pub fn spoken_with(self, theirs: Protocols) -> Result<u32, NotSpoken> {
        let spoken = self.max.min(theirs.max);
        let by_both = spoken >= self.min && spoken >= theirs.min && spoken > 0;
        by_both.then_some(spoken).ok_or(NotSpoken { ours: self, theirs })
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Protocols { max: 0, .. } => f.write_str("no protocol"),
            Protocols { min, max } if min == max => write!(f, "protocol {max}"),
            Protocols { min, max } => write!(f, "protocol {min} to {max}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lower_of_both_newest_is_spoken_if_both_still_can() {
        let of = |min, max| Protocols { min, max };
        assert_eq!(of(1, 1).spoken_with(of(1, 3)), Ok(1));
        assert_eq!(of(2, 5).spoken_with(of(1, 3)), Ok(3));
        assert_eq!(of(2, 5).spoken_with(Protocols::said(2, 0)), Ok(2));
        let refused = of(1, 2).spoken_with(of(3, 4)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "protocol 3 to 4 is spoken there, and protocol 1 to 2 here: upgrade the older side first"
        );
        assert!(of(3, 4).spoken_with(of(1, 2)).is_err(), "whoever asks");
        assert!(of(1, 1).spoken_with(Protocols::said(0, 0)).is_err(), "who does not say speaks none");
    }
}
