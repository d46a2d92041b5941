//! Networks of virtual machine sandboxes.
//!
//! A [`Network`] prepares what a sandbox needs on the host before its machine
//! starts, says so in a [`Lease`], and takes it all back afterwards. The lease
//! is plain data and file descriptors: [`Endpoint`]s that become network
//! devices, and the [`GuestInterface`]s, [`Route`]s, [`Neighbor`]s and name
//! servers that the guest configures on them.
//!
//! ```text
//!   Network::setup ──▶ Lease ─┬─ endpoints ──▶ devices of the machine
//!                             └─ interfaces, routes, … ──▶ guest
//!   Network::teardown ◀── when the sandbox has ended, however it did
//! ```
//!
//! [`None`] is the network of sandboxes that have none: their guest has its
//! loopback, and is reached over vsock. [`NetNs`] gives the guest the place of a
//! network namespace that somebody else has prepared, [`Cni`] has plugins prepare
//! one. A network of one's own implements
//! [`Network`] and depends on this crate alone.

mod address;
mod cni;
mod describe;
mod endpoint;
mod error;
mod given;
mod guest;
mod lease;
mod netns;
mod none;
mod pci;
mod resolver;
mod rtnl;
mod scan;
mod setup;
mod tap;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod traffic;
mod user;
mod wiring;

pub use address::{IpNet, MacAddress, ParseError};
pub use async_trait::async_trait;
pub use cni::{Bandwidth, Cni, PluginError, PluginFault, PortMapping};
pub use describe::from_description;
pub use endpoint::{Attachment, Endpoint, HostDevice};
pub use error::{Error, Result};
pub use given::{BridgePort, GuestConfig, Tap, VhostUser};
pub use guest::{GuestInterface, Neighbor, NextHop, Route, RouteKind, Rule};
pub use lease::{Lease, Phase};
pub use netns::NetNs;
pub use none::None;
pub use pci::{PciAddress, PciFunction};
pub use setup::{MOST_QUEUES, Network, SetupRequest};
pub use traffic::{Counters, Rate, RateLimits};
pub use user::User;
pub use wiring::WiringModel;
