//! Where message-signalled interrupts go: KVM's table of routes.
//!
//! Guest-controlled: every message, and how often it changes. The table has the
//! lines of the machine's chips first, and then a place for each vector of each
//! function.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use kata_devices::Interrupt;
use kata_devices::virtio::pci::{MsiMessage, MsiRouter};
use kvm_bindings::{KVM_IRQ_ROUTING_MSI, KvmIrqRouting, kvm_irq_routing_entry};
use kvm_bindings::{kvm_irq_routing_entry__bindgen_ty_1 as Target, kvm_irq_routing_msi};
use kvm_ioctls::VmFd;

use super::irq::Irq;
use crate::error::{Error, Result};
use crate::kvm::arch;
use crate::kvm::guest::Guest;

/// Interrupt sources, and routes, that KVM has at most (`KVM_MAX_IRQ_ROUTES`).
const MOST: usize = 4096;

/// The table of one machine.
#[derive(Debug)]
pub(super) struct Routes {
    /// Weak: functions, which own this, must not keep their machine.
    guest: Weak<Guest>,
    /// What each vector means, once the guest has said.
    messages: Mutex<Vec<Option<MsiMessage>>>,
}

impl Routes {
    /// That of a machine without functions.
    pub(super) fn new(guest: &Arc<Guest>) -> Arc<Self> {
        Arc::new(Self {
            guest: Arc::downgrade(guest),
            messages: Mutex::default(),
        })
    }

    /// Makes places for the vectors of a function.
    pub(super) fn vectors(self: &Arc<Self>, vm: &VmFd, count: u16) -> Result<Vectors> {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let first = messages.len();
        let all = first + usize::from(count);
        if all + arch::line_routes().len() > MOST {
            return Err(Error::InvalidConfig {
                field: "devices",
                reason: format!("{all} queues and changes are more interrupts than KVM has"),
            });
        }
        messages.resize(all, None);
        drop(messages);
        let sources = (first..all).map(|index| Irq::new(vm, gsi(index)).map(Arc::new));
        Ok(Vectors {
            routes: Arc::clone(self),
            first,
            sources: sources.collect::<Result<_>>()?,
        })
    }

    fn set(&self, index: usize, message: MsiMessage) -> io::Result<()> {
        let guest = self.guest.upgrade().ok_or(io::ErrorKind::BrokenPipe)?;
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let before = messages[index].replace(message);
        if before == Some(message) {
            return Ok(());
        }
        let set = table(&messages).and_then(|table| Ok(guest.vm().set_gsi_routing(&table)?));
        if set.is_err() {
            // What KVM refuses must not spoil the next table.
            messages[index] = before;
        }
        set
    }
}

/// The interrupt source of a vector.
fn gsi(index: usize) -> u32 {
    let index = u32::try_from(index).expect("fewer than KVM has");
    arch::FIRST_MESSAGE + index
}

/// All routes, as KVM takes them: always the whole table.
fn table(messages: &[Option<MsiMessage>]) -> io::Result<KvmIrqRouting> {
    let mut entries = arch::line_routes();
    for (index, message) in messages.iter().enumerate() {
        let Some(message) = message else { continue };
        let half = |shift: u32| u32::try_from(message.address >> shift & 0xffff_ffff);
        let msi = kvm_irq_routing_msi {
            address_lo: half(0).expect("masked"),
            address_hi: half(32).expect("masked"),
            data: message.data,
            ..kvm_irq_routing_msi::default()
        };
        entries.push(kvm_irq_routing_entry {
            gsi: gsi(index),
            type_: KVM_IRQ_ROUTING_MSI,
            u: Target { msi },
            ..kvm_irq_routing_entry::default()
        });
    }
    KvmIrqRouting::from_entries(&entries).map_err(|_| io::ErrorKind::OutOfMemory.into())
}

/// The vectors of one function.
#[derive(Debug)]
pub(super) struct Vectors {
    routes: Arc<Routes>,
    first: usize,
    sources: Vec<Arc<Irq>>,
}

impl MsiRouter for Vectors {
    fn route(&self, vector: u16, message: MsiMessage) -> io::Result<()> {
        let vector = usize::from(vector);
        if vector >= self.sources.len() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.routes.set(self.first + vector, message)
    }

    fn interrupt(&self, vector: u16) -> Arc<dyn Interrupt> {
        Arc::clone(&self.sources[usize::from(vector)]) as Arc<dyn Interrupt>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_that_mean_nothing_have_no_route() {
        let message = MsiMessage {
            address: 0x1_fee0_0000,
            data: 0x40,
        };
        let table = table(&[None, Some(message), None]).unwrap();
        let entries = table.as_slice();
        assert_eq!(entries.len(), arch::line_routes().len() + 1);
        let last = entries.last().unwrap();
        assert_eq!(
            (last.gsi, last.type_),
            (arch::FIRST_MESSAGE + 1, KVM_IRQ_ROUTING_MSI)
        );
    }

    #[test]
    fn a_table_without_its_machine_routes_nothing() {
        let routes = Routes {
            guest: Weak::new(),
            messages: Mutex::new(vec![None]),
        };
        let error = routes.set(0, MsiMessage::default()).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
