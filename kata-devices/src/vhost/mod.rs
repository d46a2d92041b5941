//! Devices whose queues somebody else serves: the host's kernel, or the back end
//! of another process.
//!
//! ```text
//!   transport ──▶ Offloaded ──set-up──▶ VhostUser ──▶ socket ──▶ any back end
//!       ▲             │                 VhostNet  ──▶ /dev/vhost-net
//!       │             ▼
//!       kicks and interrupts are eventfds that both sides hold: no byte and no
//!       signal passes through this process
//! ```
//!
//! Guest memory must be of files (memfds) for a back end, and any for the kernel.
//! The transport's interrupts must have eventfds.
//!
//! A back end is trusted as far as the guest's own monitor is: it has all of the
//! guest's memory. One that hangs up leaves a device that needs a reset; one that
//! does not answer is given up after [`PATIENCE`].

mod config;
mod device;
mod eventfd;
mod kernel_net;
mod link;
#[cfg(test)]
mod tests;
mod user;
mod watch;

pub use config::{ConfigSource, VhostUserConfig};
pub use kernel_net::VhostNetConfig;
pub use user::PATIENCE;
