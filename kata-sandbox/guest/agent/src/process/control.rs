//! The socket between the agent and a copy of it.
//!
//! Packets, each a kind and a payload; a terminal's descriptor travels along
//! with its packet. Both ends close on exec, so the end of the stream tells the
//! agent that the copy has become its program (or is gone). The copy may run in
//! a container, so the agent trusts no packet: lengths are bounded, kinds
//! checked.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};

use kata_protocol::ttrpc::Status;
use prost::Message as _;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::clone::clone_successor;
use super::events::awaitable;
use super::failure::Context as _;
use super::home::Home;
use super::reaper::{Child, adopt};

/// The longest payload of a packet.
const PAYLOAD: usize = 16 * 1024;

/// What one side tells the other.
#[derive(Debug)]
pub(crate) enum Message {
    /// Go on with the next step.
    Go,
    /// The step is done.
    Ready,
    /// The master of the process's terminal.
    Terminal(OwnedFd),
    /// A part of the result.
    Output(Vec<u8>),
    /// A home directory that was looked up.
    Home(Home),
    /// The process that goes on in the copy's place, by its id.
    Successor(i32),
    /// It cannot be done; the sender ends.
    Failed(Status),
}

const GO: u8 = 1;
const READY: u8 = 2;
const TERMINAL: u8 = 3;
const OUTPUT: u8 = 4;
const FAILED: u8 = 5;
const HOME: u8 = 6;
const SUCCESSOR: u8 = 7;

/// What a copy leaves when it becomes its program.
#[derive(Debug, Default)]
pub(crate) struct Legacy {
    /// The master of its terminal, if it has one.
    pub(crate) terminal: Option<OwnedFd>,
    /// A home directory that later copies need not look up.
    pub(crate) home: Option<Home>,
}

impl Legacy {
    /// Adds what came later.
    pub(crate) fn extend(&mut self, more: Self) {
        self.terminal = more.terminal.or(self.terminal.take());
        self.home = more.home.or(self.home.take());
    }
}

/// The agent's end.
#[derive(Debug)]
pub(crate) struct Control(AsyncFd<OwnedFd>);

/// The copy's end, which blocks.
#[derive(Debug)]
pub(crate) struct CopyControl(OwnedFd);

/// Makes both ends.
///
/// # Errors
/// When there are too many descriptors.
pub(crate) fn control_pair() -> Result<(Control, CopyControl), Status> {
    let make = || -> io::Result<_> {
        let (near, far) = socketpair(
            AddressFamily::UNIX,
            SocketType::SEQPACKET,
            SocketFlags::CLOEXEC,
            None,
        )?;
        rustix::io::ioctl_fionbio(&near, true)?;
        Ok((
            Control(awaitable(near, Interest::READABLE)?),
            CopyControl(far),
        ))
    };
    make().context(|| "make a control socket")
}

impl Control {
    /// What the copy says next; `None` once its end is closed.
    ///
    /// # Errors
    /// When the copy sends what is no message.
    pub(crate) async fn receive(&self) -> Result<Option<Message>, Status> {
        let message = self.0.async_io(Interest::READABLE, receive).await;
        message.context(|| "hear from a process being set up")
    }

    /// Lets the copy go on. The packet is tiny and the copy waits for it.
    ///
    /// # Errors
    /// When the copy is gone.
    pub(crate) fn go(&self) -> Result<(), Status> {
        rustix::io::write(self.0.get_ref(), &[GO])
            .context(|| "let a process being set up go on")?;
        Ok(())
    }

    /// Waits until the copy says [`Message::Ready`]; returns the terminal it
    /// may send before.
    ///
    /// # Errors
    /// The copy's own failure, or that it died.
    pub(crate) async fn ready(&self) -> Result<Option<OwnedFd>, Status> {
        let mut terminal = None;
        loop {
            match self.receive().await? {
                Some(Message::Ready) => return Ok(terminal),
                Some(Message::Terminal(master)) => terminal = Some(master),
                Some(Message::Failed(status)) => return Err(status),
                Some(
                    Message::Go | Message::Output(_) | Message::Home(_) | Message::Successor(_),
                ) => {
                    return Err(babble());
                }
                None => return Err(died("while it was set up")),
            }
        }
    }

