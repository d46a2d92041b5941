//! A machine of a few pages that executes what a stock kernel executes.
//!
//! 64-bit mode, ring 0: `lock cmpxchg16b`, then `int3`, whose handler writes to
//! a port. Both are everyday instructions of Linux, and missing from KVM's
//! instruction emulator.
#![expect(unsafe_code, reason = "a machine's memory is raw")]

use kvm_bindings::{KVM_MAX_CPUID_ENTRIES, kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd, VmFd};
use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// The machine's memory, and what is where in it.
const SIZE: usize = 0x8000;
const GDT: u64 = 0x500;
const IDT: u64 = 0x600;
const PAGE_MAPS: [u64; 3] = [0x1000, 0x2000, 0x3000];
const PROGRAM: u64 = 0x4000;
const HANDLER: u64 = 0x4100;
const OPERAND: u64 = 0x5000;
const STACK: u64 = 0x7000;
/// The port on which the handler says that it was reached.
const PORT: u16 = 0xe9;
/// `lock cmpxchg16b [rdi]; int3; hlt`
const INSTRUCTIONS: &[u8] = &[0xf0, 0x48, 0x0f, 0xc7, 0x0f, 0xcc, 0xf4];
/// `out 0xe9, al; hlt`
const ANSWER: &[u8] = &[0xe6, 0xe9, 0xf4];
/// Flat 64-bit code, ring 0, at selector 8.
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
const CODE_SELECTOR: u16 = 8;
/// Present, writable; and for the last level, a page of 2 MiB.
const TABLE: u64 = 3;
const LARGE_PAGE: u64 = 0x83;

/// Executes instructions of a stock kernel that an emulator lacks.
///
/// # Errors
/// What happened instead.
pub(crate) fn run_in_ring_0(kvm: &Kvm) -> Result<(), String> {
    let memory = Memory::new().map_err(|errno| format!("no memory for a test: {errno}"))?;
    fill(&memory);
    let vm = make_vm(kvm)?;
    // SAFETY: `memory` is mapped until it drops, which is after `vm`, for it
    // was made before.
    unsafe { vm.set_user_memory_region(memory.region()) }
        .map_err(|error| format!("no memory can be given to a machine: {error}"))?;
    let mut vcpu = vm
        .create_vcpu(0)
        .map_err(|error| format!("no processor can be made: {error}"))?;
    enter_long_mode(kvm, &vcpu)
        .map_err(|error| format!("a processor cannot be set up: {error}"))?;
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(PORT, _)) => return Ok(()),
            Ok(exit) => return Err(format!("cmpxchg16b and int3 in ring 0 ended in {exit:?}")),
            // A signal of the host program came in between.
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(format!("a processor does not run: {error}")),
        }
    }
}

fn make_vm(kvm: &Kvm) -> Result<VmFd, String> {
    loop {
        match kvm.create_vm() {
            Ok(vm) => return Ok(vm),
            Err(error) if error.errno() == libc::EINTR => {}
            Err(error) => return Err(format!("no machine can be made: {error}")),
        }
    }
}

fn fill(memory: &Memory) {
    memory.write(
        GDT + u64::from(CODE_SELECTOR),
        &CODE_DESCRIPTOR.to_le_bytes(),
    );
    memory.write(IDT + 3 * 16, &gate(HANDLER));
    let [top, middle, bottom] = PAGE_MAPS;
    memory.write(top, &(middle | TABLE).to_le_bytes());
    memory.write(middle, &(bottom | TABLE).to_le_bytes());
    memory.write(bottom, &LARGE_PAGE.to_le_bytes());
    memory.write(PROGRAM, INSTRUCTIONS);
    memory.write(HANDLER, ANSWER);
}

/// The lower half of a 64-bit interrupt gate; the upper half is zero, as the
/// handler is below 64 KiB.
fn gate(handler: u64) -> [u8; 8] {
    let present_interrupt_gate = 0x8e00 << 32;
    (handler | u64::from(CODE_SELECTOR) << 16 | present_interrupt_gate).to_le_bytes()
}

fn enter_long_mode(kvm: &Kvm, vcpu: &VcpuFd) -> Result<(), kvm_ioctls::Error> {
    vcpu.set_cpuid2(&kvm.get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)?)?;
    let mut sregs = vcpu.get_sregs()?;
    sregs.gdt.base = GDT;
    sregs.gdt.limit = 15;
    sregs.idt.base = IDT;
    sregs.idt.limit = 4 * 16 - 1;
    sregs.cr3 = PAGE_MAPS[0];
    sregs.cr4 = 1 << 5; // PAE
    sregs.cr0 = 1 << 31 | 1 << 5 | 1 << 4 | 1; // PG, NE, ET, PE
    sregs.efer = 1 << 10 | 1 << 8; // LMA, LME
    sregs.cs = segment(0xb, CODE_SELECTOR, true);
    let data = segment(0x3, 0, false);
    (sregs.ds, sregs.es, sregs.ss, sregs.fs, sregs.gs) = (data, data, data, data, data);
    vcpu.set_sregs(&sregs)?;
    let mut regs = vcpu.get_regs()?;
    regs.rip = PROGRAM;
    regs.rsp = STACK;
    regs.rdi = OPERAND;
    regs.rflags = 2;
    vcpu.set_regs(&regs)
}

fn segment(type_: u8, selector: u16, code: bool) -> kvm_segment {
    kvm_segment {
        limit: u32::MAX,
        selector,
        type_,
        present: 1,
        s: 1,
        g: 1,
        l: u8::from(code),
        db: u8::from(!code),
        ..kvm_segment::default()
    }
}

/// Memory of the machine.
struct Memory(*mut core::ffi::c_void);

impl Memory {
    fn new() -> rustix::io::Result<Self> {
        // SAFETY: a new mapping where the kernel likes; nothing else has it.
        let start = unsafe {
            mmap_anonymous(
                core::ptr::null_mut(),
                SIZE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }?;
        Ok(Self(start))
    }

    fn write(&self, at: u64, bytes: &[u8]) {
        let at = usize::try_from(at).expect("every address above is small");
        assert!(at + bytes.len() <= SIZE, "everything above fits the memory");
        // SAFETY: the range was just checked to be inside the mapping, and no
        // processor runs yet.
        unsafe {
            core::ptr::copy_nonoverlapping(
                bytes.as_ptr(),
                self.0.cast::<u8>().add(at),
                bytes.len(),
            );
        }
    }

    fn region(&self) -> kvm_userspace_memory_region {
        kvm_userspace_memory_region {
            slot: 0,
            flags: 0,
            guest_phys_addr: 0,
            memory_size: SIZE as u64,
            userspace_addr: self.0.addr() as u64,
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping is ours, of this length, and goes once.
        let _ = unsafe { munmap(self.0, SIZE) };
    }
}
