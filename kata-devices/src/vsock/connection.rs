//! One stream: its state, its credit, and what is to be said to the guest.
//!
//! ```text
//!   host dials:  Dialling ──Response──▶ Open ──both sides shut down, or reset──▶ gone
//!   guest dials:                  ────▶ Open
//! ```
//!
//! The directions of an open stream end one by one. The end of the host's
//! sending becomes `Shutdown(SEND)`, its closing `Shutdown(SEND | RECEIVE)`; the
//! guest's `Shutdown(SEND)` ends the sending half of the socket once all bytes
//! before it went through, `Shutdown(RECEIVE)` the receiving half.
//!
//! Guest-controlled: every header and payload that [`Connection::deliver`] gets,
//! in any order.

use std::io;

use vm_memory::VolatileSlice;

use super::backlog::Backlog;
use super::credit::{Incoming, Outgoing};
use super::device::{RxData, RxSink};
use super::handshake;
use super::packet::{
    HOST_CID, Header, Operation, SHUTDOWN_BOTH, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, TYPE_STREAM,
};
use super::streams::Stream;

/// Bytes that a stream may hold for a host that does not read; its `buf_alloc`.
pub const BUFFER: u32 = 192 * 1024;

/// The most receive buffers of the guest that are filled by one system call.
const MAX_BURST: usize = 16;

/// Who is at the two ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ends {
    pub(super) host_port: u32,
    pub(super) guest_port: u32,
}

/// What becomes of a connection after a packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on.
    Lives,
    /// It is over, and the guest is to be told so.
    Reset,
    /// It is over, and the guest knows.
    Gone,
}

/// What came of a connection's turn to send to the guest.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It has nothing more to say now.
    Done,
    /// It has more, and others should have their turn first.
    Again,
    /// The guest has no buffers.
    NoBuffer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The host dialled; the guest has not answered.
    Dialling,
    Open,
}

/// Packets without payload that wait for a buffer of the guest.
#[derive(Debug, Default)]
struct Pending {
    request: bool,
    response: bool,
    credit_update: bool,
    credit_request: bool,
    shutdown: bool,
}

/// A stream between guest and host.
#[derive(Debug)]
pub(super) struct Connection<S> {
    ends: Ends,
    guest_cid: u64,
    phase: Phase,
    /// Gone once the host has closed its end.
    stream: Option<S>,
    outgoing: Outgoing,
    incoming: Incoming,
    backlog: Backlog,
    pending: Pending,
    /// Shutdown flags that the guest was told.
    told: u32,
    /// Shutdown flags that the guest told.
    heard: u32,
    /// The socket may have bytes, or its end.
    readable: bool,
    /// The socket's end is near: an empty socket is no reason to stop reading.
    ending: bool,
    /// The host has closed its end.
    hung_up: bool,
    /// The guest was asked for credit.
    asked: bool,
    burst: usize,
}

impl<S: Stream> Connection<S> {
    /// The host dials the guest.
    pub(super) fn dial(ends: Ends, guest_cid: u64, stream: S) -> Self {
        let mut connection = Self::new(ends, guest_cid, stream, Phase::Dialling);
        connection.pending.request = true;
        connection
    }

    /// The guest dialled the host, with `request`.
    pub(super) fn accept(ends: Ends, request: &Header, stream: S) -> Self {
        let mut connection = Self::new(ends, request.src_cid, stream, Phase::Open);
        connection
            .outgoing
            .update(request.buf_alloc, request.fwd_cnt);
        connection.pending.response = true;
        connection.readable = true;
        connection
    }

    fn new(ends: Ends, guest_cid: u64, stream: S, phase: Phase) -> Self {
        Self {
            ends,
            guest_cid,
            phase,
            stream: Some(stream),
            outgoing: Outgoing::default(),
            incoming: Incoming::default(),
            backlog: Backlog::default(),
            pending: Pending::default(),
            told: 0,
            heard: 0,
            readable: false,
            ending: false,
            hung_up: false,
            asked: false,
            burst: 1,
        }
    }

    pub(super) fn ends(&self) -> Ends {
        self.ends
    }

    pub(super) fn is_dialling(&self) -> bool {
        self.phase == Phase::Dialling
    }

    /// Whether the host is still there.
    pub(super) fn stream(&self) -> Option<&S> {
        self.stream.as_ref()
    }

    /// Whether bytes wait until the socket takes them.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// What is left when the guest is done with the connection: bytes that the
    /// host has still to get, and where to.
    pub(super) fn into_remains(self) -> Option<(S, Backlog)> {
        self.stream
            .filter(|_| !self.backlog.is_empty())
            .map(|stream| (stream, self.backlog))
    }

