//! Terminals of processes.
//!
//! A terminal is made by the process itself, inside its container, so that its
//! name there is right. The container's files are not trusted: what is opened
//! must prove to be a terminal, and the slave is had from the master, not by a
//! path.

use std::os::fd::{AsFd, OwnedFd};

use kata_protocol::agent::Box as Size;
use kata_protocol::ttrpc::{Code, Status};
use rustix::fs::{CWD, Mode, OFlags};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};
use rustix::termios::Winsize;

use crate::process::Context as _;

/// What a person types to end the input (`VEOF`, control-D).
pub(super) const END_OF_FILE: u8 = 4;

/// Columns and rows of a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WindowSize {
    rows: u16,
    columns: u16,
}

impl WindowSize {
    /// As the host gives it; sizes that no terminal has are cut.
    pub(crate) fn new(rows: u32, columns: u32) -> Self {
        let cut = |value| u16::try_from(value).unwrap_or(u16::MAX);
        Self {
            rows: cut(rows),
            columns: cut(columns),
        }
    }

    pub(super) fn apply(self, terminal: impl AsFd) -> Result<(), Status> {
        let size = Winsize {
            ws_row: self.rows,
            ws_col: self.columns,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        rustix::termios::tcsetwinsize(terminal, size).context(|| "set the terminal's size")
    }
}

impl From<Option<&Size>> for WindowSize {
    fn from(size: Option<&Size>) -> Self {
        size.map_or_else(Self::default, |size| Self::new(size.height, size.width))
    }
}

/// Both sides of a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    /// The agent's.
    pub(crate) master: OwnedFd,
    /// The process's.
    pub(crate) slave: OwnedFd,
}

impl Terminal {
    /// Makes a terminal in the calling process's root file system.
    ///
    /// # Errors
    /// When the container has no `/dev/pts`.
    pub(crate) fn open(size: WindowSize) -> Result<Self, Status> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let master = rustix::fs::openat(CWD, "/dev/pts/ptmx", flags, Mode::empty())
            .or_else(|_| rustix::fs::openat(CWD, "/dev/ptmx", flags, Mode::empty()))
            .map_err(|error| no_terminal(&error.to_string()))?;
        if size != WindowSize::default() {
            size.apply(&master)
                .map_err(|_| no_terminal("its ptmx is no terminal"))?;
        }
        unlockpt(&master).map_err(|_| no_terminal("its ptmx is no terminal"))?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave =
            ioctl_tiocgptpeer(&master, flags).map_err(|error| no_terminal(&error.to_string()))?;
        Ok(Self { master, slave })
    }
}

fn no_terminal(why: &str) -> Status {
    let message = format!(
        "cannot make a terminal in the container: {why}; it needs a devpts file system on /dev/pts"
    );
    Status::new(Code::FailedPrecondition, message)
}
