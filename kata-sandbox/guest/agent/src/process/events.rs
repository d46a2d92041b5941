//! Waiting for descriptors without blocking.
#![expect(
    unsafe_code,
    reason = "tokio's registration trusts its caller with the descriptor"
)]

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// A descriptor whose readiness can be awaited.
///
/// # Errors
/// When the kernel cannot wait for such a descriptor.
pub(crate) fn awaitable(fd: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` stays open and the same until it is dropped, which
    // `AsyncFd` does after it has ended the registration; nothing here takes the
    // descriptor out of one.
    Ok(unsafe { AsyncFd::register_with_interest(fd, interest) }?)
}
