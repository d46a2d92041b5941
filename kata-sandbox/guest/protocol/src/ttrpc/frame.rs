//! The frame: `length: u32, stream id: u32, type: u8, flags: u8, payload`, all
//! big-endian. Everything read here comes from the peer and is not trusted.

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Bytes of the header.
pub const HEADER: usize = 10;
/// The largest payload, in bytes; what every ttRPC implementation uses.
pub const PAYLOAD_LIMIT: usize = 4 << 20;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A call.
    Request,
    /// Its answer.
    Response,
    /// Part of a streaming call, which no method of the agent has.
    Data,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Bytes of payload that follow.
    pub length: usize,
    /// The call: odd, and chosen by the client.
    pub stream: u32,
    /// What the frame is.
    pub kind: Kind,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The payload would be larger than [`PAYLOAD_LIMIT`].
    #[error("a frame of {0} bytes, more than the 4 MiB that ttRPC allows")]
    TooLong(u32),
    /// The type is none that ttRPC knows.
    #[error("a frame of unknown type {0}")]
    UnknownKind(u8),
}

impl Header {
    /// Reads a header from its ten bytes.
    ///
    /// # Errors
    /// When the length or the type is none that ttRPC allows.
    pub fn parse(bytes: [u8; HEADER]) -> Result<Self, FrameError> {
        let [l0, l1, l2, l3, s0, s1, s2, s3, kind, _flags] = bytes;
        let length = u32::from_be_bytes([l0, l1, l2, l3]);
        if length as usize > PAYLOAD_LIMIT {
            return Err(FrameError::TooLong(length));
        }
        let kind = match kind {
            1 => Kind::Request,
            2 => Kind::Response,
            3 => Kind::Data,
            other => return Err(FrameError::UnknownKind(other)),
        };
        Ok(Self {
            length: length as usize,
            stream: u32::from_be_bytes([s0, s1, s2, s3]),
            kind,
        })
    }

    /// The ten bytes of this header.
    #[must_use]
    pub fn to_bytes(self) -> [u8; HEADER] {
        let length = u32::try_from(self.length).unwrap_or(u32::MAX).to_be_bytes();
        let stream = self.stream.to_be_bytes();
        let kind = match self.kind {
            Kind::Request => 1,
            Kind::Response => 2,
            Kind::Data => 3,
        };
        [
            length[0], length[1], length[2], length[3], stream[0], stream[1], stream[2], stream[3],
            kind, 0,
        ]
    }
}

/// Receives one frame; `None` when the peer closed between two frames.
pub(super) async fn receive(
    stream: &mut (impl AsyncRead + Unpin),
) -> std::io::Result<Option<(Header, Bytes)>> {
    let mut bytes = [0; HEADER];
    if stream.read(&mut bytes[..1]).await? == 0 {
        return Ok(None);
    }
    stream.read_exact(&mut bytes[1..]).await?;
    let header = Header::parse(bytes)
        .map_err(|error| std::io::Error::new(std::io::ErrorKind::InvalidData, error))?;
    // Grown as bytes arrive: a header alone makes no memory be set aside.
    let mut payload = BytesMut::with_capacity(header.length.min(16 * 1024));
    let mut limited = stream.take(header.length as u64);
    while payload.len() < header.length {
        if limited.read_buf(&mut payload).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some((header, payload.freeze())))
}

/// Sends one frame in one write.
pub(super) async fn send(
    stream: &mut (impl AsyncWrite + Unpin),
    header: Header,
    payload: &[u8],
) -> std::io::Result<()> {
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    frame.extend_from_slice(&header.to_bytes());
    frame.extend_from_slice(payload);
    stream.write_all(&frame).await?;
    stream.flush().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_header_parses_or_is_refused(bytes: [u8; HEADER]) {
            if let Ok(header) = Header::parse(bytes) {
                prop_assert!(header.length <= PAYLOAD_LIMIT);
                prop_assert_eq!(Header::parse(header.to_bytes()), Ok(header));
            }
        }
    }

    #[test]
    fn a_frame_over_four_mebibytes_is_refused() {
        let bytes = [0, 0x40, 0, 1, 0, 0, 0, 1, 1, 0];
        assert_eq!(Header::parse(bytes), Err(FrameError::TooLong(0x40_0001)));
    }
}
