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
const SOURCE: u16 = 7;
const METRICS: u16 = 8;
const METRIC_MTU: u16 = 2;

/// The table that is used when no rule says another.
const MAIN: u8 = 254;
/// Made by the kernel, for an address.
const BY_KERNEL: u8 = 2;
/// Made by whoever set the machine up.
const BY_BOOT: u8 = 3;
const UNICAST: u8 = 1;
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
    new.sort_by_key(|(_, route)| !route.gateway.is_empty());
    let old = replaceable(&links).map_err(internal("list the routes"))?;
    for body in &old {
        raw(DELETE_ROUTE, Verb::Change, body)
            .send()
            .map_err(internal("remove an old route"))?;
    }
    for (request, route) in new {
        if let Err(error) = request.send() {
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
        let of_lo = Attributes(&body[FIXED..])
            .any(|(kind, value)| kind == OUT && lo.is_some() && u32_at(value, 0) == lo);
        body[5] != BY_KERNEL && !of_lo
    });
    Ok(bodies)
}

/// Bodies of the unicast routes in the main table, of both families.
fn dump() -> io::Result<Vec<Vec<u8>>> {
    let mut bodies = Request::new(GET_ROUTE, Verb::Dump, &[0; FIXED]).send()?;
    bodies.retain(|body| body.len() >= FIXED && body[4] == MAIN && body[7] == UNICAST);
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
    let out = links
        .iter()
        .find(|link| link.name == route.device)
        .ok_or_else(|| invalid(format!("there is no interface {:?}", route.device)))?;
    let scope = u8::try_from(route.scope)
        .map_err(|_| invalid(format!("{} is no scope of a route", route.scope)))?;
    let mut fixed = [0; FIXED];
    fixed[..8].copy_from_slice(&[
        family,
        destination.length,
        0,
        0,
        MAIN,
        BY_BOOT,
        scope,
        UNICAST,
    ]);
    fixed[8..].copy_from_slice(&(route.flags & ON_LINK).to_ne_bytes());
    let mut request = Request::new(NEW_ROUTE, Verb::Replace, &fixed)
        .attribute(OUT, &out.index.to_ne_bytes())
        .optional(GATEWAY, gateway.map(octets).as_deref())
        .optional(SOURCE, source.map(octets).as_deref());
    if destination.length > 0 {
        request = request.attribute(DESTINATION, &octets(destination.address));
    }
    if route.mtu > 0 {
        request = request.attribute(METRICS, &mtu_metric(route.mtu));
    }
    Ok(request)
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
