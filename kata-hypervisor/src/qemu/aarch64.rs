//! What is particular to aarch64.

use super::MachineChoice;
use super::args::{Bus, Machine, Pvpanic};
use crate::config::MachineSize;
use crate::kernel::{Format, Words};
use crate::probe::Acceleration;

/// Names of the program, best first.
pub(super) const PROGRAMS: &[&str] = &["qemu-system-aarch64", "qemu-kvm"];
/// What installs it.
pub(super) const REMEDY: &str =
    "install the package qemu-system-arm (Debian, Ubuntu) or qemu-kvm (Fedora), 6.2 or newer";
/// Whether this architecture's machines run.
pub(super) const SUPPORTED: bool = true;
/// Kernels that its machines load.
pub(super) const KERNELS: &[Format] = &[Format::Arm64Image, Format::Gzip];
/// The longest command line that its kernels take.
pub(super) const LONGEST_COMMAND_LINE: usize = 2047;

/// The machine for a size: there is one for all.
pub(super) fn machine(
    _choice: MachineChoice,
    _grows: bool,
    _microvm: bool,
    acceleration: Acceleration,
) -> Machine {
    Machine::Virt {
        kvm: acceleration == Acceleration::Kvm,
    }
}

/// How virtio devices are attached to a machine.
pub(super) fn bus(_machine: Machine) -> Bus {
    Bus::Pci
}

/// Whether processors and memory can change while it runs: QEMU has no way to
/// plug a processor into this board.
pub(super) fn can_grow(_machine: Machine) -> bool {
    false
}

/// The panic notifier that a machine can carry.
pub(super) fn pvpanic(_machine: Machine) -> Option<Pvpanic> {
    Some(Pvpanic::Pci)
}

/// The processor model.
pub(super) fn cpu(acceleration: Acceleration) -> &'static str {
    match acceleration {
        Acceleration::Kvm => "host",
        Acceleration::Emulation => "max",
    }
}

/// What a kernel must be told to boot quickly, or at all, on a machine.
pub(super) fn command_line(
    words: &mut Words<'_>,
    _machine: Machine,
    acceleration: Acceleration,
    _size: &MachineSize,
    _tsc_khz: Option<u64>,
) {
    words.default("console", "console=ttyAMA0");
    if acceleration == Acceleration::Emulation {
        // The guest's instructions are not the host's: there is nothing to mitigate.
        words.default("mitigations", "mitigations=off");
    }
}

/// A moment. The generic timer tells its own rate, so nothing is measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clocks;

impl Clocks {
    /// Now.
    pub(super) fn now() -> Self {
        Self
    }

    /// No rate is needed.
    pub(super) fn khz_since(self, _earlier: Self) -> Option<u64> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{KernelCommandLine, MemorySize};

    fn line(acceleration: Acceleration) -> String {
        let memory = MemorySize::mib(64);
        let size = MachineSize {
            vcpus: 1,
            max_vcpus: 2,
            memory,
            max_memory: memory,
        };
        let machine = machine(MachineChoice::Auto, true, true, acceleration);
        assert_eq!(bus(machine), Bus::Pci);
        let given = KernelCommandLine::new();
        let mut words = Words::new(&given);
        command_line(&mut words, machine, acceleration, &size, None);
        words.into_line()
    }

    #[test]
    fn the_console_is_the_boards_uart() {
        assert_eq!(line(Acceleration::Kvm), "console=ttyAMA0");
        assert_eq!(
            line(Acceleration::Emulation),
            "console=ttyAMA0 mitigations=off"
        );
    }
}
