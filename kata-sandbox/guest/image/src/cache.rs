//! Where unpacked packages, built kernels and images are kept between runs.

use std::path::{Path, PathBuf};

use crate::Error;

/// A directory of things that can be made again. Every entry appears in one
/// rename, so that several processes can use one cache.
#[derive(Clone, Debug)]
pub struct Cache {
    directory: PathBuf,
}

impl Cache {
    /// The cache in `directory`, which is made if need be.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(directory: impl AsRef<Path>) -> Result<Self, Error> {
        let directory = directory.as_ref();
        std::fs::create_dir_all(directory).map_err(Error::write(directory))?;
        let directory = directory.canonicalize().map_err(Error::read(directory))?;
        Ok(Self { directory })
    }

    /// Unpacked packages.
    pub(crate) fn packages(&self) -> PathBuf {
        self.directory.join("packages")
    }

    /// Kernels that were built here.
    pub(crate) fn kernels(&self) -> PathBuf {
        self.directory.join("kernels")
    }

    /// Images for which no other place is named.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.directory.join("images")
    }
}
