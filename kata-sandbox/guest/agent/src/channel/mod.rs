//! Streams that are no calls: TCP ports of the sandbox, and copies of files.

mod copy_in;
mod copy_out;
mod datagrams;

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use kata_protocol::channel::{self, Reply, Request};
use kata_protocol::ttrpc::Status;
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use tokio::io::{AsyncWriteExt as _, BufReader, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;
use tokio::task::spawn_local;

use crate::container::Containers;
use crate::transport::{Listener, Stream};

/// Bytes in flight in each direction of a TCP stream.
const BUFFER: usize = 32 * 1024;

/// Serves the channel port.
pub(crate) async fn serve(containers: Rc<Containers>, listener: Listener) -> io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        let containers = Rc::clone(&containers);
        spawn_local(async move {
            if let Err(error) = answer(&containers, stream).await {
                log::info!(error:% = error; "a channel ended");
            }
        });
    }
}

async fn answer(containers: &Rc<Containers>, stream: Stream) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    match channel::receive(&mut stream).await? {
        Request::Tcp { port } => relay(stream, port).await,
        Request::Udp { port } => datagrams::relay(stream, port).await,
        Request::CopyIn {
            container,
            directory,
        } => copy_in::copy(containers, stream, &container, directory).await,
        Request::CopyOut { container, path } => {
            copy_out::copy(containers, stream, &container, path).await
        }
        other => refuse(&mut stream, format!("{other:?} is not known to this agent")).await,
    }
}

/// Connects the stream with a TCP port, both ways, until both have ended.
async fn relay(mut stream: BufReader<Stream>, port: u16) -> io::Result<()> {
    let mut tcp = match connect(port).await {
        Ok(tcp) => tcp,
        Err(error) => {
            return refuse(
                &mut stream,
                format!("cannot connect to port {port}: {error}"),
            )
            .await;
        }
    };
    channel::send(&mut stream, &Reply::Ok).await?;
    copy_bidirectional_with_sizes(&mut stream, &mut tcp, BUFFER, BUFFER).await?;
    Ok(())
}

async fn connect(port: u16) -> io::Result<TcpStream> {
    let at = |address: IpAddr| TcpStream::connect(SocketAddr::new(address, port));
    let tcp = match at(Ipv4Addr::LOCALHOST.into()).await {
        Ok(tcp) => tcp,
        // What a server on both families would say is said for the first.
        Err(first) => at(Ipv6Addr::LOCALHOST.into()).await.map_err(|_| first)?,
    };
    tcp.set_nodelay(true)?;
    Ok(tcp)
}

/// Answers with an error.
async fn refuse(stream: &mut BufReader<Stream>, message: String) -> io::Result<()> {
    channel::send(stream, &Reply::Error { message }).await?;
    stream.shutdown().await
}

/// Answers with how something ended.
async fn report(stream: &mut BufReader<Stream>, result: Result<(), Status>) -> io::Result<()> {
    match result {
        Ok(()) => channel::send(stream, &Reply::Ok).await,
        Err(status) => refuse(stream, status.message).await,
    }
}

/// Makes a descriptor wait, or not, when it is read or written. The flag is of
/// the socket: a child and the agent share it.
fn set_blocking(file: BorrowedFd<'_>, blocking: bool) -> io::Result<()> {
    let mut flags = fcntl_getfl(file)?;
    flags.set(OFlags::NONBLOCK, !blocking);
    Ok(fcntl_setfl(file, flags)?)
}

/// Runs `work` in a child in the container while the child has the stream.
async fn with_stream(
    containers: &Rc<Containers>,
    stream: &BufReader<Stream>,
    container: &str,
    work: impl FnOnce(BorrowedFd<'_>) -> Result<(), String>,
) -> io::Result<Result<(), Status>> {
    let file = stream.get_ref().as_fd();
    set_blocking(file, true)?;
    let result = containers
        .in_container(container, &[file], || work(file))
        .await;
    set_blocking(file, false)?;
    Ok(result)
}
