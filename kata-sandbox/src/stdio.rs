//! Standard streams of processes in the guest.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What becomes of a process's standard streams.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PtySize {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub cols: u16,
}

/// The input of a process. Shutting it down, or dropping it, closes the
/// process's standard input.
pub struct Stdin(Box<dyn AsyncWrite + Send + Sync + Unpin>);

/// An output of a process: its standard output, or standard error.
pub struct Reader(Box<dyn AsyncRead + Send + Sync + Unpin>);

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
}

impl<T: AsyncRead + Unpin> AsyncRead for Exclusive<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.get_mut().pin().poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Exclusive<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.get_mut().pin().poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().pin().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().pin().poll_shutdown(cx)
    }
}

impl Stdin {
    pub(crate) fn new(stream: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Box::new(Exclusive(stream.into())))
    }
}

impl Reader {
    pub(crate) fn new(stream: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self(Box::new(Exclusive(stream.into())))
    }
}

impl AsyncWrite for Stdin {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

impl AsyncRead for Reader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
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
