//! Addresses of the socket families that the standard library does not have.
#![expect(unsafe_code, reason = "C address structures, passed and read as bytes")]

use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::io;
use rustix::net::SocketAddrAny;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen, SocketAddrOpaque};
use tokio::io::unix::AsyncFd;

/// Any context id: bind to whatever this machine's is.
pub(crate) const ANY_CID: u32 = u32::MAX;

/// `SO_VM_SOCKETS_CONNECT_TIMEOUT` of `linux/vm_sockets.h`.
const CONNECT_TIMEOUT: libc::c_int = 6;

/// An address of `AF_VSOCK`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct VsockAddress {
    pub(crate) cid: u32,
    pub(crate) port: u32,
}

/// An address of `AF_NETLINK`: the kernel, or multicast groups to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NetlinkAddress {
    pub(crate) groups: u32,
}

// SAFETY: the pointer is to a whole `sockaddr_vm` that lives through the call.
unsafe impl SocketAddrArg for VsockAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        // SAFETY: all zeroes is a valid `sockaddr_vm`.
        let mut raw: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
        raw.svm_family = family(libc::AF_VSOCK);
        raw.svm_cid = self.cid;
        raw.svm_port = self.port;
        f(
            std::ptr::from_ref(&raw).cast(),
            length::<libc::sockaddr_vm>(),
        )
    }
}

// SAFETY: the pointer is to a whole `sockaddr_nl` that lives through the call.
unsafe impl SocketAddrArg for NetlinkAddress {
    unsafe fn with_sockaddr<R>(
        &self,
        f: impl FnOnce(*const SocketAddrOpaque, SocketAddrLen) -> R,
    ) -> R {
        // SAFETY: all zeroes is a valid `sockaddr_nl`.
        let mut raw: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        raw.nl_family = family(libc::AF_NETLINK);
        raw.nl_groups = self.groups;
        f(
            std::ptr::from_ref(&raw).cast(),
            length::<libc::sockaddr_nl>(),
        )
    }
}

fn family(number: libc::c_int) -> libc::sa_family_t {
    libc::sa_family_t::try_from(number).expect("an address family has 16 bits")
}

fn length<T>() -> SocketAddrLen {
    SocketAddrLen::try_from(size_of::<T>()).expect("an address is short")
}

/// The vsock address that `any` is, if it is one.
pub(crate) fn vsock_address(any: &SocketAddrAny) -> Option<VsockAddress> {
    if any.address_family() != rustix::net::AddressFamily::VSOCK
        || any.addr_len() < length::<libc::sockaddr_vm>()
    {
        return None;
    }
    // SAFETY: it is of this family and long enough, and may be unaligned.
    let raw = unsafe { any.as_ptr().cast::<libc::sockaddr_vm>().read_unaligned() };
    Some(VsockAddress {
        cid: raw.svm_cid,
        port: raw.svm_port,
    })
}

/// How long connecting `socket`, a vsock stream, may take.
pub(crate) fn set_connect_timeout(socket: impl AsFd, limit: Duration) -> io::Result<()> {
    let limit = libc::timeval {
        tv_sec: libc::time_t::try_from(limit.as_secs()).unwrap_or(libc::time_t::MAX),
        tv_usec: libc::suseconds_t::from(limit.subsec_micros()),
    };
    // SAFETY: the pointer and length are those of `limit`, which outlives the call.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::AF_VSOCK,
            CONNECT_TIMEOUT,
            std::ptr::from_ref(&limit).cast(),
            length::<libc::timeval>(),
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(last_error())
    }
}

/// Makes the readiness of a socket an event.
pub(crate) fn watch(socket: OwnedFd) -> std::io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` gives the same open descriptor until it is dropped.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

fn last_error() -> io::Errno {
    io::Errno::from_io_error(&std::io::Error::last_os_error()).unwrap_or(io::Errno::IO)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_vsock_address_survives_the_kernel_s_form() {
        let address = VsockAddress { cid: 3, port: 1024 };
        assert_eq!(vsock_address(&address.as_any()), Some(address));
    }

    #[test]
    fn a_netlink_address_is_no_vsock_address() {
        assert_eq!(vsock_address(&NetlinkAddress { groups: 1 }.as_any()), None);
    }
}
