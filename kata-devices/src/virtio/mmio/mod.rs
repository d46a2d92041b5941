//! virtio-mmio: a device's registers in guest memory's address space (virtio
//! 1.2 §4.2), without the legacy interface.
//!
//! `registers` says which register an access means and is pure;
//! [`MmioTransport`] does what it asks for.
//!
//! Guest-controlled: every access, in any order and width, from any vCPU.

mod registers;
#[cfg(test)]
mod tests;
mod transport;

pub use transport::{Doorbell, MmioTransport};
