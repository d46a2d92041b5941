//! Why a network could not be set up or taken down.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::cni::PluginError;

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
    /// There is no network namespace of that path.
    #[error("{} is not a network namespace: {reason}", path.display())]
    NotANamespace {
        /// What was given.
        path: PathBuf,
        /// What it is instead.
        reason: String,
    },
    /// The sandbox would have had the host's own network.
    #[error(
        "{} is the network namespace of the host, which a virtual machine cannot share",
        path.display()
    )]
    HostNetwork {
        /// What was given.
        path: PathBuf,
    },
    /// An interface that cannot become a device of a machine.
    #[error("interface {interface} ({kind}) cannot be given to a machine: {reason}")]
    Interface {
        /// Its name.
        interface: String,
        /// What the kernel calls its kind, such as `wireguard`.
        kind: String,
        /// Why not.
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
    /// A CNI plugin failed.
    #[error(transparent)]
    Plugin(#[from] Box<PluginError>),
    /// Something took too long.
    #[error("cannot {operation} within {} ms", limit.as_millis())]
    Timeout {
        /// What was attempted, and on what.
        operation: String,
        /// How long it was given.
        limit: Duration,
    },
    /// Several things failed, one after the other.
    #[error("{}", .0.iter().map(describe).collect::<Vec<_>>().join("; "))]
    Several(Vec<Error>),
}

impl Error {
    /// An operation that the host refused.
    pub(crate) fn host(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Host { operation, source }
    }

    /// One error for all, if there are any.
    pub(crate) fn all(mut errors: Vec<Self>) -> Result<()> {
        match errors.len() {
            0 => Ok(()),
            1 => Err(errors.swap_remove(0)),
            _ => Err(Self::Several(errors)),
        }
    }
}

/// An error with what it was caused by, on one line.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_errors_are_told_with_their_causes() {
        let failed = |what: &str| Error::host(what)(io::Error::other("why"));
        assert!(Error::all(Vec::new()).is_ok());
        let one = Error::all(vec![failed("a")]).unwrap_err();
        assert_eq!(one.to_string(), "cannot a");
        let two = Error::all(vec![failed("a"), failed("b")]).unwrap_err();
        assert_eq!(two.to_string(), "cannot a: why; cannot b: why");
    }
}
