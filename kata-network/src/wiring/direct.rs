//! The link is what the machine takes: nothing between.

use super::Wiring;
use crate::endpoint::Attachment;
use crate::error::{Error, Result};
use crate::rtnl::{Link, Rtnl};
use crate::tap;
use crate::wiring::macvtap;

/// The link is a tap or a macvtap.
#[derive(Clone, Copy, Debug)]
pub(super) struct Direct;

impl Wiring for Direct {
    fn connect(&self, _rtnl: &mut Rtnl, link: &Link, queues: usize) -> Result<Attachment> {
        let opened = match link.kind.as_str() {
            "tun" => tap::open_existing(&link.name, queues),
            "macvtap" | "ipvtap" => macvtap::open(link, queues),
            kind => {
                return Err(Error::Interface {
                    interface: link.name.clone(),
                    kind: kind.to_owned(),
                    reason: "only a tap or a macvtap needs no wiring".to_owned(),
                });
            }
        };
        let taps = opened.map_err(Error::host(format!("open the tap {}", link.name)))?;
        Ok(Attachment::Tap(taps))
    }
}
