//! The socket on which the host dials the guest.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use super::sockets::spare_descriptor;
use crate::limit::Offences;
use crate::vhost_user::SocketFile;
use crate::{Error, Result};

/// A listening socket that never leaves callers hanging.
#[derive(Debug)]
pub(super) struct Door {
    listener: UnixListener,
    _file: SocketFile,
    /// Given up for a moment to turn callers away when no descriptor is left.
    spare: Option<OwnedFd>,
    troubles: Offences,
}

impl Door {
    /// Listens at `path`, where nothing may be yet.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let (listener, file) = SocketFile::listen(path)?;
        let prepare = || -> io::Result<OwnedFd> {
            listener.set_nonblocking(true)?;
            spare_descriptor()
        };
        let spare = prepare().map_err(Error::host("watch the vsock socket"))?;
        Ok(Self {
            listener,
            _file: file,
            spare: Some(spare),
            troubles: Offences::default(),
        })
    }

    /// The next caller; `None` when there is none at the moment.
    pub(super) fn next(&mut self) -> Option<UnixStream> {
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return Some(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) if error.raw_os_error() == Some(libc::EMFILE) => {
                    if !self.turn_away() {
                        return None;
                    }
                }
                Err(error) => {
                    if self.troubles.count().is_some() {
                        log::warn!(error:%; "vsock: cannot accept a connection");
                    }
                    if !matches!(
                        error.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) {
                        return None;
                    }
                }
            }
        }
    }

    /// With no descriptor left, a caller is better refused than left hanging.
    fn turn_away(&mut self) -> bool {
        if let Some(total) = self.troubles.count() {
            log::warn!(total; "vsock: no file descriptors left; refusing connections");
        }
        if self.spare.take().is_none() {
            return false;
        }
        drop(self.listener.accept());
        self.spare = spare_descriptor().ok();
        self.spare.is_some()
    }
}

impl AsFd for Door {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }
}
