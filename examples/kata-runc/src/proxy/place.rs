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
use std::path::Path;

use kata_sandbox::oci;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive,
    mount_change, mount_remount, unmount,
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
/// # Errors
/// When it may not, as without root.
pub(super) fn mounts(bundle: &Path, rootfs: &Path, spec: &oci::Spec) -> io::Result<()> {
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
    rustix::process::pivot_root(".", ".")?;
    unmount(".", UnmountFlags::DETACH)?;
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
fn show_process(root: &OwnedFd) -> io::Result<()> {
    let own = std::process::id().to_string();
    let proc = within(root, Path::new("/proc"))?;
    let at = format!("/proc/self/fd/{}", proc.as_raw_fd());
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("proc", at.as_str(), "tmpfs", flags, c"size=64k")?;
    let proc = within(root, Path::new("/proc"))?;
    let at = format!("/proc/self/fd/{}", proc.as_raw_fd());
    let at = Path::new(&at);
    std::fs::create_dir(at.join(&own))?;
    mount_bind(format!("/proc/{own}"), at.join(&own))?;
    std::os::unix::fs::symlink(&own, at.join("self"))?;
    for file in PROC_FILES {
        File::create(at.join(file))?;
        mount_bind(Path::new("/proc").join(file), at.join(file))?;
    }
    Ok(())
}
