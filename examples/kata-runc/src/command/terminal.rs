//! Which end of a terminal goes where.

use std::os::unix::net::UnixStream;
use std::path::Path;

use crate::console::{self, Pty, RawTerminal};
use crate::failure::{Failure, Result};
use crate::proxy::Stdio;

/// Where a process's terminal is shown.
#[derive(Debug)]
pub(super) enum Console {
    /// It has none: its streams are those of this program.
    None,
    /// Whoever listens on a socket has the other end.
    Socket { pty: Pty, socket: UnixStream },
    /// On the terminal of this program.
    Own { pty: Pty, terminal: RawTerminal },
}

impl Console {
    /// Finds out, and opens what is needed.
    pub(super) fn open(
        wanted: bool,
        detach: bool,
        socket: Option<&str>,
        size: Option<(u16, u16)>,
    ) -> Result<Self> {
        check(wanted, detach, socket.is_some())?;
        match (wanted, socket) {
            (false, _) => Ok(Self::None),
            (true, Some(path)) => Ok(Self::Socket {
                socket: console::connect(Path::new(path))?,
                pty: Pty::open(size)?,
            }),
            (true, None) => {
                let terminal = RawTerminal::open()?;
                let pty = Pty::open(terminal.size())?;
                Ok(Self::Own { pty, terminal })
            }
        }
    }

    /// The streams of the proxy.
    pub(super) fn stdio(&self) -> Result<Stdio> {
        match self {
            Self::None => Ok(Stdio::Inherited),
            Self::Socket { pty, .. } | Self::Own { pty, .. } => {
                let slave = pty.slave.try_clone();
                slave
                    .map(Stdio::Terminal)
                    .map_err(|error| Failure::io("duplicate", "/dev/pts", &error))
            }
        }
    }

    pub(super) fn is_terminal(&self) -> bool {
        !matches!(self, Self::None)
    }
}

/// Whether that makes sense, in runc's words.
fn check(wanted: bool, detach: bool, socket: bool) -> Result<()> {
    let program = crate::cli::NAME;
    if detach && wanted && !socket {
        let reason =
            format!("cannot allocate tty if {program} will detach without setting console socket");
        return Err(Failure::new(reason));
    }
    if socket && !(detach && wanted) {
        let reason =
            format!("cannot use console socket if {program} will not detach or allocate tty");
        return Err(Failure::new(reason));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_console_socket_goes_with_a_terminal_that_is_left_behind() {
        for (wanted, detach, socket, good) in [
            (false, false, false, true),
            (false, true, false, true),
            (true, true, true, true),
            (true, false, false, true),
            (true, true, false, false),
            (false, true, true, false),
            (true, false, true, false),
            (false, false, true, false),
        ] {
            assert_eq!(
                check(wanted, detach, socket).is_ok(),
                good,
                "{wanted} {detach} {socket}"
            );
        }
    }
}
