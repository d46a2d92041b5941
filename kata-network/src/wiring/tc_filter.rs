//! A tap beside the link, and filters between them.

use super::{Wiring, name_beside};
use crate::endpoint::Attachment;
use crate::error::{Error, Result};
use crate::rtnl::{Link, Rtnl, redirect, tap_up};
use crate::tap;

/// A tap beside the link, and filters between them.
#[derive(Clone, Copy, Debug)]
pub(super) struct TcFilter;

impl Wiring for TcFilter {
    fn connect(&self, rtnl: &mut Rtnl, link: &Link, queues: usize) -> Result<Attachment> {
        if !link.ethernet || link.mac.is_none() {
            return Err(Error::Interface {
                interface: link.name.clone(),
                kind: link.kind.clone(),
                reason: "it carries no Ethernet frames".to_owned(),
            });
        }
        let name = name_beside(link);
        let taps = tap::open(&name, queues).map_err(Error::host(format!(
            "make the tap {name} for {}",
            link.name
        )))?;
        join(rtnl, link, &name)?;
        Ok(Attachment::Tap(taps))
    }
}

/// Joins a tap to a link, whatever its name was before.
pub(super) fn join(rtnl: &mut Rtnl, link: &Link, tap: &str) -> Result<()> {
    let name = name_beside(link);
    let found = Link::find(rtnl, tap).map_err(Error::host(format!("find the tap {tap}")))?;
    if tap != name {
        let renamed = found.rename(rtnl, &name);
        renamed.map_err(Error::host(format!("call the tap {tap} {name}")))?;
    }
    tap_up(rtnl, found.index, link.mtu).map_err(Error::host(format!("bring the tap {name} up")))?;
    for (from, to, what) in [
        (link.index, found.index, &link.name),
        (found.index, link.index, &name),
    ] {
        redirect(rtnl, from, to).map_err(Error::host(format!(
            "redirect what comes in through {what}"
        )))?;
    }
    Ok(())
}
