//! Routes of all tables.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHop,
    RouteNextHopFlags, RouteProtocol, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::name_of;
use crate::address::IpNet;
use crate::guest::{NextHop, Route, RouteKind};
use crate::rtnl::{Link, Rtnl};

/// The table that each kernel fills by itself.
const LOCAL: u32 = 255;
/// The table that is looked at when no rule says another.
const MAIN: u32 = 254;

/// The routes that a guest in this namespace's place needs, in the kernel's order.
pub(super) fn list(rtnl: &mut Rtnl, links: &[Link]) -> io::Result<Vec<Route>> {
    let mut routes = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut message = RouteMessage::default();
        message.header.address_family = family;
        for message in rtnl.dump(&RouteNetlinkMessage::GetRoute(message))? {
            if let RouteNetlinkMessage::NewRoute(message) = message {
                routes.extend(of(&message, links)?);
            }
        }
    }
    Ok(routes)
}

/// The route of a message, if it is one that the guest needs to be told.
///
/// # Errors
/// When the route needs what a guest cannot be told, such as encapsulation.
pub(super) fn of(message: &RouteMessage, links: &[Link]) -> io::Result<Option<Route>> {
    let header = &message.header;
    let Some(kind) = kind_of(header.kind) else {
        return Ok(None);
    };
    let by_kernel = header.protocol == RouteProtocol::Kernel;
    if by_kernel || header.flags.contains(RouteFlags::Cloned) {
        return Ok(None);
    }
    let v6 = header.address_family == AddressFamily::Inet6;
    let mut destination = if v6 {
        IpAddr::V6(Ipv6Addr::UNSPECIFIED)
    } else {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED)
    };
    let mut table = u32::from(header.table);
    let mut route = Route {
        kind,
        scope: Some(header.scope.into()),
        protocol: Some(header.protocol.into()),
        on_link: header.flags.contains(RouteFlags::Onlink),
        ..Route::default()
    };
    let mut device = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => {
                destination = ip(address).unwrap_or(destination);
            }
            RouteAttribute::Gateway(address) => route.gateway = ip(address),
            RouteAttribute::Via(via) => route.gateway = via_ip(via),
            RouteAttribute::PrefSource(address) => route.source = ip(address),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Priority(metric) => route.metric = Some(*metric),
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Metrics(metrics) => route.mtu = mtu(metrics),
            RouteAttribute::MultiPath(hops) => route.next_hops = next_hops(hops, links),
            RouteAttribute::EncapType(_) | RouteAttribute::Encap(_) => {
                let reason = format!("a route to {destination} encapsulates its packets");
                return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
            }
            _ => {}
        }
    }
    if table == LOCAL {
        return Ok(None);
    }
    route.table = (table != MAIN).then_some(table);
    route.destination = IpNet::new(destination, header.destination_prefix_length);
    let link = device.and_then(|index| links.iter().find(|link| link.index == index));
    match (kind, link) {
        // What leads nowhere is said of no interface, or of the loopback's.
        (RouteKind::Unicast, Some(link)) if !link.loopback => {
            route.interface.clone_from(&link.name);
        }
        (RouteKind::Unicast, _) if route.next_hops.is_empty() => return Ok(None),
        _ => {}
    }
    Ok(Some(route))
}

fn kind_of(kind: RouteType) -> Option<RouteKind> {
    Some(match kind {
        RouteType::Unicast => RouteKind::Unicast,
        RouteType::BlackHole => RouteKind::Blackhole,
        RouteType::Unreachable => RouteKind::Unreachable,
        RouteType::Prohibit => RouteKind::Prohibit,
        RouteType::Throw => RouteKind::Throw,
        _ => return None,
    })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn via_ip(via: &RouteVia) -> Option<IpAddr> {
    match via {
        RouteVia::Inet(address) => Some((*address).into()),
        RouteVia::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn mtu(metrics: &[RouteMetric]) -> Option<u32> {
    metrics.iter().find_map(|metric| match metric {
        RouteMetric::Mtu(mtu) => Some(*mtu),
        _ => None,
    })
}

fn next_hops(hops: &[RouteNextHop], links: &[Link]) -> Vec<NextHop> {
    let each = hops.iter().filter_map(|hop| {
        let interface = name_of(links, hop.interface_index)?;
        let gateway = hop.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::Gateway(address) => ip(address),
            RouteAttribute::Via(via) => via_ip(via),
            _ => None,
        });
        let mut next = NextHop::new(gateway, interface);
        next.weight = u16::from(hop.hops) + 1;
        next.on_link = hop.flags.contains(RouteNextHopFlags::Onlink);
        Some(next)
    });
    each.collect()
}
