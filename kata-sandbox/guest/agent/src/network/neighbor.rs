//! AddARPNeighbors: neighbours that need not be asked for.

use std::net::IpAddr;

use kata_protocol::ttrpc::Status;
use kata_protocol::types::ArpNeighbor;

use super::link::{self, Link, parse_mac};
use super::prefix::{family_of, octets};
use crate::netlink::{Request, Verb};
use crate::service::{internal, invalid};

const NEW_NEIGHBOR: u16 = 28;
/// Bytes of `struct ndmsg`.
const FIXED: usize = 12;

const DESTINATION: u16 = 1;
const HARDWARE_ADDRESS: u16 = 2;

/// Never forgotten, never asked for again.
const PERMANENT: u16 = 0x80;

/// Adds neighbours, or replaces those that are there.
pub(crate) fn add(neighbors: &[ArpNeighbor]) -> Result<(), Status> {
    let links = link::list().map_err(internal("list the interfaces"))?;
    for neighbor in neighbors {
        let (request, address) = request(neighbor, &links)?;
        request
            .send()
            .map_err(internal(&format!("add the neighbour {address}")))?;
    }
    Ok(())
}

fn request(neighbor: &ArpNeighbor, links: &[Link]) -> Result<(Request, IpAddr), Status> {
    let text = neighbor
        .to_ip_address
        .as_ref()
        .map_or("", |address| address.address.as_str());
    let address: IpAddr = text
        .parse()
        .map_err(|_| invalid(format!("{text:?} is no address")))?;
    let mac = parse_mac(&neighbor.lladdr)
        .ok_or_else(|| invalid(format!("{:?} is no hardware address", neighbor.lladdr)))?;
    let link = links
        .iter()
        .find(|link| link.name == neighbor.device)
        .ok_or_else(|| invalid(format!("there is no interface {:?}", neighbor.device)))?;
    let state = match neighbor.state {
        0 => PERMANENT,
        state => u16::try_from(state)
            .map_err(|_| invalid(format!("{state} is no state of a neighbour")))?,
    };
    let flags = u8::try_from(neighbor.flags)
        .map_err(|_| invalid(format!("{} are no flags of a neighbour", neighbor.flags)))?;
    let mut fixed = [0; FIXED];
    fixed[0] = family_of(address);
    fixed[4..8].copy_from_slice(&link.index.to_ne_bytes());
    fixed[8..10].copy_from_slice(&state.to_ne_bytes());
    fixed[10] = flags;
    let request = Request::new(NEW_NEIGHBOR, Verb::Replace, &fixed)
        .attribute(DESTINATION, &octets(address))
        .attribute(HARDWARE_ADDRESS, &mac);
    Ok((request, address))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kata_protocol::types::IpAddress;

    #[test]
    fn a_neighbour_needs_both_addresses_and_an_interface() {
        let links = [Link {
            index: 2,
            name: "eth0".into(),
            ..Link::default()
        }];
        let good = ArpNeighbor {
            to_ip_address: Some(IpAddress {
                address: "fd00::9".into(),
                ..IpAddress::default()
            }),
            device: "eth0".into(),
            lladdr: "52:54:00:12:34:56".into(),
            ..ArpNeighbor::default()
        };
        assert!(request(&good, &links).is_ok());
        for bad in [
            ArpNeighbor {
                to_ip_address: None,
                ..good.clone()
            },
            ArpNeighbor {
                lladdr: String::new(),
                ..good.clone()
            },
            ArpNeighbor {
                device: "eth1".into(),
                ..good.clone()
            },
            ArpNeighbor {
                state: -1,
                ..good.clone()
            },
        ] {
            assert!(request(&bad, &links).is_err());
        }
    }
}
