//! What a network gives to a sandbox.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::address::{IpNet, MacAddress};

/// What a network gives to a sandbox until
/// [`Network::teardown`](crate::Network::teardown).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Lease {
    /// Devices for the machine.
    pub endpoints: Vec<Endpoint>,
    /// How the guest configures its interfaces.
    pub interfaces: Vec<GuestInterface>,
    /// The guest's routes, on top of those that its addresses imply.
    pub routes: Vec<Route>,
    /// Neighbours that the guest need not ask for.
    pub neighbors: Vec<Neighbor>,
    /// Name servers for the guest's `resolv.conf`.
    pub name_servers: Vec<IpAddr>,
    /// The network namespace on the host that the endpoints lead to.
    pub netns: Option<PathBuf>,
}

impl Lease {
    /// Nothing at all: such a lease needs no teardown.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to give back.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.endpoints.is_empty() && self.interfaces.is_empty() && self.netns.is_none()
    }
}

/// The host's end of a network device: a tap.
#[derive(Debug)]
#[non_exhaustive]
pub struct Endpoint {
    /// One open tap file descriptor for each queue pair, with vnet headers on.
    pub queues: Vec<OwnedFd>,
    /// The address of the guest's end.
    pub mac: MacAddress,
    /// The largest packet, in bytes, without the Ethernet header.
    pub mtu: u32,
}

impl Endpoint {
    /// An endpoint on open tap queues.
    #[must_use]
    pub fn new(queues: Vec<OwnedFd>, mac: MacAddress, mtu: u32) -> Self {
        Self { queues, mac, mtu }
    }
}

/// How the guest configures an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestInterface {
    /// Its name in the guest, such as `eth0`.
    pub name: String,
    /// By which the guest finds the device.
    pub mac: MacAddress,
    /// The largest packet, in bytes, without the Ethernet header.
    pub mtu: u32,
    /// Its addresses.
    pub addresses: Vec<IpNet>,
}

/// A route in the guest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where it leads; `None` for the default route.
    pub destination: Option<IpNet>,
    /// The next hop; `None` when the destination is on the link itself.
    pub gateway: Option<IpAddr>,
    /// The interface, by its name in the guest.
    pub interface: String,
    /// The source address to prefer.
    pub source: Option<IpAddr>,
    /// The largest packet on this route; `None` for the interface's.
    pub mtu: Option<u32>,
}

/// A neighbour whose hardware address is known beforehand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Neighbor {
    /// Its address.
    pub address: IpAddr,
    /// Its hardware address.
    pub mac: MacAddress,
    /// The interface it is behind, by its name in the guest.
    pub interface: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_with_an_interface_must_be_given_back() {
        assert!(Lease::new().is_empty());
        let mut lease = Lease::new();
        lease.interfaces.push(GuestInterface {
            name: "eth0".into(),
            mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            addresses: vec!["10.0.0.2/24".parse().unwrap()],
        });
        assert!(!lease.is_empty());
    }
}
