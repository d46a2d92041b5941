//! What the guest configures.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::address::{IpNet, MacAddress};

/// How the guest configures an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct GuestInterface {
    /// Its name in the guest, such as `eth0`.
    pub name: String,
    /// By which the guest finds the device.
    pub mac: MacAddress,
    /// The address that it is to have instead; `None` for the device's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub new_mac: Option<MacAddress>,
    /// The largest packet, in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Its addresses, in order: the first of a family is its source address.
    pub addresses: Vec<IpNet>,
    /// Whether it resolves no addresses (`IFF_NOARP`).
    #[serde(default)]
    pub no_arp: bool,
}

impl GuestInterface {
    /// An interface without addresses.
    #[must_use]
    pub fn new(name: impl Into<String>, mac: MacAddress, mtu: u32) -> Self {
        Self {
            name: name.into(),
            mac,
            new_mac: None,
            mtu,
            addresses: Vec::new(),
            no_arp: false,
        }
    }

    /// With an address more.
    #[must_use]
    pub fn address(mut self, address: IpNet) -> Self {
        self.addresses.push(address);
        self
    }
}

/// A route in the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Route {
    /// Where it leads; `None` for the default route of its gateway's family.
    pub destination: Option<IpNet>,
    /// The next hop; `None` when the destination is on the link itself, or
    /// there are several.
    pub gateway: Option<IpAddr>,
    /// The interface, by its name in the guest; empty for a route that leads
    /// nowhere, or through several.
    pub interface: String,
    /// The source address to prefer.
    pub source: Option<IpAddr>,
    /// The largest packet on this route; `None` for the interface's.
    pub mtu: Option<u32>,
    /// What becomes of packets.
    #[serde(default)]
    pub kind: RouteKind,
    /// The routing table; `None` for the main one (254).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub table: Option<u32>,
    /// The lower is preferred; `None` for the kernel's own choice.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<u32>,
    /// The distance of the destination, as `rtnetlink(7)` numbers it; `None`
    /// for the link without a next hop, and for everywhere with one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<u8>,
    /// Who made it, as `rtnetlink(7)` numbers it; `None` for the administrator.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol: Option<u8>,
    /// Whether the next hop is on the link though no address says so.
    #[serde(default)]
    pub on_link: bool,
    /// Several next hops, among which flows are spread.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub next_hops: Vec<NextHop>,
}

impl Route {
    /// The default route through a gateway.
    #[must_use]
    pub fn default_through(gateway: IpAddr, interface: impl Into<String>) -> Self {
        Self {
            gateway: Some(gateway),
            interface: interface.into(),
            ..Self::default()
        }
    }

    /// A route to a network, on the link unless a gateway is given.
    #[must_use]
    pub fn to(destination: IpNet, interface: impl Into<String>) -> Self {
        Self {
            destination: Some(destination),
            interface: interface.into(),
            ..Self::default()
        }
    }

    /// Through a next hop.
    #[must_use]
    pub fn through(mut self, gateway: IpAddr) -> Self {
        self.gateway = Some(gateway);
        self
    }

    /// Whether it is of the sixth version of the protocol.
    #[must_use]
    pub fn is_ipv6(&self) -> bool {
        let hop = self.next_hops.iter().find_map(|hop| hop.gateway);
        let address = self.destination.map(IpNet::address);
        let address = address.or(self.source).or(self.gateway).or(hop);
        address.is_some_and(|address| address.is_ipv6())
    }
}

/// What becomes of packets on a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum RouteKind {
    /// They are sent on.
    #[default]
    Unicast,
    /// They are dropped in silence.
    Blackhole,
    /// They are dropped, and the sender is told that there is no way.
    Unreachable,
    /// They are dropped, and the sender is told that it is forbidden.
    Prohibit,
    /// The look-up goes on in the next table.
    Throw,
}

impl RouteKind {
    /// The number that `rtnetlink(7)` gives it.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Unicast => 1,
            Self::Blackhole => 6,
            Self::Unreachable => 7,
            Self::Prohibit => 8,
            Self::Throw => 9,
        }
    }
}

/// One of several next hops of a route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct NextHop {
    /// Its address; `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The interface, by its name in the guest.
    pub interface: String,
    /// Its share of the flows, from 1 to 256.
    pub weight: u16,
    /// Whether it is on the link though no address says so.
    pub on_link: bool,
}

impl NextHop {
    /// A next hop with an equal share.
    #[must_use]
    pub fn new(gateway: Option<IpAddr>, interface: impl Into<String>) -> Self {
        Self {
            gateway,
            interface: interface.into(),
            weight: 1,
            on_link: false,
        }
    }
}

/// A rule that says which routing table is looked at (`ip-rule(8)`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rule {
    /// Whether it is for IPv6.
    pub ipv6: bool,
    /// Rules are tried from the lowest on.
    pub priority: u32,
    /// The table; `None` when the rule has an action of its own.
    pub table: Option<u32>,
    /// Packets from there.
    pub source: Option<IpNet>,
    /// Packets to there.
    pub destination: Option<IpNet>,
    /// Packets that came in through this interface.
    pub input: Option<String>,
    /// Packets of sockets bound to this interface.
    pub output: Option<String>,
    /// Packets with this mark, compared under this mask.
    pub mark: Option<(u32, u32)>,
    /// Results of this prefix length or shorter are passed over.
    pub suppress_prefix: Option<u32>,
    /// What becomes of the packets, where that is not looking at a table.
    pub refuse: Option<RouteKind>,
    /// Whether packets that do not match are meant.
    pub invert: bool,
}

/// A neighbour whose hardware address is known beforehand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Neighbor {
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: MacAddress,
    /// The interface it is behind, by its name in the guest.
    pub interface: String,
}

impl Neighbor {
    /// A neighbour behind an interface.
    #[must_use]
    pub fn new(address: IpAddr, mac: MacAddress, interface: impl Into<String>) -> Self {
        Self {
            address,
            mac,
            interface: interface.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_has_the_family_of_whatever_address_it_has() {
        let via = |text: &str| Route::default_through(text.parse().unwrap(), "eth0");
        assert!(via("fd00::1").is_ipv6());
        assert!(!via("10.0.0.1").is_ipv6());
        let on_link = Route::to("fd00::/64".parse().unwrap(), "eth0");
        assert!(on_link.is_ipv6());
        let spread = Route {
            next_hops: vec![NextHop::new("fd00::1".parse().ok(), "eth0")],
            ..Route::default()
        };
        assert!(spread.is_ipv6());
    }

    #[test]
    fn what_is_not_said_is_not_written() {
        let route = Route::to("10.0.0.0/8".parse().unwrap(), "eth0");
        let json = serde_json::to_string(&route).unwrap();
        assert!(
            !json.contains("table") && !json.contains("next_hops"),
            "{json}"
        );
        assert_eq!(serde_json::from_str::<Route>(&json).unwrap(), route);
        let old = r#"{"name":"eth0","mac":"02:00:00:00:00:01","mtu":1500,"addresses":[]}"#;
        assert!(serde_json::from_str::<GuestInterface>(old).is_ok());
    }
}
