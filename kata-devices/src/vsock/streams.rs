//! The host's end of a stream.

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use vm_memory::VolatileSlice;

use crate::volatile_io;

/// A non-blocking byte stream of the host.
pub(super) trait Stream {
    /// Sends from guest memory.
    fn send(&mut self, pieces: &[VolatileSlice<'_>]) -> io::Result<usize>;
    /// Sends from ours.
    fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<usize>;
    /// Receives into guest memory; 0 is the end.
    fn receive(&mut self, pieces: &[VolatileSlice<'_>]) -> io::Result<usize>;
    /// The host will get no more.
    fn end_sending(&mut self);
    /// The host can send no more.
    fn end_receiving(&mut self);
}

impl Stream for UnixStream {
    fn send(&mut self, pieces: &[VolatileSlice<'_>]) -> io::Result<usize> {
        volatile_io::send(&*self, pieces)
    }

    fn send_bytes(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let flags = rustix::net::SendFlags::NOSIGNAL | rustix::net::SendFlags::DONTWAIT;
        Ok(rustix::net::send(&*self, bytes, flags)?)
    }

    fn receive(&mut self, pieces: &[VolatileSlice<'_>]) -> io::Result<usize> {
        volatile_io::receive(&*self, pieces)
    }

    fn end_sending(&mut self) {
        // A peer that is gone already needs no telling.
        let _ = self.shutdown(Shutdown::Write);
    }

    fn end_receiving(&mut self) {
        let _ = self.shutdown(Shutdown::Read);
    }
}
