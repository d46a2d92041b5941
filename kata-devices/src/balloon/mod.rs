//! virtio-balloon: memory that the guest gives back (virtio 1.2 §5.5).
//!
//! The host sets a target through a [`Balloon`], and the guest's driver gives up
//! so many pages. With free page reporting it tells, without being asked, which of
//! its pages are free; the host takes them back, and the guest gets fresh ones
//! when it next touches them.
//!
//! # Guest-controlled
//! Page numbers, ranges and statistics. A guest can only give away its own
//! memory: what lies outside of it is ignored and counted. Statistics are what
//! the guest says, no more.

mod config;
mod device;
mod handle;
mod release;
mod stats;
#[cfg(test)]
mod tests;

pub use config::BalloonConfig;
#[cfg(any(test, feature = "testing"))]
pub(crate) use device::Inflatable;
pub use handle::Balloon;
pub use stats::BalloonStats;
