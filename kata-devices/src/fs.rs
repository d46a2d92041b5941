//! virtio-fs.
use crate::Result;
use std::path::Path;
/// A shared file system.
#[derive(Clone, Debug)]
pub struct FsConfig {
    /// The tag by which the guest mounts it.
    pub tag: String,
    /// What it serves.
    pub tree: SharedTree,
}
/// Directories and files of the host, each under a name of its own at the root
/// of a shared file system. Clones are the same tree; it may change while served.
#[derive(Clone, Debug, Default)]
pub struct SharedTree {}
/// Whether the guest may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may not; the server refuses, whatever the guest mounts.
    ReadOnly,
    /// It may.
    ReadWrite,
}
impl SharedTree {
    /// An empty tree.
    pub fn new() -> Result<Self> {
        todo!()
    }
    /// Shares `path` (a directory or a file) as `name`.
    pub fn share(&self, _name: &str, _path: &Path, _access: Access) -> Result<()> {
        todo!()
    }
    /// Ends a share. Idempotent.
    pub fn unshare(&self, _name: &str) -> Result<()> {
        todo!()
    }
}
