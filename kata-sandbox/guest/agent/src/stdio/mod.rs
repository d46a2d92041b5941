//! Standard streams of processes.
//!
//! A process has pipes or a terminal, never a socket, so that `/dev/stdout` can
//! be opened. The other end is in the agent, and is either joined to a stream
//! that the host dialled ([`Streams`], [`relay`]) or read and written by calls
//! ([`Stdio`]). Either way a byte is taken from a pipe only when there is
//! somewhere to put it: a reader that stalls stops the process, not the agent,
//! and costs no memory.

mod plan;
mod pull;
mod relay;
mod streams;
mod terminal;

use std::io;
use std::os::fd::OwnedFd;

use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::process::awaitable;

pub(crate) use plan::{ChildEnd, ChildEnds, Plan, Ports};
pub(crate) use pull::Stdio;
pub(crate) use streams::Streams;
pub(crate) use terminal::{Terminal, WindowSize};

/// An end that the agent reads or writes without blocking.
type End = AsyncFd<OwnedFd>;

fn end(fd: OwnedFd) -> io::Result<End> {
    rustix::io::ioctl_fionbio(&fd, true)?;
    awaitable(fd, Interest::READABLE | Interest::WRITABLE)
}
