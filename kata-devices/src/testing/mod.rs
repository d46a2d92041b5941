//! The guest's side of a device, for tests, benches and fuzzers.
//!
//! Rings are real rings in real guest memory. [`DriverQueue`] works one as a
//! driver does, or as no driver would: whatever is written goes into the memory
//! as it is.
//!
//! The functions of this module panic when a step fails: they are for tests.
#![expect(
    clippy::unwrap_used,
    clippy::cast_possible_truncation,
    reason = "a step that fails fails the test"
)]

mod hostile;
mod memory;
mod mmio;
mod pci;
mod ring;
pub mod stepped;
#[cfg(test)]
mod tests;

pub use hostile::play;
pub use memory::{Arena, SECOND_REGION};
pub use mmio::{Line, MmioDriver};
pub use pci::{BAR_ADDRESS, PciDriver, Vectors};
pub use ring::{Buffer, Descriptor, DriverQueue, NEXT, TABLE, WRITE};
pub use stepped::{Stepped, Stepper};
