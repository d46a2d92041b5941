//! What is shared, and under which name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use fuse_backend_rs::api::filesystem::FsOptions;

use super::id::MAX_SHARE;
use super::inventory::Budget;
use super::root::MAX_NAME;
use super::served::Served;
use super::share::Share;
use crate::virtio::{Hosted, ThreadStart, VirtioDevice};
use crate::{Error, Result};

/// The longest tag (virtio 1.2 §5.11.4).
const MAX_TAG: usize = 36;

/// A shared file system.
#[derive(Clone, Debug)]
pub struct FsConfig {
    /// The tag by which the guest mounts it.
    pub tag: String,
    /// What it serves. A tree is served by one device at a time.
    pub tree: SharedTree,
}

impl FsConfig {
    /// The device, for a transport of this process. `thread_start` is called by
    /// its threads.
    ///
    /// # Errors
    /// When the configuration is invalid, or the host refuses a thread.
    pub fn device(&self, thread_start: &ThreadStart) -> Result<Box<dyn VirtioDevice>> {
        let hosted = Hosted::start("kata-fs", thread_start, |_| Served::new(self, thread_start))?;
        Ok(Box::new(hosted))
    }

    /// Whether a device can be made of this.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a tag that the guest cannot mount by.
    pub fn validate(&self) -> Result<()> {
        let tag = self.tag.as_bytes();
        if tag.is_empty() || tag.len() > MAX_TAG || tag.contains(&0) {
            return Err(Error::InvalidConfig {
                field: "tag",
                reason: format!("{:?} has not 1 to {MAX_TAG} bytes without zero", self.tag),
            });
        }
        Ok(())
    }
}

/// Whether the guest may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// It may not; the server refuses, whatever the guest mounts.
    ReadOnly,
    /// It may.
    ReadWrite,
}

/// Directories and files of the host, each under a name of its own at the root
/// of a shared file system. Clones are the same tree; it may change while served.
///
/// ```
/// use kata_devices::fs::{Access, SharedTree};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let dir = tempfile::tempdir()?; let rootfs = dir.path();
/// let tree = SharedTree::new()?;
/// tree.share("rootfs", rootfs, Access::ReadWrite)?;
/// // … a device with `FsConfig { tag, tree: tree.clone() }` serves it …
/// tree.unshare("rootfs")?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct SharedTree {
    table: Arc<RwLock<Table>>,
}

/// The shares by name and by number.
#[derive(Debug)]
pub(super) struct Table {
    names: BTreeMap<String, u16>,
    shares: BTreeMap<u16, Arc<Share>>,
    last: u16,
    /// What was negotiated with the guest, once it was.
    options: Option<FsOptions>,
    budget: Arc<Budget>,
}

impl Default for SharedTree {
    fn default() -> Self {
        let table = Table {
            names: BTreeMap::new(),
            shares: BTreeMap::new(),
            last: 0,
            options: None,
            budget: Arc::new(Budget::of_this_process()),
        };
        Self {
            table: Arc::new(RwLock::new(table)),
        }
    }
}

impl SharedTree {
    /// An empty tree.
    ///
    /// # Errors
    /// None today; making a tree may have to ask the host.
    pub fn new() -> Result<Self> {
        Ok(Self::default())
    }

    /// Shares `path` (a directory or a regular file) as `name`, at once. The file
    /// itself is shared, not its path: renaming or replacing it on the host does
    /// not change what the guest sees.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a name that is not one component of at most
    /// 255 bytes, [`Error::ShareExists`] for one that is taken, [`Error::Share`]
    /// when `path` cannot be opened or is something else.
    pub fn share(&self, name: &str, path: &Path, access: Access) -> Result<()> {
        validate_name(name)?;
        let failed = |source| Error::Share {
            name: name.to_owned(),
            path: path.to_owned(),
            source,
        };
        // Not under the lock: the host may take its time to open a path.
        let budget = Arc::clone(&self.read().budget);
        let opened = Share::open(path, access, budget).map_err(failed)?;
        let mut table = self.write();
        if table.names.contains_key(name) {
            return Err(Error::ShareExists {
                name: name.to_owned(),
            });
        }
        let number = table.free_number().ok_or_else(|| Error::InvalidConfig {
            field: "share",
            reason: format!("there are {MAX_SHARE} shares already"),
        })?;
        let share = opened.numbered(number);
        if let Some(options) = table.options {
            share.negotiated(options);
        }
        table.shares.insert(number, Arc::new(share));
        table.names.insert(name.to_owned(), number);
        Ok(())
    }