    /// Waits for the process that goes on in the copy's place, and follows it.
    ///
    /// # Errors
    /// The copy's own failure, or that one of them died.
    pub(crate) async fn successor(&self) -> Result<(Child, Legacy), Status> {
        let mut legacy = Legacy::default();
        loop {
            match self.receive().await? {
                Some(Message::Successor(pid)) => {
                    let child = adopt(pid).context(|| "follow a process being set up")?;
                    return Ok((child, legacy));
                }
                Some(Message::Terminal(master)) => legacy.terminal = Some(master),
                Some(Message::Home(home)) => legacy.home = Some(home),
                Some(Message::Failed(status)) => return Err(status),
                Some(_) => return Err(babble()),
                None => return Err(died("while it was set up")),
            }
        }
    }

    /// Waits until the copy has become its program; returns what it may send
    /// before.
    ///
    /// # Errors
    /// The copy's own failure.
    pub(crate) async fn executed(&self) -> Result<Legacy, Status> {
        let mut legacy = Legacy::default();
        loop {
            match self.receive().await? {
                None => return Ok(legacy),
                Some(Message::Terminal(master)) => legacy.terminal = Some(master),
                Some(Message::Home(home)) => legacy.home = Some(home),
                Some(Message::Failed(status)) => return Err(status),
                Some(_) => return Err(babble()),
            }
        }
    }
}

fn died(when: &str) -> Status {
    Status::new(
        kata_protocol::ttrpc::Code::Aborted,
        format!("the process died {when}"),
    )
}

fn babble() -> Status {
    Status::new(
        kata_protocol::ttrpc::Code::Internal,
        "a process being set up spoke out of turn",
    )
}

impl AsRawFd for CopyControl {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl CopyControl {
    /// Waits for the agent's [`Message::Go`].
    ///
    /// # Errors
    /// When the agent has given this copy up.
    pub(crate) fn wait_for_go(&self) -> Result<(), Status> {
        match receive(&self.0).context(|| "wait for the agent")? {
            Some(Message::Go) => Ok(()),
            _ => Err(died("because the agent gave it up")),
        }
    }

    /// The same by read(2) alone, which any seccomp filter lets through.
    fn wait_behind_filter(&self) -> Result<(), Status> {
        let mut kind = [0];
        let read = rustix::io::retry_on_intr(|| rustix::io::read(&self.0, &mut kind));
        match read.context(|| "wait for the agent")? {
            1 if kind == [GO] => Ok(()),
            _ => Err(died("because the agent gave it up")),
        }
    }

    /// Goes on with `body` in a process that is born where the copy has chosen
    /// for its children, once the agent follows it; its result is its exit
    /// status. The copy is to end then.
    ///
    /// # Errors
    /// When no process can be made, or the agent is gone.
    pub(crate) fn succeed(&self, body: impl FnOnce() -> i32) -> Result<(), Status> {
        let body = || match self.wait_behind_filter() {
            Ok(()) => body(),
            Err(_) => 127,
        };
        let pid = clone_successor(body).context(|| "go on in the container's pid namespace")?;
        self.packet(SUCCESSOR, &pid.to_ne_bytes())
    }

    /// Says that the step is done.
    ///
    /// # Errors
    /// When the agent is gone.
    pub(crate) fn ready(&self) -> Result<(), Status> {
        self.write(&[READY])
    }

    /// Hands the terminal's master over.
    ///
    /// # Errors
    /// When the agent is gone.
    pub(crate) fn terminal(&self, master: &OwnedFd) -> Result<(), Status> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [master.as_fd()];
        control.push(SendAncillaryMessage::ScmRights(&fds));
        sendmsg(
            &self.0,
            &[IoSlice::new(&[TERMINAL])],
            &mut control,
            SendFlags::NOSIGNAL,
        )
        .context(|| "hand over the terminal")?;
        Ok(())
    }

