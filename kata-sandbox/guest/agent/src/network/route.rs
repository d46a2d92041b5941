//! UpdateRoutes and ListRoutes.

use std::io;
use std::net::IpAddr;

use kata_protocol::ttrpc::Status;
use kata_protocol::types::{IpFamily, Route};

use super::link::{self, Link};
use super::prefix::{Prefix, family_of, from_octets, octets, wire_family};
use crate::netlink::{Attributes, Request, Verb, u32_at};
use crate::service::{internal, invalid};

const NEW_ROUTE: u16 = 24;
const DELETE_ROUTE: u16 = 25;
const GET_ROUTE: u16 = 26;
/// Bytes of `struct rtmsg`.
const FIXED: usize = 12;

const DESTINATION: u16 = 1;
const OUT: u16 = 4;
const GATEWAY: u16 = 5;
const PRIORITY: u16 = 6;
const SOURCE: u16 = 7;
const METRICS: u16 = 8;
const METRIC_MTU: u16 = 2;
const MULTIPATH: u16 = 9;
const TABLE: u16 = 15;
const VIA: u16 = 18;

/// The table that is used when no rule says another.
const MAIN: u8 = 254;
/// The one that the kernel fills by itself.
const LOCAL: u8 = 255;
/// Says that the table's number is in an attribute.
const OTHER_TABLE: u8 = 252;
/// Made by the kernel, for an address.
const BY_KERNEL: u8 = 2;
/// Made by whoever set the machine up.
const BY_BOOT: u8 = 3;
const UNICAST: u8 = 1;
/// Unicast, and the kinds that lead nowhere: blackhole, unreachable, prohibit,
/// throw.
const KINDS: [u8; 5] = [UNICAST, 6, 7, 8, 9];
/// The gateway is on the link, whatever the addresses say.
const ON_LINK: u32 = 4;

/// Makes `wanted` the routes of this machine, next to those that belong to its
/// addresses, and lists them. When one cannot be made, the old ones are put
/// back.
pub(crate) fn update(wanted: &[Route]) -> Result<Vec<Route>, Status> {
    let links = link::list().map_err(internal("list the interfaces"))?;
    let mut new = Vec::with_capacity(wanted.len());
    for route in wanted {
        new.push((request(route, &links)?, route));
    }
    // A gateway must be reachable before a route through it is accepted.
    new.sort_by_key(|(_, route)| !route.gateway.is_empty() || !route.next_hops.is_empty());
    let old = replaceable(&links).map_err(internal("list the routes"))?;
    for body in &old {
        raw(DELETE_ROUTE, Verb::Change, body)
            .send()
            .map_err(internal("remove an old route"))?;
    }
    for (request, route) in new {
        if let Err(error) = request.send().or_else(is_there) {
            restore(&old);
            let to = if route.dest.is_empty() {
                "default"
            } else {
                &route.dest
            };
            let what = format!("add the route to {to} through {}", route.device);
            return Err(internal(&what)(error));
        }
    }
    describe_all(&links)
}

/// A route that is there already need not be made.
fn is_there(error: io::Error) -> io::Result<Vec<Vec<u8>>> {
    if error.kind() == io::ErrorKind::AlreadyExists {
        return Ok(Vec::new());
    }
    Err(error)
}

fn restore(old: &[Vec<u8>]) {
    for body in old {
        if let Err(error) = raw(NEW_ROUTE, Verb::Replace, body).send() {
            log::error!(error:% = error; "an old route is lost");
        }
    }
}

/// A request with the body of a listed route.
fn raw(kind: u16, verb: Verb, body: &[u8]) -> Request {
    Request::new(kind, verb, body)
}

/// Bodies of the routes that are not the kernel's own.
fn replaceable(links: &[Link]) -> io::Result<Vec<Vec<u8>>> {
    let lo = links
        .iter()
        .find(|link| link.name == "lo")
        .map(|link| link.index);
    let mut bodies = dump()?;
    bodies.retain(|body| {
        if body[4] == LOCAL {
            return false;
        }
        let of_lo = Attributes(&body[FIXED..])
            .any(|(kind, value)| kind == OUT && lo.is_some() && u32_at(value, 0) == lo);
        body[5] != BY_KERNEL && !of_lo
    });
    Ok(bodies)
}

