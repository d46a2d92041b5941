//! Dialling a guest's vsock port through a unix socket.
//!
//! The host's side of a virtio-vsock device that lives in user space is a unix
//! socket: whoever connects writes `CONNECT <port>\n` and reads
//! `OK <host port>\n`, after which the stream is the guest's. A port on which
//! nobody listens is answered by closing the socket. Firecracker, Cloud
//! Hypervisor and `kata-devices` all speak this; a backend whose vsock device
//! is one of these calls [`dial`] for [`Vm::dial`](crate::Vm::dial).
//!
//! The answer comes from the device model, after the guest accepted: it is
//! read with a bound on its length, and not a byte beyond its end is taken.

use std::io;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use crate::error::{Error, Result};
use crate::stream::GuestStream;

/// `OK 4294967295\n` is 14 bytes; a longer answer is none.
const LONGEST_ANSWER: usize = 32;

/// Connects to `port` in the guest whose vsock device is served on `socket`.
///
/// # Errors
/// [`Error::Refused`] when nothing listens there, [`Error::Timeout`] when the
/// guest answers neither way in time, [`Error::Host`] when the device's socket
/// cannot be used.
pub async fn dial(socket: &Path, port: u32, deadline: Duration) -> Result<GuestStream> {
    match tokio::time::timeout(deadline, connect(socket, port)).await {
        Ok(result) => result,
        Err(_) => Err(Error::Timeout {
            phase: "connecting to the guest over vsock",
            deadline,
            console_tail: Vec::new(),
        }),
    }
}

async fn connect(socket: &Path, port: u32) -> Result<GuestStream> {
    let mut stream = UnixStream::connect(socket)
        .await
        .map_err(|source| Error::File {
            what: "vsock socket",
            path: socket.to_owned(),
            source,
        })?;
    let request = format!("CONNECT {port}\n");
    match exchange(&mut stream, request.as_bytes()).await {
        Ok(Some(answer)) => {
            let host_port = parse(&answer).ok_or_else(|| {
                failed(
                    port,
                    io::Error::new(io::ErrorKind::InvalidData, "the answer is not OK"),
                )
            })?;
            Ok(GuestStream::from_unix(stream, host_port))
        }
        Ok(None) => Err(Error::Refused { port }),
        Err(source) => Err(failed(port, source)),
    }
}

fn failed(port: u32, source: io::Error) -> Error {
    Error::Host {
        operation: format!("connect to vsock port {port} of the guest"),
        source,
    }
}

/// Writes the request and reads one line; `None` when the other side hung up.
async fn exchange(stream: &mut UnixStream, request: &[u8]) -> io::Result<Option<Vec<u8>>> {
    match converse(stream, request).await {
        Err(error) if hung_up(&error) => Ok(None),
        result => result,
    }
}

async fn converse(stream: &mut UnixStream, request: &[u8]) -> io::Result<Option<Vec<u8>>> {
    stream.write_all(request).await?;
    let mut answer = Vec::with_capacity(LONGEST_ANSWER);
    // Byte by byte, for what follows the line belongs to the caller.
    while answer.len() < LONGEST_ANSWER {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(None);
        }
        if byte[0] == b'\n' {
            return Ok(Some(answer));
        }
        answer.push(byte[0]);
    }
    Ok(Some(answer))
}

fn hung_up(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe
    )
}

/// The host's port in `OK <port>`.
fn parse(answer: &[u8]) -> Option<u32> {
    let digits = answer.strip_prefix(b"OK ")?;
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio::io::{AsyncBufReadExt, BufReader};
    use tokio::net::UnixListener;

    const SOON: Duration = Duration::from_secs(5);

    /// Serves one connection: reads the request, answers, says what it read.
    async fn serve(listener: UnixListener, answer: &'static [u8]) -> String {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = BufReader::new(stream);
        let mut request = String::new();
        stream.read_line(&mut request).await.unwrap();
        stream.write_all(answer).await.unwrap();
        request
    }

    async fn against(answer: &'static [u8]) -> (Result<GuestStream>, String) {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("v");
        let listener = UnixListener::bind(&socket).unwrap();
        let (stream, request) = tokio::join!(dial(&socket, 1024, SOON), serve(listener, answer));
        (stream, request)
    }

    #[tokio::test]
    async fn the_streams_first_bytes_are_left_to_the_caller() {
        let (stream, request) = against(b"OK 49153\nhello").await;
        let mut stream = stream.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(request, "CONNECT 1024\n");
        assert_eq!(stream.host_port(), 49153);
        assert_eq!(rest, "hello");
    }

    #[tokio::test]
    async fn a_closed_socket_is_a_refusal() {
        let (stream, _) = against(b"").await;
        assert!(
            matches!(stream, Err(Error::Refused { port: 1024 })),
            "{stream:?}"
        );
    }

    #[tokio::test]
    async fn an_endless_answer_is_an_error() {
        let (stream, _) = against(&[b'O'; 4096]).await;
        assert!(matches!(stream, Err(Error::Host { .. })), "{stream:?}");
    }

    #[tokio::test]
    async fn silence_ends_at_the_deadline() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("v");
        let _listener = UnixListener::bind(&socket).unwrap();
        let stream = dial(&socket, 7, Duration::from_millis(50)).await;
        assert!(matches!(stream, Err(Error::Timeout { .. })), "{stream:?}");
    }

    #[tokio::test]
    async fn a_missing_socket_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let stream = dial(&dir.path().join("none"), 7, SOON).await;
        assert!(
            matches!(
                stream,
                Err(Error::File {
                    what: "vsock socket",
                    ..
                })
            ),
            "{stream:?}"
        );
    }

    #[test]
    fn only_ok_and_a_port_is_an_answer() {
        assert_eq!(parse(b"OK 1"), Some(1));
        assert_eq!(parse(b"OK 4294967295"), Some(u32::MAX));
        for answer in [
            "",
            "OK",
            "OK ",
            "OK +1",
            "OK 4294967296",
            "ok 1",
            "OK 1 ",
            "NO 1",
        ] {
            assert_eq!(parse(answer.as_bytes()), None, "{answer}");
        }
    }

    proptest! {
        #[test]
        fn no_answer_makes_the_parser_panic(answer in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&answer);
        }
    }
}
