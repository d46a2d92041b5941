//! Addresses of interfaces: what `ip address` shows and sets.

use std::io;
use std::net::IpAddr;

use super::prefix::{Prefix, family_of, from_octets, octets};
use crate::netlink::{Attributes, Request, Verb, u32_at};

const NEW_ADDRESS: u16 = 20;
const DELETE_ADDRESS: u16 = 21;
const GET_ADDRESS: u16 = 22;
/// Bytes of `struct ifaddrmsg`.
const FIXED: usize = 8;

const ADDRESS: u16 = 1;
const LOCAL: u16 = 2;
const BROADCAST: u16 = 4;
const FLAGS: u16 = 8;

/// The host vouches for the address: it is usable at once.
const NO_DUPLICATE_DETECTION: u32 = 0x02;
/// Only for this link; the kernel makes and keeps these.
const SCOPE_LINK: u8 = 253;

/// An address of an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct InterfaceAddress {
    pub(super) index: u32,
    pub(super) prefix: Prefix,
    scope: u8,
}

/// Every address.
pub(super) fn list() -> io::Result<Vec<InterfaceAddress>> {
    let bodies = Request::new(GET_ADDRESS, Verb::Dump, &[0; FIXED]).send()?;
    Ok(bodies.iter().filter_map(|body| parse(body)).collect())
}

fn parse(body: &[u8]) -> Option<InterfaceAddress> {
    let [_, length, _, scope] = *body.first_chunk()?;
    let find = |wanted| {
        Attributes(body.get(FIXED..)?).find_map(|(kind, value)| (kind == wanted).then_some(value))
    };
    let address = from_octets(find(LOCAL).or_else(|| find(ADDRESS))?)?;
    Some(InterfaceAddress {
        index: u32_at(body, 4)?,
        prefix: Prefix { address, length },
        scope,
    })
}

/// Gives the interface `index` exactly the addresses `wanted`, but for the ones
/// that the kernel makes itself.
pub(super) fn replace(index: u32, wanted: &[Prefix]) -> io::Result<()> {
    for old in list()?.into_iter().filter(|old| old.index == index) {
        let made_by_kernel = old.prefix.address.is_ipv6() && old.scope == SCOPE_LINK;
        if !made_by_kernel && !wanted.contains(&old.prefix) {
            request(DELETE_ADDRESS, Verb::Change, index, old.prefix).send()?;
        }
    }
    for &prefix in wanted {
        let mut new = request(NEW_ADDRESS, Verb::Replace, index, prefix);
        match prefix.address {
            IpAddr::V4(address) if prefix.length < 31 => {
                let host = u32::MAX >> prefix.length;
                new = new.attribute(BROADCAST, &(address.to_bits() | host).to_be_bytes());
            }
            IpAddr::V4(_) => {}
            IpAddr::V6(_) => {
                new = new.attribute(FLAGS, &NO_DUPLICATE_DETECTION.to_ne_bytes());
            }
        }
        new.send()?;
    }
    Ok(())
}

fn request(kind: u16, verb: Verb, index: u32, prefix: Prefix) -> Request {
    let mut fixed = [family_of(prefix.address), prefix.length, 0, 0, 0, 0, 0, 0];
    fixed[4..].copy_from_slice(&index.to_ne_bytes());
    let octets = octets(prefix.address);
    Request::new(kind, verb, &fixed)
        .attribute(LOCAL, &octets)
        .attribute(ADDRESS, &octets)
}
