//! Byte streams between host and guest.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;

/// What a backend's stream must be.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A vsock connection to the guest.
pub struct GuestStream {
    io: Carrier,
    host_port: u32,
}

/// What carries the bytes.
enum Carrier {
    /// A socket, which another process may be given.
    Unix(UnixStream),
    /// Anything else.
    Other(Box<dyn Io>),
}

impl GuestStream {
    /// A stream over `io`, which the guest sees coming from `host_port`.
    pub fn new(io: impl Io + 'static, host_port: u32) -> Self {
        Self {
            io: Carrier::Other(Box::new(io)),
            host_port,
        }
    }

    /// A stream over a connected socket, which [`GuestStream::into_fd`] can
    /// hand on: what a backend should use where it has a socket.
    #[must_use]
    pub fn from_unix(socket: UnixStream, host_port: u32) -> Self {
        Self {
            io: Carrier::Unix(socket),
            host_port,
        }
    }

    /// The port on the host's side, by which the guest tells streams apart.
    #[must_use]
    pub fn host_port(&self) -> u32 {
        self.host_port
    }

    /// The non-blocking socket that carries it, to be used by another process.
    ///
    /// # Errors
    /// The stream itself, when it is no socket of its own.
    pub fn into_fd(self) -> Result<OwnedFd, Self> {
        let host_port = self.host_port;
        match self.io {
            Carrier::Unix(socket) => match socket.into_std() {
                Ok(socket) => Ok(socket.into()),
                // Only its registration can fail to be undone; it is gone then.
                Err(error) => Err(Self::new(Broken(error.kind()), host_port)),
            },
            other @ Carrier::Other(_) => Err(Self {
                io: other,
                host_port,
            }),
        }
    }

    fn carrier(&mut self) -> Pin<&mut dyn Io> {
        match &mut self.io {
            Carrier::Unix(socket) => Pin::new(socket),
            Carrier::Other(io) => Pin::new(io),
        }
    }
}

/// A stream that has failed.
struct Broken(io::ErrorKind);

impl AsyncRead for Broken {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Poll::Ready(Err(self.0.into()))
    }
}

impl AsyncWrite for Broken {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(self.0.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(self.0.into()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(self.0.into()))
    }
}

impl fmt::Debug for GuestStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestStream")
            .field("host_port", &self.host_port)
            .finish_non_exhaustive()
    }
}

impl AsyncRead for GuestStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.carrier().poll_read(cx, buf)
    }
}

impl AsyncWrite for GuestStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.carrier().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.carrier().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.carrier().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_socket_can_be_handed_on_and_anything_else_cannot() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let stream = GuestStream::from_unix(near, 7);
        let socket = std::os::unix::net::UnixStream::from(stream.into_fd().unwrap());
        let mut handed = UnixStream::from_std(socket).unwrap();
        far.write_all(b"x").await.unwrap();
        assert_eq!(handed.read_u8().await.unwrap(), b'x');

        let (near, mut far) = tokio::io::duplex(16);
        let mut same = GuestStream::new(near, 9).into_fd().unwrap_err();
        far.write_all(b"y").await.unwrap();
        assert_eq!((same.read_u8().await.unwrap(), same.host_port()), (b'y', 9));
    }
}
