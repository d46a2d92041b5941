//! The device back ends of one machine, served by this process.

use std::path::PathBuf;

use super::NAME;
use crate::config::VmConfig;
use crate::error::{Error, Result};

/// The back ends that one machine leans on. Dropping them ends them.
#[derive(Debug)]
pub(super) struct Backends {}

impl Backends {
    /// Starts what the description asks for.
    pub(super) fn start(config: &VmConfig) -> Result<Self> {
        if config.devices.vsock.is_some() {
            return Err(Error::Unsupported { backend: NAME, operation: "vsock" });
        }
        if !config.devices.filesystems.is_empty() {
            return Err(Error::Unsupported { backend: NAME, operation: "shared file systems" });
        }
        Ok(Self {})
    }

    /// The socket of the vsock device's back end.
    pub(super) fn vsock(&self) -> Option<PathBuf> {
        None
    }

    /// The sockets of the file systems' back ends, with their tags.
    pub(super) fn filesystems(&self) -> Vec<(String, PathBuf)> {
        Vec::new()
    }
}
