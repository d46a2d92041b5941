//! The device: frames between rings and ports.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use virtio_bindings::virtio_net as b;
use vm_memory::Bytes;

use super::config::{Link, NetConfig};
use super::control::{Command, Control, FAILED, OK};
use super::frame::outgoing;
use super::layout::{HEADER_LEN, has, offered, tap_offloads};
use super::port::Port;
use super::receive::{Delivery, Incoming};
use super::tap;
use crate::epoll::{Epoll, Readiness};
use crate::limit::Offences;
use crate::rate::Limiter;
use crate::virtio::{Chain, DeviceKind, DeviceQueue, Driven, QueueError, complete_and_notify};
use crate::{Error, Result, pieces};

const QUEUE_SIZE: u16 = 256;
const CONTROL_SIZE: u16 = 64;

/// Frames of a queue before another has its turn.
const BUDGET: usize = 64;

/// Tokens of ports, above those of queues.
const PORTS: u64 = 1 << 32;

/// A receive and a transmit queue, and the port that is theirs.
struct Pair {
    port: Port,
    incoming: Incoming,
    /// The port may have frames: it was ready and has not been emptied since.
    readable: bool,
    /// The guest uses this pair.
    enabled: bool,
    receive: Option<DeviceQueue>,
    transmit: Option<DeviceQueue>,
}

/// A virtio-net device.
pub(crate) struct Net {
    epoll: Arc<Epoll>,
    pairs: Vec<Pair>,
    control: Option<DeviceQueue>,
    is_tap: bool,
    config: Vec<u8>,
    offered: u64,
    chosen: u64,
    receive_limiter: Limiter,
    transmit_limiter: Limiter,
    receive_at: Option<Instant>,
    transmit_at: Option<Instant>,
    dropped: Offences,
    malformed: Offences,
}

impl Net {
    pub(crate) fn new(config: NetConfig, epoll: &Arc<Epoll>) -> Result<Self> {
        config.validate()?;
        let pair_count = u16::try_from(config.pairs()).expect("at most 16");
        let is_tap = matches!(config.link, Link::Tap(_));
        let offered = offered(
            is_tap,
            config.mac.is_some(),
            config.mtu.is_some(),
            pair_count,
        );
        let space = config_space(&config, pair_count);
        let ports: io::Result<Vec<Port>> = match config.link {
            Link::Tap(tap) => tap.into_queues()?.into_iter().map(Port::packets).collect(),
            Link::Packets(fds) => fds.into_iter().map(Port::packets).collect(),
            Link::Stream(fd) => Port::stream(fd).map(|port| vec![port]),
        };
        let ports = ports.map_err(Error::host("make a network link non-blocking"))?;
        let mut pairs = Vec::new();
        for (port, token) in ports.into_iter().zip(PORTS..) {
            epoll
                .add(&port, token, EventFlags::IN | EventFlags::OUT)
                .map_err(Error::host("watch a network link"))?;
            pairs.push(Pair::new(port, pairs.is_empty()));
        }
        let net = Self {
            epoll: Arc::clone(epoll),
            pairs,
            control: None,
            is_tap,
            config: space,
            offered,
            chosen: 0,
            receive_limiter: Limiter::new(&config.receive_limit),
            transmit_limiter: Limiter::new(&config.transmit_limit),
            receive_at: None,
            transmit_at: None,
            dropped: Offences::default(),
            malformed: Offences::default(),
        };
        net.use_pairs(1);
        Ok(net)
    }

    /// The index of the control queue (§5.1.2).
    fn control_index(&self) -> usize {
        if has(self.chosen, b::VIRTIO_NET_F_MQ) {
            2 * self.pairs.len()
        } else {
            2
        }
    }

    fn slot(&mut self, index: usize) -> Option<&mut Option<DeviceQueue>> {
        if index == self.control_index() {
            return Some(&mut self.control);
        }
        let pair = self.pairs.get_mut(index / 2)?;
        Some(if index.is_multiple_of(2) {
            &mut pair.receive
        } else {
            &mut pair.transmit
        })
    }

    /// Lets the host deliver to the first `count` queues of a tap with several.
    fn use_pairs(&self, count: usize) {
        if !self.is_tap || self.pairs.len() == 1 {
            return;
        }
        for (index, pair) in self.pairs.iter().enumerate() {
            let attached = index < count;
            if let Err(error) = tap::set_attached(pair.port.as_fd(), attached) {
                // A queue is as we want it already, or the tap has gone.
                log::debug!(error:%, index, attached; "net: a queue of the tap stays as it is");
            }
        }
    }

