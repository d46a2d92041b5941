//! What is in a network namespace: links, addresses, routes, rules and
//! neighbours, and which of it a guest that takes the namespace's place gets.
//!
//! Nothing is lost and nothing reordered but what every kernel makes by itself:
//! the loopback interface, link-local addresses, the local table, the routes
//! that come with an address, the three rules that are always there.

mod address;
#[cfg(any(test, feature = "testing"))]
pub(crate) mod hostile;
#[cfg(test)]
mod hostile_tests;
mod neighbor;
mod route;
mod rule;

use std::io;

use crate::address::IpNet;
use crate::guest::{Neighbor, Route, Rule};
use crate::rtnl::{Link, Rtnl};

/// A network namespace at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Scan {
    pub(crate) links: Vec<Link>,
    /// Addresses with the index of their link.
    pub(crate) addresses: Vec<(u32, IpNet)>,
    pub(crate) routes: Vec<Route>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) neighbors: Vec<Neighbor>,
}

impl Scan {
    /// Looks at the calling thread's namespace.
    pub(crate) fn take(rtnl: &mut Rtnl) -> io::Result<Self> {
        let links = Link::list(rtnl)?;
        let (addresses, implied) = address::list(rtnl, &links)?;
        let mut routes = implied;
        routes.extend(route::list(rtnl, &links)?);
        let rules = rule::list(rtnl)?;
        let neighbors = neighbor::list(rtnl, &links)?;
        Ok(Self {
            links,
            addresses,
            routes,
            rules,
            neighbors,
        })
    }

    /// A link's addresses, in order.
    pub(crate) fn addresses_of(&self, index: u32) -> Vec<IpNet> {
        let of_link = self.addresses.iter().filter(|(link, _)| *link == index);
        of_link.map(|(_, address)| *address).collect()
    }
}

/// The name of a link.
fn name_of(links: &[Link], index: u32) -> Option<&str> {
    let link = links.iter().find(|link| link.index == index)?;
    Some(&link.name)
}
