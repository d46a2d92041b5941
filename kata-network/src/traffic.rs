//! What goes through interfaces, and how much may.

use std::io;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::rtnl::{Link, Rtnl, shape, unshape};

/// What has gone through an interface of a sandbox, as the host counts it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Counters {
    /// The interface's name in the guest.
    pub interface: String,
    /// Bytes that the guest was sent.
    pub received: u64,
    /// Bytes that it has sent.
    pub sent: u64,
    /// Packets that it was sent.
    pub received_packets: u64,
    /// Packets that it has sent.
    pub sent_packets: u64,
    /// Packets for it that were dropped.
    pub receive_dropped: u64,
    /// Packets of it that were dropped.
    pub send_dropped: u64,
}

impl Counters {
    /// Of the host's end: what that sends, the guest receives.
    pub(crate) fn of(interface: &str, end: &Link) -> Self {
        let counted = end.counters;
        if ["macvtap", "ipvtap"].contains(&end.kind.as_str()) {
            // These count for who has them open.
            return Self {
                interface: interface.to_owned(),
                received: counted.rx_bytes,
                sent: counted.tx_bytes,
                received_packets: counted.rx_packets,
                sent_packets: counted.tx_packets,
                receive_dropped: counted.rx_dropped,
                send_dropped: counted.tx_dropped,
            };
        }
        Self {
            interface: interface.to_owned(),
            received: counted.tx_bytes,
            sent: counted.rx_bytes,
            received_packets: counted.tx_packets,
            sent_packets: counted.rx_packets,
            receive_dropped: counted.tx_dropped,
            send_dropped: counted.rx_dropped,
        }
    }
}

/// How much may go through an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RateLimits {
    /// What the guest may receive; `None` for no limit.
    pub receive: Option<Rate>,
    /// What it may send; `None` for no limit.
    pub send: Option<Rate>,
}

impl RateLimits {
    /// No limit in either direction.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// The guest may receive that much.
    #[must_use]
    pub fn receive(mut self, rate: Rate) -> Self {
        self.receive = Some(rate);
        self
    }

    /// The guest may send that much.
    #[must_use]
    pub fn send(mut self, rate: Rate) -> Self {
        self.send = Some(rate);
        self
    }

    /// Checks what needs no look at the host.
    pub(crate) fn validate(&self) -> Result<()> {
        let mut rates = self.receive.iter().chain(&self.send);
        if rates.any(|rate| rate.bits_per_second < 8) {
            return Err(Error::InvalidConfig {
                field: "rate",
                reason: "it is less than a byte a second".to_owned(),
            });
        }
        Ok(())
    }
}

/// A bandwidth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Rate {
    /// Bits in a second, with all headers.
    pub bits_per_second: u64,
    /// Bytes that may go at once after a pause.
    pub burst: u32,
}

impl Rate {
    /// So many bits in a second, and what passes in ten milliseconds, but at
    /// least the largest packet (64 KiB), at once.
    #[must_use]
    pub fn bits_per_second(bits: u64) -> Self {
        let burst = u32::try_from(bits / 8 / 100).unwrap_or(u32::MAX);
        Self {
            bits_per_second: bits,
            burst: burst.max(64 << 10),
        }
    }

    /// With so many bytes at once.
    #[must_use]
    pub fn burst(mut self, bytes: u32) -> Self {
        self.burst = bytes;
        self
    }
}

/// Limits what leaves by a link, or no longer does. A discipline of somebody
/// else's on the link stays, and is an error.
pub(crate) fn limit_leaving(rtnl: &mut Rtnl, link: &Link, rate: Option<Rate>) -> Result<()> {
    let limited = unshape(rtnl, link.index).and_then(|()| match rate {
        Some(rate) => shape(rtnl, link.index, rate.bits_per_second / 8, rate.burst),
        None => Ok(()),
    });
    let what = format!("limit what leaves by {}", link.name);
    limited.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Error::Peer {
            peer: link.name.clone(),
            operation: "be limited".to_owned(),
            reason: "it has a queueing discipline of somebody else's".to_owned(),
        },
        _ => Error::host(what)(error),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_lets_the_largest_packet_through_at_once() {
        assert_eq!(Rate::bits_per_second(1000).burst, 65_536);
        assert_eq!(Rate::bits_per_second(1_000_000_000).burst, 1_250_000);
        let nothing = RateLimits::none().send(Rate::bits_per_second(7));
        assert!(nothing.validate().is_err());
        assert!(RateLimits::none().validate().is_ok());
    }

    #[test]
    fn what_the_host_sends_the_guest_receives() {
        let mut link = Link::default();
        link.counters.tx_bytes = 7;
        link.counters.rx_packets = 3;
        let counters = Counters::of("eth0", &link);
        assert_eq!((counters.received, counters.sent_packets), (7, 3));
    }
}
