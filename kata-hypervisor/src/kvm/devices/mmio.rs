//! Devices behind registers at addresses that the guest is told.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use kata_devices::virtio::VirtioDevice;
use kata_devices::virtio::mmio::MmioTransport;
use kvm_ioctls::IoEventAddress;

use super::irq::Irq;
use super::{Transport, failed_bell};
use crate::error::{Error, Result};
use crate::kvm::bus::{Bus, MmioDevice};
use crate::kvm::eventfd::duplicate;
use crate::kvm::guest::Guest;

/// Where a device is: its registers, and its interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::kvm) struct Place {
    /// The first register's address.
    pub(in crate::kvm) address: u64,
    /// The line.
    pub(in crate::kvm) line: u32,
}

impl Place {
    /// Bytes of address space of a device.
    pub(in crate::kvm) const SIZE: u64 = MmioTransport::SIZE;
}

impl MmioDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        Self::read(self, offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        Self::write(self, offset, data);
    }
}

impl Transport for MmioTransport {
    fn pause(&self) -> io::Result<()> {
        Self::pause(self)
    }

    fn resume(&self) -> io::Result<()> {
        Self::resume(self)
    }

    fn end(&self) {
        Self::end(self);
    }
}

/// Puts a device in its place on the bus. Kicks reach it without an exit, and
/// its interrupts the guest without a system call of a processor's thread.
pub(super) fn wire(
    device: Box<dyn VirtioDevice>,
    place: Place,
    guest: &Guest,
    bus: &mut Bus,
) -> Result<Arc<dyn Transport>> {
    let vm = guest.vm();
    let line = Arc::new(Irq::new(vm, place.line)?);
    let transport = MmioTransport::new(device, Arc::clone(guest.memory().guest()), line);
    let transport = transport.map_err(|source| Error::Device {
        device: "virtio",
        source,
    })?;
    for bell in transport.kicks() {
        let at = IoEventAddress::Mmio(place.address + bell.offset);
        let kick = duplicate(bell.kick.as_fd()).map_err(failed_bell)?;
        vm.register_ioevent(&kick, &at, bell.value)
            .map_err(|error| failed_bell(error.into()))?;
    }
    let transport = Arc::new(transport);
    let addresses = place.address..place.address + Place::SIZE;
    bus.add_mmio(addresses, Arc::clone(&transport) as Arc<dyn MmioDevice>);
    Ok(transport)
}
