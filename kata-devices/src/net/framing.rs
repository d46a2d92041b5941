//! Frames over a stream socket: each after its length, four bytes in network
//! order, and without a virtio header. What passt and QEMU's `-netdev stream` speak.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::SendFlags;
use vm_memory::VolatileSlice;

use super::layout::{HEADER_LEN, MAX_FRAME};
use crate::pieces;

const LENGTH_LEN: usize = 4;

/// Bytes of frames for the host that wait for room in the socket.
const MAX_WAITING: usize = 256 << 10;

/// What of a stream is between two frames.
#[derive(Debug, Default)]
pub(super) struct Framing {
    /// What was read and is not a whole frame yet.
    partial: Vec<u8>,
    /// What was not taken by the socket yet.
    waiting: Vec<u8>,
    chunk: Vec<u8>,
}

impl Framing {
    /// Reads the next frame into `buffer`, after an empty header.
    pub(super) fn read(&mut self, fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        loop {
            if let Some(length) = self.take(buffer)? {
                return Ok(Some(length));
            }
            self.chunk.resize(MAX_FRAME, 0);
            match rustix::io::read(fd, &mut self.chunk[..]) {
                Ok(0) => return Ok(Some(0)),
                Ok(count) => self.partial.extend_from_slice(&self.chunk[..count]),
                Err(Errno::AGAIN) => return Ok(None),
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Takes a whole frame, if there is one.
    fn take(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        let Some((length, rest)) = self.partial.split_first_chunk::<LENGTH_LEN>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*length)).map_err(io::Error::other)?;
        if HEADER_LEN + length > buffer.len() {
            return Err(io::Error::other("the stream lost its frames"));
        }
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        buffer[..HEADER_LEN].fill(0);
        buffer[HEADER_LEN..HEADER_LEN + length].copy_from_slice(frame);
        self.partial.drain(..LENGTH_LEN + length);
        Ok(Some(HEADER_LEN + length))
    }

    /// Sends a frame without its header. One that does not fit is dropped whole.
    pub(super) fn write(&mut self, fd: &OwnedFd, frame: &[VolatileSlice<'_>]) -> io::Result<usize> {
        let mut rest = frame.to_vec();
        pieces::skip(&mut rest, HEADER_LEN);
        let length = pieces::length(&rest);
        if length > MAX_FRAME || self.waiting.len() + length > MAX_WAITING {
            self.flush(fd)?;
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let begin = self.waiting.len();
        let prefix = u32::try_from(length).map_err(io::Error::other)?;
        self.waiting.extend(prefix.to_be_bytes());
        self.waiting.resize(begin + LENGTH_LEN + length, 0);
        let place = &mut self.waiting[begin + LENGTH_LEN..];
        pieces::copy_to(&rest, place).ok_or(io::ErrorKind::InvalidInput)?;
        self.flush(fd)?;
        Ok(length)
    }

    /// Sends what waits, as far as the socket takes it.
    pub(super) fn flush(&mut self, fd: &OwnedFd) -> io::Result<()> {
        while !self.waiting.is_empty() {
            match rustix::net::send(fd, &self.waiting, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(count) => drop(self.waiting.drain(..count)),
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(error) => {
                    // Half a frame must not be followed by a whole one.
                    self.waiting.clear();
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }
}
