//! The device back ends of one machine, served by threads of this process.
//!
//! Each is joined to QEMU by a socket pair, made before either knows of the
//! other: no socket file that somebody else could connect to, nothing to wait
//! for, nothing to remove.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use kata_devices::vhost_user::{Ended, Server};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::child::{Failure, Support};
use crate::config::{Devices, VmConfig};
use crate::error::{Error, Result};
use crate::nic::NicBackend;
use crate::qemu::args::Netdev;
use crate::qemu::plan::NicConnection;

/// How long QEMU may live on after it has left a back end: it closes its
/// sockets a moment before it is dead.
const LEAVING: Duration = Duration::from_secs(5);

/// The kernel's own back end of network devices.
const VHOST_NET: &str = "/dev/vhost-net";

/// The servers of one machine's devices, with what each is called. Dropping a
/// server ends its threads.
#[derive(Debug, Default)]
pub(super) struct Servers(Vec<(String, Server)>);

impl Support for Servers {
    fn bells(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(|(_, server)| server.as_fd()).collect()
    }

    fn failure(&self) -> Option<Failure> {
        let ended = self
            .0
            .iter()
            .filter_map(|(name, server)| Some((name, server.ended()?)));
        // A device that failed by itself explains more than one that was left.
        ended
            .map(|(name, ended)| Failure {
                reason: format!("its {name} device has ended: {ended}"),
                patience: match ended {
                    Ended::Disconnected => LEAVING,
                    _ => Duration::ZERO,
                },
            })
            .min_by_key(|failure| failure.patience)
    }
}

/// The back ends of one machine, and QEMU's ends of their connections.
#[derive(Debug, Default)]
pub(super) struct Backends {
    pub(super) servers: Servers,
    /// What QEMU is to inherit.
    pub(super) inherit: Vec<OwnedFd>,
    /// Where the vsock device's back end is.
    pub(super) vsock: Option<RawFd>,
    /// Where the file systems' back ends are, with their tags.
    pub(super) filesystems: Vec<(String, RawFd)>,
    /// What the network devices are connected to.
    pub(super) nics: Vec<NicConnection>,
}

impl Backends {
    /// Starts what the description asks for.
    pub(super) fn start(config: &VmConfig) -> Result<Self> {
        let Devices {
            vsock,
            filesystems,
            nics,
            ..
        } = &config.devices;
        let mut backends = Self::default();
        if let Some(vsock) = vsock {
            let name = "vsock".to_owned();
            let fd = backends.serve("vsock", name, |stream| Server::vsock_on(vsock, stream))?;
            backends.vsock = Some(fd);
        }
        for filesystem in filesystems {
            let name = format!("virtio-fs {:?}", filesystem.tag);
            let fd = backends.serve("virtio-fs", name, |stream| {
                Server::fs_on(filesystem, stream)
            })?;
            backends.filesystems.push((filesystem.tag.clone(), fd));
        }
        for nic in nics {
            let connection = backends.connect(&nic.backend)?;
            backends.nics.push(connection);
        }
        Ok(backends)
    }

    /// Gives QEMU what a network device is connected to.
    fn connect(&mut self, backend: &NicBackend) -> Result<NicConnection> {
        match backend {
            NicBackend::Tap(taps) => {
                let mut queues = Vec::with_capacity(taps.len());
                for tap in taps {
                    queues.push(self.lend(tap)?);
                }
                let vhost = kernel_backends(taps.len())
                    .into_iter()
                    .map(|fd| self.give(fd))
                    .collect();
                Ok(NicConnection::Netdev(Netdev::Tap { queues, vhost }))
            }
            NicBackend::Stream(stream) => {
                let fd = self.lend(stream)?;
                Ok(NicConnection::Netdev(Netdev::Stream(fd)))
            }
            NicBackend::VhostUser { socket, queues } => {
                is_socket(socket).map_err(|source| Error::Host {
                    operation: format!(
                        "connect to the vhost-user network back end {}",
                        socket.display()
                    ),
                    source,
                })?;
                Ok(NicConnection::VhostUser(socket.clone(), *queues))
            }
        }
    }

    /// Lets QEMU inherit a copy of a descriptor.
    fn lend(&mut self, fd: &OwnedFd) -> Result<RawFd> {
        let copy = fd.try_clone().map_err(|source| Error::Host {
            operation: "copy a descriptor of a network device".to_owned(),
            source,
        })?;
        Ok(self.give(copy))
    }

    /// Lets QEMU inherit a descriptor.
    fn give(&mut self, fd: OwnedFd) -> RawFd {
        let number = fd.as_raw_fd();
        self.inherit.push(fd);
        number
    }

    fn serve(
        &mut self,
        device: &'static str,
        name: String,
        server: impl FnOnce(UnixStream) -> kata_devices::Result<Server>,
    ) -> Result<RawFd> {
        let (ours, theirs) = pair().map_err(|source| Error::Host {
            operation: format!("connect the {device} device to its back end"),
            source,
        })?;
        let server = server(ours).map_err(|source| Error::Device { device, source })?;
        self.servers.0.push((name, server));
        Ok(self.give(theirs))
    }
}

/// The kernel's own network back end, once for each queue; nothing where the
/// host has none or this user may not open it: QEMU moves the packets then.
pub(super) fn kernel_backends(queues: usize) -> Vec<OwnedFd> {
    let open = || File::options().read(true).write(true).open(VHOST_NET);
    let opened: io::Result<Vec<OwnedFd>> = (0..queues).map(|_| open().map(OwnedFd::from)).collect();
    opened.unwrap_or_else(|error| {
        log::debug!(error:%; "{VHOST_NET} is not used");
        Vec::new()
    })
}

/// Whether there is a socket: QEMU connects to it, and a back end serves but one
/// that does.
pub(super) fn is_socket(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.file_type().is_socket() {
        return Ok(());
    }
    Err(io::Error::other("it is no socket"))
}

fn pair() -> io::Result<(UnixStream, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    Ok((UnixStream::from(ours), theirs))
}