    /// Hands on what was found out about a user's home directory.
    ///
    /// # Errors
    /// When the agent is gone.
    pub(crate) fn home(&self, home: &Home) -> Result<(), Status> {
        self.packet(HOME, &home.encode_to_vec())
    }

    /// Sends a result of any length.
    ///
    /// # Errors
    /// When the agent is gone.
    pub(crate) fn output(&self, data: &[u8]) -> Result<(), Status> {
        data.chunks(PAYLOAD)
            .try_for_each(|part| self.packet(OUTPUT, part))
    }

    /// Reports a failure. If even that fails, the agent sees the end.
    pub(crate) fn failed(&self, status: &Status) {
        let mut status = status.clone();
        let mut end = status.message.len().min(PAYLOAD - 64);
        while !status.message.is_char_boundary(end) {
            end -= 1;
        }
        status.message.truncate(end);
        drop(self.packet(FAILED, &status.encode_to_vec()));
    }

    fn packet(&self, kind: u8, payload: &[u8]) -> Result<(), Status> {
        let mut packet = Vec::with_capacity(payload.len() + 1);
        packet.push(kind);
        packet.extend_from_slice(payload);
        self.write(&packet)
    }

    // write(2), which any seccomp filter lets through that the program can use.
    fn write(&self, packet: &[u8]) -> Result<(), Status> {
        rustix::io::retry_on_intr(|| rustix::io::write(&self.0, packet))
            .context(|| "report to the agent")?;
        Ok(())
    }
}

/// The length of the next packet; `None` at the end of the stream.
fn next_length(socket: &OwnedFd) -> io::Result<Option<usize>> {
    let peek = RecvFlags::PEEK | RecvFlags::TRUNC;
    let nothing: &mut [u8] = &mut [];
    match rustix::io::retry_on_intr(|| rustix::net::recv(socket, &mut *nothing, peek)) {
        Ok((_, 0)) => Ok(None),
        Ok((_, length)) => Ok(Some(length)),
        // The copy was killed with a packet of ours unread.
        Err(rustix::io::Errno::CONNRESET) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Receives a packet; `None` at the end of the stream.
fn receive(socket: &OwnedFd) -> io::Result<Option<Message>> {
    // Mostly it is the end that comes, for which no memory is touched.
    let Some(length) = next_length(socket)? else {
        return Ok(None);
    };
    let mut data = vec![0; length.min(PAYLOAD + 1)];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let length = rustix::io::retry_on_intr(|| {
        let mut buffers = [IoSliceMut::new(&mut data)];
        let received = recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC)?;
        Ok(received.bytes)
    });
    let length = match length {
        // The copy was killed with a packet of ours unread.
        Err(rustix::io::Errno::CONNRESET) => 0,
        length => length?,
    };
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let Some((kind, payload)) = data[..length].split_first() else {
        return Ok(None);
    };
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed message");
    Ok(Some(match (*kind, fd) {
        (GO, _) => Message::Go,
        (READY, _) => Message::Ready,
        (TERMINAL, Some(master)) => Message::Terminal(master),
        (OUTPUT, _) => Message::Output(payload.to_vec()),
        (HOME, _) => {
            let home = Home::decode(payload).ok().filter(Home::is_sound);
            Message::Home(home.ok_or_else(malformed)?)
        }
        (SUCCESSOR, _) => {
            let pid = payload.try_into().map_err(|_| malformed())?;
            Message::Successor(i32::from_ne_bytes(pid))
        }
        (FAILED, _) => Message::Failed(Status::decode(payload).map_err(|_| malformed())?),
        _ => return Err(malformed()),
    }))
}

#[cfg(test)]
#[path = "control_tests.rs"]
mod tests;
