//! Eventfds as the bindings of KVM take them.
#![expect(unsafe_code, reason = "the bindings' type is made of a raw descriptor")]

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd};

use vmm_sys_util::eventfd::EventFd;

/// Another descriptor of the same eventfd.
pub(super) fn duplicate(event: BorrowedFd<'_>) -> io::Result<EventFd> {
    let owned = event.try_clone_to_owned()?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { EventFd::from_raw_fd(owned.into_raw_fd()) })
}
