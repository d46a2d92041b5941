//! Why a device could not be set up.

use std::io;
use std::path::PathBuf;

/// `Result` of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a device could not be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The host refused something.
    #[error("cannot {operation}")]
    Host {
        /// What was attempted, and on what.
        operation: String,
        /// Why it failed.
        source: io::Error,
    },
    /// Another machine or program has the disk, in a way that does not go together
    /// with how it was asked for.
    #[error(
        "the disk {} is in use{}; stop the machine that has it, unmount it, \
         or have everybody only read it",
        path.display(),
        if *read_only { " and may be written" } else { "" }
    )]
    DiskInUse {
        /// The file or block device.
        path: PathBuf,
        /// Whether it was asked for to be only read.
        read_only: bool,
    },
    /// The description makes no device.
    #[error("invalid {field}: {reason}")]
    InvalidConfig {
        /// The field of the configuration.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// A socket could not be made where it was asked for.
    #[error("cannot listen on {}; remove what is there, or choose another path", path.display())]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// A path cannot be shared.
    #[error("cannot share {} as {name:?}", path.display())]
    Share {
        /// The name it was to have in the guest.
        name: String,
        /// The path on the host.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The tree has a share of that name already.
    #[error("{name:?} is shared already; unshare it first, or choose another name")]
    ShareExists {
        /// The name.
        name: String,
    },
}

impl Error {
    /// A refusal by the host, for `map_err`.
    pub(crate) fn host(operation: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let operation = operation.into();
        move |source| Self::Host { operation, source }
    }
}
