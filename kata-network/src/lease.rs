//! What a network gives to a sandbox.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::endpoint::Endpoint;
use crate::guest::{GuestInterface, Neighbor, Route, Rule};

/// What a network gives to a sandbox until
/// [`Network::teardown`](crate::Network::teardown).
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Lease {
    /// Devices for the machine.
    pub endpoints: Vec<Endpoint>,
    /// How the guest configures its interfaces.
    pub interfaces: Vec<GuestInterface>,
    /// The guest's routes, on top of those that its addresses imply, in order.
    pub routes: Vec<Route>,
    /// The guest's rules, on top of the kernel's own.
    pub rules: Vec<Rule>,
    /// Neighbours that the guest need not ask for.
    pub neighbors: Vec<Neighbor>,
    /// Name servers for the guest's `resolv.conf`.
    pub name_servers: Vec<IpAddr>,
    /// Domains in which the guest looks for short names.
    pub search_domains: Vec<String>,
    /// Options of the guest's resolver, such as `ndots:5`.
    pub resolver_options: Vec<String>,
    /// The network namespace on the host that the endpoints lead to.
    pub netns: Option<PathBuf>,
    /// Interfaces that an earlier lease had, by their names in the guest, and
    /// that are there no more. Of [`Network::rescan`](crate::Network::rescan).
    pub gone: Vec<String>,
    /// Interfaces that are left out, because the machine has no room for a
    /// device more ([`SetupRequest::most_devices`](crate::SetupRequest)).
    pub left_out: Vec<String>,
    /// Where the time went, in order of beginning.
    pub phases: Vec<Phase>,
}

/// A part of a set-up, and how long it took.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Phase {
    /// Its name, such as `cni bridge`.
    pub name: String,
    /// When it began.
    pub began: Instant,
    /// How long it took.
    pub took: Duration,
}

impl Phase {
    /// What began then and has just ended.
    #[must_use]
    pub fn ended(name: impl Into<String>, began: Instant) -> Self {
        Self {
            name: name.into(),
            began,
            took: began.elapsed(),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MacAddress;

    #[test]
    fn a_lease_with_an_interface_must_be_given_back() {
        assert!(Lease::new().is_empty());
        let mut lease = Lease::new();
        let mac = MacAddress::new([2, 0, 0, 0, 0, 1]);
        let eth0 = GuestInterface::new("eth0", mac, 1500);
        lease.interfaces = vec![eth0.address("10.0.0.2/24".parse().unwrap())];
        assert!(!lease.is_empty());
    }
}
