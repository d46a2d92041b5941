//! Streams that are no calls.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use kata_protocol::channel::{self, Reply, Request};
use kata_protocol::port;
use support::{Agent, able};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

/// Listens in the agent's network, echoes what comes until its end, then says
/// goodbye.
fn echo(agent: &Agent, address: &'static str) -> u16 {
    let network = std::fs::File::open(format!("/proc/{}/ns/net", agent.process.id())).unwrap();
    let (port, bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Only this thread moves.
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), None)
            .unwrap();
        let listener = TcpListener::bind(address).unwrap();
        port.send(listener.local_addr().unwrap().port()).unwrap();
        let (mut stream, _) = listener.accept().unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        stream.write_all(&all).unwrap();
        stream.write_all(b"bye").unwrap();
    });
    bound.recv().unwrap()
}

async fn open(agent: &Agent, request: &Request) -> (BufReader<UnixStream>, Reply) {
    let stream = UnixStream::connect(agent.port(port::CHANNEL))
        .await
        .unwrap();
    let mut stream = BufReader::new(stream);
    channel::send(&mut stream, request).await.unwrap();
    let reply = channel::receive(&mut stream).await.unwrap();
    (stream, reply)
}

#[tokio::test]
async fn a_tcp_port_is_reached_with_half_closed_streams() {
    if !able() {
        return;
    }
    let agent = Agent::start("ip link set lo up").await;
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let port = echo(&agent, address);
        let (mut stream, reply) = open(&agent, &Request::Tcp { port }).await;
        assert_eq!(reply, Reply::Ok);
        let sent = vec![b'x'; 300_000];
        stream.write_all(&sent).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut received = Vec::new();
        stream.read_to_end(&mut received).await.unwrap();
        assert_eq!(received.len(), sent.len() + 3);
        assert!(received.ends_with(b"xbye"));
    }
    agent.destroy().await;
}

#[tokio::test]
async fn a_port_that_nobody_serves_is_refused_by_number() {
    if !able() {
        return;
    }
    let agent = Agent::start("ip link set lo up").await;
    let (_, reply) = open(&agent, &Request::Tcp { port: 9 }).await;
    let Reply::Error { message } = reply else {
        panic!("connected to nobody")
    };
    assert!(message.contains("port 9"), "{message}");
    agent.destroy().await;
}

#[tokio::test]
async fn a_copy_needs_a_container() {
    if !able() {
        return;
    }
    let agent = Agent::start("").await;
    agent.create_sandbox().await;
    let requests = [
        Request::CopyIn {
            container: "none".into(),
            directory: "/".into(),
        },
        Request::CopyOut {
            container: "none".into(),
            path: "/etc".into(),
        },
    ];
    for request in requests {
        let (_, reply) = open(&agent, &request).await;
        assert!(matches!(reply, Reply::Error { .. }));
    }
    agent.destroy().await;
}

#[tokio::test]
async fn garbage_ends_its_connection_only() {
    if !able() {
        return;
    }
    let agent = Agent::start("").await;
    let mut stream = UnixStream::connect(agent.port(port::CHANNEL))
        .await
        .unwrap();
    stream.write_all(b"what?\n").await.unwrap();
    assert_eq!(stream.read(&mut [0; 16]).await.unwrap(), 0);
    let mut calls = UnixStream::connect(agent.port(0).with_file_name("agent"))
        .await
        .unwrap();
    calls.write_all(&[255; 64]).await.unwrap();
    assert_eq!(calls.read(&mut [0; 16]).await.unwrap_or(0), 0);
    agent.create_sandbox().await;
    agent.destroy().await;
}

/// Answers two datagrams in the agent's network with what they say.
fn echo_datagrams(agent: &Agent, address: &'static str) -> u16 {
    let network = std::fs::File::open(format!("/proc/{}/ns/net", agent.process.id())).unwrap();
    let (port, bound) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        // Only this thread moves.
        rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&network), None)
            .unwrap();
        let socket = std::net::UdpSocket::bind(address).unwrap();
        port.send(socket.local_addr().unwrap().port()).unwrap();
        let mut buffer = vec![0; 70_000];
        for _ in 0..2 {
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            socket.send_to(&buffer[..length], from).unwrap();
        }
    });
    bound.recv().unwrap()
}

#[tokio::test]
async fn a_udp_port_of_either_family_is_reached_datagram_by_datagram() {
    if !able() {
        return;
    }
    let agent = Agent::start("ip link set lo up").await;
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let port = echo_datagrams(&agent, address);
        let (mut stream, reply) = open(&agent, &Request::Udp { port }).await;
        assert_eq!(reply, Reply::Ok);
        for bytes in [&b"first"[..], &[7; 20_000]] {
            let sent = channel::datagram(bytes);
            stream.write_all(&sent).await.unwrap();
            let answer = channel::read_datagram(&mut stream).await.unwrap();
            assert_eq!(answer.unwrap(), bytes, "{address}");
        }
    }
    agent.destroy().await;
}
