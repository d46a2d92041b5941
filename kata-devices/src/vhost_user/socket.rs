//! Listening sockets that leave nothing behind.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use crate::{Error, Result};

/// The file of a listening socket; goes when this is dropped.
#[derive(Debug)]
pub(crate) struct SocketFile {
    path: PathBuf,
}

impl SocketFile {
    /// Listens on `path`, where nothing may be yet.
    pub(crate) fn listen(path: &Path) -> Result<(UnixListener, Self)> {
        let listener = UnixListener::bind(path).map_err(|source| Error::Listen {
            path: path.to_owned(),
            source,
        })?;
        Ok((
            listener,
            Self {
                path: path.to_owned(),
            },
        ))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            log::warn!(path:? = self.path, error:%; "cannot remove a socket");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_goes_with_its_guard_and_foreign_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("s");
        let (listener, file) = SocketFile::listen(&path).unwrap();
        let error = SocketFile::listen(&path).unwrap_err();
        assert!(error.to_string().contains("cannot listen on"), "{error}");
        assert!(path.exists());
        drop((listener, file));
        assert!(!path.exists());
    }
}
