//! Keeping a monitor apart from its host, between fork and exec.
#![expect(
    unsafe_code,
    reason = "namespaces and users of a forked process cannot be changed safely"
)]

use std::ffi::{CStr, CString};
use std::io;

/// Namespaces of its own: no network but what it has open, no queues and
/// segments of others, no name to change, and mounts that change nobody's.
const NAMESPACES: libc::c_int =
    libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNS;

/// How a program is kept apart. Prepared before the fork: what is done after it
/// allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Confinement {
    /// Whether it has namespaces of its own.
    pub(crate) namespaces: Namespaces,
    /// In these: mounts that it has no use for and would keep busy.
    pub(crate) needless: Vec<CString>,
    /// In these: whether it can write to no file, but for those that it has open
    /// and the ones below. Devices and sockets are no files here.
    pub(crate) read_only: bool,
    /// Files that it can write to.
    pub(crate) writable: Vec<CString>,
    /// Whose process it is, if not its parent's user's.
    pub(crate) user: Option<User>,
}

/// Whether a program has namespaces of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Namespaces {
    /// It has its parent's.
    #[default]
    Shared,
    /// It has, where this process may make them.
    IfAllowed,
    /// It has, or does not start.
    Own,
}

/// A user that a process is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: libc::uid_t,
    pub(crate) gid: libc::gid_t,
    /// Further groups, for devices that it opens.
    pub(crate) groups: Vec<libc::gid_t>,
}

impl Confinement {
    /// Confines this process. To be called in a forked child, before exec.
    pub(super) fn enter(&self) -> io::Result<()> {
        match self.namespaces {
            Namespaces::Shared => {}
            Namespaces::IfAllowed => {
                if unshare().is_ok() {
                    self.protect_files()?;
                }
            }
            Namespaces::Own => {
                unshare()?;
                self.protect_files()?;
            }
        }
        match &self.user {
            Some(user) => user.become_it(),
            None => Ok(()),
        }
    }

    fn protect_files(&self) -> io::Result<()> {
        // What the host unmounts goes here, too, and nothing the other way.
        mount(c"none", c"/", libc::MS_REC | libc::MS_SLAVE)?;
        for needless in &self.needless {
            unmount(needless);
        }
        if !self.read_only {
            return Ok(());
        }
        for file in &self.writable {
            mount(file, file, libc::MS_BIND)?;
        }
        match set_read_only(c"/", true) {
            // Linux before 5.12 has no such call.
            Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => return Ok(()),
            changed => changed?,
        }
        for file in &self.writable {
            set_read_only(file, false)?;
        }
        Ok(())
    }
}

impl User {
    fn become_it(&self) -> io::Result<()> {
        let (uid, gid) = (self.uid, self.gid);
        // SAFETY: plain system calls, and not the C library's functions, which
        // would look for other threads of the process that was forked; the list
        // is as long as it says.
        unsafe {
            done(libc::syscall(
                libc::SYS_setgroups,
                self.groups.len(),
                self.groups.as_ptr(),
            ))?;
            done(libc::syscall(libc::SYS_setresgid, gid, gid, gid))?;
            done(libc::syscall(libc::SYS_setresuid, uid, uid, uid))
        }
    }
}

fn unshare() -> io::Result<()> {
    // SAFETY: the forked child has one thread, which makes what it shares its own.
    done(unsafe { libc::unshare(NAMESPACES) }.into())
}

fn mount(source: &CStr, target: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let none = std::ptr::null();
    // SAFETY: both strings end with a NUL and outlive the call, which takes no
    // further data with these flags.
    let mounted =
        unsafe { libc::mount(source.as_ptr(), target.as_ptr(), none, flags, none.cast()) };
    done(mounted.into())
}

/// Takes a mount and all below it away, if it is still there.
fn unmount(target: &CStr) {
    // SAFETY: the string ends with a NUL and outlives the call.
    unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) };
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
struct MountAttributes {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Changes a mount and, when it becomes read-only, all below it.
fn set_read_only(target: &CStr, read_only: bool) -> io::Result<()> {
    const RECURSIVE: libc::c_uint = 0x8000; // AT_RECURSIVE
    const READ_ONLY: u64 = 1; // MOUNT_ATTR_RDONLY
    let attributes = MountAttributes {
        set: if read_only { READ_ONLY } else { 0 },
        clear: if read_only { 0 } else { READ_ONLY },
        propagation: 0,
        user_namespace: 0,
    };
    // SAFETY: the string ends with a NUL, the attributes are laid out as the
    // kernel's and as long as is said, and both outlive the call.
    done(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            target.as_ptr(),
            if read_only { RECURSIVE } else { 0 },
            &raw const attributes,
            size_of::<MountAttributes>(),
        )
    })
}

fn done(answer: libc::c_long) -> io::Result<()> {
    match answer {
        -1 => Err(io::Error::last_os_error()),
        _ => Ok(()),
    }
}
