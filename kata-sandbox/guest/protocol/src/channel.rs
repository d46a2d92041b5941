//! Streams to things in the guest that are no calls.
//!
//! The host dials [`port::CHANNEL`](crate::port::CHANNEL) and sends one
//! [`Request`] as a line of JSON. The agent answers with a line, a [`Reply`];
//! after [`Reply::Ok`] the connection is a plain byte stream to what was asked
//! for. A directory travels as a POSIX tar archive whose paths are relative.

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// The longest line either side accepts, in bytes.
pub const LINE_LIMIT: usize = 16 * 1024;

/// What the stream is to be connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Request {
    /// A TCP port on the sandbox's loopback, IPv4 first, then IPv6.
    Tcp {
        /// Port in the sandbox's network namespace.
        port: u16,
    },
    /// A UDP port on the sandbox's loopback. Each datagram travels after its
    /// length, two bytes in network order ([`datagram`]).
    Udp {
        /// Port in the sandbox's network namespace.
        port: u16,
    },
    /// The host sends a tar archive and shuts its side down; the agent unpacks
    /// it in the container and answers with a second [`Reply`].
    CopyIn {
        /// Id of the container.
        container: String,
        /// Directory in the container that the archive's paths are relative to.
        directory: String,
    },
    /// The agent sends a tar archive, whose only top-level entry is the last
    /// component of `path`.
    CopyOut {
        /// Id of the container.
        container: String,
        /// File or directory in the container.
        path: String,
    },
}

/// The agent's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reply {
    /// The stream is connected, or the copy is done.
    Ok,
    /// It is not, and why.
    Error {
        /// One sentence for the person who asked.
        message: String,
    },
}

/// Sends one value as a line of JSON.
///
/// # Errors
/// When the value is longer than [`LINE_LIMIT`], or the stream fails.
pub async fn send<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    value: &T,
) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(value)?;
    if line.len() >= LINE_LIMIT {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "line too long",
        ));
    }
    line.push(b'\n');
    stream.write_all(&line).await?;
    stream.flush().await
}

/// Receives one value sent by [`send`]; reads nothing past its line.
///
/// # Errors
/// When the stream ends early, the line is too long, or it is not the value.
pub async fn receive<T: for<'de> Deserialize<'de>>(
    stream: &mut (impl AsyncBufRead + Unpin),
) -> std::io::Result<T> {
    let mut line = Vec::new();
    let mut limited = stream.take(LINE_LIMIT as u64);
    limited.read_until(b'\n', &mut line).await?;
    if line.last() != Some(&b'\n') {
        return Err(std::io::Error::new(
            std::io::ErrorKind::UnexpectedEof,
            "the line ended early or is too long",
        ));
    }
    Ok(serde_json::from_slice(&line)?)
}

/// The longest datagram, in bytes.
pub const MOST_DATAGRAM: usize = u16::MAX as usize;

/// A datagram as it travels in a stream; what is too long is cut.
#[must_use]
pub fn datagram(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend(bytes.iter().take(usize::from(length)));
    framed
}

/// Reads what [`datagram`] made; `None` at the end of the stream.
///
/// # Errors
/// When the stream ends within a datagram, or fails.
pub async fn read_datagram(
    stream: &mut (impl tokio::io::AsyncRead + Unpin),
) -> std::io::Result<Option<Vec<u8>>> {
    let mut length = [0; 2];
    match stream.read(&mut length[..1]).await? {
        0 => return Ok(None),
        _ => stream.read_exact(&mut length[1..]).await?,
    };
    let mut bytes = vec![0; usize::from(u16::from_be_bytes(length))];
    stream.read_exact(&mut bytes).await?;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_arrives_and_the_bytes_after_it_stay() {
        let (mut near, far) = tokio::io::duplex(1024);
        let request = Request::CopyOut {
            container: "c".into(),
            path: "/etc/é".into(),
        };
        send(&mut near, &request).await.unwrap();
        near.write_all(b"rest").await.unwrap();
        drop(near);
        let mut far = tokio::io::BufReader::new(far);
        assert_eq!(receive::<Request>(&mut far).await.unwrap(), request);
        let mut rest = String::new();
        far.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "rest");
    }

    #[tokio::test]
    async fn datagrams_keep_their_ends() {
        let (mut near, mut far) = tokio::io::duplex(1 << 20);
        for bytes in [&b"one"[..], b"", &[7; 70_000]] {
            near.write_all(&datagram(bytes)).await.unwrap();
        }
        near.write_all(&[0]).await.unwrap();
        drop(near);
        let mut next = async || read_datagram(&mut far).await;
        assert_eq!(next().await.unwrap().unwrap(), b"one");
        assert_eq!(next().await.unwrap().unwrap(), b"");
        assert_eq!(next().await.unwrap().unwrap().len(), MOST_DATAGRAM);
        assert!(next().await.is_err(), "it was cut");
    }

    #[tokio::test]
    async fn an_endless_line_is_refused() {
        let endless = tokio::io::BufReader::new(tokio::io::repeat(b'x'));
        let error = receive::<Reply>(&mut { endless }).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    }
}
