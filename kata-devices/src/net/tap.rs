//! Tap interfaces of the host.
#![expect(unsafe_code, reason = "ioctls of the tun driver")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::layout::{HEADER_LEN, tap_offloads};
use crate::{Error, Result};

/// A tap, with a descriptor for each of its queues.
#[derive(Debug)]
pub struct Tap {
    queues: Vec<OwnedFd>,
}

impl Tap {
    /// Opens `queues` queues of the tap `name` in this thread's network namespace;
    /// it is made if it is not there, and then goes with the last descriptor.
    ///
    /// # Errors
    /// When the name is no interface's, or the host refuses.
    pub fn open(name: &str, queues: u16) -> Result<Self> {
        let failed = |source| Error::Host {
            operation: format!("open the tap {name}"),
            source,
        };
        let mut flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if queues > 1 {
            flags |= libc::IFF_MULTI_QUEUE;
        }
        let request = Request::new(name, flags).ok_or_else(|| Error::InvalidConfig {
            field: "tap",
            reason: format!("{name:?} is no name of an interface"),
        })?;
        let open = || -> io::Result<OwnedFd> {
            let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let fd = rustix::fs::open("/dev/net/tun", flags, Mode::empty())?;
            request.apply(&fd, libc::TUNSETIFF)?;
            Ok(fd)
        };
        let queues = (0..queues)
            .map(|_| open())
            .collect::<io::Result<_>>()
            .map_err(failed)?;
        Ok(Self { queues })
    }

    /// A tap whose queues are open already. They must have been made with
    /// `IFF_VNET_HDR` and `IFF_NO_PI`.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] when a descriptor is no such queue.
    pub fn from_queues(queues: Vec<OwnedFd>) -> Result<Self> {
        for queue in &queues {
            let mut request = Request::default();
            let wanted = libc::IFF_TAP | libc::IFF_VNET_HDR | libc::IFF_NO_PI;
            let known = request.get(queue);
            if known.is_err() || i32::from(request.flags()) & wanted != wanted {
                return Err(Error::InvalidConfig {
                    field: "tap",
                    reason: "a descriptor is no tap with IFF_VNET_HDR and IFF_NO_PI".to_owned(),
                });
            }
        }
        Ok(Self { queues })
    }

    /// Its descriptors, one for each queue, for a machine of another process or crate.
    #[must_use]
    pub fn into_descriptors(self) -> Vec<OwnedFd> {
        self.queues
    }

    /// The only queue, ready for a vhost back end.
    pub(crate) fn into_single(self) -> Result<TapQueue> {
        if self.queues.len() != 1 {
            return Err(Error::InvalidConfig {
                field: "tap",
                reason: format!("it has {} queues, not one", self.queues.len()),
            });
        }
        let mut queues = self.into_queues()?;
        let queue = queues.pop().expect("there is one");
        Ok(TapQueue(queue))
    }

    /// The number of queues.
    pub(super) fn len(&self) -> usize {
        self.queues.len()
    }

    /// Makes all queues speak of frames as virtio does.
    pub(super) fn into_queues(self) -> Result<Vec<OwnedFd>> {
        let header = i32::try_from(HEADER_LEN).expect("12");
        for queue in &self.queues {
            // SAFETY: the request reads one `int`, which outlives the call.
            let set =
                unsafe { libc::ioctl(queue.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const header) };
            check(set).map_err(Error::host("set the header size of a tap"))?;
        }
        Ok(self.queues)
    }
}

/// One queue of a tap that speaks of frames as virtio does.
#[derive(Debug)]
pub(crate) struct TapQueue(OwnedFd);

impl TapQueue {
    /// Lets the tap leave to the guest what a driver with these features takes.
    pub(crate) fn set_offloads(&self, features: u64) -> io::Result<()> {
        set_offloads(self.0.as_fd(), tap_offloads(features))
    }
}

impl AsFd for TapQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Says what a tap may leave to the guest.
pub(super) fn set_offloads(queue: BorrowedFd<'_>, flags: u32) -> io::Result<()> {
    // SAFETY: the argument of this request is a number, not a pointer.
    check(unsafe {
        libc::ioctl(
            queue.as_raw_fd(),
            libc::TUNSETOFFLOAD,
            libc::c_ulong::from(flags),
        )
    })
}

/// Lets a queue of several take part, or not.
pub(super) fn set_attached(queue: BorrowedFd<'_>, attached: bool) -> io::Result<()> {
    let flags = if attached {
        libc::IFF_ATTACH_QUEUE
    } else {
        libc::IFF_DETACH_QUEUE
    };
    Request::with_flags(flags).apply(queue, libc::TUNSETQUEUE)
}

/// The part of `ifreq` that these requests use.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Request {
    name: [u8; libc::IFNAMSIZ],
    flags: i16,
    rest: [u8; 22],
}

impl Request {
    fn new(name: &str, flags: i32) -> Option<Self> {
        let mut request = Self::with_flags(flags);
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() >= libc::IFNAMSIZ || bytes.contains(&0) {
            return None;
        }
        request.name[..bytes.len()].copy_from_slice(bytes);
        Some(request)
    }

    fn with_flags(flags: i32) -> Self {
        let low = flags.to_le_bytes();
        Self {
            flags: i16::from_le_bytes([low[0], low[1]]),
            ..Self::default()
        }
    }

    fn flags(&self) -> i16 {
        self.flags
    }

    fn apply(mut self, queue: impl AsFd, request: libc::Ioctl) -> io::Result<()> {
        let fd = queue.as_fd().as_raw_fd();
        // SAFETY: `self` is as large as `ifreq`, which the kernel reads and writes.
        check(unsafe { libc::ioctl(fd, request, &raw mut self) })
    }

    fn get(&mut self, queue: impl AsFd) -> io::Result<()> {
        let fd = queue.as_fd().as_raw_fd();
        // SAFETY: `self` is as large as `ifreq`, which the kernel writes.
        check(unsafe { libc::ioctl(fd, libc::TUNGETIFF, std::ptr::from_mut(self)) })
    }
}

const _: () = assert!(size_of::<Request>() == size_of::<libc::ifreq>());

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
