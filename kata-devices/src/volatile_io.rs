//! Host I/O straight to and from guest memory.
//!
//! Guest memory may change under our hands, so it is never a `&[u8]`: the
//! kernel copies between it and the socket or file.
#![expect(
    unsafe_code,
    reason = "system calls on guest memory, which has no safe slice"
)]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// The most pieces that one call handles; further ones are left for the next.
pub(crate) const MAX_PIECES: usize = 64;

/// Sends from `pieces`, without blocking and without `SIGPIPE`. Says how many
/// bytes went.
pub(crate) fn send(socket: impl AsFd, pieces: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let mut iov = [EMPTY; MAX_PIECES];
    let count = gather(pieces, &mut iov);
    let header = message(&mut iov, count);
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    // SAFETY: `header` points at `count` entries of `iov`, each a range of guest
    // memory that `pieces` keeps mapped for the call; the kernel only reads them.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const header, flags) };
    result(sent)
}

/// Receives into `pieces`, without blocking. 0 is the end of the stream.
pub(crate) fn receive(socket: impl AsFd, pieces: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let mut iov = [EMPTY; MAX_PIECES];
    let count = gather(pieces, &mut iov);
    let mut header = message(&mut iov, count);
    let fd = socket.as_fd().as_raw_fd();
    // SAFETY: `header` points at `count` entries of `iov`, each a range of guest
    // memory that `pieces` keeps mapped for the call. The kernel writes there,
    // which is what a volatile slice allows; no control data is asked for.
    let got = unsafe { libc::recvmsg(fd, &raw mut header, libc::MSG_DONTWAIT) };
    result(got)
}

/// Reads from `file` at `offset` into `pieces`, of which a call takes the first
/// [`MAX_PIECES`]. 0 is the end of the file.
pub(crate) fn read_at(
    file: impl AsFd,
    pieces: &[VolatileSlice<'_>],
    offset: libc::off_t,
) -> io::Result<usize> {
    let mut iov = [EMPTY; MAX_PIECES];
    let count = length(gather(pieces, &mut iov))?;
    let fd = file.as_fd().as_raw_fd();
    // SAFETY: `iov` has `count` entries, each a range of guest memory that
    // `pieces` keeps mapped for the call; the kernel writes there, which is what a
    // volatile slice allows.
    result(unsafe { libc::preadv(fd, iov.as_ptr(), count, offset) })
}

/// Writes `pieces` to `file` at `offset`; `durable` ones are on the disk when the
/// call returns.
pub(crate) fn write_at(
    file: impl AsFd,
    pieces: &[VolatileSlice<'_>],
    offset: libc::off_t,
    durable: bool,
) -> io::Result<usize> {
    let mut iov = [EMPTY; MAX_PIECES];
    let count = length(gather(pieces, &mut iov))?;
    let fd = file.as_fd().as_raw_fd();
    let flags = if durable { libc::RWF_DSYNC } else { 0 };
    // SAFETY: `iov` has `count` entries, each a range of guest memory that
    // `pieces` keeps mapped for the call; the kernel only reads them.
    result(unsafe { libc::pwritev2(fd, iov.as_ptr(), count, offset, flags) })
}

/// Reads from `file` at `offset` into `vectors`.
///
/// # Safety
/// Each entry is a range of guest memory that stays mapped for the call.
pub(crate) unsafe fn read_vectors(
    file: BorrowedFd<'_>,
    vectors: &[libc::iovec],
    offset: libc::off_t,
) -> io::Result<usize> {
    let count = length(vectors.len())?;
    // SAFETY: there are `count` entries, good for writing as the caller says.
    result(unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), count, offset) })
}

