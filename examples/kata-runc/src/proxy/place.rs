//! Where a proxy is: in namespaces that look from the host as the container's
//! do. Engines go by the id of a container's process: they copy files by way of
//! its mount namespace, show its processes from the `/proc` in it, and put
//! interfaces into its network namespace. None of that must meet the host's.
#![expect(
    unsafe_code,
    reason = "unshare is declared unsafe for a flag that is not used here"
)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use kata_sandbox::oci;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, symlinkat};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, mount_bind,
    mount_bind_recursive, mount_change, mount_move, mount_remount, move_mount, unmount,
};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

use super::order::Netns;

/// What a process's directory is shown beside, for readers of `/proc`.
const PROC_FILES: [&str; 4] = ["stat", "uptime", "meminfo", "version"];

/// Enters the network namespace that the container's specification asks for.
/// Call it before there are threads.
///
/// # Errors
/// When a namespace cannot be made, or there is none of that path.
pub(super) fn network(netns: &Netns) -> io::Result<()> {
    match netns {
        Netns::Own => leave(UnshareFlags::NEWNET),
        Netns::Join(path) => {
            let namespace = File::open(path)?;
            let kind = Some(LinkNameSpaceType::Network);
            Ok(move_into_link_name_space(namespace.as_fd(), kind)?)
        }
    }
}

/// Enters a mount namespace of its own, whose root is the container's root file
/// system on the host, with the host's directories that are mounted in it, and
/// with a `/proc` of this process alone.
///
/// With `no_pivot` the root is moved and not pivoted: from an initramfs there is
/// no other way, and what was below stays mounted, out of reach of paths.
///
/// # Errors
/// When it may not, as without root, or the root cannot be changed that way.
pub(super) fn mounts(
    bundle: &Path,
    rootfs: &Path,
    spec: &oci::Spec,
    no_pivot: bool,
) -> io::Result<()> {
    leave(UnshareFlags::NEWNS)?;
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    mount_change("/", slave)?;
    mount_bind_recursive(rootfs, rootfs)?;
    let root = openat(CWD, rootfs, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    for bound in spec.mounts().iter().flatten() {
        // What cannot be shown is not there, as in a namespace without it.
        if let Err(error) = show(&root, bundle, bound) {
            log::debug!(error:%; "a mount is not shown");
        }
    }
    if let Err(error) = show_process(&root) {
        log::debug!(error:%; "the process is not shown");
    }
    let read_only = spec.root().as_ref().and_then(oci::Root::readonly);
    if read_only.unwrap_or(false) {
        mount_remount(rootfs, MountFlags::BIND | MountFlags::RDONLY, c"")?;
    }
    rustix::process::chdir(rootfs)?;
    if no_pivot {
        mount_move(".", "/")?;
        rustix::process::chroot(".")?;
    } else {
        rustix::process::pivot_root(".", ".")?;
        unmount(".", UnmountFlags::DETACH)?;
    }
    Ok(rustix::process::chdir("/")?)
}

fn leave(what: UnshareFlags) -> io::Result<()> {
    // SAFETY: FILES is not among the flags, so that every thread goes on with
    // the same descriptors.
    Ok(unsafe { unshare_unsafe(what) }?)
}

/// Shows a directory or file of the host where the container has it.
fn show(root: &OwnedFd, bundle: &Path, bound: &oci::Mount) -> io::Result<()> {
    let has = |name: &str| {
        bound
            .options()
            .iter()
            .flatten()
            .any(|option| option == name)
    };
    let bind = bound.typ().as_deref() == Some("bind") || has("bind") || has("rbind");
    let Some(source) = bound.source().as_ref().filter(|_| bind) else {
        return Ok(());
    };
    let target = within(root, bound.destination())?;
    let target = format!("/proc/self/fd/{}", target.as_raw_fd());
    let source = bundle.join(source);
    match has("rbind") {
        true => mount_bind_recursive(&source, target.as_str())?,
        false => mount_bind(&source, target.as_str())?,
    }
    if has("ro") {
        // The descriptor is below the mount: the path leads on top of it.
        let over = within(root, bound.destination())?;
        let over = format!("/proc/self/fd/{}", over.as_raw_fd());
        mount_remount(over.as_str(), MountFlags::BIND | MountFlags::RDONLY, c"")?;
    }
    Ok(())
}

/// Opens a path in the container, whatever links lead to.
fn within(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let opened = openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    Ok(opened)
}

/// Makes a `/proc` that has nothing but this process.
///
/// The guest may change the container's root file system meanwhile: names are
/// made in a file system that it cannot see, which is put into place at last.
fn show_process(root: &OwnedFd) -> io::Result<()> {
    let own = std::process::id().to_string();
    let tree = empty_tree()?;
    mkdirat(&tree, &own, Mode::from_raw_mode(0o555))?;
    symlinkat(&own, &tree, "self")?;
    for file in PROC_FILES {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        openat(&tree, file, flags, Mode::from_raw_mode(0o444))?;
    }
    let proc = within(root, Path::new("/proc"))?;
    let by_descriptor =
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, "", &proc, "", by_descriptor)?;
    let at = PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd()));
    mount_bind(format!("/proc/{own}"), at.join(&own))?;
    for file in PROC_FILES {
        mount_bind(Path::new("/proc").join(file), at.join(file))?;
    }
    Ok(())
}

/// An empty file system in memory that is mounted nowhere.
fn empty_tree() -> io::Result<OwnedFd> {
    let filesystem = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(filesystem.as_fd(), "size", "64k")?;
    fsconfig_create(filesystem.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let tree = fsmount(
        filesystem.as_fd(),
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?;
    Ok(tree)
}
