//! Addresses with prefix lengths, as the wire spells them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use kata_protocol::types::IpFamily;

/// An address family as netlink numbers it.
pub(super) fn family_of(address: IpAddr) -> u8 {
    match address {
        IpAddr::V4(_) => 2,
        IpAddr::V6(_) => 10,
    }
}

/// The wire's family of an address.
pub(super) fn wire_family(address: IpAddr) -> i32 {
    match address {
        IpAddr::V4(_) => IpFamily::V4 as i32,
        IpAddr::V6(_) => IpFamily::V6 as i32,
    }
}

/// The bytes of an address.
pub(super) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address in a netlink attribute.
pub(super) fn from_octets(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => Some(IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?)),
        16 => Some(IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?)),
        _ => None,
    }
}

/// A range of addresses, or an address and its network's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Prefix {
    pub(super) address: IpAddr,
    pub(super) length: u8,
}

impl Prefix {
    /// An address and a prefix length in decimal, or none for the whole
    /// address, or an IPv4 netmask.
    pub(super) fn new(address: &str, mask: &str) -> Option<Self> {
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = if mask.is_empty() {
            most
        } else if let Ok(mask) = mask.parse::<Ipv4Addr>() {
            let length = mask.to_bits().leading_ones();
            (mask.to_bits().count_ones() == length).then_some(u8::try_from(length).ok()?)?
        } else {
            mask.parse().ok()?
        };
        (length <= most).then_some(Self { address, length })
    }

    /// A destination: `10.0.0.0/8`, an address, or nothing for everything of a
    /// family.
    pub(super) fn destination(text: &str, v6: bool) -> Option<Self> {
        if text.is_empty() || text == "default" {
            return Some(Self::everything(v6));
        }
        let (address, mask) = text.split_once('/').unwrap_or((text, ""));
        Self::new(address, mask)
    }

    /// All addresses of a family.
    pub(super) fn everything(v6: bool) -> Self {
        let address = if v6 {
            Ipv6Addr::UNSPECIFIED.into()
        } else {
            Ipv4Addr::UNSPECIFIED.into()
        };
        Self { address, length: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_are_read_in_every_spelling() {
        let length = |address, mask| Prefix::new(address, mask).map(|prefix| prefix.length);
        assert_eq!(length("10.0.0.1", "24"), Some(24));
        assert_eq!(length("10.0.0.1", ""), Some(32));
        assert_eq!(length("10.0.0.1", "255.255.128.0"), Some(17));
        assert_eq!(length("10.0.0.1", "255.0.255.0"), None);
        assert_eq!(length("10.0.0.1", "33"), None);
        assert_eq!(length("fd00::1", "64"), Some(64));
        assert_eq!(length("fd00::1", ""), Some(128));
        assert_eq!(length("fd00::1", "129"), None);
        assert_eq!(length("somewhere", "1"), None);
    }

    #[test]
    fn no_destination_is_every_destination() {
        assert_eq!(
            Prefix::destination("", true),
            Some(Prefix::everything(true))
        );
        assert_eq!(
            Prefix::destination("default", false),
            Some(Prefix::everything(false))
        );
        assert_eq!(
            Prefix::destination("10.1.2.3", false),
            Prefix::new("10.1.2.3", "32")
        );
    }
}
