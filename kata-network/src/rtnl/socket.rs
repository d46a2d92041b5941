//! Requests to the kernel, and its answers.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use rustix::io::Errno;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socket_with,
};

/// The kernel's parts of a dump are at most this long, in bytes.
const BUFFER: usize = 64 << 10;
/// The kernel answers at once; this is for a kernel that does not.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a message's header (`struct nlmsghdr`).
const HEADER: usize = 16;
/// How often a listing may begin anew because something changed meanwhile.
const ATTEMPTS: u32 = 16;

/// A connection to the kernel, in the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Rtnl {
    socket: OwnedFd,
    sequence: u32,
    buffer: Vec<u8>,
}

/// What a listing came to.
enum Dump {
    Whole(Vec<RouteNetlinkMessage>),
    /// Something changed while it was made.
    Torn,
}

impl Rtnl {
    /// Connects, in the calling thread's namespace.
    pub(crate) fn open() -> io::Result<Self> {
        // `NETLINK_ROUTE` is protocol 0 of the family. A socket that is bound
        // to nothing talks to the kernel.
        let (family, flags) = (AddressFamily::NETLINK, SocketFlags::CLOEXEC);
        let socket = socket_with(family, SocketType::RAW, flags, None)?;
        set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))?;
        Ok(Self {
            socket,
            sequence: 0,
            buffer: vec![0; BUFFER],
        })
    }

    /// Has a change made.
    pub(crate) fn change(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        self.answers().map(drop)
    }

    /// Lists everything that the message asks for, as it was at one moment.
    pub(crate) fn dump(
        &mut self,
        message: &RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..ATTEMPTS {
            self.send(message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            if let Dump::Whole(listed) = self.answers()? {
                return Ok(listed);
            }
        }
        Err(io::Error::other("it never stands still"))
    }

    fn send(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(message));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        send(&self.socket, &bytes, SendFlags::empty())?;
        Ok(())
    }

    /// Reads until the kernel says that it was all.
    fn answers(&mut self) -> io::Result<Dump> {
        let mut listed = Vec::new();
        let mut torn = false;
        loop {
            let (length, _) = match recv(&self.socket, &mut self.buffer[..], RecvFlags::empty()) {
                Err(Errno::INTR) => continue,
                Err(Errno::AGAIN) => return Err(io::ErrorKind::TimedOut.into()),
                other => other?,
            };
            for message in Messages(self.buffer.get(..length).unwrap_or_default()) {
                let message = message?;
                if message.header.sequence_number != self.sequence {
                    continue; // of a listing that was given up
                }
                torn |= message.header.flags & NLM_F_DUMP_INTR != 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(inner) => listed.push(inner),
                    NetlinkPayload::Done(done) if done.code < 0 => {
                        return Err(io::Error::from_raw_os_error(-done.code));
                    }
                    NetlinkPayload::Done(_) => {
                        return Ok(if torn {
                            Dump::Torn
                        } else {
                            Dump::Whole(listed)
                        });
                    }
                    NetlinkPayload::Error(error) => {
                        return match error.raw_code() {
                            0 => Ok(Dump::Whole(listed)),
                            code => Err(io::Error::from_raw_os_error(code.saturating_neg())),
                        };
                    }
                    _ => {}
                }
            }
        }
    }
}

/// The messages in a datagram.
struct Messages<'a>(&'a [u8]);

impl Iterator for Messages<'_> {
    type Item = io::Result<NetlinkMessage<RouteNetlinkMessage>>;

    fn next(&mut self) -> Option<Self::Item> {
        let length = u32::from_ne_bytes(*self.0.first_chunk()?);
        let length = usize::try_from(length).ok()?;
        let bytes = self.0.get(..length)?;
        // What is shorter than a header is no message, and is not looked at again.
        let next = length.max(HEADER).next_multiple_of(4);
        self.0 = self.0.get(next..).unwrap_or_default();
        Some(parse(bytes))
    }
}

/// Reads a message. The crate that does it panics at attributes that are shorter
/// than it expects, as another kernel's may be: that is an error as any other.
pub(crate) fn parse(bytes: &[u8]) -> io::Result<NetlinkMessage<RouteNetlinkMessage>> {
    let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidData, reason);
    std::panic::catch_unwind(|| NetlinkMessage::deserialize(bytes))
        .map_err(|_| invalid("an attribute of a netlink message is too short".to_owned()))?
        .map_err(|error| invalid(error.to_string()))
}

#[cfg(test)]
mod tests {
    use netlink_packet_route::link::LinkMessage;

    use super::*;

    #[test]
    fn the_loopback_interface_is_listed() {
        let mut rtnl = Rtnl::open().unwrap();
        let all = RouteNetlinkMessage::GetLink(LinkMessage::default());
        assert!(!rtnl.dump(&all).unwrap().is_empty());
        assert!(!rtnl.dump(&all).unwrap().is_empty(), "only once");
    }

    #[test]
    fn messages_without_a_length_are_errors_that_end() {
        assert_eq!(Messages(&[0; 64]).take(100).count(), 4);
    }

    #[test]
    fn the_kernels_refusal_is_an_error() {
        let mut rtnl = Rtnl::open().unwrap();
        let mut nowhere = LinkMessage::default();
        nowhere.header.index = 0x7fff_fff0;
        let error = rtnl.change(RouteNetlinkMessage::SetLink(nowhere), 0);
        assert_eq!(
            error.unwrap_err().raw_os_error(),
            Some(Errno::NODEV.raw_os_error())
        );
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_datagram_holds_it_ends(
            bytes in proptest::collection::vec(0..40_u8, 0..400),
        ) {
            // Each message takes some of the bytes.
            proptest::prop_assert!(Messages(&bytes).take(100).count() < 100);
        }
    }
}
