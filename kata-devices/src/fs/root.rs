//! The root of the tree: a directory of shares, which the guest cannot change.

use std::io;
use std::time::Duration;

use fuse_backend_rs::abi::fuse_abi::{Attr, stat64, statvfs64};
use fuse_backend_rs::api::filesystem::{Context, DirEntry, Entry, FileSystem};

use super::id::TREE_ROOT;
use super::tree::Table;

/// The longest name of a share.
pub(super) const MAX_NAME: usize = 255;

/// How long the guest may believe the root's attributes.
const CACHED: Duration = Duration::from_secs(1);

/// The root's attributes, with `shares` entries in it.
pub(super) fn attributes(shares: usize) -> (stat64, Duration) {
    let attr = Attr {
        ino: TREE_ROOT,
        mode: libc::S_IFDIR | 0o755,
        nlink: u32::try_from(shares).unwrap_or(u32::MAX).saturating_add(2),
        blksize: 4096,
        ..Attr::default()
    };
    (attr.into(), CACHED)
}

/// Lists the shares from the `offset`-th on, until `add` has no room for more.
pub(super) fn list(
    table: &Table,
    ctx: &Context,
    offset: u64,
    add: &mut dyn FnMut(DirEntry<'_>, Entry) -> io::Result<usize>,
) -> io::Result<()> {
    let skip = usize::try_from(offset).unwrap_or(usize::MAX);
    for (index, (name, share)) in table.entries().enumerate().skip(skip) {
        let Ok(entry) = share.root_entry(ctx) else {
            continue;
        };
        let listed = DirEntry {
            ino: entry.inode,
            offset: index as u64 + 1,
            type_: entry.attr.st_mode >> 12,
            name: name.as_bytes(),
        };
        if add(listed, entry)? == 0 {
            break;
        }
    }
    Ok(())
}

/// The root's file system holds nothing itself.
pub(super) fn statistics() -> io::Result<statvfs64> {
    Nothing.statfs(&Context::default(), TREE_ROOT)
}

/// Answers as a file system does that has nothing.
struct Nothing;

impl FileSystem for Nothing {
    type Inode = u64;
    type Handle = u64;
}
