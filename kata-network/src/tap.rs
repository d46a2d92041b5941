//! Opening the queues of a tap (`Documentation/networking/tuntap.rst`).
#![expect(
    unsafe_code,
    reason = "the ioctl that names a tap takes a raw structure, and unsharing is unsafe"
)]

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;

use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::ioctl::{Opcode, Setter, ioctl, opcode};
use rustix::thread::UnshareFlags;

const DEVICE: &str = "/dev/net/tun";
/// The longest name of an interface, without the zero byte.
const NAME: usize = 15;

/// `TUNSETIFF` of `linux/if_tun.h`; its number names an `int`.
const SET_INTERFACE: Opcode = opcode::write::<std::ffi::c_int>(b'T', 202);

const IFF_TAP: u16 = 0x0002;
const IFF_MULTI_QUEUE: u16 = 0x0100;
const IFF_NO_PI: u16 = 0x1000;
const IFF_VNET_HDR: u16 = 0x4000;

/// `struct ifreq` of `linux/if.h`, with flags in its union.
#[repr(C)]
#[derive(Debug)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Gives the calling thread a namespace of its own of some kind.
pub(crate) fn unshare_thread(what: UnshareFlags) -> io::Result<()> {
    // SAFETY: no flag that this crate passes unshares file descriptors or
    // memory, which is what other code could be confused by.
    unsafe { rustix::thread::unshare_unsafe(what) }?;
    Ok(())
}

/// Opens so many queues of the tap `name` in the calling thread's network
/// namespace. It is made where there is none, and then goes when the last
/// queue is closed.
pub(crate) fn open(name: &str, queues: usize) -> io::Result<Vec<OwnedFd>> {
    let several = if queues > 1 { IFF_MULTI_QUEUE } else { 0 };
    (0..queues).map(|_| open_queue(name, several)).collect()
}

/// Opens so many queues of a tap that somebody else made, whichever way it was
/// made.
pub(crate) fn open_existing(name: &str, queues: usize) -> io::Result<Vec<OwnedFd>> {
    match open_queue(name, IFF_MULTI_QUEUE) {
        Ok(first) => {
            let rest = (1..queues).map(|_| open_queue(name, IFF_MULTI_QUEUE));
            std::iter::once(Ok(first)).chain(rest).collect()
        }
        // It was made for one queue.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
            Ok(vec![open_queue(name, 0)?])
        }
        Err(error) => Err(error),
    }
}

fn open_queue(name: &str, flags: u16) -> io::Result<OwnedFd> {
    if name.is_empty() || name.len() > NAME {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let file = File::options()
        .read(true)
        .write(true)
        .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
        .open(DEVICE)?;
    set_interface(&file, name, flags)?;
    Ok(file.into())
}

/// Gives an open queue of a macvtap the same form as one of a tap.
pub(crate) fn set_flags(file: &File, several: bool) -> io::Result<()> {
    set_interface(file, "", if several { IFF_MULTI_QUEUE } else { 0 })
}

fn set_interface(file: &File, name: &str, flags: u16) -> io::Result<()> {
    let mut request = InterfaceRequest {
        name: [0; 16],
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | flags,
        rest: [0; 22],
    };
    request.name[..name.len()].copy_from_slice(name.as_bytes());
    // SAFETY: `TUNSETIFF` reads and writes a `struct ifreq`, which `request` is
    // laid out as: 16 bytes of name and 24 of union; it keeps no pointer to it.
    unsafe {
        ioctl(
            file,
            Setter::<SET_INTERFACE, InterfaceRequest>::new(request),
        )
    }?;
    Ok(())
}
