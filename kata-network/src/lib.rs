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
//! loopback, and is reached over vsock. A network of one's own implements
//! [`Network`] and depends on this crate alone.
#![forbid(unsafe_code)]

mod address;
mod error;
mod lease;
mod none;
mod setup;

pub use address::{IpNet, MacAddress, ParseError};
pub use async_trait::async_trait;
pub use error::{Error, Result};
pub use lease::{Endpoint, GuestInterface, Lease, Neighbor, Route};
pub use none::None;
pub use setup::Network;
