//! `-netdev` and `-device virtio-net-…`: network devices.

use std::ffi::OsString;
use std::os::fd::RawFd;

use super::{Argument, Bus, Options};
use crate::nic::Mac;

/// Descriptors in a ring that the host fills: bursts need room. More is not to
/// be had in the other direction but with vhost-user.
pub(in crate::qemu) const RECEIVE_RING: u32 = 1024;

/// The host's side of a network device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::qemu) enum Netdev {
    /// Queues of a tap that QEMU inherits, and as many connections to the
    /// kernel's own back end where there is one.
    Tap {
        /// The tap's queues.
        queues: Vec<RawFd>,
        /// `/dev/vhost-net`, opened once for each queue; or none.
        vhost: Vec<RawFd>,
    },
    /// A connected stream socket that QEMU inherits.
    Stream(RawFd),
    /// A character device that leads to a vhost-user back end.
    VhostUser {
        /// Its id.
        chardev: String,
        /// How many queue pairs.
        queues: usize,
    },
}

impl Netdev {
    /// The option's value.
    pub(in crate::qemu) fn options(&self, id: &str) -> Options {
        match self {
            Self::Tap { queues, vhost } => {
                let options = Options::new("tap").set("id", id).set("fds", list(queues));
                if vhost.is_empty() {
                    return options.set("vhost", "off");
                }
                options.set("vhost", "on").set("vhostfds", list(vhost))
            }
            Self::Stream(fd) => Options::new("stream")
                .set("id", id)
                .set("server", "off")
                .set("addr.type", "fd")
                .number("addr.str", fd),
            Self::VhostUser { chardev, queues } => Options::new("vhost-user")
                .set("id", id)
                .set("chardev", chardev)
                .number("queues", queues),
        }
    }

    fn queues(&self) -> usize {
        match self {
            Self::Tap { queues, .. } => queues.len(),
            Self::Stream(_) => 1,
            Self::VhostUser { queues, .. } => *queues,
        }
    }
}

fn list(fds: &[RawFd]) -> String {
    let fds: Vec<String> = fds.iter().map(ToString::to_string).collect();
    fds.join(":")
}

/// A virtio-net device with its host side.
#[derive(Clone, Debug)]
pub(in crate::qemu) struct Nic {
    /// The bus it is on.
    pub(in crate::qemu) bus: Bus,
    /// Its number among the machine's.
    pub(in crate::qemu) index: usize,
    /// The guest's hardware address.
    pub(in crate::qemu) mac: [u8; 6],
    /// The largest packet, in bytes.
    pub(in crate::qemu) mtu: u32,
    /// Its host side.
    pub(in crate::qemu) netdev: Netdev,
}

impl Argument for Nic {
    fn to_args(&self) -> Vec<OsString> {
        let id = format!("net{}", self.index);
        let netdev = self.netdev.options(&id).into_option("-netdev");
        let mut device = Options::new(&self.bus.device("virtio-net"))
            .set("id", format!("nic{}", self.index))
            .set("netdev", &id)
            .set("mac", Mac(self.mac).to_string())
            .number("host_mtu", self.mtu)
            .number("rx_queue_size", RECEIVE_RING);
        let queues = self.netdev.queues();
        if queues > 1 {
            device = device.set("mq", "on");
        }
        if self.bus == Bus::Pci {
            // One interrupt for each ring, one for control, one for changes; and
            // no ROM to boot from the network with.
            device = device.number("vectors", 2 * queues + 2).set("romfile", "");
        }
        [netdev, device.into_option("-device")].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::super::words;
    use super::*;

    fn nic(bus: Bus, netdev: Netdev) -> String {
        words(&Nic {
            bus,
            index: 0,
            mac: [2, 0, 0, 0, 0, 1],
            mtu: 1400,
            netdev,
        })
    }

    #[test]
    fn a_tap_is_spelled_for_each_bus() {
        let netdev = Netdev::Tap {
            queues: vec![7],
            vhost: vec![],
        };
        assert_eq!(
            nic(Bus::Mmio, netdev.clone()),
            "-netdev tap,id=net0,fds=7,vhost=off -device virtio-net-device,id=nic0,netdev=net0,\
             mac=02:00:00:00:00:01,host_mtu=1400,rx_queue_size=1024"
        );
        assert_eq!(
            nic(Bus::Pci, netdev),
            "-netdev tap,id=net0,fds=7,vhost=off -device virtio-net-pci,id=nic0,netdev=net0,\
             mac=02:00:00:00:00:01,host_mtu=1400,rx_queue_size=1024,vectors=4,romfile="
        );
    }

    #[test]
    fn several_queues_have_a_kernel_back_end_each() {
        let netdev = Netdev::Tap {
            queues: vec![7, 8],
            vhost: vec![9, 10],
        };
        let args = nic(Bus::Pci, netdev);
        assert!(args.contains("fds=7:8,vhost=on,vhostfds=9:10 "), "{args}");
        assert!(args.contains("mq=on,vectors=6"), "{args}");
    }

    #[test]
    fn sockets_are_spelled() {
        let stream = nic(Bus::Mmio, Netdev::Stream(5));
        assert!(
            stream.starts_with("-netdev stream,id=net0,server=off,addr.type=fd,addr.str=5 "),
            "{stream}"
        );
        let chardev = "nic0".to_owned();
        let vhost = nic(Bus::Mmio, Netdev::VhostUser { chardev, queues: 2 });
        assert!(
            vhost.starts_with("-netdev vhost-user,id=net0,chardev=nic0,queues=2 "),
            "{vhost}"
        );
    }
}
