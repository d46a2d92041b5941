//! One of the muxer's sockets.

use std::os::unix::net::UnixStream;
use std::time::Instant;

use super::backlog::Backlog;
use super::connection::Connection;

/// A socket and what it is good for.
#[derive(Debug)]
pub(super) enum Kind {
    /// A program on the host connected and has not said yet what it dials.
    Greeting { stream: UnixStream, line: Vec<u8> },
    /// A stream.
    Connected(Box<Connection<UnixStream>>),
    /// The guest is done with it; the host has still to get the rest.
    Draining { stream: UnixStream, rest: Backlog },
}

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) kind: Kind,
    pub(super) deadline: Option<Instant>,
    /// It waits for its turn to send to the guest.
    pub(super) queued: bool,
    /// It is told when the socket takes bytes.
    pub(super) wants_room: bool,
}

impl Entry {
    pub(super) fn new(kind: Kind, deadline: Option<Instant>) -> Self {
        Self {
            kind,
            deadline,
            queued: false,
            wants_room: false,
        }
    }

    pub(super) fn stream(&self) -> Option<&UnixStream> {
        match &self.kind {
            Kind::Greeting { stream, .. } | Kind::Draining { stream, .. } => Some(stream),
            Kind::Connected(connection) => connection.stream(),
        }
    }
}
