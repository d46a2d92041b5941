//! QEMU's command line: one type per option, each with its own `to_args`.
//!
//! Nothing here looks at the host or decides anything: a value goes in, words
//! come out. [`Options`] escapes what needs it, so that a path with a comma in
//! it stays a path.

mod accel;
mod chardev;
mod cpu;
mod disk;
mod fs;
mod kernel;
mod machine;
mod memory;
mod monitor;
mod name;
mod net;
mod options;
mod pvpanic;
mod rng;
mod sandbox;
mod serial;
mod vsock;

use std::ffi::OsString;

pub(super) use accel::Accel;
pub(super) use chardev::{Backend, Chardev};
pub(super) use cpu::{Cpu, Smp};
pub(super) use disk::{Disk, NativeHotplug, RootPort, driver, node};
pub(super) use fs::VhostUserFs;
pub(super) use kernel::Kernel;
pub(super) use machine::Machine;
pub(super) use memory::{MemfdBackend, Memory, PluggedMemory};
pub(super) use monitor::Monitor;
pub(super) use name::Name;
pub(super) use net::{Netdev, Nic, RECEIVE_RING};
pub(super) use options::Options;
pub(super) use pvpanic::Pvpanic;
pub(super) use rng::Rng;
pub(super) use sandbox::Sandbox;
pub(super) use serial::Serial;
pub(super) use vsock::VhostUserVsock;

/// Something that is said on QEMU's command line.
pub(super) trait Argument {
    /// The words that say it.
    fn to_args(&self) -> Vec<OsString>;
}

/// How virtio devices are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Bus {
    /// Memory-mapped registers, announced on the kernel command line.
    #[cfg_attr(
        not(target_arch = "x86_64"),
        expect(dead_code, reason = "of microvm, which is a machine of x86_64")
    )]
    Mmio,
    /// PCI Express.
    Pci,
}

impl Bus {
    /// The name of the device `stem` on this bus.
    pub(super) fn device(self, stem: &str) -> String {
        match self {
            Self::Mmio => format!("{stem}-device"),
            Self::Pci => format!("{stem}-pci"),
        }
    }
}

/// What never depends on the machine: nothing that was not asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bare;

impl Argument for Bare {
    fn to_args(&self) -> Vec<OsString> {
        [
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
            "-S",
        ]
        .map(OsString::from)
        .to_vec()
    }
}

#[cfg(test)]
pub(super) fn words(argument: &impl Argument) -> String {
    let words = argument.to_args();
    words
        .iter()
        .map(|word| word.to_str().unwrap())
        .collect::<Vec<_>>()
        .join(" ")
}
