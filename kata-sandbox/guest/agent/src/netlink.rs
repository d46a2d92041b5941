//! Requests to the kernel's routing netlink, and what it answers.
//!
//! The kernel carries a request out while it is sent, and its answers are then
//! there to be read: nothing here waits.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, recv, sendto,
    socket_with,
};

use crate::socket::NetlinkAddress;

/// `NETLINK_ROUTE` is protocol 0 of the family.
const ROUTE: Option<Protocol> = None;
/// Bytes of `struct nlmsghdr`.
const HEADER: usize = 16;
/// The kernel's parts of a dump are at most this long.
const BUFFER: usize = 32 * 1024;

const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const REPLACE: u16 = 0x100;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// What a request is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verb {
    /// List everything.
    Dump,
    /// Change or remove what is there.
    Change,
    /// Make it, or replace it if it is there.
    Replace,
    /// Make it after those that are like it.
    Append,
}

/// A message under construction.
#[derive(Debug)]
pub(crate) struct Request {
    bytes: Vec<u8>,
    dump: bool,
}

impl Request {
    /// A message of a `kind`, with its fixed part.
    pub(crate) fn new(kind: u16, verb: Verb, fixed: &[u8]) -> Self {
        let flags = match verb {
            Verb::Dump => REQUEST | DUMP,
            Verb::Change => REQUEST | ACK,
            Verb::Replace => REQUEST | ACK | CREATE | REPLACE,
            Verb::Append => REQUEST | ACK | CREATE | APPEND,
        };
        let mut bytes = vec![0; HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(fixed);
        let mut request = Self {
            bytes,
            dump: verb == Verb::Dump,
        };
        request.pad();
        request
    }

    /// Adds an attribute.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).expect("attributes are short");
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Adds an attribute if there is a value.
    pub(crate) fn optional(self, kind: u16, value: Option<&[u8]>) -> Self {
        match value {
            Some(value) => self.attribute(kind, value),
            None => self,
        }
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Sends it, and gives the bodies of the messages that answer it.
    pub(crate) fn send(mut self) -> io::Result<Vec<Vec<u8>>> {
        let length = u32::try_from(self.bytes.len()).expect("requests are short");
        self.bytes[..4].copy_from_slice(&length.to_ne_bytes());
        let flags = SocketFlags::CLOEXEC;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, ROUTE)?;
        sendto(
            &socket,
            &self.bytes,
            SendFlags::empty(),
            &NetlinkAddress { groups: 0 },
        )?;
        answers(&socket, self.dump)
    }
}

/// Reads until the kernel says that it was all.
fn answers(socket: &OwnedFd, dump: bool) -> io::Result<Vec<Vec<u8>>> {
    let mut buffer = vec![0; BUFFER];
    let mut bodies = Vec::new();
    loop {
        let (length, _) = match recv(socket, &mut buffer[..], RecvFlags::empty()) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        for (kind, body) in Messages(&buffer[..length]) {
            match kind {
                DONE => return Ok(bodies),
                ERROR => {
                    let number = body.first_chunk().map_or(0, |n| i32::from_ne_bytes(*n));
                    return match number {
                        0 => Ok(bodies),
                        number => Err(io::Error::from_raw_os_error(-number)),
                    };
                }
                _ => bodies.push(body.to_vec()),
            }
        }
        if !dump && length == 0 {
            return Ok(bodies);
        }
    }
}

/// The messages in a datagram: type and body.
struct Messages<'a>(&'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = u32::from_ne_bytes(*self.0.first_chunk()?) as usize;
        let kind = u16::from_ne_bytes(*self.0.get(4..)?.first_chunk()?);
        let body = self.0.get(HEADER..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    }
}

/// The attributes that follow a fixed part: type and value.
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let length = usize::from(u16::from_ne_bytes(*self.0.first_chunk()?));
        let kind = u16::from_ne_bytes(*self.0.get(2..)?.first_chunk()?) & 0x3fff;
        let value = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// A number in an attribute or a fixed part.
pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_come_back_as_they_were_put_in() {
        let request = Request::new(16, Verb::Change, &[1, 2, 3])
            .attribute(3, b"eth0\0")
            .optional(4, None)
            .attribute(5, &7_u32.to_ne_bytes());
        let found: Vec<_> = Attributes(&request.bytes[HEADER + 4..]).collect();
        assert_eq!(found, [(3, &b"eth0\0"[..]), (5, &7_u32.to_ne_bytes()[..])]);
    }

    #[test]
    fn a_cut_message_ends_the_list() {
        assert_eq!(Messages(&[255, 0, 0, 0, 1, 0]).count(), 0);
        assert_eq!(Attributes(&[2, 0, 0, 0]).count(), 0);
        assert_eq!(Attributes(&[200, 0, 0, 0, 1]).count(), 0);
    }

    #[test]
    fn the_loopback_interface_is_listed() {
        let links = Request::new(18, Verb::Dump, &[0; 16]).send().unwrap();
        let named_lo = |body: &Vec<u8>| {
            Attributes(&body[16..]).any(|(kind, value)| kind == 3 && value == b"lo\0")
        };
        assert!(links.iter().any(named_lo));
    }

    #[test]
    fn the_kernel_s_refusal_is_an_error() {
        let error = Request::new(19, Verb::Change, &[0; 16])
            .attribute(3, b"no-such\0")
            .send();
        assert!(error.is_err());
    }
}
