//! Neighbours that were made known for ever.

use std::io;
use std::net::IpAddr;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourMessage, NeighbourState,
};

use super::name_of;
use crate::address::MacAddress;
use crate::guest::Neighbor;
use crate::rtnl::{Link, Rtnl};

pub(super) fn list(rtnl: &mut Rtnl, links: &[Link]) -> io::Result<Vec<Neighbor>> {
    let listed = rtnl.dump(&RouteNetlinkMessage::GetNeighbour(
        NeighbourMessage::default(),
    ))?;
    let neighbors = listed.into_iter().filter_map(|message| match message {
        RouteNetlinkMessage::NewNeighbour(message) => of(&message, links),
        _ => None,
    });
    Ok(neighbors.collect())
}

/// The neighbour of a message, if it is one that the guest needs to be told.
pub(super) fn of(message: &NeighbourMessage, links: &[Link]) -> Option<Neighbor> {
    if message.header.state != NeighbourState::Permanent {
        return None;
    }
    let (mut address, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(it)) => {
                address = Some(IpAddr::V4(*it));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(it)) => {
                address = Some(IpAddr::V6(*it));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => {
                mac = <[u8; 6]>::try_from(bytes.as_slice()).ok();
            }
            _ => {}
        }
    }
    let interface = name_of(links, message.header.ifindex)?;
    Some(Neighbor::new(address?, MacAddress::new(mac?), interface))
}
