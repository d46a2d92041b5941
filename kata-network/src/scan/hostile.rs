//! Messages of any bytes, read as those of the kernel are.

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;

use super::{address, neighbor, route, rule};
use crate::rtnl::{Link, parse};

/// Reads a message, if these bytes are one, of a namespace with two links.
pub(crate) fn read(bytes: &[u8]) {
    let Ok(message) = parse(bytes) else {
        return;
    };
    let NetlinkPayload::InnerMessage(message) = message.payload else {
        return;
    };
    let links = [(1, "lo"), (2, "eth0")].map(|(index, name)| Link {
        index,
        name: name.to_owned(),
        ..Link::default()
    });
    match message {
        RouteNetlinkMessage::NewLink(message) => drop(Link::of(message)),
        RouteNetlinkMessage::NewAddress(message) => drop(address::of(&message, &links)),
        RouteNetlinkMessage::NewRoute(message) => drop(route::of(&message, &links)),
        RouteNetlinkMessage::NewNeighbour(message) => drop(neighbor::of(&message, &links)),
        RouteNetlinkMessage::NewRule(message) => drop(rule::of(&message)),
        _ => {}
    }
}
