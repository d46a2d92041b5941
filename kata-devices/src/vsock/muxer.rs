//! Which unix socket belongs to which stream.
//!
//! Everything here happens on one thread, which owns the device. A socket that
//! does not take bytes delays nobody but its own stream.
//!
//! Guest-controlled: ports and operations of the packets, in any order, for
//! streams that are there or not.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::epoll::EventFlags;
use vm_memory::VolatileSlice;

use super::config::{VsockConfig, host_socket};
use super::connection::{Connection, Ends, Fate, Turn};
use super::device::{Channel, RxSink};
use super::door::Door;
use super::entry::{Entry, Kind};
use super::handshake::MAX_LINE;
use super::packet::{Header, Operation};
use super::ports::Ports;
use super::sockets::{connect, drain, read_line};
use crate::epoll::{Epoll, Readiness};
use crate::limit::Offences;
use crate::{Error, Result};

/// The most streams that a device has at a time, those being dialled or still
/// draining included.
pub const MAX_STREAMS: usize = 1024;

/// Refusals that wait for a buffer of the guest; when there are so many, no
/// packet of the guest is taken.
const MAX_RESETS: usize = 256;

/// How long the host may take to say what it dials, and the guest to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Turns of streams before the guest's packets have theirs.
const MAX_TURNS: usize = 128;

/// Tokens below are the event loop's; this one is the listener's.
pub(crate) const FIRST_TOKEN: u64 = 1 << 32;

const INPUT: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);
const INPUT_AND_OUTPUT: EventFlags = INPUT.union(EventFlags::OUT);

/// Streams over unix sockets.
#[derive(Debug)]
pub(crate) struct Muxer {
    config: VsockConfig,
    epoll: Arc<Epoll>,
    door: Door,
    /// The guest's driver has been there since it last started anew. A machine that
    /// is paused, or has just been resumed, is without its queues for a while, and
    /// its callers wait.
    greeted: bool,
    entries: HashMap<u64, Entry>,
    by_ends: HashMap<Ends, u64>,
    ports: Ports,
    next_id: u64,
    ready: VecDeque<u64>,
    resets: VecDeque<Header>,
    /// Deadlines in the order in which they come.
    deadlines: VecDeque<(Instant, u64)>,
    refusals: Offences,
}

impl Muxer {
    /// Listens on the device's socket. Connections are turned away until the
    /// guest's driver is there.
    pub(crate) fn new(config: VsockConfig, epoll: Arc<Epoll>) -> Result<Self> {
        config.validate()?;
        let door = Door::open(&config.socket)?;
        epoll
            .add(&door, FIRST_TOKEN, EventFlags::IN)
            .map_err(Error::host("watch the vsock socket"))?;
        Ok(Self {
            config,
            epoll,
            door,
            greeted: false,
            entries: HashMap::new(),
            by_ends: HashMap::new(),
            ports: Ports::default(),
            next_id: 1,
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            deadlines: VecDeque::new(),
            refusals: Offences::default(),
        })
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.front().map(|(at, _)| *at)
    }

    /// Ends what has kept others waiting for too long.
    pub(crate) fn expire(&mut self, now: Instant) {
        while self.next_deadline().is_some_and(|at| at <= now) {
            let Some((_, id)) = self.deadlines.pop_front() else {
                return;
            };
            let Some(entry) = self.entries.get(&id) else {
                continue;
            };
            if entry.deadline.is_none_or(|at| at > now) {
                continue;
            }
            match &entry.kind {
                Kind::Greeting { .. } => drop(self.entries.remove(&id)),
                Kind::Connected(connection) if connection.is_dialling() => self.end(id, true),
                _ => {}
            }
        }
    }

    /// One of the muxer's descriptors is ready.
    pub(crate) fn handle(&mut self, readiness: Readiness) {
        if readiness.token == FIRST_TOKEN {
            return self.answer_callers();
        }
        let id = readiness.token - FIRST_TOKEN;
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let flags = readiness.flags;
        let hung_up = flags.intersects(EventFlags::HUP | EventFlags::ERR);
        match &mut entry.kind {
            Kind::Greeting { .. } => self.hear_greeting(id),
            Kind::Connected(connection) => {
                if flags.intersects(EventFlags::OUT | EventFlags::HUP | EventFlags::ERR) {
                    connection.flush();
                }
                if flags.intersects(INPUT | EventFlags::HUP | EventFlags::ERR) {
                    connection.socket_changed(flags.contains(EventFlags::RDHUP), hung_up);
                }
                self.attend(id);
            }
            Kind::Draining { stream, rest } => {
                if drain(stream, rest) {
                    self.entries.remove(&id);
                }
            }
        }
    }

