//! Network namespaces with names, as `ip-netns(8)` has them: a file that other
//! programs can open too, plugins above all.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::mount::{MountPropagationFlags, UnmountFlags, mount_bind, mount_change, unmount};
use rustix::thread::UnshareFlags;

use crate::error::{Error, Result};
use crate::tap::unshare_thread;

/// The directory with a file for each namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Namespaces(PathBuf);

impl Namespaces {
    pub(super) fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Makes a namespace. The calling thread is in it afterwards: it must end.
    pub(super) fn make(&self, name: &str) -> Result<PathBuf> {
        let path = self.path(name);
        let make = || -> io::Result<()> {
            self.prepare()?;
            File::options().create_new(true).write(true).open(&path)?;
            unshare_thread(UnshareFlags::NEWNET)?;
            Ok(mount_bind("/proc/thread-self/ns/net", &path)?)
        };
        let failed = Error::host(format!("make the network namespace {}", path.display()));
        make().map_err(failed)?;
        Ok(path)
    }

    /// Makes the directory one whose mounts are seen in every mount namespace
    /// that has it, and go in all of them at once.
    fn prepare(&self) -> io::Result<()> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(&self.0)?;
        match mount_change(&self.0, MountPropagationFlags::SHARED) {
            // It is no mount yet.
            Err(Errno::INVAL) => {
                mount_bind(&self.0, &self.0)?;
                mount_change(&self.0, MountPropagationFlags::SHARED)?;
            }
            changed => changed?,
        }
        Ok(())
    }

    /// Removes a namespace, if it is there.
    pub(super) fn remove(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        let remove = || -> io::Result<()> {
            match unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
                // A file alone: whoever made it came no further.
                Ok(()) | Err(Errno::INVAL) => {}
                Err(Errno::NOENT) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            }
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                removed => removed,
            }
        };
        remove().map_err(Error::host(format!(
            "remove the network namespace {}",
            path.display()
        )))
    }
}