    /// Ends a share: what the guest still has of it is stale, and the host's file
    /// descriptors are closed as soon as requests under way are done. Idempotent.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for what is no name of a share at all.
    pub fn unshare(&self, name: &str) -> Result<()> {
        validate_name(name)?;
        let mut table = self.write();
        let share = table
            .names
            .remove(name)
            .and_then(|number| table.shares.remove(&number));
        drop(table);
        drop(share);
        Ok(())
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// A guest's driver starts, with these options, and holds nothing yet.
    pub(super) fn start(&self, options: FsOptions) {
        let mut table = self.write();
        table.options = Some(options);
        for share in table.shares.values() {
            share.forget_all();
            share.negotiated(options);
        }
    }

    /// The guest's driver is gone.
    pub(super) fn end(&self) {
        let shares: Vec<_> = self.read().shares.values().cloned().collect();
        for share in shares {
            share.forget_all();
        }
    }
}

impl Table {
    pub(super) fn by_number(&self, number: u16) -> Option<Arc<Share>> {
        self.shares.get(&number).cloned()
    }

    pub(super) fn by_name(&self, name: &str) -> Option<Arc<Share>> {
        self.by_number(*self.names.get(name)?)
    }

    /// Names and shares, in the order of names.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, &Arc<Share>)> {
        self.names
            .iter()
            .filter_map(|(name, number)| Some((name.as_str(), self.shares.get(number)?)))
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }

    /// The number that has been free for the longest time.
    fn free_number(&mut self) -> Option<u16> {
        let after = (self.last + 1..=MAX_SHARE).chain(1..=self.last);
        let number = after
            .into_iter()
            .find(|number| !self.shares.contains_key(number))?;
        self.last = number;
        Some(number)
    }
}

fn validate_name(name: &str) -> Result<()> {
    let wrong = name.is_empty()
        || name.len() > MAX_NAME
        || matches!(name, "." | "..")
        || name.contains(['/', '\0']);
    if wrong {
        let reason = format!("{name:?} is not one path component of 1 to {MAX_NAME} bytes");
        return Err(Error::InvalidConfig {
            field: "share name",
            reason,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open_descriptors() -> usize {
        std::fs::read_dir("/proc/self/fd").unwrap().count()
    }

    #[test]
    fn names_are_one_component() {
        let dir = tempfile::tempdir().unwrap();
        let tree = SharedTree::new().unwrap();
        for name in ["", ".", "..", "a/b", "/", "a\0b", &"x".repeat(256)] {
            let error = tree.share(name, dir.path(), Access::ReadOnly).unwrap_err();
            assert!(
                matches!(error, Error::InvalidConfig { .. }),
                "{name:?}: {error}"
            );
        }
        tree.share(&"x".repeat(255), dir.path(), Access::ReadOnly)
            .unwrap();
    }

    #[test]
    fn a_name_is_shared_once_and_unshared_as_often_as_one_likes() {
        let dir = tempfile::tempdir().unwrap();
        let tree = SharedTree::new().unwrap();
        tree.share("a", dir.path(), Access::ReadWrite).unwrap();
        let again = tree.share("a", dir.path(), Access::ReadWrite).unwrap_err();
        assert!(matches!(again, Error::ShareExists { .. }));
        tree.unshare("a").unwrap();
        tree.unshare("a").unwrap();
        tree.share("a", dir.path(), Access::ReadWrite).unwrap();
    }

    #[test]
    fn what_is_not_there_or_no_file_is_not_shared() {
        let tree = SharedTree::new().unwrap();
        for path in ["/does/not/exist", "/dev/null"] {
            let error = tree
                .share("a", path.as_ref(), Access::ReadOnly)
                .unwrap_err();
            assert!(error.to_string().contains(path), "{error}");
        }
    }

    #[test]
    fn shares_come_and_go_without_reusing_a_number_early() {
        let dir = tempfile::tempdir().unwrap();
        let tree = SharedTree::new().unwrap();
        let before = open_descriptors();
        let mut last = 0;
        for _ in 0..20 {
            tree.share("a", dir.path(), Access::ReadWrite).unwrap();
            let number = *tree.read().names.get("a").unwrap();
            assert_eq!(number, last + 1);
            last = number;
            tree.unshare("a").unwrap();
        }
        // Other tests open files meanwhile, but not three for each of these.
        assert!(open_descriptors() < before + 20);
    }

    #[test]
    fn a_tag_fits_into_the_configuration_space() {
        let tree = SharedTree::new().unwrap();
        let valid = |tag: &str| {
            FsConfig {
                tag: tag.into(),
                tree: tree.clone(),
            }
            .validate()
            .is_ok()
        };
        assert!(valid("kataShared") && valid(&"x".repeat(36)));
        assert!(!valid("") && !valid(&"x".repeat(37)) && !valid("a\0"));
    }
}
