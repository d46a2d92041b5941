//! Where a request goes: to the root, or to a share, if it is allowed there.
//!
//! This is where read-only shares are read-only. The guest controls all numbers.

use std::io;
use std::sync::Arc;

use super::credentials;
use super::id::{Id, TREE_ROOT};
use super::share::Share;
use super::tree::SharedTree;

/// A tree, as the FUSE server sees it.
#[derive(Debug)]
pub(super) struct Router {
    pub(super) tree: SharedTree,
    pub(super) acts_for_others: bool,
}

/// Where a request goes.
pub(super) enum Place {
    Root,
    Share(Arc<Share>, u64),
}

impl Router {
    pub(super) fn new(tree: SharedTree) -> Self {
        Self {
            tree,
            acts_for_others: credentials::can_act_for_others(),
        }
    }

    pub(super) fn place(&self, number: u64) -> io::Result<Place> {
        match Id::from_guest(number) {
            Id::Tree(TREE_ROOT) => Ok(Place::Root),
            Id::Tree(_) => Err(stale()),
            Id::Shared { share, inode } => {
                let share = self.tree.read().by_number(share).ok_or_else(stale)?;
                Ok(Place::Share(share, inode))
            }
        }
    }

    /// The share and the inode in it, for what cannot be done to the root.
    pub(super) fn shared(&self, number: u64) -> io::Result<(Arc<Share>, u64)> {
        match self.place(number)? {
            Place::Root => Err(io::Error::from_raw_os_error(libc::EISDIR)),
            Place::Share(share, inode) => Ok((share, inode)),
        }
    }

    /// The same, for what changes it.
    pub(super) fn changed(&self, number: u64) -> io::Result<(Arc<Share>, u64)> {
        match self.place(number)? {
            Place::Root => Err(io::Error::from_raw_os_error(libc::EROFS)),
            Place::Share(share, inode) => {
                share.writable()?;
                Ok((share, inode))
            }
        }
    }

    /// Two inodes of one share, for what connects them.
    pub(super) fn changed_both(
        &self,
        first: u64,
        second: u64,
    ) -> io::Result<(Arc<Share>, u64, u64)> {
        let (share, one) = self.changed(first)?;
        let (other, two) = self.changed(second)?;
        if !Arc::ptr_eq(&share, &other) {
            return Err(io::Error::from_raw_os_error(libc::EXDEV));
        }
        Ok((share, one, two))
    }
}

fn stale() -> io::Error {
    io::Error::from_raw_os_error(libc::ESTALE)
}
