//! Description of a network card.

use std::os::fd::OwnedFd;

use super::device::Net;
use super::tap::Tap;
use crate::rate::RateLimit;
use crate::virtio::{Hosted, ThreadStart, VirtioDevice};
use crate::{Error, Result};

/// The most queue pairs of a card.
const MAX_PAIRS: usize = 16;

/// The smallest packet that each IPv4 host takes, and the largest there is.
const MTU: std::ops::RangeInclusive<u16> = 68..=65535;

/// A hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MacAddress(pub [u8; 6]);

/// What a card is connected to.
#[derive(Debug)]
pub enum Link {
    /// A tap of the host; it has one queue for each queue pair of the card.
    Tap(Tap),
    /// Descriptors that keep packets apart, one for each queue pair. Each packet is
    /// a frame after its 12-byte virtio header; there are no offloads.
    Packets(Vec<OwnedFd>),
    /// A connected stream socket on which each frame comes after its length, four
    /// bytes in network order, as passt speaks it. One queue pair, no offloads.
    Stream(OwnedFd),
}

/// A network card.
#[derive(Debug)]
pub struct NetConfig {
    /// What it is connected to.
    pub link: Link,
    /// Its address; `None` lets the guest choose.
    pub mac: Option<MacAddress>,
    /// The largest packet that the link takes, in bytes; `None` says nothing.
    pub mtu: Option<u16>,
    /// How much the guest may receive.
    pub receive_limit: RateLimit,
    /// How much it may send.
    pub transmit_limit: RateLimit,
}

impl NetConfig {
    /// A card on `link` with no address, MTU or limits.
    #[must_use]
    pub fn new(link: Link) -> Self {
        Self {
            link,
            mac: None,
            mtu: None,
            receive_limit: RateLimit::default(),
            transmit_limit: RateLimit::default(),
        }
    }

    /// Queue pairs.
    pub(super) fn pairs(&self) -> usize {
        match &self.link {
            Link::Tap(tap) => tap.len(),
            Link::Packets(fds) => fds.len(),
            Link::Stream(_) => 1,
        }
    }

    /// Whether a device can be made of this.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a value out of range.
    pub fn validate(&self) -> Result<()> {
        let invalid = |field, reason| Err(Error::InvalidConfig { field, reason });
        let pairs = self.pairs();
        if pairs == 0 || pairs > MAX_PAIRS {
            let reason = format!("{pairs} queue pairs are not 1 to {MAX_PAIRS}");
            return invalid("link", reason);
        }
        if let Some(MacAddress(mac)) = self.mac
            && (mac[0] & 1 != 0 || mac == [0; 6])
        {
            return invalid("mac", format!("{mac:02x?} is no single card's address"));
        }
        if self.mtu.is_some_and(|mtu| !MTU.contains(&mtu)) {
            return invalid("mtu", format!("{:?} is out of range", self.mtu));
        }
        self.receive_limit.validate()?;
        self.transmit_limit.validate()
    }

    /// The device, for a transport of this process. `thread_start` is called by
    /// its thread.
    ///
    /// # Errors
    /// When the configuration is invalid, or the host refuses a thread.
    pub fn device(self, thread_start: &ThreadStart) -> Result<Box<dyn VirtioDevice>> {
        let hosted = Hosted::start("kata-net", thread_start, |epoll| Net::new(self, epoll))?;
        Ok(Box::new(hosted))
    }
}
