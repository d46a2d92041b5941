//! virtio-rng: entropy of the host for the guest (virtio 1.2 §5.4).
//!
//! Guest-controlled: the chains. A request gets at most [`MAX_REQUEST`] bytes,
//! which is as much as the driver may count on getting of a larger one.

mod config;
mod device;

pub use config::RngConfig;
pub use device::MAX_REQUEST;
pub(crate) use device::Rng;
