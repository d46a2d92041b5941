//! Between blocking readers and writers, in a thread of their own, and streams.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

/// Chunks on their way.
const DEPTH: usize = 4;

/// A blocking writer whose bytes come out of a channel.
#[derive(Debug)]
pub(super) struct Writer(mpsc::Sender<Bytes>);

/// A blocking reader of what is sent into a channel.
#[derive(Debug)]
pub(super) struct Reader {
    chunks: mpsc::Receiver<Bytes>,
    current: Bytes,
}

pub(super) fn writer() -> (Writer, mpsc::Receiver<Bytes>) {
    let (sender, receiver) = mpsc::channel(DEPTH);
    (Writer(sender), receiver)
}

pub(super) fn reader() -> (mpsc::Sender<Bytes>, Reader) {
    let (sender, receiver) = mpsc::channel(DEPTH);
    (
        sender,
        Reader {
            chunks: receiver,
            current: Bytes::new(),
        },
    )
}

impl Write for Writer {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let sent = self.0.blocking_send(Bytes::copy_from_slice(data));
        sent.map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(data.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let count = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_on_one_side_is_read_on_the_other() {
        let (mut sink, mut chunks) = writer();
        let (sender, mut source) = reader();
        let writing = tokio::task::spawn_blocking(move || sink.write_all(&[7; 1000]));
        while let Some(chunk) = chunks.recv().await {
            sender.send(chunk).await.unwrap();
        }
        writing.await.unwrap().unwrap();
        drop(sender);
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            source.read_to_end(&mut all).map(|_| all)
        });
        assert_eq!(read.await.unwrap().unwrap(), [7; 1000]);
    }

    #[tokio::test]
    async fn a_writer_that_nobody_reads_fails() {
        let (mut sink, chunks) = writer();
        drop(chunks);
        let failed = tokio::task::spawn_blocking(move || sink.write(b"x"))
            .await
            .unwrap();
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