/// Writes `vectors` to `file` at `offset`; `durable` ones are on the disk when the
/// call returns.
///
/// # Safety
/// As for [`read_vectors`].
pub(crate) unsafe fn write_vectors(
    file: BorrowedFd<'_>,
    vectors: &[libc::iovec],
    offset: libc::off_t,
    durable: bool,
) -> io::Result<usize> {
    let count = length(vectors.len())?;
    let flags = if durable { libc::RWF_DSYNC } else { 0 };
    // SAFETY: there are `count` entries, good for reading as the caller says.
    result(unsafe { libc::pwritev2(file.as_raw_fd(), vectors.as_ptr(), count, offset, flags) })
}

/// Writes `pieces` as one packet of a tap.
pub(crate) fn write_packet(tap: impl AsFd, pieces: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let mut iov = [EMPTY; MAX_PIECES];
    let count = length(gather(pieces, &mut iov))?;
    // SAFETY: as in `write_at`.
    result(unsafe { libc::writev(tap.as_fd().as_raw_fd(), iov.as_ptr(), count) })
}

/// The pieces as the kernel takes them. The addresses are good as long as the
/// memory of `pieces` is mapped.
pub(crate) fn vectors(pieces: &[VolatileSlice<'_>]) -> Box<[libc::iovec]> {
    pieces.iter().map(vector).collect()
}

fn vector(piece: &VolatileSlice<'_>) -> libc::iovec {
    libc::iovec {
        iov_base: piece.ptr_guard_mut().as_ptr().cast(),
        iov_len: piece.len(),
    }
}

fn length(count: usize) -> io::Result<libc::c_int> {
    libc::c_int::try_from(count).map_err(io::Error::other)
}

const EMPTY: libc::iovec = libc::iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

fn gather(pieces: &[VolatileSlice<'_>], iov: &mut [libc::iovec; MAX_PIECES]) -> usize {
    let mut count = 0;
    for (entry, piece) in iov.iter_mut().zip(pieces) {
        *entry = vector(piece);
        count += 1;
    }
    count
}

fn message(iov: &mut [libc::iovec; MAX_PIECES], count: usize) -> libc::msghdr {
    // SAFETY: all fields of `msghdr` are integers or pointers, for which zero is valid.
    let mut header: libc::msghdr = unsafe { std::mem::zeroed() };
    header.msg_iov = iov.as_mut_ptr();
    // `size_t` with glibc, `int` with musl; at most `MAX_PIECES`.
    header.msg_iovlen = count as _;
    header
}

fn result(bytes: isize) -> io::Result<usize> {
    usize::try_from(bytes).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use vm_memory::{Bytes, GuestAddress, GuestMemory, GuestMemoryMmap};

    fn memory() -> GuestMemoryMmap<()> {
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 0x1000)]).unwrap()
    }

    #[test]
    fn bytes_cross_a_socket_from_memory_to_memory() {
        let memory = memory();
        memory
            .write_slice(b"hello, guest", GuestAddress(0x100))
            .unwrap();
        let (a, b) = UnixStream::pair().unwrap();
        let from = [
            memory.get_slice(GuestAddress(0x100), 7).unwrap(),
            memory.get_slice(GuestAddress(0x107), 5).unwrap(),
        ];
        let to = [memory.get_slice(GuestAddress(0x800), 64).unwrap()];

        assert_eq!(send(&a, &from).unwrap(), 12);
        assert_eq!(receive(&b, &to).unwrap(), 12);

        let mut got = [0; 12];
        memory.read_slice(&mut got, GuestAddress(0x800)).unwrap();
        assert_eq!(&got, b"hello, guest");
    }

    #[test]
    fn an_empty_socket_would_block_and_a_closed_one_ends() {
        let memory = memory();
        let (a, mut b) = UnixStream::pair().unwrap();
        let to = [memory.get_slice(GuestAddress(0), 64).unwrap()];
        assert_eq!(
            receive(&a, &to).unwrap_err().kind(),
            io::ErrorKind::WouldBlock
        );
        b.write_all(b"x").unwrap();
        drop(b);
        assert_eq!(receive(&a, &to).unwrap(), 1);
        assert_eq!(receive(&a, &to).unwrap(), 0);
        assert_eq!(send(&a, &to).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