    /// Whether it wants a turn to send to the guest.
    pub(super) fn has_packets(&self) -> bool {
        self.next_control().is_some() || (self.may_read() && (self.has_window() || !self.asked))
    }

    /// Handles a packet of the guest.
    pub(super) fn deliver(&mut self, header: &Header, payload: &[VolatileSlice<'_>]) -> Fate {
        self.outgoing.update(header.buf_alloc, header.fwd_cnt);
        if self.has_window() {
            self.asked = false;
        }
        match header.operation {
            Some(Operation::Response) => self.accepted(),
            Some(Operation::Reset) => Fate::Gone,
            Some(Operation::Shutdown) => self.guest_shut_down(header.flags),
            Some(Operation::ReadWrite) => self.take(payload),
            Some(Operation::CreditUpdate) => Fate::Lives,
            Some(Operation::CreditRequest) => {
                self.pending.credit_update = true;
                Fate::Lives
            }
            Some(Operation::Request) | None => Fate::Reset,
        }
    }

    /// The socket has bytes or room, or its end came.
    pub(super) fn socket_changed(&mut self, ending: bool, hung_up: bool) {
        self.ending |= ending | hung_up;
        self.hung_up |= hung_up;
        self.readable = self.told & SHUTDOWN_SEND == 0 && self.heard & SHUTDOWN_RECEIVE == 0;
        if self.phase == Phase::Open && self.hung_up && !self.readable {
            self.tell(SHUTDOWN_BOTH);
        }
    }

    /// Sends what has waited for the socket, as far as it goes.
    pub(super) fn flush(&mut self) {
        while !self.backlog.is_empty() {
            let Some(stream) = &mut self.stream else {
                return;
            };
            match stream.send_bytes(self.backlog.bytes()) {
                Ok(count) => self.forwarded_from_backlog(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return self.host_receives_no_more(),
            }
        }
        self.pending.credit_update |= self.incoming.is_update_due();
        if self.backlog.is_empty()
            && self.heard & SHUTDOWN_SEND != 0
            && let Some(stream) = &mut self.stream
        {
            stream.end_sending();
        }
    }

    /// Sends to the guest what there is to send, as long as it is this
    /// connection's turn.
    pub(super) fn transmit(&mut self, sink: &mut dyn RxSink) -> Turn {
        loop {
            while let Some(operation) = self.next_control() {
                if !sink.control(&self.header(operation)) {
                    return Turn::NoBuffer;
                }
                self.control_sent(operation);
            }
            if !self.may_read() {
                return Turn::Done;
            }
            if !self.has_window() {
                if self.asked {
                    return Turn::Done;
                }
                self.asked = true;
                self.pending.credit_request = true;
                continue;
            }
            match self.transmit_bytes(sink) {
                Turn::Done if self.next_control().is_some() => {}
                turn => return turn,
            }
        }
    }

    fn transmit_bytes(&mut self, sink: &mut dyn RxSink) -> Turn {
        let header = self.header(Operation::ReadWrite);
        let window = usize::try_from(self.outgoing.window()).unwrap_or(usize::MAX);
        let Some(stream) = &mut self.stream else {
            return Turn::Done;
        };
        match sink.data(&header, window, self.burst, &mut |pieces| {
            stream.receive(pieces)
        }) {
            RxData::NoBuffer => Turn::NoBuffer,
            RxData::Read { bytes: 0, .. } => {
                self.host_sends_no_more();
                Turn::Done
            }
            RxData::Read { bytes, filled } => {
                let count = u32::try_from(bytes).expect("no more is read than the window allows");
                self.outgoing.sent(count);
                self.incoming.announced();
                self.burst = if filled {
                    (self.burst * 2).min(MAX_BURST)
                } else {
                    1
                };
                self.readable = filled || self.ending;
                if self.readable {
                    Turn::Again
                } else {
                    Turn::Done
                }
            }
            RxData::Failed(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.readable = false;
                Turn::Done
            }
            RxData::Failed(error) if error.kind() == io::ErrorKind::Interrupted => Turn::Again,
            RxData::Failed(_) => {
                self.hung_up = true;
                self.host_sends_no_more();
                Turn::Done
            }
        }
    }

    fn accepted(&mut self) -> Fate {
        if self.phase != Phase::Dialling {
            return Fate::Reset;
        }
        self.phase = Phase::Open;
        self.readable = true;
        let line = handshake::accepted(self.ends.host_port);
        let Some(stream) = &mut self.stream else {
            return Fate::Reset;
        };
        // A fresh socket takes such a line at once, or its other end is gone.
        if stream.send_bytes(line.as_bytes()).ok() != Some(line.len()) {
            return Fate::Reset;
        }
        Fate::Lives
    }

    fn guest_shut_down(&mut self, flags: u32) -> Fate {
        if self.phase == Phase::Dialling {
            return Fate::Reset;
        }
        self.heard |= flags & SHUTDOWN_BOTH;
        if self.heard == SHUTDOWN_BOTH {
            return Fate::Reset;
        }
        if let Some(stream) = &mut self.stream {
            if self.heard & SHUTDOWN_RECEIVE != 0 {
                self.readable = false;
                stream.end_receiving();
            }
            if self.heard & SHUTDOWN_SEND != 0 && self.backlog.is_empty() {
                stream.end_sending();
            }
        }
        Fate::Lives
    }

    fn take(&mut self, payload: &[VolatileSlice<'_>]) -> Fate {
        let bytes: usize = payload.iter().map(VolatileSlice::len).sum();
        let Ok(count) = u32::try_from(bytes) else {
            return Fate::Reset;
        };
        if self.phase == Phase::Dialling
            || self.heard & SHUTDOWN_SEND != 0
            || !self.incoming.receive(count)
        {
            return Fate::Reset;
        }
        if bytes == 0 {
            return Fate::Lives;
        }
        let sent = if self.backlog.is_empty() {
            self.send_now(payload)
        } else {
            Some(0)
        };
        match sent {
            Some(sent) => {
                self.incoming
                    .forward(u32::try_from(sent).expect("part of what was received"));
                if sent < bytes {
                    self.backlog.append(payload, sent);
                }
            }
            None => {
                self.incoming.forward(count);
                self.host_receives_no_more();
            }
        }
        self.pending.credit_update |= self.incoming.is_update_due();
        Fate::Lives
    }

    /// How much the socket took at once; `None` when the host is not there.
    fn send_now(&mut self, payload: &[VolatileSlice<'_>]) -> Option<usize> {
        let stream = self.stream.as_mut()?;
        loop {
            match stream.send(payload) {
                Ok(sent) => return Some(sent),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Some(0),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return None,
            }
        }
    }

    fn forwarded_from_backlog(&mut self, count: usize) {
        self.backlog.consume(count);
        self.incoming
            .forward(u32::try_from(count).expect("the backlog is smaller"));
    }

    fn host_sends_no_more(&mut self) {
        self.readable = false;
        self.tell(SHUTDOWN_SEND);
        if self.hung_up {
            self.tell(SHUTDOWN_RECEIVE);
        }
    }

    fn host_receives_no_more(&mut self) {
        let lost = self.backlog.len();
        self.forwarded_from_backlog(lost);
        self.tell(SHUTDOWN_RECEIVE);
    }

    fn tell(&mut self, flags: u32) {
        if flags & !self.told != 0 {
            self.told |= flags;
            self.pending.shutdown = true;
        }
        if self.told == SHUTDOWN_BOTH {
            self.stream = None;
            self.readable = false;
        }
    }

    fn has_window(&self) -> bool {
        self.outgoing.window() > 0
    }

    fn may_read(&self) -> bool {
        self.readable && self.phase == Phase::Open && self.stream.is_some()
    }

    fn next_control(&self) -> Option<Operation> {
        let pending = &self.pending;
        [
            (pending.request, Operation::Request),
            (pending.response, Operation::Response),
            (pending.credit_update, Operation::CreditUpdate),
            (pending.credit_request, Operation::CreditRequest),
            (pending.shutdown, Operation::Shutdown),
        ]
        .into_iter()
        .find_map(|(wanted, operation)| wanted.then_some(operation))
    }

    fn control_sent(&mut self, operation: Operation) {
        self.incoming.announced();
        // Each header carries the credit.
        self.pending.credit_update = false;
        match operation {
            Operation::Request => self.pending.request = false,
            Operation::Response => self.pending.response = false,
            Operation::CreditRequest => self.pending.credit_request = false,
            Operation::Shutdown => self.pending.shutdown = false,
            Operation::CreditUpdate | Operation::Reset | Operation::ReadWrite => {}
        }
    }

    fn header(&self, operation: Operation) -> Header {
        let flags = if operation == Operation::Shutdown {
            self.told
        } else {
            0
        };
        Header {
            src_cid: HOST_CID,
            dst_cid: self.guest_cid,
            src_port: self.ends.host_port,
            dst_port: self.ends.guest_port,
            len: 0,
            kind: TYPE_STREAM,
            operation: Some(operation),
            flags,
            buf_alloc: BUFFER,
            fwd_cnt: self.incoming.fwd_cnt(),
        }
    }
}
