//! Versions of the CNI specification.

use std::fmt;
use std::str::FromStr;

/// A version of the CNI specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32, u32, u32);

/// The versions whose configurations are run. The results of 0.3 look like
/// those of 0.4.
pub(super) const SUPPORTED: [Version; 5] = [
    Version(0, 3, 0),
    Version(0, 3, 1),
    Version(0, 4, 0),
    Version(1, 0, 0),
    Version(1, 1, 0),
];

impl Version {
    /// The first with `CHECK`.
    pub(super) const V0_4: Self = Self(0, 4, 0);
    /// The first whose results do not say the version of their addresses.
    pub(super) const V1_0: Self = Self(1, 0, 0);
    /// The first with `GC` and `STATUS`.
    pub(super) const V1_1: Self = Self(1, 1, 0);

    pub(super) fn is_supported(self) -> bool {
        SUPPORTED.contains(&self)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl FromStr for Version {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut numbers = text.split('.').map(|number| number.parse().map_err(drop));
        let mut next = || numbers.next().unwrap_or(Err(()));
        let version = Self(next()?, next()?, next()?);
        if numbers.next().is_some() {
            return Err(());
        }
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_order() {
        assert!(Version::V0_4 < Version::V1_0 && Version::V1_0 < Version::V1_1);
        assert_eq!("1.1.0".parse(), Ok(Version::V1_1));
        for wrong in ["", "1.0", "1.0.0.0", "v1.0.0", "1.0.x"] {
            assert!(wrong.parse::<Version>().is_err(), "{wrong}");
        }
        assert!(!Version(0, 2, 0).is_supported());
    }
}
