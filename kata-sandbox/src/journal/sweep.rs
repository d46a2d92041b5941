//! Removing what dead processes have left: each by itself, past what fails.

use std::path::{Path, PathBuf};

use super::dir::{Left, SandboxDir};
use super::{GONE, JournalError, LOCK, NEW, Record, Result, StateDir, lock_stale, record, undo};

/// What a sweep has come to.
#[derive(Debug, Default)]
pub(crate) struct Swept {
    /// The ids of what it removed.
    pub(crate) removed: Vec<String>,
    /// What it could not.
    pub(crate) failed: Vec<Failed>,
}

/// What dead processes have left that only a runtime can undo.
#[derive(Debug, Default)]
pub(crate) struct Unfinished {
    /// Taken over, to be finished and removed.
    pub(crate) left: Vec<Left>,
    /// What could not be undone so far.
    pub(crate) failed: Vec<Failed>,
}

/// A directory that stays as it is, and why.
#[derive(Debug)]
pub(crate) struct Failed {
    /// The sandbox's id; the directory's name where it says none.
    pub(crate) id: String,
    pub(crate) error: JournalError,
}

impl Failed {
    fn at(path: &Path, error: JournalError) -> Self {
        log::warn!(path:% = path.display(), error:%; "left behind by a dead process");
        let id = id_of(path).unwrap_or_else(|| name_of(path));
        Self { id, error }
    }
}

/// The id of the sandbox whose directory that is, by its record.
fn id_of(path: &Path) -> Option<String> {
    Some(record::read(path).ok()??.id)
}

fn name_of(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

impl StateDir {
    /// The ids of all sandboxes that have a directory. Of one whose record
    /// cannot be read, that is the directory's name.
    pub(crate) fn ids(&self) -> Result<Vec<String>> {
        if !self.path().is_dir() {
            return Ok(Vec::new());
        }
        let directories = self.directories()?;
        let ids = directories
            .iter()
            .filter_map(|path| match record::read(path) {
                Ok(record) => Some(record?.id),
                Err(_) => Some(name_of(path)),
            });
        let mut ids: Vec<_> = ids.collect();
        ids.sort_unstable();
        Ok(ids)
    }

    /// Removes the directories of sandboxes whose processes are gone, but for
    /// those that only a runtime can finish with.
    pub(crate) fn sweep(&self) -> Result<Swept> {
        self.check()?;
        let mut swept = Swept::default();
        if !self.path().exists() {
            return Ok(swept);
        }
        let _sweeping = self.lock()?;
        self.sweep_halves(&mut swept)?;
        for path in self.directories()? {
            match self.remove_stale(&path) {
                Ok(id) => swept.removed.extend(id),
                Err(JournalError::InUse { .. }) => {}
                Err(error) => swept.failed.push(Failed::at(&path, error)),
            }
        }
        Ok(swept)
    }

    /// Takes over the directories of dead sandboxes that only a runtime can
    /// finish with, and undoes the rest of them.
    pub(crate) fn unfinished(&self) -> Result<Unfinished> {
        let mut found = Unfinished::default();
        if !self.path().is_dir() {
            return Ok(found);
        }
        let _sweeping = self.lock()?;
        for path in self.directories()? {
            match self.finish_with(&path) {
                Ok(left) => found.left.extend(left),
                Err(JournalError::InUse { .. }) => {}
                // The sweep before has told of it.
                Err(JournalError::Unreadable { .. }) => {}
                Err(error) => found.failed.push(Failed::at(&path, error)),
            }
        }
        Ok(found)
    }

    fn finish_with(&self, path: &Path) -> Result<Option<Left>> {
        let (lock, record) = take_over(path)?;
        let Some(record) = record.filter(Record::needs_a_runtime) else {
            return Ok(None);
        };
        undo::undo(path, &record)?;
        let dir = SandboxDir::new(path.to_owned(), lock, record, self.steps().clone());
        Ok(Some(dir.until_done()))
    }

    /// Undoes all of a sandbox whose process is gone, unless it needs a runtime.
    /// Returns its id, if it said so.
    fn remove_stale(&self, path: &Path) -> Result<Option<String>> {
        let (lock, record) = take_over(path)?;
        if record.as_ref().is_some_and(Record::needs_a_runtime) {
            return Ok(None);
        }
        if let Some(record) = &record {
            undo::undo(path, record)?;
        }
        let id = record.as_ref().map(|record| record.id.clone());
        let record = record.unwrap_or_else(|| Record::new("", None));
        SandboxDir::new(path.to_owned(), lock, record, self.steps().clone()).remove()?;
        log::info!(path:% = path.display(); "removed what a dead process left");
        Ok(id)
    }

    /// The directories of sandboxes: only what this code made is touched, and
    /// has a lock.
    fn directories(&self) -> Result<Vec<PathBuf>> {
        let mut found = self.entries()?;
        found.retain(|path| !name_of(path).starts_with('.') && path.join(LOCK).is_file());
        Ok(found)
    }

    /// Removes what was half made or half removed.
    fn sweep_halves(&self, swept: &mut Swept) -> Result<()> {
        for path in self.entries()? {
            let name = name_of(&path);
            if (name == NEW || name.starts_with(GONE))
                && let Err(error) = undo::remove_all(&path)
            {
                swept.failed.push(Failed::at(&path, error));
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Vec<PathBuf>> {
        let entries = std::fs::read_dir(self.path()).map_err(JournalError::io("list", self.path()));
        let paths = entries?.map(|entry| entry.map(|entry| entry.path()));
        let paths: std::io::Result<_> = paths.collect();
        paths.map_err(JournalError::io("list", self.path()))
    }
}

/// Locks a directory whose process is gone, and reads what it said last.
pub(super) fn take_over(directory: &Path) -> Result<(std::fs::File, Option<Record>)> {
    let so_far = record::read(directory).ok().flatten();
    let lock = lock_stale(directory, so_far.as_ref())?;
    // It may have written more before it died.
    Ok((lock, record::read(directory)?))
}
