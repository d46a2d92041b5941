//! Mounts that are moved by descriptor, never by path.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, FileType};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::Kind;

/// A mount that shows `path`, attached nowhere yet.
pub(crate) fn clone_tree(path: &Path, below: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    flags.set(OpenTreeFlags::AT_RECURSIVE, below);
    open_tree(CWD, path, flags)
}

/// A mount that shows what is open, attached nowhere yet; and what is mounted
/// below it, if asked for.
pub(crate) fn clone_open(fd: impl AsFd, below: bool) -> Result<OwnedFd, Errno> {
    let mut flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    flags.set(OpenTreeFlags::AT_RECURSIVE, below);
    open_tree(fd, "", flags)
}

/// Attaches a mount on what is open.
pub(crate) fn attach(mount: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", flags)
}

/// What a mount point for this must be.
pub(crate) fn kind(fd: impl AsFd) -> Result<Kind, Errno> {
    let status = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
    let directory = FileType::from_raw_mode(status.st_mode) == FileType::Directory;
    Ok(if directory {
        Kind::Directory
    } else {
        Kind::File
    })
}

/// A path to what is open, for calls that take no descriptor. It leads through
/// the agent's own `/proc`, which the container does not have yet.
pub(crate) fn name(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}
