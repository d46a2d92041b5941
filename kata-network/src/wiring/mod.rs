//! How a machine's device is joined to a link of the host.
//!
//! ```text
//!   tcfilter    guest ── tap ◀─ redirect ─▶ eth0 (veth, macvlan, …) ── host
//!   macvtap     guest ── macvtap ─ on ─ eth0 ── host
//!   none        guest ── tap or macvtap that is there already ── host
//! ```

mod direct;
mod macvtap;
mod tc_filter;

use serde::{Deserialize, Serialize};

use crate::endpoint::Attachment;
use crate::error::{Error, Result};
use crate::rtnl::{Link, Rtnl, undo_redirect, unshape};

/// How a machine's device is joined to a link of the host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum WiringModel {
    /// What fits the link: nothing between a tap or macvtap and the guest, a
    /// device of the host handed on as it is, filters for everything else.
    #[default]
    Auto,
    /// A tap beside the link; filters send what comes in through either out
    /// through the other. For every link that carries Ethernet frames.
    TcFilter,
    /// A macvtap in passthrough mode on the link. One step less for a packet,
    /// but only where nothing else uses the link.
    Macvtap,
    /// The link itself, which is a tap or a macvtap.
    None,
}

/// What joins the calling thread's namespace's link to a device.
pub(crate) trait Wiring {
    /// Makes what is needed. What was made when this fails is taken back by
    /// [`undo`].
    fn connect(&self, rtnl: &mut Rtnl, link: &Link, queues: usize) -> Result<Attachment>;
}

impl WiringModel {
    /// Whether filters join the link to a tap beside it.
    pub(crate) fn is_by_filters(self, link: &Link) -> bool {
        let hardware = link.kind.is_empty() && link.hardware.is_some();
        let direct = ["tun", "macvtap", "ipvtap"].contains(&link.kind.as_str());
        self == Self::TcFilter || self == Self::Auto && !hardware && !direct
    }

    /// The wiring for a link.
    pub(crate) fn of(self, link: &Link) -> &'static dyn Wiring {
        match (self, link.kind.as_str()) {
            (Self::None, _) | (Self::Auto, "tun" | "macvtap" | "ipvtap") => &direct::Direct,
            (Self::Macvtap, _) => &macvtap::Macvtap,
            (Self::TcFilter | Self::Auto, _) => &tc_filter::TcFilter,
        }
    }
}

/// The name of what is made beside or on a link.
fn name_beside(link: &Link) -> String {
    format!("{PREFIX}{}", link.index)
}

/// The name of a tap whose link is not there yet. Links are numbered from 1 up,
/// these from the other end.
pub(crate) fn reserved_name(number: u32) -> String {
    format!("{PREFIX}{}", u32::MAX - number)
}

/// Joins a tap of that name, which was made before, to a link.
pub(crate) fn join_reserved(rtnl: &mut Rtnl, link: &Link, tap: &str) -> Result<()> {
    tc_filter::join(rtnl, link, tap)
}

/// The host's ends of a device: the one that its packets come out of, and the
/// link that they go on through; the same where there is nothing between.
pub(crate) fn ends_of(links: &[Link], index: u32) -> Option<(&Link, &Link)> {
    let link = links.iter().find(|link| link.index == index)?;
    let name = name_beside(link);
    let beside = links.iter().find(|it| it.name == name && is_ours(it));
    Some((beside.unwrap_or(link), link))
}

/// Removes the tap beside a link that is gone.
pub(crate) fn remove_beside(rtnl: &mut Rtnl, links: &[Link], index: u32) -> Result<()> {
    let name = format!("{PREFIX}{index}");
    match links.iter().find(|link| link.name == name && is_ours(link)) {
        Some(tap) => tap
            .remove(rtnl)
            .map_err(Error::host(format!("remove the tap {name}"))),
        None => Ok(()),
    }
}

/// How the names of links begin that are made here: nobody else's do, and with
/// any index they stay below sixteen bytes.
const PREFIX: &str = "kata";

/// Whether a link was made by a wiring.
pub(crate) fn is_ours(link: &Link) -> bool {
    let digits = link.name.strip_prefix(PREFIX);
    let numbered = digits.is_some_and(|rest| rest.parse::<u32>().is_ok());
    numbered && ["tun", "macvtap"].contains(&link.kind.as_str())
}

/// Takes back all that wirings made in the calling thread's namespace, past
/// what fails.
pub(crate) fn undo(rtnl: &mut Rtnl) -> Result<()> {
    let links = Link::list(rtnl).map_err(Error::host("list the network's interfaces"))?;
    let mut failures = Vec::new();
    for link in links.iter().filter(|link| !link.loopback) {
        let undone = if is_ours(link) {
            link.remove(rtnl)
        } else {
            undo_redirect(rtnl, link.index).and_then(|()| unshape(rtnl, link.index))
        };
        let failed = Error::host(format!("give the interface {} back", link.name));
        failures.extend(undone.map_err(failed).err());
    }
    Error::all(failures)
}
