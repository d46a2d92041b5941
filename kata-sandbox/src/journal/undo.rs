//! Undoing what a dead process has left.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{JournalError, ProcessId, Record, Result};
use crate::cgroup::{self, CgroupError};

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
    let removed = remove_groups(&record.cgroups, DYING);
    removed.map_err(|error| {
        JournalError::io("remove the control group of", directory)(io::Error::other(error))
    })
}

/// Removes control groups whose sandbox is gone. What it started and did not
/// see the end of, such as a network's plugin, is in them and may take so long.
fn remove_groups(made: &[PathBuf], limit: Duration) -> std::result::Result<(), CgroupError> {
    let until = Instant::now() + limit;
    loop {
        let Err(error) = cgroup::remove(made) else {
            return Ok(());
        };
        let left = until.saturating_duration_since(Instant::now());
        let mut inside = cgroup::processes(made);
        inside.remove(&std::process::id()); // which does not wait for itself
        if inside.is_empty() || left.is_zero() {
            return Err(error);
        }
        for pid in inside {
            if ProcessId::of(pid).wait(left).is_err() {
                return Err(error);
            }
        }
    }
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
