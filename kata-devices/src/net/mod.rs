//! virtio-net: a network card over taps (virtio 1.2 §5.1).
//!
//! ```text
//!   transmit ring ──▶ frame::outgoing ──▶ Port (tap queue) ──▶ host
//!   receive ring  ◀── Incoming ◀───────── Port
//! ```
//!
//! A tap carries the virtio header of each frame (`IFF_VNET_HDR`), so checksums
//! and segmentation are left to whoever does them best. Anything that keeps
//! packets apart can stand in for a tap, such as a pair of `SOCK_SEQPACKET`
//! sockets.
//!
//! # Guest-controlled
//! Chains, headers, frames and control commands. A frame that the host does not
//! take is dropped and counted, as on a wire; a chain that is none breaks its
//! queue and the device asks for a reset. One frame per queue pair waits here for
//! buffers of the guest, never more.

mod config;
mod control;
mod device;
mod frame;
mod framing;
mod layout;
mod port;
mod receive;
mod tap;
#[cfg(test)]
mod tests;

pub use config::{Link, MacAddress, NetConfig};
pub(crate) use device::Net;
pub(crate) use layout::offered_without_control;
pub use tap::Tap;
pub(crate) use tap::TapQueue;
