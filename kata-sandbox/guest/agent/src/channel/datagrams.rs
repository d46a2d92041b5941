//! Datagrams to a UDP port of the sandbox, over a stream.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kata_protocol::channel::{self, MOST_DATAGRAM, Reply, datagram, read_datagram};
use tokio::io::{AsyncWriteExt as _, BufReader, split};
use tokio::net::UdpSocket;

use super::refuse;
use crate::transport::Stream;

/// Passes datagrams on, both ways, until the host ends the stream.
pub(super) async fn relay(mut stream: BufReader<Stream>, port: u16) -> io::Result<()> {
    let sockets = match Sockets::open(port).await {
        Ok(sockets) => sockets,
        Err(error) => {
            let message = format!("cannot send datagrams to port {port}: {error}");
            return refuse(&mut stream, message).await;
        }
    };
    channel::send(&mut stream, &Reply::Ok).await?;
    let (mut reader, mut writer) = split(stream);
    let out = async {
        while let Some(bytes) = read_datagram(&mut reader).await? {
            sockets.send(&bytes).await;
        }
        Ok::<(), io::Error>(())
    };
    let back = async {
        let mut buffer = vec![0; MOST_DATAGRAM];
        loop {
            let length = sockets.receive(&mut buffer).await?;
            writer.write_all(&datagram(&buffer[..length])).await?;
            writer.flush().await?;
        }
    };
    tokio::select! {
        done = out => done,
        done = back => done,
    }
}

/// A socket of each family that the sandbox has. Which of them somebody listens
/// on shows only when datagrams to the others are refused.
struct Sockets {
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Sockets {
    async fn open(port: u16) -> io::Result<Self> {
        let (v4, v6) = (
            connect(Ipv4Addr::LOCALHOST.into(), port).await,
            connect(Ipv6Addr::LOCALHOST.into(), port).await,
        );
        match (v4, v6) {
            (Err(error), Err(_)) => Err(error),
            (v4, v6) => Ok(Self {
                v4: v4.ok(),
                v6: v6.ok(),
            }),
        }
    }

    /// Sends to whoever listens: by IPv4, and by IPv6 where IPv4 is refused. A
    /// refusal is told with the next use of the socket, after the loopback has
    /// delivered: so right here. What cannot be sent is lost, as datagrams may be.
    async fn send(&self, bytes: &[u8]) {
        if let Some(v4) = &self.v4
            && v4.send(bytes).await.is_ok()
            && v4.take_error().is_ok_and(|error| error.is_none())
        {
            return;
        }
        if let Some(v6) = &self.v6
            && let Err(error) = v6.send(bytes).await
        {
            log::debug!(error:%; "a datagram is lost");
        }
    }

    async fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let received = match (&self.v4, &self.v6) {
                (Some(v4), Some(v6)) => tokio::select! {
                    readable = v4.readable() => readable.and_then(|()| v4.try_recv(buffer)),
                    readable = v6.readable() => readable.and_then(|()| v6.try_recv(buffer)),
                },
                (Some(only), None) | (None, Some(only)) => only.recv(buffer).await,
                (None, None) => return Err(io::ErrorKind::NotConnected.into()),
            };
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                // Nobody listens there: yet.
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                received => return received,
            }
        }
    }
}

async fn connect(address: IpAddr, port: u16) -> io::Result<UdpSocket> {
    let any: IpAddr = match address {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(SocketAddr::new(address, port)).await?;
    Ok(socket)
}
