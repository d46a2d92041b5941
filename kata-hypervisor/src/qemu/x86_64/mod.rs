//! What is particular to x86_64.

mod clock;

use crate::config::MachineSize;
use crate::kernel::{Format, Words};
use crate::probe::Acceleration;
use crate::qemu::MachineChoice;
use crate::qemu::args::{Bus, Machine, Pvpanic};

pub(in crate::qemu) use clock::Clocks;

/// Names of the program, best first.
pub(in crate::qemu) const PROGRAMS: &[&str] = &["qemu-system-x86_64", "qemu-kvm"];
/// What installs it.
pub(in crate::qemu) const REMEDY: &str =
    "install the package qemu-system-x86 (Debian, Ubuntu) or qemu-kvm (Fedora), 6.2 or newer";
/// Whether this architecture's machines run.
pub(in crate::qemu) const SUPPORTED: bool = true;
/// Kernels that its machines load.
pub(in crate::qemu) const KERNELS: &[Format] = &[Format::Elf, Format::BzImage];
/// The longest command line that its kernels take.
pub(in crate::qemu) const LONGEST_COMMAND_LINE: usize = 2047;

/// The machine for one that `grows` or not. `microvm` tells whether this QEMU has it and the
/// kernel finds its devices.
pub(in crate::qemu) fn machine(
    choice: MachineChoice,
    grows: bool,
    microvm: bool,
    _acceleration: Acceleration,
) -> Machine {
    match choice {
        MachineChoice::Auto if microvm && !grows => Machine::Microvm,
        MachineChoice::Auto | MachineChoice::Full => Machine::Q35,
    }
}

/// How virtio devices are attached to a machine.
pub(in crate::qemu) fn bus(machine: Machine) -> Bus {
    match machine {
        Machine::Microvm => Bus::Mmio,
        Machine::Q35 | Machine::Virt { .. } => Bus::Pci,
    }
}

/// Whether processors and memory can change while it runs.
pub(in crate::qemu) fn can_grow(machine: Machine) -> bool {
    machine == Machine::Q35
}

/// The panic notifier that a machine can carry.
pub(in crate::qemu) fn pvpanic(machine: Machine) -> Option<Pvpanic> {
    (machine == Machine::Q35).then_some(Pvpanic::Isa)
}

/// The processor model.
pub(in crate::qemu) fn cpu(acceleration: Acceleration) -> &'static str {
    match acceleration {
        Acceleration::Kvm => "host",
        // Without "fast" byte-wise string moves, which an emulator does a byte at a
        // time: the guest then copies and clears memory by words.
        Acceleration::Emulation => "max,-erms,-fsrm",
    }
}

/// What a kernel must be told to boot quickly, or at all, on a machine.
pub(in crate::qemu) fn command_line(
    words: &mut Words<'_>,
    machine: Machine,
    acceleration: Acceleration,
    size: &MachineSize,
    tsc_khz: Option<u64>,
) {
    words.default("console", "console=ttyS0");
    if machine == Machine::Microvm {
        // It has neither tables to look for nor a keyboard controller to reset
        // it through: a triple fault ends it at once.
        words.default("acpi", "acpi=off");
        words.default("reboot", "reboot=t");
    }
    if size.max_memory > size.memory {
        // Plugged memory is used at once, and can be given back.
        words.default("memhp_default_state", "memhp_default_state=online_movable");
    }
    if acceleration == Acceleration::Emulation {
        emulated(words, machine, size, tsc_khz);
    }
}

/// Under emulation every calibration against a timer costs its full time, and
/// fails when the host is busy, leaving the guest with a clock of 10 ms.
fn emulated(words: &mut Words<'_>, machine: Machine, size: &MachineSize, tsc_khz: Option<u64>) {
    // The guest's instructions are not the host's: there is nothing to mitigate.
    words.default("mitigations", "mitigations=off");
    words.default("no_timer_check", "no_timer_check");
    // Patching lock prefixes away saves a translated guest nothing.
    words.default("noreplace-smp", "noreplace-smp");
    if let Some(khz) = tsc_khz {
        // Translated code reads the host's counter, whose rate is known.
        words.default("tsc", "tsc=reliable");
        words.default("tsc_early_khz", format!("tsc_early_khz={khz}"));
        if machine == Machine::Microvm && size.max_vcpus == 1 {
            // The interval timer serves one processor as well, and the other
            // timer takes 0.2 s to calibrate.
            words.default("nolapic_timer", "nolapic_timer");
        }
    }
}

#[cfg(test)]
mod tests;
