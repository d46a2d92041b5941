//! The machine of x86_64.

mod acpi;
mod aml;
mod boot;
mod chips;
mod cpuid;
mod entry;
mod layout;
mod machine;
mod mptable;
mod parameters;
mod registers;
mod tsc;

use kvm_ioctls::{Cap, VcpuFd};

use super::devices::{Place, Topology};
use crate::kernel::{Format, Words};

pub(super) use boot::Plan;
pub(super) use chips::{FIRST_MESSAGE, line_routes};
pub(super) use layout::PCI_MEMORY;
pub(super) use machine::{
    MOST_MMIO_DEVICES, MOST_VCPUS, add_legacy, add_pci, make_chips, make_vcpus, memory_ranges,
    places,
};
pub(super) use tsc::{Counter, stand_still};

/// Whether machines of this architecture run.
pub(super) const SUPPORTED: bool = true;
/// Kernels that they load.
pub(super) const KERNELS: &[Format] = &[Format::Elf, Format::PlainElf, Format::BzImage];
/// The longest command line that their kernels take.
pub(super) const LONGEST_COMMAND_LINE: usize = 2047;
/// What they need of KVM beside what all do.
pub(super) const NEEDED: &[(Cap, &str)] = &[
    (Cap::ExtCpuid, "KVM_CAP_EXT_CPUID"),
    (Cap::SetTssAddr, "KVM_CAP_SET_TSS_ADDR"),
    (Cap::SetIdentityMapAddr, "KVM_CAP_SET_IDENTITY_MAP_ADDR"),
    (Cap::MpState, "KVM_CAP_MP_STATE"),
];

/// Where the processor is, for a message; `None` when it does not say.
pub(super) fn program_counter(vcpu: &VcpuFd) -> Option<u64> {
    vcpu.get_regs().ok().map(|registers| registers.rip)
}

/// How a kernel learns of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Description {
    /// From its command line and the MP table.
    CommandLine,
    /// From ACPI tables.
    Acpi,
}

/// What a kernel must be told.
pub(super) fn words(words: &mut Words<'_>, description: Description, topology: &Topology) {
    // A kernel that panics ends the machine instead of keeping it.
    words.default("panic", "panic=-1");
    words.default("console", "console=ttyS0");
    if let Topology::Mmio(_) = topology {
        // There is no PCI, and nobody needs to look for it.
        words.default("pci", "pci=off");
    }
    if description == Description::CommandLine {
        words.default("acpi", "acpi=off");
        // The keyboard controller's reset line ends the machine at once.
        words.default("reboot", "reboot=k");
        if let Topology::Mmio(places) = topology {
            for Place { address, line } in places {
                // Every device has a word of the same key.
                words.always(format!("virtio_mmio.device=4K@{address:#x}:{line}"));
            }
        }
    }
    for absent in ["i8042.noaux", "i8042.nomux", "i8042.dumbkbd"] {
        words.default(absent, absent);
    }
}
