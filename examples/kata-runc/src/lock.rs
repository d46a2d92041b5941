//! One command at a time on a container, where it changes something.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::failure::{Failure, Result};

/// The lock of a container's directory, until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _directory: File,
}

impl Lock {
    /// Waits for the lock of a container's directory. `None` when the directory
    /// is gone, or was taken away by the command that was waited for.
    pub(crate) fn take(directory: &Path) -> Result<Option<Self>> {
        let failed = |error: std::io::Error| Failure::io("lock", directory, &error);
        let held = match File::open(directory) {
            Ok(held) => held,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(failed(error)),
        };
        loop {
            match flock(&held, FlockOperation::LockExclusive) {
                Ok(()) => break,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(failed(error.into())),
            }
        }
        let same = match std::fs::metadata(directory) {
            Ok(now) => now.ino() == held.metadata().map_err(failed)?.ino(),
            Err(_) => false,
        };
        Ok(same.then_some(Self { _directory: held }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_went_away_while_waiting_gives_no_lock() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("c");
        assert!(Lock::take(&directory).unwrap().is_none());
        std::fs::create_dir(&directory).unwrap();
        let first = Lock::take(&directory).unwrap().unwrap();
        let waiting = {
            let directory = directory.clone();
            std::thread::spawn(move || Lock::take(&directory).unwrap().is_none())
        };
        std::fs::remove_dir(&directory).unwrap();
        drop(first);
        assert!(waiting.join().unwrap());
    }
}
