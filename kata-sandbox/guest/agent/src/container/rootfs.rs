//! The root of a container's file systems.

use std::os::fd::OwnedFd;
use std::path::Path;

use kata_protocol::ttrpc::{Code, Status};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    MountPropagationFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_change, move_mount,
    open_tree, unmount,
};

use super::mount_options::propagation;
use crate::files::{Kind, Root, Volumes, attach, clone_open, kind};
use crate::process::{Context as _, refuse};

/// Makes the agent's root a mount that others can take the place of.
///
/// A kernel's first root, where an initramfs is unpacked, can never be replaced
/// (pivot_root(2) refuses). So the same files are mounted over it and the agent
/// moves there. Nothing is copied.
///
/// # Errors
/// When the kernel refuses.
pub(crate) fn make_root_pivotable() -> std::io::Result<()> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let root = open_tree(CWD, "/", flags)?;
    move_mount(&root, "", CWD, "/", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    rustix::process::fchdir(&root)?;
    rustix::process::chroot(".")?;
    rustix::process::chdir("/")?;
    Ok(())
}

/// Cuts the mount namespace off from the agent's, and mounts the root over
/// itself, so that it can become the namespace's root.
pub(super) fn prepare(
    volumes: &Volumes,
    path: &str,
    wanted_propagation: &str,
) -> Result<Root, Status> {
    let wanted = match wanted_propagation {
        "" => None,
        name => Some(
            propagation(name)
                .ok_or_else(|| refuse(format!("linux.rootfsPropagation: {name:?} is unknown")))?,
        ),
    };
    let cut_off = MountPropagationFlags::PRIVATE | MountPropagationFlags::UNBINDABLE;
    // Nothing goes out. What the agent mounts later still comes in, unless the
    // container wants none of it. Its root gets what it is to have when it is
    // one ([`finish`]): a shared root could not become one, and one that cannot
    // be bound could not be mounted over itself.
    let flags = MountPropagationFlags::REC
        | match wanted {
            Some(wanted) if wanted.intersects(cut_off) => MountPropagationFlags::PRIVATE,
            _ => MountPropagationFlags::DOWNSTREAM,
        };
    mount_change("/", flags).context(|| "set the propagation of the root")?;
    let missing = |error: Errno| {
        let message = format!("root.path: the root file system {path:?}: {error}");
        Status::new(Code::FailedPrecondition, message)
    };
    if path.is_empty() {
        return Err(refuse(
            "root.path: the specification has no root file system",
        ));
    }
    let below = volumes.open(Path::new(path)).map_err(missing)?;
    if kind(&below).map_err(missing)? != Kind::Directory {
        return Err(missing(Errno::NOTDIR));
    }
    let tree = clone_open(&below, true).map_err(missing)?;
    attach(&tree, &below).context(|| format!("mount {path} over itself"))?;
    Ok(Root(tree))
}

/// Makes `root` the namespace's root, with nothing of the old one left.
pub(super) fn pivot(root: &Root) -> Result<(), Status> {
    let open = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let old: OwnedFd = rustix::fs::open("/", open, Mode::empty()).context(|| "open the root")?;
    rustix::process::fchdir(&root.0).context(|| "enter the container's root")?;
    rustix::process::pivot_root(".", ".").map_err(|error| {
        let message = format!(
            "change the root: {error}; the agent's own root cannot be replaced: \
             it must be a mount of its own, not private to the kernel"
        );
        Status::new(Code::FailedPrecondition, message)
    })?;
    // Both are at / now; the old one is on top, and cwd must be in it to go.
    rustix::process::fchdir(&old).context(|| "leave the old root")?;
    mount_change(
        ".",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .context(|| "cut off the old root")?;
    unmount(".", UnmountFlags::DETACH).context(|| "unmount the old root")?;
    rustix::process::chdir("/").context(|| "enter the root")
}

/// What the specification says of the root once it is one.
pub(super) fn finish(wanted_propagation: &str, read_only: bool) -> Result<(), Status> {
    if let Some(flags) = propagation(wanted_propagation) {
        mount_change("/", flags).context(|| "set the propagation of the root")?;
    }
    if read_only {
        let open = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open("/", open, Mode::empty()).context(|| "open the root")?;
        super::mounts::make_read_only(&root)?;
    }
    Ok(())
}
