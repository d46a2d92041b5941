//! Devices for virtual machine monitors that run as processes of their own, over
//! the vhost-user protocol.
//!
//! A [`Server`] is the back end of one device for one front end (QEMU, Cloud
//! Hypervisor). It has threads of its own, and none of them outlives it.
//!
//! ```text
//!   listening ──front end connects──▶ serving ──hangs up, is killed──▶ Disconnected
//!       │                                ├──────breaks the protocol──▶ Failed
//!       └────────── shutdown, drop ──────┴───────────────────────────▶ Stopped
//! ```
//!
//! The front end's memory must be shared (`memory-backend-memfd,share=on`). It
//! is mapped, not copied: it costs this process only the page tables of what
//! was touched.
//!
//! The front end is trusted as far as a process of ours is: it may end the
//! device, not more. What lies in guest memory is the guest's, and hostile; see
//! the modules of the devices.

mod devices;
mod events;
mod handler;
mod memory;
mod server;
mod socket;
mod worker;

pub use server::{Ended, Server};
pub(crate) use socket::SocketFile;
