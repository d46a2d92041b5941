//! Device models of virtual machine sandboxes (being written).
pub mod fs;
pub mod vsock;
mod error;
pub use error::{Error, Result};
