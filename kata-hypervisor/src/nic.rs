//! Network devices of a machine.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;

/// The most queue pairs a network device of ours has.
pub const MOST_NIC_QUEUES: usize = 8;

/// A virtio-net device (virtio 1.2, section 5.1).
#[derive(Clone, Debug)]
pub struct NicConfig {
    /// The guest's hardware address.
    pub mac: [u8; 6],
    /// The largest packet that the guest may send, in bytes, without the
    /// Ethernet header; from 68 to 65535. The device announces it
    /// (`VIRTIO_NET_F_MTU`).
    pub mtu: u32,
    /// What the device is connected to on the host.
    pub backend: NicBackend,
}

impl NicConfig {
    /// A device that is connected to something.
    #[must_use]
    pub fn new(mac: [u8; 6], mtu: u32, backend: NicBackend) -> Self {
        Self { mac, mtu, backend }
    }

    /// Why this makes no device, if it makes none.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        if !(68..=65_535).contains(&self.mtu) {
            return Some(format!(
                "an MTU of {} is not between 68 and 65535",
                self.mtu
            ));
        }
        if self.mac[0] & 1 != 0 {
            return Some(format!("{} is the address of a group", Mac(self.mac)));
        }
        if self.mac == [0; 6] {
            return Some("its hardware address is all zeroes".to_owned());
        }
        let queues = self.backend.queues();
        if queues == 0 || queues > MOST_NIC_QUEUES {
            return Some(format!(
                "{queues} queue pairs are not between 1 and {MOST_NIC_QUEUES}"
            ));
        }
        None
    }
}

/// What a network device is connected to on the host.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum NicBackend {
    /// A tap: one open file for each queue pair, in non-blocking mode, with
    /// `IFF_NO_PI | IFF_VNET_HDR`, and `IFF_MULTI_QUEUE` when there are several.
    Tap(Vec<Arc<OwnedFd>>),
    /// A connected stream socket on which each frame comes after its length,
    /// four bytes in network order. One queue pair, no offloads.
    Stream(Arc<OwnedFd>),
    /// A vhost-user back end that listens on a socket and maps the guest's memory.
    VhostUser {
        /// Where it listens.
        socket: PathBuf,
        /// How many queue pairs it serves.
        queues: usize,
    },
}

impl NicBackend {
    /// How many queue pairs it has.
    #[must_use]
    pub fn queues(&self) -> usize {
        match self {
            Self::Tap(queues) => queues.len(),
            Self::Stream(_) => 1,
            Self::VhostUser { queues, .. } => *queues,
        }
    }
}

/// A hardware address as people write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nic(mac: [u8; 6], mtu: u32, queues: usize) -> NicConfig {
        let socket = "/s".into();
        NicConfig::new(mac, mtu, NicBackend::VhostUser { socket, queues })
    }

    #[test]
    fn what_makes_no_device_is_told() {
        let mac = [2, 0, 0, 0, 0, 1];
        assert_eq!(nic(mac, 1500, 1).fault(), None);
        assert_eq!(nic(mac, 65_535, 8).fault(), None);
        for (bad, why) in [
            (nic(mac, 67, 1), "MTU"),
            (nic(mac, 65_536, 1), "MTU"),
            (nic(mac, 1500, 0), "queue pairs"),
            (nic(mac, 1500, 9), "queue pairs"),
            (nic([0; 6], 1500, 1), "zeroes"),
            (nic([1, 0, 0, 0, 0, 1], 1500, 1), "01:00:00:00:00:01"),
        ] {
            let fault = bad.fault().unwrap();
            assert!(fault.contains(why), "{fault}");
        }
    }
}
