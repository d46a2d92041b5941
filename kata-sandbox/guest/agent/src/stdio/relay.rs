//! Moving bytes between a process's streams and the host's.
//!
//! Each direction is a local task. Bytes pass through a buffer that all streams
//! share, unless the far side does not take them at once; nothing more is read
//! until they are gone.
//! splice(2) is not used: into a vsock stream it moves page by page, a packet
//! each, where write(2) makes packets sixteen times as large.

use std::cell::Cell;
use std::io;
use std::rc::Rc;

use log::debug;
use rustix::io::Errno;
use rustix::net::Shutdown;
use tokio::io::Interest;

use super::End;
use super::terminal::END_OF_FILE;

/// What is moved at a time: four of the largest vsock packets, and what a pipe
/// of ours holds.
pub(super) const CHUNK: usize = 256 << 10;

/// Moves a process's output to the host, until its last writer has closed it.
pub(super) fn output(from: Rc<End>, to: End) {
    tokio::task::spawn_local(async move {
        if let Err(error) = pump(&from, &to).await {
            debug!(error:%; "a reader of standard output went away");
        }
        // Copies of the descriptor may be left in processes being set up; this
        // ends the stream all the same.
        let _ = rustix::net::shutdown(to.get_ref(), Shutdown::Write);
    });
}

/// Moves the host's bytes to a process's standard input, until the host or the
/// process has closed it.
pub(super) fn input(from: End, to: End) {
    tokio::task::spawn_local(async move {
        tokio::select! {
            result = pump(&from, &to) => {
                if let Err(error) = result {
                    debug!(error:%; "standard input ended early");
                }
            }
            // No process reads it any more.
            _ = to.ready(Interest::ERROR) => {}
        }
    });
}

/// Moves the host's bytes to a terminal. Their end is typed as a person would.
pub(super) fn terminal_input(from: End, to: &Rc<End>) {
    let to = Rc::downgrade(to);
    tokio::task::spawn_local(async move {
        loop {
            let (data, ended) = match read_some(&from).await {
                Ok(data) if data.is_empty() => (vec![END_OF_FILE], true),
                Ok(data) => (data, false),
                Err(error) => {
                    debug!(error:%; "a terminal's input ended early");
                    return;
                }
            };
            // Held by the output's relay, and the process, while it is open.
            let Some(to) = to.upgrade() else { return };
            if write_all(&to, &data).await.is_err() || ended {
                return;
            }
        }
    });
}

/// Reads a terminal whose output nobody wants, so that its process can go on.
pub(super) fn discard(from: Rc<End>) {
    tokio::task::spawn_local(async move {
        while read_some(&from).await.is_ok_and(|data| !data.is_empty()) {}
    });
}

async fn pump(from: &End, to: &End) -> io::Result<()> {
    loop {
        match step(from, to).await? {
            Step::End => return Ok(()),
            Step::Moved => {}
            Step::Left {
                passage,
                count,
                done,
            } => {
                write_all(to, &passage.bytes[done..count]).await?;
            }
        }
    }
}

enum Step {
    End,
    Moved,
    /// Read and not taken: the bytes from `done` to `count`.
    Left {
        passage: Passage,
        count: usize,
        done: usize,
    },
}

/// Where bytes are on their way from one descriptor to the next. One is kept for
/// whichever stream moves next, as fresh pages would cost more than the copy; a
/// stream whose far side does not take all at once keeps its own until then.
struct Passage {
    bytes: Vec<u8>,
}

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

impl Passage {
    fn take() -> Self {
        let mut bytes = SPARE.take();
        bytes.resize(CHUNK, 0);
        Self { bytes }
    }
}

impl Drop for Passage {
    fn drop(&mut self) {
        SPARE.set(std::mem::take(&mut self.bytes));
    }
}

/// Moves what there is to read, as far as it is taken.
async fn step(from: &End, to: &End) -> io::Result<Step> {
    let mut failed = None;
    let read = from.async_io(Interest::READABLE, |fd| {
        let mut passage = Passage::take();
        let count = rustix::io::read(fd, passage.bytes.as_mut_slice())?;
        if count == 0 {
            return Ok(Step::End);
        }
        match write_now(to, &passage.bytes[..count]) {
            Ok(done) if done == count => Ok(Step::Moved),
            Ok(done) => Ok(Step::Left {
                passage,
                count,
                done,
            }),
            Err(error) => {
                failed = Some(error);
                Ok(Step::End)
            }
        }
    });
    let step = or_end(read.await, || Step::End)?;
    failed.map_or(Ok(step), Err)
}

/// Writes what is taken at once, and says how much that was.
fn write_now(to: &End, data: &[u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < data.len() {
        match rustix::io::write(to.get_ref(), &data[done..]) {
            Ok(count) => done += count,
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(done)
}

/// What is there to read; nothing means the end.
async fn read_some(from: &End) -> io::Result<Vec<u8>> {
    let read = from.async_io(Interest::READABLE, |fd| {
        let mut passage = Passage::take();
        let count = rustix::io::read(fd, passage.bytes.as_mut_slice())?;
        Ok(passage.bytes[..count].to_vec())
    });
    or_end(read.await, Vec::new)
}

/// A terminal whose last user has gone fails to be read: that is its end.
pub(super) fn or_end<T>(read: io::Result<T>, end: impl FnOnce() -> T) -> io::Result<T> {
    match read {
        Err(error) if error.raw_os_error() == Some(libc::EIO) => Ok(end()),
        read => read,
    }
}

/// Writes all of it, waiting while it is not taken.
pub(super) async fn write_all(to: &End, mut data: &[u8]) -> io::Result<()> {
    while !data.is_empty() {
        let written = to.async_io(Interest::WRITABLE, |fd| match rustix::io::write(fd, data) {
            Err(Errno::INTR) => Ok(0),
            written => Ok(written?),
        });
        data = &data[written.await?..];
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::end;
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    use rustix::pipe::pipe;
    use std::io::{Read as _, Write as _};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use tokio::task::LocalSet;

    fn sockets() -> (OwnedFd, UnixStream) {
        let pair = socketpair(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC,
            None,
        );
        let (near, far) = pair.unwrap();
        (near, UnixStream::from(far))
    }

    #[tokio::test]
    async fn output_arrives_whole_and_ends() {
        let (reader, writer) = pipe().unwrap();
        let (near, mut far) = sockets();
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let sent = data.clone();
        let write = std::thread::spawn(move || std::fs::File::from(writer).write_all(&sent));
        let (tell, read) = tokio::sync::oneshot::channel();
        let reading = std::thread::spawn(move || {
            let mut all = Vec::new();
            tell.send(far.read_to_end(&mut all).map(|_| all)).unwrap();
        });
        let all = LocalSet::new()
            .run_until(async {
                output(Rc::new(end(reader).unwrap()), end(near).unwrap());
                read.await.unwrap()
            })
            .await;
        write.join().unwrap().unwrap();
        reading.join().unwrap();
        assert!(all.unwrap() == data);
    }

    #[tokio::test]
    async fn input_ends_when_nobody_reads_it() {
        let (reader, writer) = pipe().unwrap();
        let (near, mut far) = sockets();
        LocalSet::new()
            .run_until(async {
                input(end(near).unwrap(), end(writer).unwrap());
                tokio::task::yield_now().await;
                drop(reader);
                far.set_nonblocking(false).unwrap();
                let (tell, read) = tokio::sync::oneshot::channel();
                let reading = std::thread::spawn(move || tell.send(far.read(&mut [0])).unwrap());
                assert_eq!(read.await.unwrap().unwrap(), 0);
                reading.join().unwrap();
            })
            .await;
    }
}
