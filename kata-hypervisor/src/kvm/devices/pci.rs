//! Devices as functions on a PCI bus.
//!
//! Guest-controlled: configuration space, and with it where BARs are. Doorbells
//! follow their BAR; one that cannot, for something else is there, works still:
//! by an exit to the function's registers.

use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use kata_devices::Offences;
use kata_devices::pci::{BarListener, PciBus, PciFunction, Slot};
use kata_devices::virtio::VirtioDevice;
use kata_devices::virtio::pci::PciTransport;
use kvm_ioctls::{IoEventAddress, NoDatamatch};
use vmm_sys_util::eventfd::EventFd;

use super::routes::Routes;
use super::{Transport, failed_bell};
use crate::error::{Error, Result};
use crate::kvm::arch;
use crate::kvm::bus::{MmioDevice, PortDevice};
use crate::kvm::ending::GuestEvent;
use crate::kvm::eventfd::duplicate;
use crate::kvm::guest::Guest;

/// Registers of configuration space (PCI 3.0 §6.2.5.1), and a slot's share of the
/// window through which it is reached.
const FIRST_BAR: u64 = 0x10;
const SLOT_SHIFT: u32 = 15;

impl Transport for PciTransport {
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

/// A bus to which functions are being added.
#[derive(Debug)]
pub(super) struct Builder<'a> {
    guest: &'a Arc<Guest>,
    routes: Arc<Routes>,
    doorbells: Arc<Doorbells>,
    bus: Arc<PciBus>,
    /// Where the next BAR may be.
    free: u64,
}

impl<'a> Builder<'a> {
    pub(super) fn new(guest: &'a Arc<Guest>) -> Self {
        let doorbells = Arc::new(Doorbells {
            guest: Arc::downgrade(guest),
            of_slots: Mutex::default(),
            misplaced: Offences::default(),
        });
        Self {
            guest,
            routes: Routes::new(guest),
            bus: Arc::new(PciBus::new(Some(Arc::clone(&doorbells) as _))),
            doorbells,
            free: arch::PCI_MEMORY.start,
        }
    }

    /// Puts a device into the next slot, and gives its BAR a place, as firmware
    /// would. The driver lets it answer there.
    pub(super) fn add(&mut self, device: Box<dyn VirtioDevice>) -> Result<Arc<dyn Transport>> {
        let failed = |source| Error::Device {
            device: "virtio",
            source,
        };
        let vectors = self
            .routes
            .vectors(self.guest.vm(), PciTransport::vectors(&*device))?;
        let memory = Arc::clone(self.guest.memory().guest());
        let transport = PciTransport::new(device, memory, Arc::new(vectors)).map_err(failed)?;
        let transport = Arc::new(transport);
        let bells = transport.kicks().into_iter().map(|bell| {
            let event = duplicate(bell.kick.as_fd()).map_err(failed_bell)?;
            Ok((bell.offset, event))
        });
        let bells = bells.collect::<Result<Vec<_>>>()?;
        let slot = self.bus.add(Arc::clone(&transport) as _).map_err(failed)?;
        self.doorbells.add(slot, bells);
        self.place(slot, transport.bar_size());
        Ok(transport)
    }

    fn place(&mut self, slot: Slot, size: u64) {
        let address = self.free.next_multiple_of(size);
        self.free = address + size;
        let register = u64::from(slot.0) << SLOT_SHIFT | FIRST_BAR;
        let address = address.to_le_bytes();
        self.bus.write_ecam(register, &address[..4]);
        self.bus.write_ecam(register + 4, &address[4..]);
    }

    pub(super) fn finish(self) -> Arc<PciBus> {
        self.bus
    }
}

/// The doorbells of a function: offsets from its BAR, and what they signal.
type Bells = Vec<(u64, EventFd)>;

/// Keeps doorbells where the BARs are.
#[derive(Debug)]
struct Doorbells {
    /// Weak: the bus, which owns this, must not keep its machine.
    guest: Weak<Guest>,
    of_slots: Mutex<Vec<(Slot, Bells)>>,
    misplaced: Offences,
}

impl Doorbells {
    fn add(&self, slot: Slot, bells: Bells) {
        let mut of_slots = self.of_slots.lock().unwrap_or_else(PoisonError::into_inner);
        of_slots.push((slot, bells));
    }
}

impl BarListener for Doorbells {
    fn moved(&self, slot: Slot, from: Option<u64>, to: Option<u64>) {
        let Some(guest) = self.guest.upgrade() else {
            return;
        };
        let vm = guest.vm();
        let of_slots = self.of_slots.lock().unwrap_or_else(PoisonError::into_inner);
        let bells = of_slots.iter().find(|(other, _)| *other == slot);
        for (offset, event) in bells.iter().flat_map(|(_, bells)| bells) {
            let at = |bar: u64| IoEventAddress::Mmio(bar.wrapping_add(*offset));
            if let Some(from) = from {
                // It is not there if it could not be put there.
                let _ = vm.unregister_ioevent(event, &at(from), NoDatamatch);
            }
            let placed = to.map_or(Ok(()), |to| {
                vm.register_ioevent(event, &at(to), NoDatamatch)
            });
            if let (Err(error), Some(total)) = (placed, self.misplaced.count()) {
                log::warn!(error:%, slot = slot.0, total; "pci: a doorbell costs exits where it is");
            }
        }
    }
}

/// The ports of configuration space.
#[derive(Debug)]
pub(in crate::kvm) struct ConfigPorts(pub(in crate::kvm) Arc<PciBus>);

impl PortDevice for ConfigPorts {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        self.0.read_port(offset, data);
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Option<GuestEvent> {
        self.0.write_port(offset, data);
        None
    }
}

/// Configuration space in memory.
#[derive(Debug)]
pub(in crate::kvm) struct ConfigWindow(pub(in crate::kvm) Arc<PciBus>);

impl MmioDevice for ConfigWindow {
    fn read(&self, offset: u64, data: &mut [u8]) {
        self.0.read_ecam(offset, data);
    }

    fn write(&self, offset: u64, data: &[u8]) {
        self.0.write_ecam(offset, data);
    }
}
