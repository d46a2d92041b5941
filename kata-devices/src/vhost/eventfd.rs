//! Eventfds as the `vhost` crate takes them.
#![expect(unsafe_code, reason = "the crate's eventfd has no safe constructor")]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};

use vmm_sys_util::eventfd::EventFd;

/// Another descriptor of the same eventfd.
pub(super) fn duplicate(fd: BorrowedFd<'_>) -> io::Result<EventFd> {
    let fd = fd.try_clone_to_owned()?.into_raw_fd();
    // SAFETY: `fd` is open, and nobody else's: it was made above and given up.
    Ok(unsafe { EventFd::from_raw_fd(fd) })
}
