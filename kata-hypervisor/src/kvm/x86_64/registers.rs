//! The first processor's registers at the kernel's first instruction.

use kvm_bindings::{Msrs, kvm_fpu, kvm_msr_entry, kvm_regs, kvm_segment, kvm_sregs};
use kvm_ioctls::VcpuFd;
use vm_memory::{Bytes, GuestAddress};

use super::entry::Entry;
use super::layout;
use kata_devices::GuestMemory;

/// CR0: protection, math extension type, numeric errors, paging.
const PE: u64 = 1;
const ET: u64 = 1 << 4;
const NE: u64 = 1 << 5;
const PG: u64 = 1 << 31;
/// CR4: physical address extension.
const PAE: u64 = 1 << 5;
/// EFER: long mode enabled and active.
const LONG_MODE: u64 = 1 << 8 | 1 << 10;
/// A flag that is always set.
const ALWAYS: u64 = 2;

/// Model specific registers that firmware would set, and how.
const FIRMWARE_MSRS: [(u32, u64); 2] = [
    // IA32_MISC_ENABLE: fast string operations.
    (0x1a0, 1),
    // MTRRdefType: ranges are on, and all memory is write-back.
    (0x2ff, 1 << 11 | 6),
];

/// Sets what every processor has.
pub(super) fn set_common(vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    let entries = FIRMWARE_MSRS.map(|(index, data)| kvm_msr_entry {
        index,
        data,
        ..kvm_msr_entry::default()
    });
    let msrs = Msrs::from_entries(&entries).expect("two are not too many");
    vcpu.set_msrs(&msrs)?;
    vcpu.set_fpu(&kvm_fpu {
        fcw: 0x37f,
        mxcsr: 0x1f80,
        ..kvm_fpu::default()
    })
}

/// Sets what the first processor begins with.
pub(super) fn set_entry(vcpu: &VcpuFd, entry: &Entry) -> Result<(), kvm_ioctls::Error> {
    let mut special = vcpu.get_sregs()?;
    match entry {
        Entry::Pvh { .. } => protected_mode(&mut special),
        Entry::Linux64 { .. } => long_mode(&mut special),
    }
    vcpu.set_sregs(&special)?;
    let mut registers = kvm_regs {
        rflags: ALWAYS,
        ..kvm_regs::default()
    };
    match *entry {
        Entry::Pvh { at } => {
            registers.rip = at;
            registers.rbx = layout::PVH_START_INFO;
        }
        Entry::Linux64 { at } => {
            registers.rip = at;
            registers.rsi = layout::ZERO_PAGE;
            registers.rsp = layout::BOOT_STACK;
        }
    }
    vcpu.set_regs(&registers)
}

/// 32-bit, flat, without paging (PVH boot protocol).
fn protected_mode(special: &mut kvm_sregs) {
    let code = segment(0xb, 0x8, Width::Bits32);
    let data = segment(0x3, 0x10, Width::Bits32);
    flat(special, code, data);
    special.cr0 = PE | ET;
    special.cr4 = 0;
    special.efer = 0;
}

/// 64-bit, with the first GiB mapped to itself (Linux boot protocol).
fn long_mode(special: &mut kvm_sregs) {
    let code = segment(0xb, 0x10, Width::Bits64);
    let data = segment(0x3, 0x18, Width::Bits32);
    flat(special, code, data);
    special.gdt.base = layout::GDT;
    special.gdt.limit = 4 * 8 - 1;
    special.idt.base = layout::IDT;
    special.idt.limit = 7;
    special.cr3 = layout::PAGE_TABLES[0];
    special.cr4 = PAE;
    special.cr0 = PE | ET | NE | PG;
    special.efer = LONG_MODE;
}

fn flat(special: &mut kvm_sregs, code: kvm_segment, data: kvm_segment) {
    special.cs = code;
    (special.ds, special.es, special.ss, special.fs, special.gs) = (data, data, data, data, data);
    special.tr = kvm_segment {
        base: 0,
        limit: 0x67,
        type_: 0xb,
        present: 1,
        selector: 0x20,
        ..kvm_segment::default()
    };
}

/// How wide the code of a segment is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Width {
    Bits32,
    Bits64,
}

fn segment(type_: u8, selector: u16, width: Width) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        g: 1,
        l: u8::from(width == Width::Bits64),
        db: u8::from(width == Width::Bits32),
        ..kvm_segment::default()
    }
}

/// Writes the tables that 64-bit mode needs.
pub(super) fn write_tables(memory: &GuestMemory) -> vm_memory::GuestMemoryResult<()> {
    // Null, null, 64-bit code, data: the selectors of the boot protocol.
    let descriptors: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];
    for (descriptor, at) in descriptors.into_iter().zip((layout::GDT..).step_by(8)) {
        memory.write_obj(descriptor, GuestAddress(at))?;
    }
    let [top, middle, bottom] = layout::PAGE_TABLES;
    let present_writable = 3;
    memory.write_obj(middle | present_writable, GuestAddress(top))?;
    memory.write_obj(bottom | present_writable, GuestAddress(middle))?;
    for page in 0..512u64 {
        let large = page << 21 | 0x80 | present_writable;
        memory.write_obj(large, GuestAddress(bottom + page * 8))?;
    }
    Ok(())
}
