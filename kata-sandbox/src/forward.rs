//! Ports of the host that lead into a sandbox, without a network between.
//!
//! Connections and datagrams travel over the agent's channel, as
//! [`Sandbox::dial_tcp`](crate::Sandbox::dial_tcp) does: a sandbox without any
//! interface can be reached, and what listens in it sees its own loopback.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kata_hypervisor::GuestStream;
use kata_protocol::channel::{MOST_DATAGRAM, datagram, read_datagram};
use tokio::io::{AsyncWriteExt as _, copy_bidirectional_with_sizes, split};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::dial;
use crate::error::{Context, ErrorKind, Result};
use crate::home::Home;

/// The most connections, or senders of datagrams, that a port serves at once.
const MOST: usize = 1024;
/// Bytes in flight in each direction of a connection.
const BUFFER: usize = 64 << 10;
/// Datagrams of one sender that may wait; more are lost, as datagrams may be.
const WAITING: usize = 64;
/// How long a sender of datagrams is remembered when nothing goes through.
const SILENCE: Duration = Duration::from_secs(60);

/// What travels through a forwarded port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Transport {
    /// Connections.
    Tcp,
    /// Datagrams.
    Udp,
}

/// A port of the host that leads into a sandbox, until this is dropped.
#[derive(Debug)]
#[must_use = "the port leads into the sandbox until this is dropped"]
pub struct Forwarding {
    local: SocketAddr,
    task: AbortHandle,
}

impl Forwarding {
    /// The host's address, with the port that was taken if none was named.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }
}

impl Drop for Forwarding {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes the host's port, and passes on what comes in.
pub(crate) async fn forward(
    home: &Arc<Home>,
    transport: Transport,
    host: SocketAddr,
    guest: u16,
) -> Result<Forwarding> {
    let context = home.context("forward port");
    let home = Arc::downgrade(home);
    let (local, task) = match transport {
        Transport::Tcp => {
            let listener = TcpListener::bind(host).await;
            let listener = listener.map_err(|error| refused(&context, host, error))?;
            let local = listener.local_addr();
            (local, tokio::spawn(connections(home, listener, guest)))
        }
        Transport::Udp => {
            let socket = UdpSocket::bind(host).await;
            let socket = socket.map_err(|error| refused(&context, host, error))?;
            let local = socket.local_addr();
            (local, tokio::spawn(datagrams(home, socket, guest)))
        }
    };
    let task = task.abort_handle();
    let local = local.map_err(|error| context.io("cannot tell the port", error))?;
    Ok(Forwarding { local, task })
}

fn refused(context: &Context, host: SocketAddr, error: std::io::Error) -> crate::Error {
    let taken = error.kind() == std::io::ErrorKind::AddrInUse;
    let kind = if taken {
        ErrorKind::AlreadyExists
    } else {
        ErrorKind::of_io(&error)
    };
    let refused = context.error(kind, format!("cannot listen on {host}"));
    refused.caused_by(error)
}

/// The sandbox, as long as there is a handle of it.
type Weak = std::sync::Weak<Home>;

async fn connections(home: Weak, listener: TcpListener, guest: u16) {
    let places = Arc::new(Semaphore::new(MOST));
    // Dropped with this: with the port go its connections.
    let mut tasks = JoinSet::new();
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = tasks.join_next() => continue,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, for one: the next connection may do better
                // when one of these has ended.
                log::warn!(error:%; "a forwarded connection is refused");
                if tasks.join_next().await.is_none() {
                    return;
                }
                continue;
            }
        };
        let Some(home) = home.upgrade() else { return };
        tasks.spawn(async move {
            if let Err(error) = connection(home, stream, guest).await {
                log::debug!(error:%; "a forwarded connection ended");
            }
            drop(place);
        });
    }
}

async fn connection(home: Arc<Home>, mut near: TcpStream, guest: u16) -> Result<()> {
    let context = home.context("forward connection");
    let failed = |error| context.io("the connection failed", error);
    near.set_nodelay(true).map_err(failed)?;
    let mut far = dial::tcp(&home, guest).await?;
    // A connection keeps no sandbox alive.
    drop(home);
    let copied = copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER, BUFFER).await;
    copied.map(drop).map_err(failed)
}

/// Who has sent something lately, and where what they send is taken.
type Senders = HashMap<SocketAddr, mpsc::Sender<Vec<u8>>>;

async fn datagrams(home: Weak, socket: UdpSocket, guest: u16) {
    let socket = Arc::new(socket);
    let mut senders = Senders::new();
    let mut tasks = JoinSet::new();
    let mut buffer = vec![0; MOST_DATAGRAM];
    loop {
        let received = tokio::select! {
            received = socket.recv_from(&mut buffer) => received,
            Some(ended) = tasks.join_next() => {
                if let Ok(peer) = ended {
                    senders.remove(&peer);
                }
                continue;
            }
        };
        // An error is of something sent before: a peer that is gone.
        let Ok((length, peer)) = received else {
            continue;
        };
        let bytes = buffer[..length].to_vec();
        if let Some(known) = senders.get(&peer) {
            // Full, or just ending: the datagram is lost.
            drop(known.try_send(bytes));
            continue;
        }
        let Some(home) = home.upgrade() else { return };
        if senders.len() >= MOST {
            continue;
        }
        let (sender, receiver) = mpsc::channel(WAITING);
        drop(sender.try_send(bytes)); // it is empty
        senders.insert(peer, sender);
        let socket = Arc::clone(&socket);
        tasks.spawn(async move {
            let exchange = exchange(home, receiver, &socket, peer, guest).await;
            if let Err(error) = exchange {
                log::debug!(error:%; "forwarded datagrams ended");
            }
            peer
        });
    }
}

/// Passes one sender's datagrams on, and the answers back, until both are silent.
async fn exchange(
    home: Arc<Home>,
    mut from_peer: mpsc::Receiver<Vec<u8>>,
    socket: &UdpSocket,
    peer: SocketAddr,
    guest: u16,
) -> Result<()> {
    let context = home.context("forward datagrams");
    let failed = |error| context.io("the stream failed", error);
    let stream: GuestStream = dial::udp(&home, guest).await?;
    drop(home);
    let (reader, mut writer) = split(stream);
    let mut answers = answers(reader);
    loop {
        let next = async {
            tokio::select! {
                out = from_peer.recv() => Next::Out(out),
                back = answers.recv() => Next::Back(back),
            }
        };
        match timeout(SILENCE, next).await {
            Err(_) | Ok(Next::Out(None) | Next::Back(None)) => return Ok(()),
            Ok(Next::Out(Some(bytes))) => {
                writer.write_all(&datagram(&bytes)).await.map_err(failed)?;
                writer.flush().await.map_err(failed)?;
            }
            // A peer that is gone is no failure.
            Ok(Next::Back(Some(bytes))) => drop(socket.send_to(&bytes, peer).await),
        }
    }
}

enum Next {
    Out(Option<Vec<u8>>),
    Back(Option<Vec<u8>>),
}

/// The datagrams that come out of a stream. Reading one takes several steps, so
/// a task of its own does it, which ends when nobody listens.
fn answers(mut reader: tokio::io::ReadHalf<GuestStream>) -> mpsc::Receiver<Vec<u8>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        loop {
            let read = tokio::select! {
                read = read_datagram(&mut reader) => read,
                () = sender.closed() => return,
            };
            match read {
                Ok(Some(bytes)) => {
                    if sender.send(bytes).await.is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    });
    receiver
}