/// Bodies of the routes in all tables, of both families.
fn dump() -> io::Result<Vec<Vec<u8>>> {
    let mut bodies = Request::new(GET_ROUTE, Verb::Dump, &[0; FIXED]).send()?;
    bodies.retain(|body| body.len() >= FIXED && KINDS.contains(&body[7]));
    Ok(bodies)
}

fn request(route: &Route, links: &[Link]) -> Result<Request, Status> {
    let no_address = |text: &str| invalid(format!("{text:?} is no address"));
    let parse = |text: &str| match text {
        "" => Ok(None),
        text => text
            .parse::<IpAddr>()
            .map(Some)
            .map_err(|_| no_address(text)),
    };
    let gateway = parse(&route.gateway)?;
    let source = parse(&route.source)?;
    let hint = gateway.or(source).map(|address| address.is_ipv6());
    let v6 = hint.unwrap_or(route.family == IpFamily::V6 as i32);
    let destination =
        Prefix::destination(&route.dest, v6).ok_or_else(|| no_address(&route.dest))?;
    let family = family_of(destination.address);
    if [gateway, source]
        .into_iter()
        .flatten()
        .any(|address| family_of(address) != family)
    {
        return Err(invalid(format!(
            "the route to {:?} mixes address families",
            route.dest
        )));
    }
    let kind = number(route.kind, UNICAST, "kind")?;
    if !KINDS.contains(&kind) {
        return Err(invalid(format!("{kind} is no kind of a route")));
    }
    let protocol = number(route.protocol, BY_BOOT, "protocol")?;
    let scope = u8::try_from(route.scope)
        .map_err(|_| invalid(format!("{} is no scope of a route", route.scope)))?;
    // Numbers that do not fit stand in an attribute.
    let table = u8::try_from(route.table).unwrap_or(OTHER_TABLE);
    let table = if table == 0 { MAIN } else { table };
    let mut fixed = [0; FIXED];
    fixed[..8].copy_from_slice(&[
        family,
        destination.length,
        0,
        0,
        table,
        protocol,
        scope,
        kind,
    ]);
    fixed[8..].copy_from_slice(&(route.flags & ON_LINK).to_ne_bytes());
    let mut request = Request::new(NEW_ROUTE, Verb::Append, &fixed)
        .optional(GATEWAY, gateway.map(octets).as_deref())
        .optional(SOURCE, source.map(octets).as_deref());
    if !route.next_hops.is_empty() {
        request = request.attribute(MULTIPATH, &next_hops(route, family, links)?);
    } else if kind == UNICAST {
        let out = find(&route.device, links)?;
        request = request.attribute(OUT, &out.index.to_ne_bytes());
    }
    if let Some(metric) = route.metric {
        request = request.attribute(PRIORITY, &metric.to_ne_bytes());
    }
    if table == OTHER_TABLE {
        request = request.attribute(TABLE, &route.table.to_ne_bytes());
    }
    if destination.length > 0 {
        request = request.attribute(DESTINATION, &octets(destination.address));
    }
    if route.mtu > 0 {
        request = request.attribute(METRICS, &mtu_metric(route.mtu));
    }
    Ok(request)
}

/// A number of the message's fixed part; 0 stands for the usual one.
fn number(number: u32, usual: u8, what: &str) -> Result<u8, Status> {
    match u8::try_from(number) {
        Ok(0) => Ok(usual),
        Ok(number) => Ok(number),
        Err(_) => Err(invalid(format!("{number} is no {what} of a route"))),
    }
}

fn find<'a>(name: &str, links: &'a [Link]) -> Result<&'a Link, Status> {
    let link = links.iter().find(|link| link.name == name);
    link.ok_or_else(|| invalid(format!("there is no interface {name:?}")))
}

/// Each is a `struct rtnexthop` with attributes.
fn next_hops(route: &Route, family: u8, links: &[Link]) -> Result<Vec<u8>, Status> {
    let mut all = Vec::new();
    for hop in &route.next_hops {
        let out = find(&hop.device, links)?;
        let weight = u8::try_from(hop.weight.clamp(1, 256) - 1).unwrap_or(u8::MAX);
        let mut one = vec![0, 0, u8::try_from(hop.flags & ON_LINK).unwrap_or(0), weight];
        one.extend_from_slice(&out.index.to_ne_bytes());
        if !hop.gateway.is_empty() {
            let gateway: IpAddr = hop
                .gateway
                .parse()
                .map_err(|_| invalid(format!("{:?} is no address", hop.gateway)))?;
            one.extend(gateway_attribute(gateway, family));
        }
        let length = u16::try_from(one.len()).expect("an address is short");
        one[..2].copy_from_slice(&length.to_ne_bytes());
        all.extend(one);
    }
    Ok(all)
}

