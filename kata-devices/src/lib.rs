//! Device models of virtual machine sandboxes.
//!
//! Devices know nothing of hypervisors. A device takes guest memory, its
//! virtqueues and an [`Interrupt`] per queue; whoever owns the machine wires
//! them: an in-process virtual machine monitor through a transport of
//! [`virtio`], a separate one (QEMU, Cloud Hypervisor) through a
//! [`vhost_user::Server`], a test by hand.
//!
//! ```text
//!   BlkConfig ───▶ ┌────────────────┐     ┌── virtio::mmio, virtio::pci ── vCPUs
//!   NetConfig ───▶ │ a device, with │ ◀───┤
//!   VsockConfig ─▶ │ its own thread │     └── vhost_user::Server ── QEMU, …
//!   FsConfig … ──▶ └────────────────┘
//!   VhostUserConfig ─▶ a device that somebody else serves
//! ```
//!
//! No daemon, no kernel module on the host, no thread that outlives its
//! device.
//!
//! # Trust
//! Every byte of guest memory and everything that a virtqueue points at is
//! hostile. A malformed descriptor chain, packet or request is counted, logged
//! at a bounded rate and answered or dropped; it never panics, blocks the
//! device or makes it allocate without bound. Each module says which of its
//! bytes the guest controls.

pub mod balloon;
pub mod blk;
pub mod console;
pub mod fs;
pub mod net;
pub mod pci;
pub mod rng;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vhost;
pub mod vhost_user;
pub mod virtio;
pub mod vsock;

mod epoll;
mod error;
mod limit;
mod pieces;
mod rate;
mod volatile_io;

pub use error::{Error, Result};
pub use limit::Offences;
pub use rate::{Rate, RateLimit};
pub use virtio::{GuestMemory, Interrupt, QueueError, VirtQueue};
