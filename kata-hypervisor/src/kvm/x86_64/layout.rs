//! What is where in a machine's address space, and on its interrupt lines.
//!
//! ```text
//!   0x0_0500  descriptor table of the first instruction   0xa_0000  nothing
//!   0x0_6000  PVH start info, modules, memory map         0xe_0000  ACPI tables
//!   0x0_7000  boot parameters ("zero page")               0xf_0000  MP table
//!   0x0_9000  page tables of the first instruction        1 MiB     memory, kernel
//!   0x2_0000  command line                                3 GiB     BARs
//!   0x9_fc00  end of low memory                           3.25 GiB  virtio-mmio
//!                                                         3.5 GiB   PCI configuration
//!                                                         4 GiB     memory
//! ```

use std::ops::Range;

use vm_memory::GuestAddress;

use crate::config::MemorySize;

pub(super) const GDT: u64 = 0x500;
pub(super) const IDT: u64 = 0x520;
pub(super) const PVH_START_INFO: u64 = 0x6000;
pub(super) const PVH_MODULES: u64 = 0x6100;
pub(super) const PVH_MEMORY_MAP: u64 = 0x6200;
pub(super) const ZERO_PAGE: u64 = 0x7000;
pub(super) const BOOT_STACK: u64 = 0x8ff0;
pub(super) const PAGE_TABLES: [u64; 3] = [0x9000, 0xa000, 0xb000];
pub(super) const COMMAND_LINE: u64 = 0x2_0000;
/// The end of memory below the reserved area of old PCs.
pub(super) const LOW_END: u64 = 0x9_fc00;
/// Where tables for the kernel begin, in what it takes for firmware.
pub(super) const ACPI_TABLES: u64 = 0xe_0000;
pub(super) const MP_TABLE: u64 = 0xf_0000;
/// Where ordinary memory begins, and kernels that can be anywhere are loaded.
pub(super) const HIGH_START: u64 = 0x10_0000;
/// The gap between the memory below 4 GiB and that above.
const GAP: Range<u64> = 3 << 30..4 << 30;
/// Where BARs of PCI functions may be.
pub(in crate::kvm) const PCI_MEMORY: Range<u64> = 0xc000_0000..0xd000_0000;
/// The configuration space of the functions of one bus, for kernels with ACPI.
pub(super) const PCI_CONFIG: Range<u64> = 0xe000_0000..0xe010_0000;
/// Registers of virtio devices.
pub(super) const VIRTIO_MMIO: u64 = 0xd000_0000;
pub(super) const IO_APIC: u32 = 0xfec0_0000;
pub(super) const LOCAL_APIC: u32 = 0xfee0_0000;
/// Pages that KVM needs on Intel hosts.
pub(super) const IDENTITY_MAP: u64 = 0xfffb_c000;
pub(super) const TASK_STATE: usize = 0xfffb_d000;

/// Lines of each of the old PC's two controllers.
pub(super) const PIC_LINES: u32 = 8;
/// Interrupt lines of the I/O APIC.
pub(super) const IRQ_LINES: u32 = 24;
/// The console's, as on every PC.
pub(super) const SERIAL_IRQ: u32 = 4;
/// Those of virtio devices, one each: all above the old PC's first few, without
/// that of its clock.
pub(super) const VIRTIO_IRQS: [u32; 18] = [
    5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23,
];

pub(super) const SERIAL_PORTS: Range<u16> = 0x3f8..0x400;
pub(super) const KEYBOARD_PORTS: Range<u16> = 0x60..0x65;
pub(super) const CLOCK_PORTS: Range<u16> = 0x70..0x72;
pub(super) const POWER_PORTS: Range<u16> = 0x600..0x603;
pub(super) const PANIC_PORTS: Range<u16> = 0x505..0x506;

/// The parts of memory of this size: below the gap, and above.
pub(super) fn memory(size: MemorySize) -> Vec<(GuestAddress, usize)> {
    let size = size.as_bytes();
    let below = size.min(GAP.start);
    let parts = [(0, below), (GAP.end, size - below)];
    let parts = parts.into_iter().filter(|(_, length)| *length > 0);
    parts
        .map(|(start, length)| {
            let length = usize::try_from(length).expect("addresses have 64 bits here");
            (GuestAddress(start), length)
        })
        .collect()
}

/// The end of the memory below the gap.
pub(super) fn below_gap(size: MemorySize) -> u64 {
    size.as_bytes().min(GAP.start)
}

/// What of the address space a kernel may use.
pub(super) fn usable(size: MemorySize) -> Vec<Range<u64>> {
    let above = GAP.end..GAP.end + size.as_bytes().saturating_sub(GAP.start);
    let parts = [0..LOW_END, HIGH_START..below_gap(size), above];
    parts.into_iter().filter(|part| !part.is_empty()).collect()
}

/// What of it holds tables.
pub(super) const TABLES: Range<u64> = ACPI_TABLES..HIGH_START;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_leaves_a_gap_below_4_gib() {
        assert_eq!(memory(MemorySize::mib(64)), [(GuestAddress(0), 64 << 20)]);
        let large = memory(MemorySize::gib(5));
        assert_eq!(
            large,
            [(GuestAddress(0), 3 << 30), (GuestAddress(4 << 30), 2 << 30)]
        );
        let usable = usable(MemorySize::gib(5));
        assert_eq!(usable.last(), Some(&(4 << 30..6 << 30)));
        assert!(
            usable
                .iter()
                .all(|part| part.start >= TABLES.end || part.end <= TABLES.start)
        );
    }
}
