//! Readiness of file descriptors, told by edges.
//!
//! Registrations are edge-triggered unless they say otherwise: a descriptor is reported once when it
//! becomes ready, so nothing has to be deregistered while it is not wanted, and
//! an eventfd need not be read.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec};

/// A set of watched file descriptors.
#[derive(Debug)]
pub(crate) struct Epoll {
    fd: OwnedFd,
}

/// What was reported about one descriptor.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Readiness {
    pub(crate) token: u64,
    pub(crate) flags: EventFlags,
}

impl Epoll {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            fd: epoll::create(CreateFlags::CLOEXEC)?,
        })
    }

    /// Watches `source` for `flags`.
    pub(crate) fn add(&self, source: impl AsFd, token: u64, flags: EventFlags) -> io::Result<()> {
        Ok(epoll::add(
            &self.fd,
            source,
            EventData::new_u64(token),
            flags | EventFlags::ET,
        )?)
    }

    /// Watches `source` for `flags`, and reports them as long as they are true.
    pub(crate) fn add_level(
        &self,
        source: impl AsFd,
        token: u64,
        flags: EventFlags,
    ) -> io::Result<()> {
        Ok(epoll::add(
            &self.fd,
            source,
            EventData::new_u64(token),
            flags,
        )?)
    }

    /// Watches it for other `flags`, and reports at once what is true already.
    pub(crate) fn modify(
        &self,
        source: impl AsFd,
        token: u64,
        flags: EventFlags,
    ) -> io::Result<()> {
        Ok(epoll::modify(
            &self.fd,
            source,
            EventData::new_u64(token),
            flags | EventFlags::ET,
        )?)
    }

    /// Watches it no more.
    pub(crate) fn remove(&self, source: impl AsFd) -> io::Result<()> {
        Ok(epoll::delete(&self.fd, source)?)
    }

    /// Waits until something is ready or `deadline` has come, and fills `ready`.
    /// Reports nothing when a signal came first.
    pub(crate) fn wait(&self, ready: &mut Ready, deadline: Option<Instant>) -> io::Result<()> {
        ready.events.clear();
        let timeout = deadline.map(|at| timespec(at.saturating_duration_since(Instant::now())));
        let room = rustix::buffer::spare_capacity(&mut ready.events);
        match epoll::wait(&self.fd, room, timeout.as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// What one wait reported.
pub(crate) struct Ready {
    events: Vec<epoll::Event>,
}

impl Ready {
    /// Room for a wait's worth of reports.
    pub(crate) fn new() -> Self {
        Self {
            events: Vec::with_capacity(64),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = Readiness> + '_ {
        self.events.iter().map(|event| Readiness {
            token: event.data.u64(),
            flags: event.flags,
        })
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(duration.subsec_nanos()),
    }
}

/// An eventfd that wakes whoever waits for it.
#[derive(Debug)]
pub(crate) struct Event {
    fd: OwnedFd,
}

impl Event {
    pub(crate) fn new() -> io::Result<Self> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        Ok(Self {
            fd: rustix::event::eventfd(0, flags)?,
        })
    }

    /// Makes it readable.
    pub(crate) fn raise(&self) {
        // It fails only when the counter is full, that is, when it is readable.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
