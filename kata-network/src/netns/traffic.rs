//! Counting and limiting what goes through interfaces of a namespace.

use super::joined::Connection;
use crate::error::{Error, Result};
use crate::rtnl::{Link, Rtnl};
use crate::traffic::{Counters, RateLimits, limit_leaving};
use crate::wiring;

fn look() -> Result<(Rtnl, Vec<Link>)> {
    let mut rtnl = Rtnl::open().map_err(Error::host("talk to the kernel's routing"))?;
    let links = Link::list(&mut rtnl);
    let links = links.map_err(Error::host("list the network's interfaces"))?;
    Ok((rtnl, links))
}

/// What has gone through what is joined, in the calling thread's namespace.
pub(crate) fn counters(connection: &Connection) -> Result<Vec<Counters>> {
    let (_, links) = look()?;
    let each = connection.joined.iter().filter_map(|joined| {
        let (tap, _) = wiring::ends_of(&links, joined.index)?;
        Some(Counters::of(&joined.name, tap))
    });
    Ok(each.collect())
}

/// Limits what goes through an interface, in the calling thread's namespace: what
/// the guest receives leaves by its tap, what it sends by the link.
pub(crate) fn limit(connection: &Connection, interface: &str, limits: &RateLimits) -> Result<()> {
    limits.validate()?;
    let (mut rtnl, links) = look()?;
    let joined = connection.joined.iter().find(|it| it.name == interface);
    let ends = joined.and_then(|joined| wiring::ends_of(&links, joined.index));
    let (tap, link) = ends.ok_or_else(|| Error::InvalidConfig {
        field: "interface",
        reason: format!("the sandbox has no {interface:?} in this network"),
    })?;
    if tap.index == link.index && limits.send.is_some() {
        return Err(Error::Interface {
            interface: interface.to_owned(),
            kind: link.kind.clone(),
            reason: "what a guest sends is limited where filters pass it on, and it needs none"
                .to_owned(),
        });
    }
    limit_leaving(&mut rtnl, tap, limits.receive)?;
    if tap.index == link.index {
        return Ok(());
    }
    limit_leaving(&mut rtnl, link, limits.send)
}
