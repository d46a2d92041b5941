//! Calls of the mount API that no crate wraps.
#![expect(unsafe_code, reason = "mount_setattr has no safe wrapper")]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

/// `MOUNT_ATTR_…` flags to set and to clear (mount_setattr(2)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    pub(crate) set: u64,
    pub(crate) clear: u64,
}

pub(crate) const RDONLY: u64 = 0x01;
pub(crate) const NOSUID: u64 = 0x02;
pub(crate) const NODEV: u64 = 0x04;
pub(crate) const NOEXEC: u64 = 0x08;
/// The three ways of access times are a number, not bits.
pub(crate) const ATIME: u64 = 0x70;
pub(crate) const RELATIME: u64 = 0x00;
pub(crate) const NOATIME: u64 = 0x10;
pub(crate) const STRICTATIME: u64 = 0x20;
pub(crate) const NODIRATIME: u64 = 0x80;
pub(crate) const NOSYMFOLLOW: u64 = 0x20_0000;
const IDMAP: u64 = 0x10_0000;

impl Attributes {
    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_namespace: u64,
}

/// Changes a mount, and those below it if `recursive`.
pub(crate) fn set_attributes(
    mount: impl AsFd,
    attributes: Attributes,
    recursive: bool,
) -> io::Result<()> {
    let Attributes { set, clear } = attributes;
    call(
        mount.as_fd(),
        &MountAttr {
            set,
            clear,
            ..MountAttr::default()
        },
        recursive,
    )
}

/// Maps the ids on a mount that is attached nowhere yet.
pub(crate) fn map_ids(
    mount: impl AsFd,
    user_namespace: impl AsFd,
    recursive: bool,
) -> io::Result<()> {
    let user_namespace = u64::from(user_namespace.as_fd().as_raw_fd().cast_unsigned());
    call(
        mount.as_fd(),
        &MountAttr {
            set: IDMAP,
            user_namespace,
            ..MountAttr::default()
        },
        recursive,
    )
}

fn call(mount: BorrowedFd<'_>, attributes: &MountAttr, recursive: bool) -> io::Result<()> {
    const AT_RECURSIVE: libc::c_int = 0x8000;
    let flags = libc::AT_EMPTY_PATH | if recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: an empty path and a whole `mount_attr` that outlive the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attributes),
            size_of::<MountAttr>(),
        )
    };
    if result != 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
