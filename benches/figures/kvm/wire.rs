//! The host's side of a guest's network card: a tap with an address, one port that
//! takes what is sent to it, and one that sends.

use std::io;
use std::process::Command;
use std::sync::Arc;

use kata_sandbox::hypervisor::NicBackend;
use kata_sandbox::network::{Attachment, GuestConfig, Network, SetupRequest, Tap};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::Outcome;

const TAP: &str = "kata-bench0";
/// The host's address and the guest's.
pub(super) const HOST: &str = "10.9.0.1";
pub(super) const GUEST: &str = "10.9.0.2";
/// Bytes of a call.
const CHUNK: usize = 256 << 10;

/// A tap, and who listens there.
pub(super) struct Wire {
    network: Tap,
    servers: [JoinHandle<()>; 2],
}

impl Drop for Wire {
    fn drop(&mut self) {
        for server in &self.servers {
            server.abort();
        }
    }
}

impl Wire {
    /// Lays it, in this program's network.
    pub(super) async fn new(bytes: u64) -> Outcome<Self> {
        for words in [
            format!("tuntap add {TAP} mode tap vnet_hdr"),
            format!("addr add {HOST}/24 dev {TAP}"),
            format!("link set {TAP} up"),
        ] {
            let done = Command::new("ip").args(words.split(' ')).status()?;
            if !done.success() {
                return Err(format!("ip {words}: {done}").into());
            }
        }
        let takes = TcpListener::bind((HOST, 7000)).await?;
        let sends = TcpListener::bind((HOST, 7001)).await?;
        let servers = [
            tokio::spawn(async move {
                while let Ok((stream, _)) = takes.accept().await {
                    told(take(stream).await);
                }
            }),
            tokio::spawn(async move {
                while let Ok((stream, _)) = sends.accept().await {
                    told(send(stream, bytes).await);
                }
            }),
        ];
        let guest = GuestConfig::new("02:00:00:00:00:01".parse()?);
        Ok(Self {
            network: Tap::named(TAP, guest),
            servers,
        })
    }

    /// The tap, for one machine after the other.
    pub(super) async fn tap(&self) -> Outcome<std::os::fd::OwnedFd> {
        let lease = self.network.setup(&SetupRequest::new("bench")).await?;
        let endpoint = lease.endpoints.into_iter().next().ok_or("no endpoint")?;
        match endpoint.attachment {
            Attachment::Tap(mut queues) => Ok(queues.pop().ok_or("no queue")?),
            other => Err(format!("{other:?} is no tap").into()),
        }
    }

    /// The same, for a hypervisor.
    pub(super) async fn backend(&self) -> Outcome<NicBackend> {
        Ok(NicBackend::Tap(vec![Arc::new(self.tap().await?)]))
    }
}

fn told(done: io::Result<()>) {
    if let Err(error) = done {
        println!("a stream of the guest's ended early: {error}");
    }
}

/// Takes all, and says so with a byte.
async fn take(mut stream: TcpStream) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    while stream.read(&mut buffer).await? > 0 {}
    stream.write_all(b"k").await
}

async fn send(mut stream: TcpStream, bytes: u64) -> io::Result<()> {
    let buffer = vec![b'h'; CHUNK];
    let mut left = bytes;
    while left > 0 {
        stream.write_all(&buffer).await?;
        left = left.saturating_sub(CHUNK as u64);
    }
    stream.shutdown().await
}
