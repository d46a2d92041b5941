//! PCI: configuration space, and the bus on which functions are found.
//!
//! ```text
//!   ports 0xcf8, 0xcfc ──┐
//!   ECAM window ─────────┴─▶ PciBus ──▶ PciFunction (configuration space)
//!   memory in a BAR ────────────┘   └─▶ PciFunction (registers)
//! ```
//!
//! One bus, one function per device. The machine's backend routes the ports and
//! windows here, and hears where BARs are through [`BarListener`], so that it can
//! keep its ioeventfds in place.
//!
//! Guest-controlled: every access. What there is not reads as ones, as on a real
//! bus, and writes to it are lost.

mod address;
mod bus;
mod config_space;
mod host_bridge;

pub use address::{ConfigAddress, ConfigPorts};
pub use bus::{BarListener, PciBus, PciFunction, SLOTS, Slot};
pub use config_space::{CONFIG_SIZE, ConfigSpace};
