//! Terminals on the host: a pair whose one end stands for the terminal in the
//! guest, and whose other end is the caller's.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Termios, Winsize, tcgetattr, tcsetattr, tcsetwinsize};

use crate::failure::{Failure, Result, errno_text};

/// A pseudoterminal.
#[derive(Debug)]
pub(crate) struct Pty {
    /// The caller's end.
    pub(crate) master: OwnedFd,
    /// The end that stands for the guest's terminal: raw, since the guest's own
    /// terminal edits lines and echoes.
    pub(crate) slave: OwnedFd,
    name: String,
}

impl Pty {
    /// Makes one, of that size where it is known.
    pub(crate) fn open(size: Option<(u16, u16)>) -> Result<Self> {
        Self::make(size).map_err(|error| {
            Failure::new(format!("cannot make a terminal: {}", errno_text(&error)))
        })
    }

    fn make(size: Option<(u16, u16)>) -> io::Result<Self> {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master = openpt(flags)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?.to_string_lossy().into_owned();
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        raw(slave.as_fd())?;
        if let Some((rows, cols)) = size {
            let size = Winsize {
                ws_row: rows,
                ws_col: cols,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            tcsetwinsize(&slave, size)?;
        }
        Ok(Self {
            master,
            slave,
            name,
        })
    }

    /// Gives the caller's end away over a socket (`SCM_RIGHTS`), with its name,
    /// as runc's terminal documentation has it.
    pub(crate) fn send_master(self, socket: &UnixStream) -> Result<()> {
        let descriptors = [self.master.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fits = control.push(SendAncillaryMessage::ScmRights(&descriptors));
        debug_assert!(fits, "the space is for one descriptor");
        let bytes = [IoSlice::new(self.name.as_bytes())];
        sendmsg(socket, &bytes, &mut control, SendFlags::NOSIGNAL).map_err(|error| {
            let reason = errno_text(&error.into());
            Failure::new(format!(
                "cannot send the terminal to the console socket: {reason}"
            ))
        })?;
        Ok(())
    }
}

/// Connects to a caller's console socket.
pub(crate) fn connect(path: &Path) -> Result<UnixStream> {
    UnixStream::connect(path).map_err(|error| {
        let path = path.display();
        Failure::new(format!("dial unix {path}: connect: {}", errno_text(&error)))
    })
}

/// Makes a terminal pass every byte on, and answers what it was before.
fn raw(terminal: BorrowedFd<'_>) -> io::Result<Termios> {
    let before = tcgetattr(terminal)?;
    let mut raw = before.clone();
    raw.make_raw();
    tcsetattr(terminal, OptionalActions::Now, &raw)?;
    Ok(before)
}

/// The size of a terminal, if it is one and has any.
pub(crate) fn size(terminal: BorrowedFd<'_>) -> Option<(u16, u16)> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// The user's own terminal, raw until this is dropped.
#[derive(Debug)]
pub(crate) struct RawTerminal {
    terminal: OwnedFd,
    before: Termios,
}

impl RawTerminal {
    /// Opens the terminal of this process, and makes it raw.
    ///
    /// # Errors
    /// When it has none.
    pub(crate) fn open() -> Result<Self> {
        let path = Path::new("/dev/tty");
        let opened = std::fs::File::options().read(true).write(true).open(path);
        let terminal: OwnedFd = opened
            .map_err(|error| Failure::io("open", path, &error))?
            .into();
        let before = raw(terminal.as_fd()).map_err(|e| Failure::io("set", path, &e))?;
        Ok(Self { terminal, before })
    }

    pub(crate) fn size(&self) -> Option<(u16, u16)> {
        size(self.terminal.as_fd())
    }

    /// Another descriptor of it.
    pub(crate) fn descriptor(&self) -> Result<OwnedFd> {
        self.terminal
            .try_clone()
            .map_err(|error| Failure::io("duplicate", "/dev/tty", &error))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        // A terminal that went away needs no settings.
        let _ = tcsetattr(&self.terminal, OptionalActions::Flush, &self.before);
    }
}

/// Gives a terminal a size.
pub(crate) fn resize(terminal: BorrowedFd<'_>, (rows, cols): (u16, u16)) {
    let size = Winsize {
        ws_row: rows,
        ws_col: cols,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    // It went away with its other end: nothing has a size any more.
    let _ = tcsetwinsize(terminal, size);
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Read as _, Write as _};
    use std::os::fd::AsFd as _;

    use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

    use super::*;

    #[test]
    fn bytes_pass_a_terminal_as_they_are() {
        let pty = Pty::open(Some((40, 100))).unwrap();
        assert_eq!(size(pty.master.as_fd()), Some((40, 100)));
        let (mut master, mut slave) = (File::from(pty.master), File::from(pty.slave));
        master.write_all(b"\x03\r\n").unwrap();
        let mut bytes = [0; 3];
        slave.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"\x03\r\n");
        slave.write_all(b"a\nb").unwrap();
        master.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"a\nb");
    }

    #[test]
    fn the_callers_end_goes_over_the_socket() {
        let pty = Pty::open(None).unwrap();
        let mut slave = File::from(pty.slave.try_clone().unwrap());
        let (ours, theirs) = UnixStream::pair().unwrap();
        pty.send_master(&ours).unwrap();
        let mut bytes = [0; 64];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut into = [io::IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::CMSG_CLOEXEC;
        let got = recvmsg(theirs.as_fd(), &mut into, &mut control, flags).unwrap();
        let mut descriptors = control.drain().flat_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => fds.collect::<Vec<_>>(),
            _ => Vec::new(),
        });
        let mut master = File::from(descriptors.next().unwrap());
        assert!(bytes[..got.bytes].starts_with(b"/dev/pts/"));
        slave.write_all(b"x").unwrap();
        let mut byte = [0];
        master.read_exact(&mut byte).unwrap();
        assert_eq!(&byte, b"x");
    }

    #[test]
    fn a_console_socket_that_is_none_is_named() {
        let error = connect(Path::new("/nosuch")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "dial unix /nosuch: connect: no such file or directory"
        );
    }
}