    /// Receives up to a budget of frames; `true` when there may be more.
    fn receive(&mut self, index: usize) -> std::result::Result<bool, QueueError> {
        let mergeable = has(self.chosen, b::VIRTIO_NET_F_MRG_RXBUF);
        let pair = &mut self.pairs[index];
        let Some(running) = &mut pair.receive else {
            return Ok(false);
        };
        let memory = Arc::clone(&running.memory);
        for _ in 0..BUDGET {
            if pair.incoming.is_empty() {
                if !pair.readable || self.receive_at.is_some() {
                    break;
                }
                if let Err(at) = self.receive_limiter.check() {
                    self.receive_at = Some(at);
                    break;
                }
                if !read(
                    &mut pair.port,
                    &mut pair.incoming,
                    &mut pair.readable,
                    &self.dropped,
                ) {
                    break;
                }
            }
            let bytes = pair.incoming.len();
            match pair
                .incoming
                .deliver(&mut running.queue, &memory, mergeable)?
            {
                Delivery::Done => self.receive_limiter.take(bytes as u64),
                Delivery::NoBuffers => break,
                Delivery::TooLarge => {
                    pair.incoming.clear();
                    drop_frame(&self.dropped, "a frame is larger than the guest's buffers");
                }
                Delivery::Malformed => {
                    running.queue.fault();
                    complain(&self.malformed, "not a receive buffer");
                    return Ok(false);
                }
            }
        }
        running.queue.notify(&memory)?;
        Ok(pair.readable && pair.incoming.is_empty() && self.receive_at.is_none())
    }

    /// Sends up to a budget of frames; `true` when there may be more.
    fn transmit(&mut self, index: usize) -> std::result::Result<bool, QueueError> {
        let pair = &mut self.pairs[index];
        let Some(running) = &mut pair.transmit else {
            return Ok(false);
        };
        let memory = Arc::clone(&running.memory);
        for _ in 0..BUDGET {
            if let Err(at) = self.transmit_limiter.check() {
                self.transmit_at = Some(at);
                running.queue.notify(&memory)?;
                return Ok(false);
            }
            let Some(chain) = running.queue.next(&memory)? else {
                running.queue.notify(&memory)?;
                return Ok(false);
            };
            let head = chain.head_index();
            match Chain::parse(&memory, chain).and_then(outgoing) {
                Ok(Some(frame)) => {
                    self.transmit_limiter.take(pieces::length(&frame) as u64);
                    if let Err(error) = pair.port.write(&frame) {
                        drop_frame(&self.dropped, &format!("the host refuses a frame: {error}"));
                    }
                }
                Ok(None) => drop_frame(&self.dropped, "a frame that is none"),
                Err(error) => {
                    running.queue.fault();
                    complain(&self.malformed, &error.to_string());
                    return Ok(false);
                }
            }
            running.queue.complete(&memory, head, 0)?;
        }
        running.queue.notify(&memory)?;
        Ok(true)
    }

    /// Does what the driver commands.
    fn obey(&mut self) -> std::result::Result<(), QueueError> {
        let Some(mut running) = self.control.take() else {
            return Ok(());
        };
        let obeyed = self.obey_on(&mut running);
        self.control = Some(running);
        obeyed
    }

    fn obey_on(&mut self, running: &mut DeviceQueue) -> std::result::Result<(), QueueError> {
        let memory = Arc::clone(&running.memory);
        // As many as there are; each costs the driver a kick or a used chain.
        for _ in 0..usize::from(CONTROL_SIZE) {
            let Some(chain) = running.queue.next(&memory)? else {
                break;
            };
            let pairs = u16::try_from(self.pairs.len()).unwrap_or(u16::MAX);
            let parsed =
                Chain::parse(&memory, chain).and_then(|chain| Control::parse(&chain, pairs));
            let control = match parsed {
                Ok(control) => control,
                Err(error) => {
                    running.queue.fault();
                    complain(&self.malformed, &error.to_string());
                    return Ok(());
                }
            };
            let answer = match control.command {
                Command::Pairs(count) if has(self.chosen, b::VIRTIO_NET_F_MQ) => {
                    for (index, pair) in self.pairs.iter_mut().enumerate() {
                        pair.enabled = index < usize::from(count);
                    }
                    self.use_pairs(usize::from(count));
                    OK
                }
                Command::Pairs(_) | Command::Unknown => FAILED,
            };
            if memory.write_obj(answer, control.answer).is_err() {
                running.queue.fault();
                return Ok(());
            }
            complete_and_notify(&mut running.queue, &memory, control.head, 1)?;
        }
        Ok(())
    }
}

impl Pair {
    fn new(port: Port, enabled: bool) -> Self {
        Self {
            port,
            incoming: Incoming::new(),
            readable: false,
            enabled,
            receive: None,
            transmit: None,
        }
    }
}

