//! Directories of sandboxes.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use super::{JournalError, Record, Result, Steps};

/// The machine's own directory.
pub(super) const VM: &str = "vm";

/// The directory of a sandbox that this process runs. Dropping it removes it.
#[derive(Debug)]
pub(crate) struct SandboxDir {
    path: PathBuf,
    lock: Option<File>,
    record: Record,
    steps: Steps,
}

/// A directory that stays unless it is removed: what it says is still to be
/// done. The reverse of [`SandboxDir`].
#[derive(Debug)]
pub(crate) struct Left(Option<SandboxDir>);

impl Left {
    /// What it says.
    pub(crate) fn record(&self) -> &Record {
        let dir = self
            .0
            .as_ref()
            .expect("it is taken by `remove` and drop alone");
        &dir.record
    }

    /// Writes down what is done already.
    pub(crate) fn note(
        &mut self,
        change: impl FnOnce(&mut Record),
    ) -> Box<dyn FnOnce() -> Result<()> + Send> {
        let dir = self.0.as_mut();
        dir.expect("it is taken by `remove` and drop alone")
            .note(change)
    }

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
    pub(super) fn new(path: PathBuf, lock: File, record: Record, steps: Steps) -> Self {
        Self {
            path,
            lock: Some(lock),
            record,
            steps,
        }
    }

    /// From here on, it stays unless it is removed.
    pub(crate) fn until_done(self) -> Left {
        Left(Some(self))
    }

    /// Whether hooks are still to hear of a container's end.
    pub(crate) fn has_hooks(&self) -> bool {
        !self.record.hooks.is_empty()
    }

    /// Where the machine may put its sockets.
    pub(crate) fn run_dir(&self) -> PathBuf {
        self.path.join(VM)
    }

    /// Makes the machine's directory, and writes down what is about to be made.
    pub(super) fn fill(&self) -> Result<()> {
        let machine = self.run_dir();
        super::make_dir(&machine)?;
        self.write()?;
        self.steps.reach("record written");
        Ok(())
    }

    /// Gives the directory its name, now that it is complete.
    pub(super) fn settle(mut self, path: PathBuf) -> Result<Self> {
        std::fs::rename(&self.path, &path).map_err(JournalError::io("make", &path))?;
        self.path = path;
        self.steps.reach("directory named");
        Ok(self)
    }

    fn write(&self) -> Result<()> {
        self.record
            .write(&self.path)
            .map_err(JournalError::io("write the record in", &self.path))
    }

    /// Writes down what more is about to be made, when the answer is called:
    /// that waits for the disk.
    pub(crate) fn note(
        &mut self,
        change: impl FnOnce(&mut Record),
    ) -> Box<dyn FnOnce() -> Result<()> + Send> {
        change(&mut self.record);
        let (path, record, steps) = (self.path.clone(), self.record.clone(), self.steps.clone());
        Box::new(move || {
            record
                .write(&path)
                .map_err(JournalError::io("write the record in", &path))?;
            steps.reach("record changed");
            Ok(())
        })
    }

    /// Removes the machine's directory, and leaves the rest.
    pub(crate) fn remove_run_dir(&self) -> Result<()> {
        super::undo::remove_all(&self.run_dir())
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
        self.steps.reach("directory about to go");
        let gone = match std::fs::symlink_metadata(&self.path) {
            Ok(found) => self
                .path
                .with_file_name(format!("{}{}", super::GONE, found.ino())),
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(JournalError::io("look at", &self.path)(source)),
        };
        match std::fs::rename(&self.path, &gone) {
            Ok(()) => {}
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(JournalError::io("remove", &self.path)(source)),
        }
        self.steps.reach("directory nameless");
        super::undo::remove_all(&gone)?;
        self.steps.reach("directory gone");
        Ok(())
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
