//! One queue of a tap, or a socket in its place.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use vm_memory::VolatileSlice;

use super::framing::Framing;
use super::layout::MAX_FRAME;
use crate::{pieces, volatile_io};

/// Where frames come from and go to, each with its virtio header.
#[derive(Debug)]
pub(super) struct Port {
    fd: OwnedFd,
    /// Frames of more pieces than one call takes are put together here.
    whole: Vec<u8>,
    /// How frames are told apart, if the descriptor does not do it.
    stream: Option<Framing>,
}

impl Port {
    /// A port over what keeps packets apart, each with its header.
    pub(super) fn packets(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, None)
    }

    /// A port over a stream of frames without headers, each after its length.
    pub(super) fn stream(fd: OwnedFd) -> io::Result<Self> {
        Self::new(fd, Some(Framing::default()))
    }

    fn new(fd: OwnedFd, stream: Option<Framing>) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self {
            fd,
            whole: Vec::new(),
            stream,
        })
    }

    /// Reads a frame into `buffer`; `None` when there is none.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        if let Some(stream) = &mut self.stream {
            return stream.read(&self.fd, buffer);
        }
        loop {
            match rustix::io::read(&self.fd, &mut *buffer) {
                Ok(count) => return Ok(Some(count)),
                Err(rustix::io::Errno::AGAIN) => return Ok(None),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Sends what waits for room, which there may be now.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        match &mut self.stream {
            Some(stream) => stream.flush(&self.fd),
            None => Ok(()),
        }
    }

    /// Sends a frame. The host may refuse it, or have no room.
    pub(super) fn write(&mut self, frame: &[VolatileSlice<'_>]) -> io::Result<usize> {
        if let Some(stream) = &mut self.stream {
            return stream.write(&self.fd, frame);
        }
        if frame.len() <= volatile_io::MAX_PIECES {
            return volatile_io::write_packet(&self.fd, frame);
        }
        self.whole.resize(pieces::length(frame).min(MAX_FRAME), 0);
        pieces::copy_to(frame, &mut self.whole).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(rustix::io::write(&self.fd, &self.whole)?)
    }
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
