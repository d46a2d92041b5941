//! Addresses.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::address::{AddressAttribute, AddressMessage};

use super::name_of;
use crate::address::IpNet;
use crate::guest::Route;
use crate::rtnl::{Link, Rtnl};

/// Addresses with the index of their link, and routes.
type Listed = (Vec<(u32, IpNet)>, Vec<Route>);

/// Addresses, in the order in which they were added, with the index of their
/// link, and routes that they imply but the
/// guest's kernel would not make: those to a peer.
pub(super) fn list(rtnl: &mut Rtnl, links: &[Link]) -> io::Result<Listed> {
    let listed = rtnl.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
    let (mut addresses, mut routes) = (Vec::new(), Vec::new());
    let mut first_v6 = None;
    for message in listed {
        let RouteNetlinkMessage::NewAddress(message) = message else {
            continue;
        };
        let Some((address, route)) = of(&message, links) else {
            continue;
        };
        let place = match address.address() {
            IpAddr::V4(_) => addresses.len(),
            // The kernel lists the last first.
            IpAddr::V6(_) => *first_v6.get_or_insert(addresses.len()),
        };
        addresses.insert(place, (message.header.index, address));
        routes.extend(route);
    }
    Ok((addresses, routes))
}

/// The address of a message, and the route to its peer if it has one.
pub(super) fn of(message: &AddressMessage, links: &[Link]) -> Option<(IpNet, Option<Route>)> {
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(it) => local = Some(*it),
            AddressAttribute::Address(it) => address = Some(*it),
            _ => {}
        }
    }
    let own = local.or(address)?;
    let prefix = message.header.prefix_len;
    if is_made_by_kernel(own) {
        return None;
    }
    let peer = address.filter(|address| *address != own);
    let Some(peer) = peer else {
        return Some((IpNet::new(own, prefix)?, None));
    };
    let whole = if own.is_ipv4() { 32 } else { 128 };
    let device = name_of(links, message.header.index)?;
    let mut route = Route::to(IpNet::new(peer, prefix)?.network(), device);
    route.source = own.is_ipv4().then_some(own);
    Some((IpNet::new(own, whole)?, Some(route)))
}

/// Every kernel gives an interface its link-local address of the sixth version
/// by itself, out of the hardware address that the guest has too.
fn is_made_by_kernel(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(address) if address.is_unicast_link_local())
}