/// Reads the next frame; `false` when there is none.
fn read(port: &mut Port, incoming: &mut Incoming, readable: &mut bool, dropped: &Offences) -> bool {
    loop {
        match port.read(incoming.buffer()) {
            Ok(Some(length)) if length > HEADER_LEN => {
                incoming.set(length);
                return true;
            }
            // The other end of a socket is gone: there is nothing any more.
            Ok(Some(0) | None) => break,
            Ok(Some(_)) => drop_frame(dropped, "the host sent no frame"),
            Err(error) => {
                drop_frame(dropped, &format!("cannot read a frame: {error}"));
                break;
            }
        }
    }
    *readable = false;
    false
}

fn drop_frame(dropped: &Offences, what: &str) {
    if let Some(total) = dropped.count() {
        log::debug!(total; "net: dropping a frame: {what}");
    }
}

fn complain(malformed: &Offences, what: &str) {
    if let Some(total) = malformed.count() {
        log::warn!(total; "net: {what}");
    }
}

impl Driven for Net {
    fn kind(&self) -> DeviceKind {
        DeviceKind::NET
    }

    fn features(&self) -> u64 {
        self.offered
    }

    fn queue_sizes(&self) -> Vec<u16> {
        let mut sizes = vec![QUEUE_SIZE; 2 * self.pairs.len()];
        sizes.push(CONTROL_SIZE);
        sizes
    }

    fn config(&self) -> Vec<u8> {
        self.config.clone()
    }

    fn serves_config(&self) -> bool {
        // Front ends have addresses and links of their own.
        false
    }

    fn served_queues(&self) -> usize {
        // The control queue is the front end's.
        2 * self.pairs.len()
    }

    fn negotiated(&mut self, features: u64) {
        self.chosen = features;
        if !self.is_tap {
            return;
        }
        for pair in &self.pairs {
            let flags = tap_offloads(features);
            if let Err(error) = tap::set_offloads(pair.port.as_fd(), flags) {
                log::warn!(error:%; "net: the tap knows no such offloads; it does them itself");
            }
        }
    }

    fn start(&mut self, index: usize, queue: DeviceQueue) -> io::Result<()> {
        let token = u64::try_from(index).map_err(io::Error::other)?;
        self.epoll.add(&queue.kick, token, EventFlags::IN)?;
        let slot = self
            .slot(index)
            .ok_or_else(|| io::Error::other("there is no such queue"))?;
        *slot = Some(queue);
        Ok(())
    }

    fn stop(&mut self, index: usize) -> Option<DeviceQueue> {
        let queue = self.slot(index)?.take()?;
        // It was registered when it started; if that is gone, so is the wish.
        let _ = self.epoll.remove(&queue.kick);
        Some(queue)
    }

    fn reset(&mut self) {
        (self.chosen, self.receive_at, self.transmit_at) = (0, None, None);
        for (index, pair) in self.pairs.iter_mut().enumerate() {
            pair.incoming.clear();
            pair.enabled = index == 0;
        }
        self.use_pairs(1);
    }

    fn handle(&mut self, readiness: Readiness) {
        let port = readiness.token.checked_sub(PORTS);
        let index = port.and_then(|index| usize::try_from(index).ok());
        if let Some(pair) = index.and_then(|index| self.pairs.get_mut(index)) {
            pair.readable |= readiness.flags.contains(EventFlags::IN);
            if let Err(error) = pair.port.flush() {
                drop_frame(&self.dropped, &format!("the host takes no frames: {error}"));
            }
        }
    }

    fn proceed(&mut self) -> bool {
        let mut more = false;
        let mut outcome = self.obey();
        for index in 0..self.pairs.len() {
            let moved = self.receive(index).and_then(|received| {
                let blocked = self.transmit_at.is_some();
                Ok(received | (!blocked && self.transmit(index)?))
            });
            match moved {
                Ok(again) => more |= again,
                Err(error) => outcome = Err(error),
            }
        }
        if let Err(error) = outcome {
            complain(&self.malformed, &error.to_string());
        }
        more
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.receive_at.into_iter().chain(self.transmit_at).min()
    }

    fn expire(&mut self, now: Instant) {
        self.receive_at = self.receive_at.filter(|at| *at > now);
        self.transmit_at = self.transmit_at.filter(|at| *at > now);
    }
}

/// Address, status, queue pairs and MTU (§5.1.4).
fn config_space(config: &NetConfig, pairs: u16) -> Vec<u8> {
    let mut space = config.mac.map_or([0; 6], |mac| mac.0).to_vec();
    let up = u16::try_from(b::VIRTIO_NET_S_LINK_UP).expect("1");
    space.extend(up.to_le_bytes());
    space.extend(pairs.to_le_bytes());
    space.extend(config.mtu.unwrap_or(0).to_le_bytes());
    space
}
