//! The floor: what KVM itself takes from its device to the first byte, in a
//! monitor of a few lines that has no devices, no threads and no checks.
#![expect(unsafe_code, reason = "a mapping is given to KVM by its address")]

use std::io;
use std::time::{Duration, Instant};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

use super::payload::BYTE;

/// Where the program is: the first paragraph above the interrupt table.
const AT: u64 = 0x1000;
/// mov dx, 0x3f8; mov al, '!'; out dx, al; hlt
const PROGRAM: [u8; 7] = [0xba, 0xf8, 0x03, 0xb0, BYTE, 0xee, 0xf4];

/// From opening KVM until the byte, in real mode.
pub(super) fn first_byte(memory: usize) -> io::Result<Duration> {
    let began = Instant::now();
    let kvm = Kvm::new()?;
    let vm = kvm.create_vm()?;
    let ranges = [(GuestAddress(0), memory)];
    let memory = GuestMemoryMmap::<()>::from_ranges(&ranges).map_err(io::Error::other)?;
    give(&vm, &memory, ranges[0].1 as u64)?;
    let written = memory.write_slice(&PROGRAM, GuestAddress(AT));
    written.map_err(io::Error::other)?;
    let mut vcpu = vm.create_vcpu(0)?;
    enter(&vcpu)?;
    match vcpu.run()? {
        VcpuExit::IoOut(_, [BYTE]) => Ok(began.elapsed()),
        exit => Err(io::Error::other(format!("the guest left by {exit:?}"))),
    }
}

fn give(vm: &VmFd, memory: &GuestMemoryMmap, size: u64) -> io::Result<()> {
    let host = memory.get_host_address(GuestAddress(0));
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: size,
        userspace_addr: host.map_err(io::Error::other)?.addr() as u64,
    };
    // SAFETY: the region is a mapping of `memory`, of this size, which the one
    // caller drops after the processor has left the guest for good.
    Ok(unsafe { vm.set_user_memory_region(region) }?)
}

fn enter(vcpu: &VcpuFd) -> io::Result<()> {
    let mut special = vcpu.get_sregs()?;
    special.cs.base = 0;
    special.cs.selector = 0;
    vcpu.set_sregs(&special)?;
    let mut registers = vcpu.get_regs()?;
    registers.rip = AT;
    // The bit that is always set.
    registers.rflags = 2;
    Ok(vcpu.set_regs(&registers)?)
}
