//! Root file systems of containers.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where a container's root file system comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Rootfs {
    /// A directory on the host, shared with the guest. What the container
    /// writes, it writes there.
    Dir(PathBuf),
    /// Directories on the host that stay as they are, the first on top, below
    /// one that takes what the container writes.
    Overlay {
        /// Shared with the guest, read-only.
        lower: Vec<PathBuf>,
        /// A directory that takes the container's changes, in `fs`, and the
        /// overlay's own files, in `work`; both are made where missing. `None`
        /// keeps the changes in the guest's memory, gone with the container.
        upper: Option<PathBuf>,
    },
    /// A disk image or block device with a file system on it.
    Block {
        /// The image or device.
        path: PathBuf,
        /// The file system, such as `ext4`.
        fstype: String,
    },
}

/// The serial number of a sandbox's disk, by its number.
pub(crate) fn disk_id(number: usize) -> String {
    format!("kata-{number}")
}
