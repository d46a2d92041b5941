//! The virtio devices of a machine, and how they are wired.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use kata_devices::blk::BlkConfig;
use kata_devices::net::{Link, MacAddress, NetConfig, Tap};
use kata_devices::rng::RngConfig;
use kata_devices::virtio::mmio::MmioTransport;
use kata_devices::virtio::{Kick, ThreadStart, VirtioDevice};
use kata_devices::{GuestMemory, Interrupt};
use kvm_ioctls::{IoEventAddress, VmFd};

use super::NAME;
use super::bus::{Bus, MmioDevice};
use super::eventfd::duplicate;
use crate::config::Devices;
use crate::disk::DiskConfig;
use crate::error::{Error, Result};
use crate::nic::{NicBackend, NicConfig};

/// Where a device is: its registers, and its interrupt line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The first register's address.
    pub(super) address: u64,
    /// The line.
    pub(super) line: u32,
}

impl Place {
    /// Bytes of address space of a device.
    pub(super) const SIZE: u64 = MmioTransport::SIZE;
}

/// An interrupt line that an eventfd raises.
#[derive(Debug)]
pub(super) struct IrqLine(Kick);

impl IrqLine {
    /// Has KVM raise `line` of the machine when the eventfd is signalled.
    pub(super) fn new(vm: &VmFd, line: u32) -> Result<Self> {
        let made = Kick::new().and_then(|event| {
            vm.register_irqfd(&duplicate(event.as_fd())?, line)?;
            Ok(Self(event))
        });
        made.map_err(|source| Error::Host {
            operation: format!("connect interrupt line {line}"),
            source,
        })
    }
}

impl AsFd for IrqLine {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Interrupt for IrqLine {
    fn raise(&self) -> io::Result<()> {
        self.0.signal();
        Ok(())
    }

    fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}

impl MmioDevice for MmioTransport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        Self::read(self, offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        Self::write(self, offset, data);
    }
}

/// A device, and what it is called in errors.
pub(super) type Named<D> = (Arc<str>, D);

/// Makes the devices of a description, in the order in which the guest finds
/// them.
pub(super) fn make(
    devices: &Devices,
    start: &ThreadStart,
) -> Result<Vec<Named<Box<dyn VirtioDevice>>>> {
    if devices.spare_disks > 0 {
        return unsupported("attaching disks to a running machine");
    }
    if devices.spare_nics > 0 {
        return unsupported("attaching network devices to a running machine");
    }
    let failed = |device: &'static str| move |source| Error::Device { device, source };
    let mut made: Vec<Named<Box<dyn VirtioDevice>>> = Vec::new();
    if let Some(vsock) = &devices.vsock {
        let device = vsock.device(start).map_err(failed("vsock"))?;
        made.push(("vsock".into(), device));
    }
    for filesystem in &devices.filesystems {
        let device = filesystem.device(start).map_err(failed("virtio-fs"))?;
        made.push((format!("virtio-fs {:?}", filesystem.tag).into(), device));
    }
    for disk in &devices.disks {
        let device = blk(disk).device(start).map_err(failed("disk"))?;
        made.push((format!("disk {}", disk.path.display()).into(), device));
    }
    for (index, nic) in devices.nics.iter().enumerate() {
        let device = net(nic)?.device(start).map_err(failed("network"))?;
        made.push((format!("network {index}").into(), device));
    }
    if devices.rng {
        let device = RngConfig::default().device(start);
        made.push(("entropy".into(), device.map_err(failed("entropy"))?));
    }
    Ok(made)
}

fn unsupported<T>(operation: &'static str) -> Result<T> {
    Err(Error::Unsupported {
        backend: NAME,
        operation,
    })
}

fn blk(disk: &DiskConfig) -> BlkConfig {
    BlkConfig {
        read_only: disk.read_only,
        serial: disk.id.clone(),
        ..BlkConfig::new(&disk.path)
    }
}

fn net(nic: &NicConfig) -> Result<NetConfig> {
    let duplicate = |fd: &OwnedFd| {
        fd.try_clone().map_err(|source| Error::Host {
            operation: "duplicate the descriptor of a network device".to_owned(),
            source,
        })
    };
    let link = match &nic.backend {
        NicBackend::Tap(queues) => {
            let queues: Result<Vec<_>> = queues.iter().map(|fd| duplicate(fd)).collect();
            let tap = Tap::from_queues(queues?).map_err(|source| Error::Device {
                device: "network",
                source,
            })?;
            Link::Tap(tap)
        }
        NicBackend::Stream(fd) => Link::Stream(duplicate(fd)?),
        NicBackend::VhostUser { .. } => return unsupported("vhost-user network devices"),
    };
    Ok(NetConfig {
        mac: Some(MacAddress(nic.mac)),
        mtu: u16::try_from(nic.mtu).ok(),
        ..NetConfig::new(link)
    })
}

/// Puts a device in its place on the bus. Kicks reach it without an exit, and
/// its interrupts the guest without a system call of a processor's thread.
pub(super) fn wire(
    device: Box<dyn VirtioDevice>,
    place: Place,
    vm: &VmFd,
    memory: &Arc<GuestMemory>,
    bus: &mut Bus,
) -> Result<Arc<MmioTransport>> {
    let line = Arc::new(IrqLine::new(vm, place.line)?);
    let transport = MmioTransport::new(device, Arc::clone(memory), line);
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

fn failed_bell(source: io::Error) -> Error {
    Error::Host {
        operation: "connect a virtqueue's doorbell".to_owned(),
        source,
    }
}
