//! Directories and files of the host that the guest sees.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use kata_devices::Result;
use kata_devices::fs::{Access, SharedTree};

use super::guest_setup::SHARED;

/// The tree of a sandbox, and names in it.
#[derive(Debug)]
pub(super) struct Shares {
    tree: SharedTree,
    next: AtomicU64,
}

/// A share; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Share {
    tree: SharedTree,
    name: String,
}

impl Shares {
    pub(super) fn new(tree: SharedTree) -> Self {
        Self {
            tree,
            next: AtomicU64::new(0),
        }
    }

    /// Shares a directory or file under a name that is never used again, so
    /// that a late end of one share cannot end another.
    pub(super) fn add(&self, container: &str, path: &Path, access: Access) -> Result<Share> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let name = format!("{}-{number}", crate::id::directory_name(container));
        self.tree.share(&name, path, access)?;
        Ok(Share {
            tree: self.tree.clone(),
            name,
        })
    }
}

impl Share {
    /// Where the guest has it.
    pub(super) fn guest_path(&self) -> String {
        format!("{SHARED}/{}", self.name)
    }

    /// Its name, unique in the sandbox.
    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Err(error) = self.tree.unshare(&self.name) {
            log::warn!(share = self.name.as_str(), error:%; "cannot end a share");
        }
    }
}
