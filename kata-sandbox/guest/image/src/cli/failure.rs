//! Why a command was not carried out.

use kata_image::{Error, ManifestError, UnknownArchitecture};

/// Why a command was not carried out.
pub(super) enum Failure {
    /// The command line is wrong.
    Usage(lexopt::Error),
    /// The work failed.
    Work(Error),
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Self {
        Self::Usage(error)
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Work(error)
    }
}

impl From<ManifestError> for Failure {
    fn from(error: ManifestError) -> Self {
        Self::Work(error.into())
    }
}

impl From<UnknownArchitecture> for Failure {
    fn from(error: UnknownArchitecture) -> Self {
        Self::Work(error.into())
    }
}
