//! Bytes between the descriptors of this process and the streams of a process
//! in the guest.
//!
//! The descriptors are somebody else's too, so their flags stay as they are,
//! and they may block: each direction has a thread of its own.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::thread::JoinHandle;
use std::time::Duration;

use kata_sandbox::{Process, Reader, Stdin};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Handle;
use tokio::sync::watch;

/// Bytes that are moved at once.
const CHUNK: usize = 32 << 10;

/// The descriptors of this process that stand for a process's streams.
#[derive(Debug)]
pub(crate) struct Streams {
    pub(crate) stdin: OwnedFd,
    pub(crate) stdout: OwnedFd,
    pub(crate) stderr: OwnedFd,
}

/// How long an output that stays open is waited for after the process has
/// ended: what it left behind may hold it for ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Until(pub(crate) Duration);

/// The relays of a process.
#[derive(Debug)]
pub(crate) struct Relays {
    ended: watch::Sender<bool>,
    outputs: Vec<JoinHandle<()>>,
}

impl Streams {
    /// The standard streams of this process.
    pub(crate) fn standard() -> io::Result<Self> {
        Ok(Self {
            stdin: io::stdin().as_fd().try_clone_to_owned()?,
            stdout: io::stdout().as_fd().try_clone_to_owned()?,
            stderr: io::stderr().as_fd().try_clone_to_owned()?,
        })
    }
}

/// Moves bytes from now on. Call from within the runtime that drives `process`.
pub(crate) fn relay(process: &mut Process, streams: Streams, until: Until) -> Relays {
    let (ended, _) = watch::channel(false);
    let runtime = Handle::current();
    if let Some(into) = process.take_stdin() {
        let (runtime, from) = (runtime.clone(), streams.stdin);
        // Not waited for: a read that blocks ends with this process.
        std::thread::spawn(move || input(&runtime, &from, into));
    }
    let outputs = [
        (process.take_stdout(), streams.stdout),
        (process.take_stderr(), streams.stderr),
    ];
    let outputs = outputs.into_iter().filter_map(|(from, into)| {
        let (runtime, ended) = (runtime.clone(), ended.subscribe());
        from.map(|from| std::thread::spawn(move || output(&runtime, from, &into, ended, until)))
    });
    let outputs = outputs.collect();
    Relays { ended, outputs }
}

impl Relays {
    /// Tells the relays that the process has ended, and waits until all that it
    /// wrote has been passed on.
    pub(crate) async fn finish(self) {
        self.ended.send_replace(true);
        let outputs = self.outputs;
        let joined = tokio::task::spawn_blocking(move || {
            for output in outputs {
                drop(output.join());
            }
        });
        drop(joined.await);
    }
}

fn input(runtime: &Handle, from: &OwnedFd, mut into: Stdin) {
    let mut bytes = vec![0; CHUNK];
    loop {
        let count = match rustix::io::read(from, &mut bytes) {
            Ok(0) => break,
            Ok(count) => count,
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => match ready(from, PollFlags::IN) {
                Ok(()) => continue,
                Err(_) => break,
            },
            Err(_) => break, // a terminal whose other end is gone
        };
        let written = runtime.block_on(async {
            into.write_all(&bytes[..count]).await?;
            into.flush().await
        });
        if written.is_err() {
            return; // nobody reads it any more
        }
    }
    // Its end is the end of the process's input.
    drop(runtime.block_on(into.shutdown()));
}

fn output(
    runtime: &Handle,
    mut from: Reader,
    into: &OwnedFd,
    mut ended: watch::Receiver<bool>,
    until: Until,
) {
    let mut bytes = vec![0; CHUNK];
    let mut wanted = true;
    loop {
        let read = runtime.block_on(async {
            tokio::select! {
                biased;
                read = from.read(&mut bytes) => read,
                () = silence(&mut ended, until) => Ok(0),
            }
        });
        let Ok(count @ 1..) = read else {
            return;
        };
        // What nobody reads is read away: the process must not hang on it.
        wanted = wanted && write_all(into, &bytes[..count]).is_ok();
    }
}

/// Until the process has ended and nothing more came for a while.
async fn silence(ended: &mut watch::Receiver<bool>, until: Until) {
    // A sender that is gone has ended as well.
    drop(ended.wait_for(|ended| *ended).await);
    tokio::time::sleep(until.0).await;
}

fn write_all(into: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(into, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => ready(into, PollFlags::OUT)?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Waits for a descriptor that somebody made non-blocking.
fn ready(descriptor: &OwnedFd, flags: PollFlags) -> io::Result<()> {
    loop {
        match poll(&mut [PollFd::new(descriptor, flags)], None) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_does_not_block_is_waited_for() {
        let (reader, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::NONBLOCK).unwrap();
        let bytes = vec![7; 1 << 18];
        let expected = bytes.len();
        let reading = std::thread::spawn(move || {
            let mut total = 0;
            let mut chunk = vec![0; CHUNK];
            loop {
                match rustix::io::read(&reader, &mut chunk) {
                    Ok(0) => return total,
                    Ok(count) => total += count,
                    Err(Errno::AGAIN) => ready(&reader, PollFlags::IN).unwrap(),
                    Err(error) => panic!("{error}"),
                }
            }
        });
        write_all(&writer, &bytes).unwrap();
        drop(writer);
        assert_eq!(reading.join().unwrap(), expected);
    }
}
