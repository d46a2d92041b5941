//! The device: bytes between rings and descriptors.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::event::epoll::EventFlags;
use rustix::io::Errno;

use super::config::ConsoleConfig;
use crate::epoll::{Epoll, Readiness};
use crate::limit::Offences;
use crate::virtio::{Chain, DeviceKind, DeviceQueue, Driven, QUEUE_FEATURES, QueueError};
use crate::{Error, Result, pieces, volatile_io};

const RX: usize = 0;
const TX: usize = 1;
const QUEUE_SIZE: u16 = 128;

/// Buffers of a queue before the other has its turn.
const BUDGET: usize = 64;

/// Bytes read at once.
const CHUNK: usize = 4096;

/// `VIRTIO_CONSOLE_F_EMERG_WRITE`, and where such writes go (§5.3.4).
const EMERGENCY: u64 = 1 << 2;
const EMERGENCY_AT: usize = 8;

const INPUT: u64 = 1 << 32;
const OUTPUT: u64 = INPUT + 1;

/// A virtio-console device.
#[derive(Debug)]
pub(crate) struct Console {
    epoll: Arc<Epoll>,
    input: Option<OwnedFd>,
    output: OwnedFd,
    queues: [Option<DeviceQueue>; 2],
    readable: bool,
    writable: bool,
    /// Bytes of the next chain that have been written already.
    written: usize,
    malformed: Offences,
}

impl Console {
    pub(crate) fn new(config: ConsoleConfig, epoll: &Arc<Epoll>) -> Result<Self> {
        let mut console = Self {
            epoll: Arc::clone(epoll),
            input: config.input,
            output: config.output,
            queues: [None, None],
            readable: false,
            writable: true,
            written: 0,
            malformed: Offences::default(),
        };
        console.watch().map_err(Error::host("watch a console"))?;
        Ok(console)
    }

    fn watch(&mut self) -> io::Result<()> {
        if let Some(input) = &self.input {
            rustix::io::ioctl_fionbio(input, true)?;
            self.readable = !watch(&self.epoll, input, INPUT, EventFlags::IN)?;
        }
        rustix::io::ioctl_fionbio(&self.output, true)?;
        watch(&self.epoll, &self.output, OUTPUT, EventFlags::OUT)?;
        Ok(())
    }

    /// Writes what the guest says; `true` when there is more.
    fn listen(&mut self) -> std::result::Result<bool, QueueError> {
        let Some(running) = &mut self.queues[TX] else {
            return Ok(false);
        };
        let memory = Arc::clone(&running.memory);
        let queue = &mut running.queue;
        for _ in 0..BUDGET {
            if !self.writable {
                break;
            }
            let Some(chain) = queue.next(&memory)? else {
                queue.notify(&memory)?;
                return Ok(false);
            };
            let mut chain = match Chain::parse(&memory, chain) {
                Ok(chain) if chain.writable.is_empty() => chain,
                _ => {
                    queue.fault();
                    complain(&self.malformed, "not what a console writes");
                    return Ok(false);
                }
            };
            pieces::skip(&mut chain.readable, self.written);
            let left = chain.readable_len();
            let sent = match volatile_io::write_packet(&self.output, &chain.readable) {
                Ok(sent) => sent,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    0
                }
                // Nobody listens any more: the guest need not wait for anyone.
                Err(_) => left,
            };
            if sent < left {
                self.written += sent;
                queue.unpop(1);
                continue;
            }
            self.written = 0;
            queue.complete(&memory, chain.head, 0)?;
        }
        queue.notify(&memory)?;
        Ok(self.writable)
    }

    /// Gives the guest what there is to read; `true` when there is more.
    fn speak(&mut self) -> std::result::Result<bool, QueueError> {
        let (Some(running), Some(input)) = (&mut self.queues[RX], &self.input) else {
            return Ok(false);
        };
        let memory = Arc::clone(&running.memory);
        let queue = &mut running.queue;
        let mut bytes = [0; CHUNK];
        for _ in 0..BUDGET {
            if !self.readable {
                break;
            }
            let Some(chain) = queue.next(&memory)? else {
                queue.notify(&memory)?;
                return Ok(false);
            };
            let chain = match Chain::parse(&memory, chain) {
                Ok(chain) if chain.readable.is_empty() && chain.writable_len() > 0 => chain,
                _ => {
                    queue.fault();
                    complain(&self.malformed, "not a buffer to read into");
                    return Ok(false);
                }
            };
            let room = chain.writable_len().min(CHUNK);
            match rustix::io::read(input, &mut bytes[..room]) {
                Ok(count) if count > 0 => {
                    pieces::copy_from(&chain.writable, &bytes[..count]);
                    let written = u32::try_from(count).unwrap_or(u32::MAX);
                    queue.complete(&memory, chain.head, written)?;
                }
                result => {
                    queue.unpop(1);
                    // Nothing at the moment, or never again.
                    self.readable = result == Err(Errno::INTR);
                }
            }
        }
        queue.notify(&memory)?;
        Ok(self.readable)
    }
}

fn complain(malformed: &Offences, what: &str) {
    if let Some(total) = malformed.count() {
        log::warn!(total; "console: {what}");
    }
}

/// Watches a descriptor; `false` when it is one that is always ready, as files are.
fn watch(epoll: &Epoll, fd: &OwnedFd, token: u64, flags: EventFlags) -> io::Result<bool> {
    match epoll.add(fd, token, flags) {
        Ok(()) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EPERM) => Ok(false),
        Err(error) => Err(error),
    }
}

impl Driven for Console {
    fn kind(&self) -> DeviceKind {
        DeviceKind::CONSOLE
    }

    fn features(&self) -> u64 {
        QUEUE_FEATURES | EMERGENCY
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; 2]
    }

    fn config(&self) -> Vec<u8> {
        // Columns, rows and ports, none of which are told, and the emergency write.
        vec![0; EMERGENCY_AT + 4]
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        if let (EMERGENCY_AT, Some(byte)) = (offset, data.first()) {
            // In an emergency a byte that does not get through is lost.
            let _ = rustix::io::write(&self.output, &[*byte]);
        }
    }

    fn start(&mut self, index: usize, queue: DeviceQueue) -> io::Result<()> {
        let token = u64::try_from(index).map_err(io::Error::other)?;
        self.epoll.add(&queue.kick, token, EventFlags::IN)?;
        self.queues[index] = Some(queue);
        Ok(())
    }

    fn stop(&mut self, index: usize) -> Option<DeviceQueue> {
        let queue = self.queues.get_mut(index)?.take()?;
        // It was registered when it started; if that is gone, so is the wish.
        let _ = self.epoll.remove(&queue.kick);
        Some(queue)
    }

    fn reset(&mut self) {
        self.written = 0;
    }

    fn handle(&mut self, readiness: Readiness) {
        match readiness.token {
            INPUT => self.readable = true,
            OUTPUT => self.writable = true,
            _ => {}
        }
    }

    fn proceed(&mut self) -> bool {
        let moved = self
            .listen()
            .and_then(|listened| Ok(listened | self.speak()?));
        moved.unwrap_or_else(|error| {
            complain(&self.malformed, &error.to_string());
            false
        })
    }
}
