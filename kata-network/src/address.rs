//! Addresses as interfaces have them.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no {what}")]
pub struct ParseError {
    text: String,
    what: &'static str,
}

impl ParseError {
    pub(crate) fn new(text: &str, what: &'static str) -> Self {
        Self {
            text: text.to_owned(),
            what,
        }
    }
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MacAddress([u8; 6]);

impl MacAddress {
    /// From its six bytes, in the order in which they are written.
    #[must_use]
    pub const fn new(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// Its six bytes.
    #[must_use]
    pub const fn bytes(self) -> [u8; 6] {
        self.0
    }
}

impl fmt::Display for MacAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl FromStr for MacAddress {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = || ParseError::new(text, "MAC address");
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut bytes {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(wrong)?;
            // `from_str_radix` takes a sign, an address does not.
            if !part.bytes().all(|digit| digit.is_ascii_hexdigit()) {
                return Err(wrong());
            }
            *byte = u8::from_str_radix(part, 16).map_err(|_| wrong())?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for MacAddress {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<MacAddress> for String {
    fn from(address: MacAddress) -> Self {
        address.to_string()
    }
}

/// An address with the length of its network's prefix, such as `10.0.0.2/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct IpNet {
    address: IpAddr,
    prefix: u8,
}

impl IpNet {
    /// An address in a network; `None` when the prefix is longer than the
    /// address.
    #[must_use]
    pub const fn new(address: IpAddr, prefix: u8) -> Option<Self> {
        let longest = if address.is_ipv4() { 32 } else { 128 };
        if prefix <= longest {
            Some(Self { address, prefix })
        } else {
            None
        }
    }

    /// The address.
    #[must_use]
    pub const fn address(self) -> IpAddr {
        self.address
    }

    /// The network alone: all bits after the prefix are zero.
    #[must_use]
    pub const fn network(self) -> Self {
        let address = match self.address {
            IpAddr::V4(address) => {
                let mask = match u32::MAX.checked_shl(32 - self.prefix as u32) {
                    Some(mask) => mask,
                    None => 0,
                };
                IpAddr::V4(std::net::Ipv4Addr::from_bits(address.to_bits() & mask))
            }
            IpAddr::V6(address) => {
                let mask = match u128::MAX.checked_shl(128 - self.prefix as u32) {
                    Some(mask) => mask,
                    None => 0,
                };
                IpAddr::V6(std::net::Ipv6Addr::from_bits(address.to_bits() & mask))
            }
        };
        Self {
            address,
            prefix: self.prefix,
        }
    }

    /// The length of the network's prefix, in bits.
    #[must_use]
    pub const fn prefix(self) -> u8 {
        self.prefix
    }
}

impl fmt::Display for IpNet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for IpNet {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let parse = || {
            let (address, prefix) = text.split_once('/')?;
            Self::new(address.parse().ok()?, prefix.parse().ok()?)
        };
        parse().ok_or_else(|| ParseError::new(text, "address with a prefix length"))
    }
}

impl TryFrom<String> for IpNet {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

impl From<IpNet> for String {
    fn from(net: IpNet) -> Self {
        net.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mac_address_reads_as_it_prints() {
        let address: MacAddress = "02:00:0a:FF:00:01".parse().unwrap();
        assert_eq!(address.bytes(), [2, 0, 10, 255, 0, 1]);
        assert_eq!(address.to_string(), "02:00:0a:ff:00:01");
    }

    #[test]
    fn what_is_no_mac_address_is_refused() {
        for text in [
            "",
            "02:00",
            "02:00:0a:ff:00:01:02",
            "2:0:a:f:0:1",
            "+2:00:0a:ff:00:01",
        ] {
            assert!(text.parse::<MacAddress>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_prefix_is_no_longer_than_its_address() {
        assert_eq!("10.0.0.2/24".parse::<IpNet>().unwrap().prefix(), 24);
        assert_eq!(
            "fe80::1/64".parse::<IpNet>().unwrap().to_string(),
            "fe80::1/64"
        );
        for text in ["10.0.0.2/33", "fe80::1/129", "10.0.0.2", "/8", "x/8"] {
            assert!(text.parse::<IpNet>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_is_an_address_without_its_host() {
        for (address, network) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3/0", "0.0.0.0/0"),
            ("10.1.2.3/32", "10.1.2.3/32"),
            ("fd00::1:2/64", "fd00::/64"),
            ("fd00::1/0", "::/0"),
        ] {
            let address: IpNet = address.parse().unwrap();
            assert_eq!(address.network().to_string(), network);
        }
    }

    #[test]
    fn addresses_survive_json() {
        let net: IpNet = "10.0.0.2/24".parse().unwrap();
        let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
        let json = serde_json::to_string(&(net, mac)).unwrap();
        assert_eq!(json, r#"["10.0.0.2/24","02:00:00:00:00:01"]"#);
        assert_eq!(
            serde_json::from_str::<(IpNet, MacAddress)>(&json).unwrap(),
            (net, mac)
        );
        let error = serde_json::from_str::<IpNet>(r#""10.0.0.2/99""#).unwrap_err();
        assert!(error.to_string().contains("10.0.0.2/99"), "{error}");
        assert!(serde_json::from_str::<MacAddress>(r#""me""#).is_err());
    }
}
