//! Interrupts by eventfd.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use kata_devices::Interrupt;
use kata_devices::virtio::Kick;
use kvm_ioctls::VmFd;

use crate::error::{Error, Result};
use crate::kvm::eventfd::duplicate;

/// An interrupt that an eventfd raises: a line of the machine's chips, or a
/// message, by its number among KVM's interrupt sources.
#[derive(Debug)]
pub(in crate::kvm) struct Irq(Kick);

impl Irq {
    /// Has KVM raise source `gsi` of the machine when the eventfd is signalled.
    pub(in crate::kvm) fn new(vm: &VmFd, gsi: u32) -> Result<Self> {
        let made = Kick::new().and_then(|event| {
            vm.register_irqfd(&duplicate(event.as_fd())?, gsi)?;
            Ok(Self(event))
        });
        made.map_err(|source| Error::Host {
            operation: format!("connect interrupt {gsi}"),
            source,
        })
    }
}

impl AsFd for Irq {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl Interrupt for Irq {
    fn raise(&self) -> io::Result<()> {
        self.0.signal();
        Ok(())
    }

    fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.as_fd())
    }
}
