//! A machine and its memory, which go in the right order.
#![expect(unsafe_code, reason = "memory is given to KVM by address")]

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{Address, GuestMemory as _, GuestMemoryRegion, MemoryRegionAddress};

use super::memory::Memory;
use crate::error::{Error, Result};

/// A machine of KVM that has memory. Fields drop top to bottom: the machine is
/// closed before its memory is unmapped, whoever has it last.
#[derive(Debug)]
pub(super) struct Guest {
    vm: VmFd,
    memory: Memory,
}

impl Guest {
    /// Gives memory to a machine that has none.
    pub(super) fn new(vm: VmFd, memory: Memory) -> Result<Self> {
        let guest = Self { vm, memory };
        guest.connect()?;
        Ok(guest)
    }

    fn connect(&self) -> Result<()> {
        for (region, slot) in self.memory.guest().iter().zip(0..) {
            let host = region.get_host_address(MemoryRegionAddress(0));
            let host = host.expect("a region begins with a byte");
            let part = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().raw_value(),
                memory_size: region.len(),
                userspace_addr: host.addr() as u64,
            };
            // SAFETY: the region stays mapped until `self.memory` drops, which is
            // after `self.vm`. The processors, which keep the machine alive in the
            // kernel, are dropped before `self` by their owner, `Machine`, and
            // while a machine is made.
            unsafe { self.vm.set_user_memory_region(part) }.map_err(|error| Error::Host {
                operation: "give memory to the machine".to_owned(),
                source: error.into(),
            })?;
        }
        Ok(())
    }

    /// The machine.
    pub(super) fn vm(&self) -> &VmFd {
        &self.vm
    }

    /// Its memory.
    pub(super) fn memory(&self) -> &Memory {
        &self.memory
    }
}
