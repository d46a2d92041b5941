//! Standard streams of processes in the guest.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use kata_hypervisor::GuestStream;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::UnixStream;

use crate::engine::Engine;

/// What becomes of a process's standard streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub enum StdioMode {
    /// They are `/dev/null`.
    #[default]
    Null,
    /// They are streams of the [`Process`](crate::Process), to be taken and
    /// read. What nobody reads holds the process up, not the memory of this
    /// program.
    Piped,
    /// The process has a terminal of this size; its input and output are
    /// streams of the [`Process`](crate::Process).
    Pty(PtySize),
    /// What it writes, on either stream, is appended to this file on the host,
    /// which is made where missing. Its input is `/dev/null`. Nothing limits
    /// the file: truncate it in place where that is wanted.
    Log(PathBuf),
}

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PtySize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// The input of a process. Shutting it down, or dropping it, closes the
/// process's standard input.
pub struct Stdin(Exclusive<Stream>);

/// An output of a process: its standard output, or standard error.
pub struct Reader(Exclusive<Stream>);

/// What carries a standard stream.
enum Stream {
    Guest(GuestStream),
    Input(Box<dyn AsyncWrite + Send + Unpin>),
    Output(Box<dyn AsyncRead + Send + Unpin>),
}

/// A stream that only its owner can reach, so that it may be shared.
///
/// `GuestStream` promises to be `Send` alone; a lock that `&mut` opens without
/// waiting makes it `Sync`.
struct Exclusive<T>(std::sync::Mutex<T>);

impl<T: Unpin> Exclusive<T> {
    fn pin(&mut self) -> Pin<&mut T> {
        Pin::new(
            self.0
                .get_mut()
                .unwrap_or_else(std::sync::PoisonError::into_inner),
        )
    }

    fn into_inner(self) -> T {
        self.0
            .into_inner()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Stdin {
    pub(crate) fn new(stream: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Exclusive(Stream::Input(Box::new(stream)).into()))
    }

    /// A stream of the guest's own.
    pub(crate) fn of_guest(stream: GuestStream) -> Self {
        Self(Exclusive(Stream::Guest(stream).into()))
    }

    /// The descriptor by which another process may use it.
    pub(crate) fn into_fd(self, engine: &Engine) -> io::Result<OwnedFd> {
        match self.0.into_inner() {
            Stream::Guest(stream) => hand_on(stream, engine),
            mut other => relay(engine, |mut far| async move {
                drop(tokio::io::copy(&mut far, &mut other).await);
                drop(other.shutdown().await);
            }),
        }
    }
}

impl Reader {
    pub(crate) fn new(stream: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self(Exclusive(Stream::Output(Box::new(stream)).into()))
    }

    /// A stream of the guest's own.
    pub(crate) fn of_guest(stream: GuestStream) -> Self {
        Self(Exclusive(Stream::Guest(stream).into()))
    }

    /// The descriptor by which another process may use it.
    pub(crate) fn into_fd(self, engine: &Engine) -> io::Result<OwnedFd> {
        match self.0.into_inner() {
            Stream::Guest(stream) => hand_on(stream, engine),
            mut other => relay(engine, |mut far| async move {
                drop(tokio::io::copy(&mut other, &mut far).await);
            }),
        }
    }
}

/// The descriptor of a guest's stream: its own, or one that is relayed to it.
pub(crate) fn hand_on(stream: GuestStream, engine: &Engine) -> io::Result<OwnedFd> {
    stream.into_fd().or_else(|mut stream| {
        relay(engine, |mut far| async move {
            drop(tokio::io::copy_bidirectional(&mut stream, &mut far).await);
        })
    })
}

/// One end of a socket pair; what `serve` makes of the other runs beside it.
fn relay<F: Future<Output = ()> + Send + 'static>(
    engine: &Engine,
    serve: impl FnOnce(UnixStream) -> F,
) -> io::Result<OwnedFd> {
    let (near, far) = UnixStream::pair()?;
    engine.spawn(serve(far));
    Ok(near.into_std()?.into())
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Guest(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Output(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Input(_) => Poll::Ready(Ok(())), // has no bytes
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Guest(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Input(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Output(_) => Poll::Ready(Err(io::ErrorKind::Unsupported.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Guest(stream) => Pin::new(stream).poll_flush(cx),
            Self::Input(stream) => Pin::new(stream).poll_flush(cx),
            Self::Output(_) => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Guest(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Input(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Output(_) => Poll::Ready(Ok(())),
        }
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.pin().poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.pin().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.pin().poll_shutdown(cx)
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.pin().poll_read(cx, buf)
    }
}

impl fmt::Debug for Stdin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stdin").finish_non_exhaustive()
    }
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}
