//! The device: requests from the queues to the engine, and back.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use virtio_bindings::virtio_blk as features;
use vm_memory::{Bytes, GuestAddress};

use super::config::BlkConfig;
use super::disk::Disk;
use super::engine::{Completion, Engine, MAX_IN_FLIGHT, Operation};
use super::layout::{ConfigSpace, ID_LEN, MAX_BYTES, SIZE_MAX, Status};
use super::offer::{config_space, engine, offered};
use super::request::{Action, Limits, Request};
use crate::epoll::{Epoll, Readiness};
use crate::limit::Offences;
use crate::rate::Limiter;
use crate::virtio::{Chain, DeviceKind, DeviceQueue, Driven, GuestMemory, QueueError};
use crate::{Error, Result, pieces};

const QUEUE_SIZE: u16 = 256;

/// Requests of a queue before another has its turn.
const BUDGET: usize = 64;

/// Bytes under way from which on no further request is begun. What is under way
/// is what a pause, a reset or an end waits for.
const MOST_UNDER_WAY: u64 = MAX_BYTES;

/// The token of the engine's event, above those of queues.
const ENGINE: u64 = 1 << 32;

/// A request under way.
#[derive(Debug)]
struct Pending {
    queue: usize,
    head: u16,
    status: GuestAddress,
    memory: Arc<GuestMemory>,
    /// Bytes for the guest, should it succeed.
    reads: bool,
    /// What it weighs.
    weight: u64,
    /// Whether the disk is still to be flushed before the answer.
    flushes: bool,
}

/// The queue of a request whose queue was given up before it ended.
const NO_QUEUE: usize = usize::MAX;

/// A virtio-blk device.
pub(crate) struct Blk {
    epoll: Arc<Epoll>,
    engine: Box<dyn Engine>,
    limits: Limits,
    config: ConfigSpace,
    serial: [u8; ID_LEN],
    features: u64,
    /// The driver knows no flush: what is answered is on the disk.
    write_through: bool,
    queues: Vec<Option<DeviceQueue>>,
    /// The queue whose turn comes first.
    turn: usize,
    pending: Vec<Option<Pending>>,
    /// What those weigh.
    under_way: u64,
    free: VecDeque<u32>,
    done: Vec<Completion>,
    limiter: Limiter,
    resume_at: Option<Instant>,
    offences: Offences,
}

impl Blk {
    /// Opens the disk.
    pub(crate) fn new(config: &BlkConfig, epoll: &Arc<Epoll>) -> Result<Self> {
        config.validate()?;
        let disk = Arc::new(Disk::open(&config.path, config.read_only)?);
        let limits = Limits {
            capacity: disk.sectors(),
            read_only: config.read_only,
            size_max: MAX_BYTES,
        };
        let engine = engine(config.engine, disk)?;
        if let Some(event) = engine.event() {
            epoll
                .add(event, ENGINE, EventFlags::IN)
                .map_err(Error::host("watch io_uring"))?;
        }
        let mut serial = [0; ID_LEN];
        serial[..config.serial.len()].copy_from_slice(config.serial.as_bytes());
        let slots = u32::try_from(MAX_IN_FLIGHT).expect("256");
        Ok(Self {
            epoll: Arc::clone(epoll),
            engine,
            limits,
            config: config_space(config, &limits),
            serial,
            features: offered(config),
            write_through: false,
            queues: (0..config.queues).map(|_| None).collect(),
            turn: 0,
            pending: (0..slots).map(|_| None).collect(),
            under_way: 0,
            free: (0..slots).collect(),
            done: Vec::new(),
            limiter: Limiter::new(&config.rate_limit),
            resume_at: None,
            offences: Offences::default(),
        })
    }

    /// Whether requests must end before others are begun.
    fn is_full(&self) -> bool {
        self.free.is_empty() || self.under_way >= MOST_UNDER_WAY
    }

