//! The host's ends of network devices.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::address::MacAddress;
use crate::pci::PciFunction;

/// The host's end of a network device.
#[derive(Debug)]
#[non_exhaustive]
pub struct Endpoint {
    /// What the device is connected to.
    pub attachment: Attachment,
    /// The address of the guest's end.
    pub mac: MacAddress,
    /// The largest packet, in bytes, without the Ethernet header.
    pub mtu: u32,
}

impl Endpoint {
    /// The end of a device that is connected to something.
    #[must_use]
    pub fn new(attachment: Attachment, mac: MacAddress, mtu: u32) -> Self {
        Self {
            attachment,
            mac,
            mtu,
        }
    }
}

/// What a network device is connected to on the host.
#[derive(Debug)]
#[non_exhaustive]
pub enum Attachment {
    /// A tap: one open file for each queue pair, in non-blocking mode, with
    /// vnet headers on (`IFF_NO_PI | IFF_VNET_HDR`).
    Tap(Vec<OwnedFd>),
    /// A connected stream socket on which each frame comes after its length,
    /// four bytes in network order.
    Stream(OwnedFd),
    /// A vhost-user back end that listens on a socket.
    VhostUser {
        /// Where it listens.
        socket: PathBuf,
        /// How many queue pairs it serves.
        queues: usize,
    },
    /// A device of the host, to be assigned to the machine as it is.
    Device(HostDevice),
}

/// A network device of the host, handed on for assignment: a physical function
/// or one of its virtual ones.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct HostDevice {
    /// The bus it is on, such as `pci`.
    pub bus: String,
    /// Its address on the bus, such as `0000:01:00.0`.
    pub address: String,
    /// The interface that the host's driver made for it.
    pub interface: String,
    /// The PCI function that it is, or is on; `None` for devices of other buses,
    /// which no machine can be given.
    pub pci: Option<PciFunction>,
}

impl HostDevice {
    /// A device by its bus, address and interface.
    #[must_use]
    pub fn new(
        bus: impl Into<String>,
        address: impl Into<String>,
        interface: impl Into<String>,
    ) -> Self {
        Self {
            bus: bus.into(),
            address: address.into(),
            interface: interface.into(),
            pci: None,
        }
    }

    /// With its PCI function.
    #[must_use]
    pub fn pci(mut self, function: PciFunction) -> Self {
        self.pci = Some(function);
        self
    }
}

impl fmt::Display for HostDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pci {
            Some(function) => function.fmt(f),
            None => write!(f, "the {} device {}", self.bus, self.address),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_called_by_its_function_where_it_has_one() {
        let device = HostDevice::new("virtio", "virtio0", "eth1");
        assert_eq!(device.to_string(), "the virtio device virtio0");
        let address = "0000:01:00.0".parse().unwrap();
        let device = device.pci(PciFunction::physical(address));
        assert_eq!(device.to_string(), "the physical function 0000:01:00.0");
        let function = PciFunction::virtual_of("0000:01:10.0".parse().unwrap(), address);
        let device = device.pci(function).to_string();
        assert_eq!(device, "the virtual function 0000:01:10.0 of 0000:01:00.0");
    }
}