    fn answer_callers(&mut self) {
        while let Some(stream) = self.door.next() {
            self.greet(stream);
        }
    }

    fn greet(&mut self, stream: UnixStream) {
        if stream.set_nonblocking(true).is_err() || !self.has_room() {
            return;
        }
        let kind = Kind::Greeting {
            stream,
            line: Vec::with_capacity(MAX_LINE),
        };
        let id = self.enter(kind, Some(Instant::now() + PATIENCE));
        if self.watch(id).is_err() {
            self.entries.remove(&id);
        }
    }

    fn hear_greeting(&mut self, id: u64) {
        let Some(Entry {
            kind: Kind::Greeting { stream, line },
            ..
        }) = self.entries.get_mut(&id)
        else {
            return;
        };
        let port = match read_line(stream, line) {
            Ok(None) => return,
            Ok(Some(port)) => port,
            Err(error) => {
                log::debug!(error:%; "vsock: dropping a caller");
                self.entries.remove(&id);
                return;
            }
        };
        let Some(Entry {
            kind: Kind::Greeting { stream, .. },
            ..
        }) = self.entries.remove(&id)
        else {
            return;
        };
        if self.greeted {
            self.dial(id, stream, port);
        }
    }

    /// Dials the guest for `stream`, which stays watched under the same token.
    fn dial(&mut self, id: u64, stream: UnixStream, guest_port: u32) {
        let ends = Ends {
            host_port: self.ports.take(),
            guest_port,
        };
        let connection = Connection::dial(ends, self.config.guest_cid, stream);
        self.insert(
            id,
            Kind::Connected(Box::new(connection)),
            Some(Instant::now() + PATIENCE),
        );
        self.by_ends.insert(ends, id);
        self.attend(id);
    }

    /// The guest dials the host.
    fn connect(&mut self, header: &Header) -> bool {
        if !self.has_room() {
            return false;
        }
        let ends = Ends {
            host_port: header.dst_port,
            guest_port: header.src_port,
        };
        let path = host_socket(&self.config.socket, header.dst_port);
        let stream = match connect(&path) {
            Ok(stream) => stream,
            Err(error) => {
                log::debug!(port = header.dst_port, error:%; "vsock: refusing the guest");
                return false;
            }
        };
        let connection = Connection::accept(ends, header, stream);
        let id = self.enter(Kind::Connected(Box::new(connection)), None);
        self.by_ends.insert(ends, id);
        if self.watch(id).is_err() {
            self.end(id, false);
            return false;
        }
        self.attend(id);
        true
    }

    fn has_room(&mut self) -> bool {
        if self.entries.len() < MAX_STREAMS {
            return true;
        }
        // One that the host has closed and the guest has not acknowledged can go.
        let gone = self
            .entries
            .iter()
            .find_map(|(id, entry)| match &entry.kind {
                Kind::Connected(connection) if connection.stream().is_none() => Some(*id),
                _ => None,
            });
        if let Some(id) = gone {
            self.end(id, true);
            return true;
        }
        if let Some(total) = self.refusals.count() {
            log::warn!(total; "vsock: refusing more than {MAX_STREAMS} streams");
        }
        false
    }

    fn enter(&mut self, kind: Kind, deadline: Option<Instant>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.insert(id, kind, deadline);
        id
    }

    fn insert(&mut self, id: u64, kind: Kind, deadline: Option<Instant>) {
        if let Some(at) = deadline {
            self.deadlines.push_back((at, id));
        }
        self.entries.insert(id, Entry::new(kind, deadline));
    }

    fn watch(&self, id: u64) -> io::Result<()> {
        let Some(stream) = self.entries.get(&id).and_then(|entry| entry.stream()) else {
            return Ok(());
        };
        self.epoll.add(stream, FIRST_TOKEN + id, INPUT)
    }

