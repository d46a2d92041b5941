//! What the muxer does with single unix sockets.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{AddressFamily, RecvFlags, SocketAddrUnix, SocketFlags, SocketType};

use super::backlog::Backlog;
use super::handshake::{self, MAX_LINE};
use super::streams::Stream;

/// Reads as far as the end of the line, and no byte more: what follows belongs
/// to the guest. `None` when the line is not complete.
pub(super) fn read_line(stream: &UnixStream, line: &mut Vec<u8>) -> io::Result<Option<u32>> {
    loop {
        let mut peeked = [0; MAX_LINE];
        let room = &mut peeked[..MAX_LINE - line.len()];
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let seen = match rustix::net::recv(stream, &mut *room, flags) {
            Ok((0, _)) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok((seen, _)) => seen,
            Err(rustix::io::Errno::AGAIN) => return Ok(None),
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let end = room[..seen].iter().position(|byte| *byte == b'\n');
        let count = end.map_or(seen, |at| at + 1);
        rustix::net::recv(stream, &mut room[..count], RecvFlags::DONTWAIT)?;
        line.extend_from_slice(&room[..end.unwrap_or(seen)]);
        if end.is_some() {
            let malformed = |_| io::Error::new(io::ErrorKind::InvalidData, "not CONNECT <port>");
            return handshake::parse(line).map(Some).map_err(malformed);
        }
        if line.len() == MAX_LINE {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the line is too long",
            ));
        }
    }
}

/// Connects without ever blocking, be the listener's queue full.
pub(super) fn connect(path: &Path) -> io::Result<UnixStream> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
    Ok(socket.into())
}

/// Sends what is left; `true` when that is over.
pub(super) fn drain(stream: &mut UnixStream, rest: &mut Backlog) -> bool {
    while !rest.is_empty() {
        match stream.send_bytes(rest.bytes()) {
            Ok(count) => rest.consume(count),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return error.kind() != io::ErrorKind::WouldBlock,
        }
    }
    true
}

/// A descriptor that costs nothing else.
pub(super) fn spare_descriptor() -> io::Result<OwnedFd> {
    crate::epoll::Event::new()?.as_fd().try_clone_to_owned()
}
