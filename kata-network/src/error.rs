//! Why a network could not be set up or taken down.

use std::io;

/// `Result` of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a network could not be set up or taken down.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The network cannot do that at all.
    #[error("network {network} does not support {operation}")]
    Unsupported {
        /// The network's name.
        network: String,
        /// What was asked of it.
        operation: &'static str,
    },
    /// The network's configuration makes no sense.
    #[error("invalid network {field}: {reason}")]
    InvalidConfig {
        /// The field of the configuration.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The host refused something.
    #[error("cannot {operation}")]
    Host {
        /// What was attempted, and on what.
        operation: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Something that the network relies on, such as a plugin, failed.
    #[error("{peer} failed to {operation}: {reason}")]
    Peer {
        /// Who failed.
        peer: String,
        /// What it was asked to do.
        operation: String,
        /// Its own words.
        reason: String,
    },
}
