//! Frames on a unix socket: a document each, with the descriptors that go with
//! it.
//!
//! ```text
//!   length of the document   number of descriptors   document (JSON)
//!   u32, little endian       u32, little endian      length bytes
//! ```
//!
//! The descriptors travel with the frame's first byte (`SCM_RIGHTS`).

use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The longest document, in bytes.
pub(super) const LONGEST: usize = 4 << 20;
/// The most descriptors that one frame has.
const MOST_DESCRIPTORS: usize = 8;
const HEADER: usize = 8;
/// Bytes that are read at once.
const CHUNK: usize = 16 << 10;

/// A frame as it came.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) body: Vec<u8>,
    pub(super) descriptors: Vec<OwnedFd>,
}

impl Frame {
    pub(super) fn parse<T: DeserializeOwned>(&self) -> io::Result<T> {
        serde_json::from_slice(&self.body)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }
}

/// The sending end.
#[derive(Debug)]
pub(super) struct Sender(Arc<UnixStream>);

/// The receiving end, and what has come of the next frame.
#[derive(Debug)]
pub(super) struct Receiver {
    socket: Arc<UnixStream>,
    bytes: BytesMut,
    descriptors: VecDeque<OwnedFd>,
}

/// Both ends of a connection.
pub(super) fn split(socket: UnixStream) -> (Sender, Receiver) {
    let socket = Arc::new(socket);
    let receiver = Receiver {
        socket: Arc::clone(&socket),
        bytes: BytesMut::new(),
        descriptors: VecDeque::new(),
    };
    (Sender(socket), receiver)
}

/// Makes a document of a message.
///
/// # Errors
/// When it is longer than any may be.
pub(super) fn document(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let body = serde_json::to_vec(message)?;
    if body.len() > LONGEST {
        let reason = format!(
            "a message has {} bytes, and the longest has {LONGEST}",
            body.len()
        );
        return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
    }
    Ok(body)
}

impl Sender {
    /// Sends a document and its descriptors. Not to be dropped half-way.
    pub(super) async fn send(&mut self, body: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
        let too_long = || io::Error::new(io::ErrorKind::InvalidInput, "the frame is too large");
        if body.len() > LONGEST || descriptors.len() > MOST_DESCRIPTORS {
            return Err(too_long());
        }
        let length = u32::try_from(body.len()).map_err(|_| too_long())?;
        let count = u32::try_from(descriptors.len()).map_err(|_| too_long())?;
        let mut frame = Vec::with_capacity(HEADER + body.len());
        frame.extend(length.to_le_bytes());
        frame.extend(count.to_le_bytes());
        frame.extend(body);

        let mut descriptors: Vec<BorrowedFd<'_>> = descriptors.iter().map(OwnedFd::as_fd).collect();
        let mut rest = &frame[..];
        while !rest.is_empty() {
            let sent = self
                .0
                .async_io(Interest::WRITABLE, || transmit(&self.0, rest, &descriptors))
                .await?;
            descriptors.clear();
            rest = &rest[sent..];
        }
        Ok(())
    }
}