    /// Begins requests of a queue; `true` when there are more.
    fn take(&mut self, index: usize) -> std::result::Result<bool, QueueError> {
        for _ in 0..BUDGET {
            if self.is_full() {
                // Goes on when one of those under way has ended.
                return Ok(false);
            }
            if let Err(at) = self.limiter.check() {
                self.resume_at = Some(at);
                return Ok(false);
            }
            let Some(running) = &mut self.queues[index] else {
                return Ok(false);
            };
            let memory = Arc::clone(&running.memory);
            let Some(chain) = running.queue.next(&memory)? else {
                return Ok(false);
            };
            let parsed =
                Chain::parse(&memory, chain).and_then(|chain| Request::parse(chain, &self.limits));
            match parsed {
                Ok(request) => self.begin(index, &request, &memory),
                Err(error) => {
                    // There is no place for an answer.
                    running.queue.fault();
                    self.complain(&error.to_string());
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    fn begin(&mut self, queue: usize, request: &Request<'_>, memory: &Arc<GuestMemory>) {
        let Some(tag) = self.free.pop_front() else {
            return;
        };
        self.limiter.take(request.bytes());
        self.under_way += request.weight();
        self.pending[at(tag)] = Some(Pending {
            queue,
            head: request.head,
            status: request.status,
            memory: Arc::clone(memory),
            weight: request.weight(),
            reads: matches!(request.action, Action::Read(..) | Action::Identify(_)),
            // What is answered is on the disk; writes see to that themselves.
            flushes: self.write_through
                && matches!(request.action, Action::Discard(_) | Action::Zero(..)),
        });
        let operation = match &request.action {
            Action::Read(offset, into) => Operation::Read(*offset, into),
            Action::Write(offset, data) => Operation::Write {
                offset: *offset,
                data,
                durable: self.write_through,
            },
            Action::Flush => Operation::Flush,
            Action::Discard(range) => Operation::Punch(*range),
            Action::Zero(range, unmap) => Operation::Zero(*range, *unmap),
            Action::Identify(into) => {
                let written = pieces::copy_from(into, &self.serial);
                return self.answer(tag, Status::Ok, written);
            }
            Action::Answer(status) => return self.answer(tag, *status, 0),
        };
        self.engine.begin(tag, operation, memory, &mut self.done);
    }

    /// Answers what the engine has ended. `true` when it has begun something,
    /// which is to be handed over.
    fn answer_done(&mut self) -> bool {
        let mut began = false;
        while !self.done.is_empty() {
            for (tag, result) in std::mem::take(&mut self.done) {
                match result {
                    Ok(_) if self.flush_first(tag) => began = true,
                    Ok(moved) => self.answer(tag, Status::Ok, moved),
                    Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => {
                        self.answer(tag, Status::Unsupported, 0);
                    }
                    Err(error) => {
                        self.complain(&format!("a request failed: {error}"));
                        self.answer(tag, Status::Failed, 0);
                    }
                }
            }
        }
        began
    }

    /// Flushes the disk for a request that owes it, under the same tag.
    fn flush_first(&mut self, tag: u32) -> bool {
        let Some(pending) = self.pending.get_mut(at(tag)).and_then(Option::as_mut) else {
            return false;
        };
        if !std::mem::take(&mut pending.flushes) {
            return false;
        }
        let memory = Arc::clone(&pending.memory);
        self.engine
            .begin(tag, Operation::Flush, &memory, &mut self.done);
        true
    }

    fn answer(&mut self, tag: u32, status: Status, moved: usize) {
        let Some(pending) = self.pending.get_mut(at(tag)).and_then(Option::take) else {
            return;
        };
        self.free.push_back(tag);
        self.under_way -= pending.weight;
        let Some(running) = self.queues.get_mut(pending.queue).and_then(Option::as_mut) else {
            return;
        };
        // All have a status.
        let data = if pending.reads { moved } else { 0 };
        let written = u32::try_from(data + 1).unwrap_or(u32::MAX);
        let stored = pending.memory.write_obj(status as u8, pending.status);
        let completed = running
            .queue
            .complete(&running.memory, pending.head, written);
        if stored.is_err() || completed.is_err() {
            running.queue.fault();
            self.complain("an answer has no place in guest memory");
        }
    }

    fn notify_all(&mut self) {
        for running in self.queues.iter_mut().flatten() {
            if running.queue.notify(&running.memory).is_err()
                && let Some(total) = self.offences.count()
            {
                log::warn!(total; "blk: a queue is broken");
            }
        }
    }

    /// Waits for all requests of a queue.
    fn drain(&mut self, queue: usize) -> io::Result<()> {
        let waits = |pending: &Option<Pending>| pending.as_ref().is_some_and(|p| p.queue == queue);
        self.answer_done();
        while self.pending.iter().any(waits) {
            self.engine.wait(&mut self.done)?;
            if self.done.is_empty() {
                return Err(io::Error::other("a disk's requests do not end"));
            }
            self.answer_done();
        }
        self.notify_all();
        Ok(())
    }

    fn take_back(&mut self, index: usize) -> Option<DeviceQueue> {
        let queue = self.queues.get_mut(index)?.take()?;
        // It was registered when it started; if that is gone, so is the wish.
        let _ = self.epoll.remove(&queue.kick);
        Some(queue)
    }

    fn complain(&self, what: &str) {
        if let Some(total) = self.offences.count() {
            log::warn!(total; "blk: {what}");
        }
    }
}

impl Driven for Blk {
    fn kind(&self) -> DeviceKind {
        DeviceKind::BLOCK
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; self.queues.len()]
    }

    fn config(&self) -> Vec<u8> {
        self.config.to_bytes()
    }

    fn negotiated(&mut self, features: u64) {
        let has = |bit: u32| features & 1 << bit != 0;
        self.write_through = !has(features::VIRTIO_BLK_F_FLUSH);
        let knows_size = has(features::VIRTIO_BLK_F_SIZE_MAX);
        self.limits.size_max = if knows_size {
            u64::from(SIZE_MAX)
        } else {
            MAX_BYTES
        };
    }

    fn start(&mut self, index: usize, queue: DeviceQueue) -> io::Result<()> {
        let token = u64::try_from(index).map_err(io::Error::other)?;
        self.epoll.add(&queue.kick, token, EventFlags::IN)?;
        self.queues[index] = Some(queue);
        Ok(())
    }

    fn stop(&mut self, index: usize) -> Option<DeviceQueue> {
        self.queues.get(index)?.as_ref()?;
        if let Err(error) = self.drain(index) {
            log::error!(error:%; "blk: cannot wait for requests");
            // Should they end after all, it is none of the queue's next life.
            for pending in self.pending.iter_mut().flatten() {
                if pending.queue == index {
                    pending.queue = NO_QUEUE;
                }
            }
        }
        self.take_back(index)
    }

    fn quiesce(&mut self, index: usize) -> io::Result<Option<DeviceQueue>> {
        if self.queues.get(index).is_some_and(Option::is_some) {
            self.drain(index)?;
        }
        Ok(self.take_back(index))
    }

    fn reset(&mut self) {
        self.write_through = false;
        self.resume_at = None;
    }

    fn handle(&mut self, _readiness: Readiness) {
        // A kick says nothing but that `proceed` has something to do.
    }

    fn proceed(&mut self) -> bool {
        let mut more = false;
        for step in 0..self.queues.len() {
            let index = (self.turn + step) % self.queues.len();
            if self.resume_at.is_some() {
                break;
            }
            more |= self.take(index).unwrap_or_else(|error| {
                self.complain(&error.to_string());
                false
            });
        }
        self.turn = (self.turn + 1) % self.queues.len();
        let full = self.is_full();
        self.engine.reap(&mut self.done);
        // With room again, what was left in the rings can go on.
        more |= full && !self.done.is_empty();
        more |= self.answer_done();
        self.notify_all();
        more
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.resume_at
    }

    fn expire(&mut self, now: Instant) {
        self.resume_at = self.resume_at.filter(|at| *at > now);
    }
}

fn at(tag: u32) -> usize {
    usize::try_from(tag).unwrap_or(usize::MAX)
}
