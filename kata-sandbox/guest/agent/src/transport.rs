//! Streams to and from the host: vsock in a guest, unix sockets in tests.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kata_protocol::port::HOST_CID;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{
    AddressFamily, SocketAddrAny, SocketAddrUnix, SocketFlags, SocketType, acceptfrom_with, bind,
    connect, listen, socket_with,
};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;

use crate::config::ServerAddress;
use crate::socket::{VsockAddress, set_connect_timeout, vsock_address, watch};

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 128;
/// How long the host may take to answer when it is dialled. The machine may be
/// one of many that start at once; a host that does not listen refuses at once.
const DIAL_TIMEOUT: Duration = Duration::from_secs(30);

/// How long to wait when the machine is short of memory or descriptors.
const SHORTAGE: Duration = Duration::from_millis(100);

/// A connected stream. Tokio's type for unix sockets only reads, writes and
/// shuts down, which a vsock stream does alike.
pub(crate) type Stream = UnixStream;

/// A socket that accepts [`Stream`]s.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: AsyncFd<OwnedFd>,
    path: Option<PathBuf>,
}

impl Listener {
    /// Listens on `port`, in the family of `server`.
    pub(crate) fn bind(server: &ServerAddress, port: u32) -> io::Result<Self> {
        match server {
            ServerAddress::Vsock { cid, .. } => {
                let socket = stream_socket(AddressFamily::VSOCK)?;
                bind(&socket, &VsockAddress { cid: *cid, port })?;
                Self::listen(socket, None)
            }
            ServerAddress::Unix(path) => Self::bind_unix(&beside(path, port)),
        }
    }

    /// Listens where calls are served.
    pub(crate) fn bind_server(server: &ServerAddress) -> io::Result<Self> {
        match server {
            ServerAddress::Vsock { port, .. } => Self::bind(server, *port),
            ServerAddress::Unix(path) => Self::bind_unix(path),
        }
    }

    fn bind_unix(path: &Path) -> io::Result<Self> {
        let socket = stream_socket(AddressFamily::UNIX)?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        Self::listen(socket, Some(path.to_owned()))
    }

    fn listen(socket: OwnedFd, path: Option<PathBuf>) -> io::Result<Self> {
        listen(&socket, BACKLOG)?;
        Ok(Self {
            socket: watch(socket)?,
            path,
        })
    }

    /// The next stream, and the port that it was dialled from, if it has one.
    ///
    /// Errors that concern one connection only are passed over; what comes back
    /// is a failure of the listener.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, Option<u32>)> {
        loop {
            let mut ready = self.socket.readable().await?;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            match acceptfrom_with(self.socket.get_ref(), flags) {
                Ok((socket, peer)) => return Ok((stream(socket)?, peer.and_then(|p| port_of(&p)))),
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::CONNABORTED | Errno::CONNRESET | Errno::INTR) => {}
                Err(error @ (Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM)) => {
                    // There is no event for the end of a shortage.
                    log::warn!(error:% = error; "a connection has to wait");
                    tokio::time::sleep(SHORTAGE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Another may have removed it; there is nobody to tell.
            drop(std::fs::remove_file(path));
        }
    }
}

/// A connection to the host that is under way.
#[derive(Debug)]
pub(crate) struct Dial(AsyncFd<OwnedFd>);

impl Dial {
    /// Starts connecting to the host's `port`, in the family of `server`.
    ///
    /// # Errors
    /// `ENODEV` while the guest has no vsock device.
    pub(crate) fn start(server: &ServerAddress, port: u32) -> io::Result<Self> {
        let (socket, connected) = match server {
            ServerAddress::Vsock { .. } => {
                let socket = stream_socket(AddressFamily::VSOCK)?;
                set_connect_timeout(&socket, DIAL_TIMEOUT)?;
                let connected = connect(
                    &socket,
                    &VsockAddress {
                        cid: HOST_CID,
                        port,
                    },
                );
                (socket, connected)
            }
            ServerAddress::Unix(path) => {
                let socket = stream_socket(AddressFamily::UNIX)?;
                let connected = connect(&socket, &SocketAddrUnix::new(beside(path, port))?);
                (socket, connected)
            }
        };
        match connected {
            Ok(()) | Err(Errno::INPROGRESS) => Ok(Self(watch(socket)?)),
            Err(error) => Err(error.into()),
        }
    }

    /// Waits for the host to answer.
    pub(crate) async fn finish(self) -> io::Result<Stream> {
        drop(self.0.writable().await?);
        rustix::net::sockopt::socket_error(&self.0)??;
        stream(self.0.into_inner())
    }
}

/// Makes the closing of `socket` wait until the peer has seen everything.
pub(crate) fn linger(socket: impl AsFd, limit: Duration) -> io::Result<()> {
    Ok(set_socket_linger(socket, Some(limit))?)
}

fn stream_socket(family: AddressFamily) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(family, SocketType::STREAM, flags, None)?)
}

fn stream(socket: OwnedFd) -> io::Result<Stream> {
    UnixStream::from_std(StdStream::from(socket))
}

/// The socket that stands for `port`, beside the one for calls.
fn beside(server: &Path, port: u32) -> PathBuf {
    let mut path = server.as_os_str().to_owned();
    path.push(format!("_{port}"));
    path.into()
}

/// A unix socket's port is the number that its path ends in, as in `beside`.
fn port_of(peer: &SocketAddrAny) -> Option<u32> {
    if let Some(address) = vsock_address(peer) {
        return Some(address.port);
    }
    let address = SocketAddrUnix::try_from(peer.clone()).ok()?;
    let path = address.path()?.to_str().ok()?.to_owned();
    path.rsplit_once('_')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn a_stream_is_accepted_with_the_port_it_was_dialled_from() {
        let directory = tempfile::tempdir().unwrap();
        let server = ServerAddress::Unix(directory.path().join("agent"));
        let listener = Listener::bind(&server, 1027).unwrap();
        let socket = stream_socket(AddressFamily::UNIX).unwrap();
        bind(
            &socket,
            &SocketAddrUnix::new(directory.path().join("near_77")).unwrap(),
        )
        .unwrap();
        connect(
            &socket,
            &SocketAddrUnix::new(directory.path().join("agent_1027")).unwrap(),
        )
        .unwrap();
        let mut near = stream(socket).unwrap();
        let (mut far, port) = listener.accept().await.unwrap();
        near.write_all(b"x").await.unwrap();
        assert_eq!(far.read_u8().await.unwrap(), b'x');
        assert_eq!(port, Some(77));
    }

    #[tokio::test]
    async fn a_listener_removes_its_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("agent");
        drop(Listener::bind_server(&ServerAddress::Unix(path.clone())).unwrap());
        assert!(!path.exists());
    }
}
