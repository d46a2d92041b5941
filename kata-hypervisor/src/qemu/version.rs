//! Which QEMU it is.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A version of QEMU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Version {
    /// The major number.
    pub major: u32,
    /// The minor number.
    pub minor: u32,
    /// The micro number.
    pub micro: u32,
}

impl Version {
    /// The oldest that is supported: the first on which all that is used here
    /// was tried by a distribution that is still maintained (Ubuntu 22.04).
    pub const OLDEST: Self = Self {
        major: 6,
        minor: 2,
        micro: 0,
    };

    /// From the greeting of the machine protocol, or `query-version`.
    pub(super) fn from_greeting(greeting: &Value) -> Option<Self> {
        let numbers = &greeting["version"]["qemu"];
        let number = |key: &str| u32::try_from(numbers[key].as_u64()?).ok();
        Some(Self {
            major: number("major")?,
            minor: number("minor")?,
            micro: number("micro")?,
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_greeting_tells_it() {
        let greeting = json!({"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}}});
        let version = Version::from_greeting(&greeting).unwrap();
        assert_eq!(version.to_string(), "7.2.22");
        assert!(version > Version::OLDEST);
    }

    #[test]
    fn a_greeting_without_one_tells_nothing() {
        for greeting in [
            json!({}),
            json!({"version": {"qemu": {"major": -1}}}),
            json!(null),
        ] {
            assert_eq!(Version::from_greeting(&greeting), None);
        }
    }
}
