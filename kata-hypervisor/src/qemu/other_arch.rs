//! The seam for s390x, ppc64le and riscv64: nothing runs there yet.

use super::MachineChoice;
use super::args::{Bus, Machine, Pvpanic};
use crate::config::MachineSize;
use crate::kernel::{Format, Words};
use crate::probe::Acceleration;

/// Names of the program: none is looked for.
pub(super) const PROGRAMS: &[&str] = &[];
/// What would help.
pub(super) const REMEDY: &str = "use an x86_64 or aarch64 host";
/// Whether this architecture's machines run.
pub(super) const SUPPORTED: bool = false;
/// Kernels that its machines load.
pub(super) const KERNELS: &[Format] = &[];
/// The longest command line that its kernels take.
pub(super) const LONGEST_COMMAND_LINE: usize = 0;

/// The machine for a size.
pub(super) fn machine(
    _choice: MachineChoice,
    _grows: bool,
    _microvm: bool,
    _acceleration: Acceleration,
) -> Machine {
    Machine::Virt { kvm: false }
}

/// How virtio devices are attached to a machine.
pub(super) fn bus(_machine: Machine) -> Bus {
    Bus::Pci
}

/// Whether processors and memory can change while it runs.
pub(super) fn can_grow(_machine: Machine) -> bool {
    false
}

/// The panic notifier that a machine can carry.
pub(super) fn pvpanic(_machine: Machine) -> Option<Pvpanic> {
    None
}

/// The processor model.
pub(super) fn cpu(_acceleration: Acceleration) -> &'static str {
    "max"
}

/// What a kernel must be told.
pub(super) fn command_line(
    _words: &mut Words<'_>,
    _machine: Machine,
    _acceleration: Acceleration,
    _size: &MachineSize,
    _tsc_khz: Option<u64>,
) {
}

/// A moment.
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
