//! Directories of sandboxes.

use std::fs::File;
use std::io;
use std::path::PathBuf;

use super::{JournalError, Record, Result};

/// The machine's own directory.
pub(super) const VM: &str = "vm";

/// The directory of a sandbox that this process runs. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct SandboxDir {
    path: PathBuf,
    lock: Option<File>,
}

/// A directory that stays unless it is removed: what it says is still to be
/// done. The reverse of [`SandboxDir`].
#[derive(Debug)]
pub(crate) struct Left(Option<SandboxDir>);

impl Left {
    /// All was done.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.0.take().map_or(Ok(()), SandboxDir::remove)
    }
}

impl Drop for Left {
    fn drop(&mut self) {
        if let Some(dir) = self.0.take() {
            dir.leave();
        }
    }
}

impl SandboxDir {
    pub(super) fn new(path: PathBuf, lock: File) -> Self {
        Self {
            path,
            lock: Some(lock),
        }
    }

    /// From here on, it stays unless it is removed.
    pub(crate) fn until_done(self) -> Left {
        Left(Some(self))
    }

    /// Where the machine may put its sockets.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.path.join(VM)
    }

    /// Makes the machine's directory, and writes down what is about to be made.
    pub(super) fn fill(&self, record: &Record) -> Result<()> {
        let machine = self.run_dir();
        super::make_dir(&machine)?;
        record
            .write(&self.path)
            .map_err(JournalError::io("write the record in", &self.path))
    }

    /// Removes the machine's directory, and leaves the rest.
    pub(crate) fn remove_run_dir(&self) -> Result<()> {
        let path = self.run_dir();
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(JournalError::io("remove", &path)(source))
            }
            _ => Ok(()),
        }
    }

    /// Removes the directory and lets go of its lock.
    ///
    /// # Errors
    /// Names what could not be removed; nothing is tried again on drop.
    pub(crate) fn remove(mut self) -> Result<()> {
        self.take_away()
    }

    /// Leaves the directory for a later process to clean up.
    pub(crate) fn leave(mut self) {
        self.lock = None;
    }

    fn take_away(&mut self) -> Result<()> {
        // The lock goes last: until then, nobody takes the directory for stale.
        let _lock = self.lock.take();
        match std::fs::remove_dir_all(&self.path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(JournalError::io("remove", &self.path)(source))
            }
            _ => Ok(()),
        }
    }
}

impl Drop for SandboxDir {
    fn drop(&mut self) {
        if self.lock.is_some()
            && let Err(error) = self.take_away()
        {
            log::warn!(error:%; "left behind");
        }
    }
}
