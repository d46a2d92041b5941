//! What a virtual machine is made of.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use kata_devices::balloon::BalloonConfig;
use kata_devices::fs::FsConfig;
use kata_devices::vsock::VsockConfig;
use serde::{Deserialize, Serialize};

use crate::disk::DiskConfig;
use crate::nic::NicConfig;
use crate::port::ConsoleConfig;

/// An amount of memory, in bytes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
pub struct MemorySize(u64);

impl MemorySize {
    /// So many bytes.
    #[must_use]
    pub const fn bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// So many mebibytes (2^20 bytes).
    #[must_use]
    pub const fn mib(mebibytes: u64) -> Self {
        Self(mebibytes << 20)
    }

    /// So many gibibytes (2^30 bytes).
    #[must_use]
    pub const fn gib(gibibytes: u64) -> Self {
        Self(gibibytes << 30)
    }

    /// In bytes.
    #[must_use]
    pub const fn as_bytes(self) -> u64 {
        self.0
    }

    /// In whole mebibytes, rounded down.
    #[must_use]
    pub const fn as_mib(self) -> u64 {
        self.0 >> 20
    }
}

impl fmt::Display for MemorySize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 >= 1 << 20 && self.0.is_multiple_of(1 << 20) {
            write!(f, "{} MiB", self.as_mib())
        } else {
            write!(f, "{} bytes", self.0)
        }
    }
}

/// Virtual processors and memory: now, and how far they may grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MachineSize {
    /// Virtual processors at boot; at least 1.
    pub vcpus: u32,
    /// The most there may ever be. Equal to `vcpus` when no hot-plug is wanted.
    pub max_vcpus: u32,
    /// Memory at boot.
    pub memory: MemorySize,
    /// The most there may ever be. Equal to `memory` when no hot-plug is wanted.
    pub max_memory: MemorySize,
}

impl MachineSize {
    /// Whether the machine must be able to grow.
    #[must_use]
    pub fn grows(&self) -> bool {
        self.max_vcpus > self.vcpus || self.max_memory > self.memory
    }
}

/// The kernel command line, word by word.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KernelCommandLine(Vec<String>);

impl KernelCommandLine {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends a word, such as `quiet` or `panic=-1`.
    pub fn push(&mut self, word: impl Into<String>) -> &mut Self {
        self.0.push(word.into());
        self
    }

    /// The words, in order.
    #[must_use]
    pub fn words(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for KernelCommandLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" "))
    }
}

impl<S: Into<String>> FromIterator<S> for KernelCommandLine {
    fn from_iter<I: IntoIterator<Item = S>>(words: I) -> Self {
        Self(words.into_iter().map(Into::into).collect())
    }
}

/// A virtual machine to be made. Plain description; [`Hypervisor::create`]
/// validates it.
///
/// [`Hypervisor::create`]: crate::Hypervisor::create
#[derive(Clone, Debug)]
pub struct VmConfig {
    /// Names the machine in logs, errors and host resources.
    pub id: String,
    /// A directory of this machine's own, already made, where the backend may
    /// put sockets and files; its owner removes it after [`Vm::stop`](crate::Vm::stop).
    /// Short: socket paths in it must stay below 108 bytes.
    pub run_dir: PathBuf,
    /// Processors and memory.
    pub size: MachineSize,
    /// The kernel: an ELF with a PVH entry, a bzImage, or an arm64 `Image`.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initramfs: Option<PathBuf>,
    /// What the kernel is told. The backend adds what its machine needs
    /// (console, `acpi=off`, device addresses).
    pub command_line: KernelCommandLine,
    /// The devices, one list per kind.
    pub devices: Devices,
    /// The control groups that a monitor in a process of its own is to be in
    /// before it runs anything: the `cgroup.procs` of each hierarchy. A backend
    /// whose machines run in this process takes only groups that it is in.
    pub cgroup: Vec<PathBuf>,
    /// How long [`Vm::start`](crate::Vm::start) may take until the processors run.
    pub start_deadline: Duration,
}

/// Devices of a machine, one list per kind.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Devices {
    /// The vsock device, through which the agent is reached.
    pub vsock: Option<VsockConfig>,
    /// Shared directories.
    pub filesystems: Vec<FsConfig>,
    /// Disks, in the order in which the guest finds them.
    pub disks: Vec<DiskConfig>,
    /// How many further disks can be attached while the machine runs, where the
    /// backend can do that at all.
    pub spare_disks: u32,
    /// How many further network devices can be attached while the machine runs,
    /// where the backend can do that at all.
    pub spare_nics: u32,
    /// Network devices, in the order in which the guest finds them.
    pub nics: Vec<NicConfig>,
    /// Whether the guest gets an entropy device.
    pub rng: bool,
    /// A balloon, by which memory is taken from the guest, and by which the guest
    /// tells of memory that it does not use.
    pub balloon: Option<BalloonConfig>,
    /// A console for programs of the guest.
    pub console: Option<ConsoleConfig>,
}