    /// After something happened to a stream: its turn, and its interest in room.
    fn attend(&mut self, id: u64) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let Kind::Connected(connection) = &entry.kind else {
            return;
        };
        if connection.has_packets() && !entry.queued {
            entry.queued = true;
            self.ready.push_back(id);
        }
        let wants_room = connection.has_backlog();
        if wants_room != entry.wants_room {
            entry.wants_room = wants_room;
            let flags = if wants_room { INPUT_AND_OUTPUT } else { INPUT };
            if let Some(stream) = connection.stream() {
                // It is registered, and stays so as long as it is open.
                let _ = self.epoll.modify(stream, FIRST_TOKEN + id, flags);
            }
        }
    }

    /// Ends a stream, and lets the host have what is left of it.
    fn end(&mut self, id: u64, tell_guest: bool) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        let Kind::Connected(connection) = entry.kind else {
            return;
        };
        let ends = connection.ends();
        self.by_ends.remove(&ends);
        self.ports.release(ends.host_port);
        if tell_guest {
            self.resets.push_back(reset(ends, self.config.guest_cid));
        }
        if let Some((stream, rest)) = connection.into_remains() {
            self.insert(id, Kind::Draining { stream, rest }, None);
            self.kick_drain(id, entry.wants_room);
        }
    }

    fn kick_drain(&mut self, id: u64, watched: bool) {
        let Some(Entry {
            kind: Kind::Draining { stream, rest },
            wants_room,
            ..
        }) = self.entries.get_mut(&id)
        else {
            return;
        };
        *wants_room = true;
        let gone = drain(stream, rest)
            || (!watched
                && self
                    .epoll
                    .modify(&*stream, FIRST_TOKEN + id, INPUT_AND_OUTPUT)
                    .is_err());
        if gone {
            self.entries.remove(&id);
        }
    }
}

impl Channel for Muxer {
    fn accepts(&self) -> bool {
        self.resets.len() < MAX_RESETS
    }

    fn receive(&mut self, header: &Header, payload: &[VolatileSlice<'_>]) {
        let ends = Ends {
            host_port: header.dst_port,
            guest_port: header.src_port,
        };
        let Some(&id) = self.by_ends.get(&ends) else {
            let answered = match header.operation {
                Some(Operation::Request) => self.connect(header),
                // There is nothing to refuse in a refusal.
                Some(Operation::Reset) => true,
                _ => false,
            };
            if !answered {
                self.resets.push_back(header.reset());
            }
            return;
        };
        let Some(Entry {
            kind: Kind::Connected(connection),
            ..
        }) = self.entries.get_mut(&id)
        else {
            return;
        };
        match connection.deliver(header, payload) {
            Fate::Lives => self.attend(id),
            Fate::Reset => self.end(id, true),
            Fate::Gone => self.end(id, false),
        }
    }

    fn has_packets(&self) -> bool {
        !self.resets.is_empty() || !self.ready.is_empty()
    }

    fn transmit(&mut self, sink: &mut dyn RxSink) {
        while let Some(header) = self.resets.front() {
            if !sink.control(header) {
                return;
            }
            self.resets.pop_front();
        }
        for _ in 0..MAX_TURNS {
            let Some(id) = self.ready.pop_front() else {
                return;
            };
            let Some(entry) = self.entries.get_mut(&id) else {
                continue;
            };
            let Kind::Connected(connection) = &mut entry.kind else {
                continue;
            };
            entry.queued = false;
            match connection.transmit(sink) {
                Turn::Done => self.attend(id),
                Turn::Again => {
                    entry.queued = true;
                    self.ready.push_back(id);
                }
                Turn::NoBuffer => {
                    entry.queued = true;
                    self.ready.push_front(id);
                    return;
                }
            }
        }
    }

    fn set_active(&mut self, active: bool) {
        self.greeted |= active;
    }

    fn reset(&mut self) {
        self.greeted = false;
        let ids: Vec<u64> = self.entries.keys().copied().collect();
        for id in ids {
            self.end(id, false);
        }
        self.ready.clear();
        self.resets.clear();
    }
}

fn reset(ends: Ends, guest_cid: u64) -> Header {
    let of_the_guest = Header {
        src_cid: guest_cid,
        dst_cid: super::packet::HOST_CID,
        src_port: ends.guest_port,
        dst_port: ends.host_port,
        len: 0,
        kind: super::packet::TYPE_STREAM,
        operation: None,
        flags: 0,
        buf_alloc: 0,
        fwd_cnt: 0,
    };
    of_the_guest.reset()
}