/// A gateway of the route's family, or of the other one.
fn gateway_attribute(gateway: IpAddr, family: u8) -> Vec<u8> {
    let (kind, value) = if family_of(gateway) == family {
        (GATEWAY, octets(gateway))
    } else {
        let family = u16::from(family_of(gateway)).to_ne_bytes();
        (VIA, [family.to_vec(), octets(gateway)].concat())
    };
    let length = u16::try_from(value.len() + 4).expect("an address is short");
    let mut attribute = length.to_ne_bytes().to_vec();
    attribute.extend_from_slice(&kind.to_ne_bytes());
    attribute.extend(value);
    attribute.resize(attribute.len().next_multiple_of(4), 0);
    attribute
}

/// A nested attribute: length, kind, value.
fn mtu_metric(mtu: u32) -> Vec<u8> {
    let mut nested = 8_u16.to_ne_bytes().to_vec();
    nested.extend_from_slice(&METRIC_MTU.to_ne_bytes());
    nested.extend_from_slice(&mtu.to_ne_bytes());
    nested
}

/// The routes of the main table.
pub(crate) fn list() -> Result<Vec<Route>, Status> {
    let links = link::list().map_err(internal("list the interfaces"))?;
    describe_all(&links)
}

fn describe_all(links: &[Link]) -> Result<Vec<Route>, Status> {
    let bodies = dump().map_err(internal("list the routes"))?;
    Ok(bodies
        .iter()
        .filter(|body| body[4] == MAIN && body[7] == UNICAST)
        .filter_map(|body| describe(body, links))
        .collect())
}

fn describe(body: &[u8], links: &[Link]) -> Option<Route> {
    let v6 = *body.first()? == family_of(Prefix::everything(true).address);
    let everything = Prefix::everything(v6);
    let mut route = Route {
        scope: u32::from(*body.get(6)?),
        family: wire_family(everything.address),
        flags: u32_at(body, 8)? & ON_LINK,
        ..Route::default()
    };
    for (kind, value) in Attributes(body.get(FIXED..)?) {
        let address = || from_octets(value).map(|address| address.to_string());
        match kind {
            DESTINATION => route.dest = format!("{}/{}", address()?, body.get(1)?),
            GATEWAY => route.gateway = address()?,
            SOURCE => route.source = address()?,
            OUT => {
                let index = u32_at(value, 0)?;
                let link = links.iter().find(|link| link.index == index);
                route.device = link.map(|link| link.name.clone()).unwrap_or_default();
            }
            PRIORITY => route.metric = u32_at(value, 0),
            METRICS => {
                let mtu = Attributes(value).find(|(kind, _)| *kind == METRIC_MTU);
                route.mtu = mtu
                    .and_then(|(_, value)| u32_at(value, 0))
                    .unwrap_or_default();
            }
            _ => {}
        }
    }
    Some(route)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(route: &Route) -> String {
        let links = [Link {
            index: 2,
            name: "eth0".into(),
            ..Link::default()
        }];
        request(route, &links).unwrap_err().message
    }

    #[test]
    fn a_route_that_makes_no_sense_is_refused_by_reason() {
        let route = Route {
            device: "eth0".into(),
            ..Route::default()
        };
        let with = |change: fn(&mut Route)| {
            let mut route = route.clone();
            change(&mut route);
            refused(&route)
        };
        assert!(with(|r| r.gateway = "here".into()).contains("no address"));
        assert!(with(|r| r.dest = "10.0.0.0/40".into()).contains("no address"));
        assert!(with(|r| r.device = "eth7".into()).contains("eth7"));
        assert!(with(|r| r.scope = 256).contains("scope"));
        let mixed = with(|r| {
            r.dest = "10.0.0.0/8".into();
            r.gateway = "fd00::1".into();
        });
        assert!(mixed.contains("mixes"));
    }

    #[test]
    fn a_default_route_takes_the_family_of_its_gateway() {
        let links = [Link {
            index: 2,
            name: "eth0".into(),
            ..Link::default()
        }];
        let route = Route {
            device: "eth0".into(),
            gateway: "fd00::1".into(),
            ..Route::default()
        };
        assert!(request(&route, &links).is_ok());
    }
}
