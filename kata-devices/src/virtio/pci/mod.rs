//! virtio-pci: a device as a function on a PCI bus (virtio 1.2 §4.1), without the
//! legacy interface and with MSI-X only.
//!
//! All structures are in one BAR, at offsets that `registers` takes apart
//! purely; `msix` decides which interrupts go through; and
//! [`PciTransport`] does what an access asks for.
//!
//! Guest-controlled: every access, in any order and width, from any vCPU.

mod capabilities;
mod msix;
mod registers;
mod state;
#[cfg(test)]
mod tests;
mod transport;

pub use msix::{MsiMessage, MsiRouter};
pub use state::PciState;
pub use transport::{PciDoorbell, PciTransport};
