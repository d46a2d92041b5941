//! Virtual machines, whoever runs them.
//!
//! [`Hypervisor`] makes a [`Vm`] from a [`VmConfig`]. `Vm` has the few calls
//! that every virtual machine monitor can answer; what only some can do is a
//! trait of its own, reached through an `Option`: that it is there *is* the
//! capability. [`Hypervisor::probe`] says whether a backend works on this host,
//! and if not, why and what would help.
//!
//! ```text
//!   VmConfig ──▶ Hypervisor::create ──▶ Vm ──▶ start ─▶ dial, wait ─▶ stop
//!                                        ├─▶ pause()    -> Option<&dyn Pause>
//!                                        ├─▶ hotplug()  -> Option<&dyn Hotplug>
//!                                        ├─▶ disks()    -> Option<&dyn DiskPlug>
//!                                        ├─▶ balloon()  -> Option<&dyn Balloon>
//!                                        └─▶ snapshot() -> Option<&dyn Snapshot>
//! ```
//!
//! A backend of one's own depends on this crate alone, and runs the
//! [`conformance`] suite (feature `conformance`) to prove itself.

mod config;
mod disk;
mod error;
mod nic;
mod port;
mod probe;
mod stream;
mod vm;

#[cfg(feature = "conformance")]
pub mod conformance;
pub mod handshake;
#[doc(hidden)]
pub mod inherit;

#[cfg(feature = "qemu")]
mod child;
#[cfg(any(feature = "qemu", feature = "kvm"))]
mod console;
#[cfg(any(feature = "qemu", feature = "kvm"))]
#[cfg_attr(
    not(any(target_arch = "x86_64", target_arch = "aarch64")),
    path = "host_kvm/none.rs"
)]
mod host_kvm;
#[cfg(any(feature = "qemu", feature = "kvm"))]
mod kernel;
#[cfg(all(feature = "kvm", target_arch = "x86_64"))]
pub mod kvm;
#[cfg(any(feature = "qemu", feature = "kvm"))]
mod medium;
#[cfg(feature = "qemu")]
pub mod qemu;
#[cfg(any(feature = "qemu", feature = "kvm"))]
mod timeline;
#[cfg(any(feature = "qemu", feature = "kvm"))]
mod validate;

pub use async_trait::async_trait;
pub use config::{Devices, KernelCommandLine, MachineSize, MemorySize, VmConfig};
pub use disk::DiskConfig;
pub use error::{Error, Result};
pub use nic::{MOST_NIC_QUEUES, NicBackend, NicConfig};
pub use port::ConsoleConfig;
pub use probe::{Acceleration, Finding, Probe, Severity};
pub use stream::{GuestStream, Io};
pub use vm::{
    Balloon, BalloonState, DiskPlug, Features, Hotplug, Hypervisor, NicPlug, Pause, Phase,
    Snapshot, StopMode, Vm, VmExit, VmUsage,
};

/// The README's example is compiled with the others.
#[cfg(all(doctest, feature = "qemu"))]
#[doc = include_str!("../README.md")]
struct Readme;
