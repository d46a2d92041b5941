//! Undoing what a dead process has left.

use std::io;
use std::path::Path;
use std::time::Duration;

use super::{JournalError, Record, Result};

/// How long a process may take to die: the kernel frees its guest's memory.
pub(super) const DYING: Duration = Duration::from_secs(20);

/// Undoes what the record says but for the network, which takes more than a
/// look at the disk.
pub(super) fn undo(directory: &Path, record: &Record) -> Result<()> {
    if let Some(monitor) = &record.monitor {
        monitor
            .end(DYING)
            .map_err(JournalError::io("end the monitor of", directory))?;
    }
    if !record.cgroups.is_empty()
        && let Err(error) = record.owner.wait(DYING)
    {
        // It has let go of its lock: the groups say whether it is in them.
        log::debug!(pid = record.owner.pid, error:%; "a process does not end");
    }
    let removed = crate::cgroup::remove(&record.cgroups);
    removed.map_err(|error| {
        JournalError::io("remove the control group of", directory)(io::Error::other(error))
    })
}

/// Removes a directory, if it is there.
pub(super) fn remove_all(path: &Path) -> Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(JournalError::io("remove", path)(source))
        }
        _ => Ok(()),
    }
}