fn transmit(
    socket: &UnixStream,
    bytes: &[u8],
    descriptors: &[BorrowedFd<'_>],
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let bytes = [IoSlice::new(bytes)];
    Ok(sendmsg(
        socket,
        &bytes,
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?)
}

impl Receiver {
    /// The next frame; `None` at the end of the connection. May be dropped at
    /// any moment: nothing is lost.
    pub(super) async fn next(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.whole()? {
                return Ok(Some(frame));
            }
            let Self {
                socket,
                bytes,
                descriptors,
            } = self;
            let came = socket
                .async_io(Interest::READABLE, || receive(socket, bytes, descriptors))
                .await?;
            match came {
                0 if bytes.is_empty() => return Ok(None),
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                _ => {}
            }
        }
    }

    /// Takes a frame of what has come, if there is a whole one.
    fn whole(&mut self) -> io::Result<Option<Frame>> {
        let Some((header, rest)) = self.bytes.split_at_checked(HEADER) else {
            return Ok(None);
        };
        let number = |at: usize| {
            let bytes = header[at..at + 4].try_into();
            u32::from_le_bytes(bytes.expect("four of eight bytes")) as usize
        };
        let (length, count) = (number(0), number(4));
        if length > LONGEST || count > MOST_DESCRIPTORS {
            let reason = format!("a frame of {length} bytes and {count} descriptors");
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        if rest.len() < length {
            return Ok(None);
        }
        if self.descriptors.len() < count {
            let reason = "a frame without its descriptors";
            return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
        }
        self.bytes.advance(HEADER);
        let body = self.bytes.split_to(length).to_vec();
        let descriptors = self.descriptors.drain(..count).collect();
        Ok(Some(Frame { body, descriptors }))
    }
}

fn receive(
    socket: &UnixStream,
    bytes: &mut BytesMut,
    descriptors: &mut VecDeque<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST_DESCRIPTORS))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut chunk = [0; CHUNK];
    let came = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut chunk)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(came) = message {
            descriptors.extend(came);
        }
    }
    if came.flags.contains(rustix::net::ReturnFlags::CTRUNC)
        || descriptors.len() > 2 * MOST_DESCRIPTORS
    {
        let reason = "more descriptors than any frame has";
        return Err(io::Error::new(io::ErrorKind::InvalidData, reason));
    }
    bytes.extend_from_slice(&chunk[..came.bytes]);
    Ok(came.bytes)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    fn pair() -> ((Sender, Receiver), (Sender, Receiver)) {
        let (a, b) = UnixStream::pair().unwrap();
        (split(a), split(b))
    }

    #[tokio::test]
    async fn documents_of_any_size_arrive_in_order() {
        let ((mut sender, _keep), (_, mut receiver)) = pair();
        let long = vec![b'x'; LONGEST];
        let sending = async {
            sender.send(b"first", &[]).await.unwrap();
            sender.send(&long, &[]).await.unwrap();
            sender.send(b"", &[]).await.unwrap();
        };
        let receiving = async {
            let mut bodies = Vec::new();
            for _ in 0..3 {
                bodies.push(receiver.next().await.unwrap().unwrap().body);
            }
            bodies
        };
        let ((), bodies) = tokio::join!(sending, receiving);
        assert_eq!(bodies[0], b"first");
        assert_eq!(bodies[1].len(), LONGEST);
        assert!(bodies[2].is_empty());
    }

    #[tokio::test]
    async fn descriptors_arrive_with_their_frame() {
        let ((mut sender, _keep), (_, mut receiver)) = pair();
        let (mut near, far) = UnixStream::pair().unwrap();
        let far = OwnedFd::from(far.into_std().unwrap());
        sender.send(b"none", &[]).await.unwrap();
        sender.send(b"one", &[far]).await.unwrap();
        assert!(
            receiver
                .next()
                .await
                .unwrap()
                .unwrap()
                .descriptors
                .is_empty()
        );
        let frame = receiver.next().await.unwrap().unwrap();
        let [came] = <[OwnedFd; 1]>::try_from(frame.descriptors).unwrap();
        let mut came = UnixStream::from_std(came.into()).unwrap();
        came.write_all(b"!").await.unwrap();
        assert_eq!(near.read_u8().await.unwrap(), b'!');
    }

    #[tokio::test]
    async fn a_frame_that_is_none_is_an_error_and_costs_no_memory() {
        let too_long = u32::MAX.to_le_bytes();
        let header = [&too_long[..], &[0; 4]].concat();
        let no_descriptor = [&[0; 4][..], &1_u32.to_le_bytes()].concat();
        for bytes in [header, no_descriptor, vec![1; 4]] {
            let (mut raw, other) = UnixStream::pair().unwrap();
            raw.write_all(&bytes).await.unwrap();
            drop(raw);
            split(other).1.next().await.unwrap_err();
        }
        let ((sender, receiver), (_, mut other)) = pair();
        drop((sender, receiver));
        assert!(other.next().await.unwrap().is_none());
    }

    #[test]
    fn a_message_that_is_too_long_is_refused_before_it_is_sent() {
        let error = document(&"x".repeat(LONGEST)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
}
