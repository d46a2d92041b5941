//! The driver's word that a queue has new chains.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use rustix::event::EventfdFlags;

/// An eventfd that says that a queue has new chains. A backend registers it as
/// ioeventfd at what [`mmio::MmioTransport::kicks`](super::mmio::MmioTransport::kicks)
/// says, so that a doorbell needs no exit to user space.
#[derive(Debug)]
pub struct Kick {
    fd: OwnedFd,
}

impl Kick {
    /// A kick of our own.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            fd: rustix::event::eventfd(0, flags)?,
        })
    }

    /// Tells the device.
    pub fn signal(&self) {
        // It fails only when the counter is full, that is, when it is readable.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }
}

impl From<OwnedFd> for Kick {
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl AsFd for Kick {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Kick {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
