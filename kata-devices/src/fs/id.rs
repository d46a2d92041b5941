//! Inode numbers of the whole tree, made of a share and an inode in it.
//!
//! ```text
//!   63        54 53       52        47 46               0
//!   share        virtual  file system  inode on the host
//! ```
//! Guest-controlled: any number may come back, and is looked up, not trusted.

use std::io;

/// The root of the tree, which belongs to no share.
pub(super) const TREE_ROOT: u64 = 1;

/// The root of a share, within the share.
pub(super) const SHARE_ROOT: u64 = 1;

/// The greatest number of a share; 0 is the tree itself.
pub(super) const MAX_SHARE: u16 = (1 << 10) - 1;

const SHARE_SHIFT: u32 = 54;
const FILE_SYSTEM_SHIFT: u32 = 47;
const HOST_INODE: u64 = (1 << FILE_SYSTEM_SHIFT) - 1;

/// Within a share, numbers come as `virtual(1) file system(8) inode(47)`; there
/// is room for 64 file systems in a share.
const SHARE_VIRTUAL: u64 = 1 << 55;
const VIRTUAL: u64 = 1 << 53;
const FILE_SYSTEMS: u64 = 64;

/// An inode of the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Id {
    /// The tree's own root, or something that never was an inode of it.
    Tree(u64),
    /// An inode of a share.
    Shared { share: u16, inode: u64 },
}

impl Id {
    /// What the guest means by `number`.
    pub(super) fn from_guest(number: u64) -> Self {
        let share = u16::try_from(number >> SHARE_SHIFT).expect("ten bits");
        if share == 0 {
            return Self::Tree(number);
        }
        let flag = if number & VIRTUAL == 0 {
            0
        } else {
            SHARE_VIRTUAL
        };
        Self::Shared {
            share,
            inode: flag | (number & (VIRTUAL - 1)),
        }
    }

    /// The number by which the guest knows an inode of a share.
    pub(super) fn to_guest(share: u16, inode: u64) -> io::Result<u64> {
        let low = inode & !SHARE_VIRTUAL;
        if low >> FILE_SYSTEM_SHIFT >= FILE_SYSTEMS {
            // More file systems are mounted below the share than fit.
            return Err(io::Error::from_raw_os_error(libc::EOVERFLOW));
        }
        let flag = if inode & SHARE_VIRTUAL == 0 {
            0
        } else {
            VIRTUAL
        };
        Ok(u64::from(share) << SHARE_SHIFT | flag | low)
    }

    /// The number that an entry of a directory on the share's first file system
    /// has, unless it is looked up and turns out to be elsewhere.
    pub(super) fn entry_to_guest(share: u16, host_inode: u64) -> u64 {
        u64::from(share) << SHARE_SHIFT | 1 << FILE_SYSTEM_SHIFT | (host_inode & HOST_INODE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_tree_root_is_no_share() {
        assert_eq!(Id::from_guest(TREE_ROOT), Id::Tree(1));
        assert_eq!(Id::from_guest(77), Id::Tree(77));
    }

    #[test]
    fn too_many_file_systems_are_refused() {
        assert!(Id::to_guest(1, 63 << 47 | 5).is_ok());
        assert!(Id::to_guest(1, 64 << 47 | 5).is_err());
    }

    proptest! {
        #[test]
        fn numbers_survive_the_way_to_the_guest_and_back(
            share in 1..=MAX_SHARE, file_system in 0..FILE_SYSTEMS,
            host in 0..=HOST_INODE, is_virtual: bool,
        ) {
            let flag = if is_virtual { SHARE_VIRTUAL } else { 0 };
            let inode = flag | file_system << 47 | host;
            let number = Id::to_guest(share, inode).unwrap();
            prop_assert_eq!(Id::from_guest(number), Id::Shared { share, inode });
        }

        #[test]
        fn any_number_means_something(number: u64) {
            let _ = Id::from_guest(number);
        }
    }
}
