//! The device back ends of one machine, served by threads of this process.
//!
//! Each is joined to QEMU by a socket pair, made before either knows of the
//! other: no socket file that somebody else could connect to, nothing to wait
//! for, nothing to remove.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;

use kata_devices::vhost_user::Server;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::config::{Devices, VmConfig};
use crate::error::{Error, Result};

/// The back ends of one machine, and QEMU's ends of their connections.
#[derive(Debug, Default)]
pub(super) struct Backends {
    /// Dropping a server ends its threads and removes its sockets.
    pub(super) servers: Vec<Server>,
    /// What QEMU is to inherit.
    pub(super) inherit: Vec<OwnedFd>,
    /// Where the vsock device's back end is.
    pub(super) vsock: Option<RawFd>,
    /// Where the file systems' back ends are, with their tags.
    pub(super) filesystems: Vec<(String, RawFd)>,
}

impl Backends {
    /// Starts what the description asks for.
    pub(super) fn start(config: &VmConfig) -> Result<Self> {
        let Devices {
            vsock, filesystems, ..
        } = &config.devices;
        let mut backends = Self::default();
        if let Some(vsock) = vsock {
            let fd = backends.serve("vsock", |stream| Server::vsock_on(vsock, stream))?;
            backends.vsock = Some(fd);
        }
        for filesystem in filesystems {
            let fd = backends.serve("virtio-fs", |stream| Server::fs_on(filesystem, stream))?;
            backends.filesystems.push((filesystem.tag.clone(), fd));
        }
        Ok(backends)
    }

    fn serve(
        &mut self,
        device: &'static str,
        server: impl FnOnce(UnixStream) -> kata_devices::Result<Server>,
    ) -> Result<RawFd> {
        let (ours, theirs) = pair().map_err(|source| Error::Host {
            operation: format!("connect the {device} device to its back end"),
            source,
        })?;
        self.servers
            .push(server(ours).map_err(|source| Error::Device { device, source })?);
        let fd = theirs.as_raw_fd();
        self.inherit.push(theirs);
        Ok(fd)
    }
}

fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok((UnixStream::from(ours), theirs))
}
