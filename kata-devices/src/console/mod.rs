//! virtio-console: one port to a pair of descriptors of the host (virtio 1.2 §5.3).
//!
//! There is no multiport: streams of many kinds go over vsock. What the guest
//! writes waits in its own buffers when the host does not take it, and what the
//! host writes in the pipe or terminal when the guest does not.
//!
//! Guest-controlled: chains and bytes. Nothing is interpreted.

mod config;
mod device;
#[cfg(test)]
mod tests;

pub use config::ConsoleConfig;
pub(crate) use device::Console;
