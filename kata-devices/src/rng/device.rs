//! The device: fills the guest's buffers with entropy.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::EventFlags;
use rustix::rand::{GetRandomFlags, getrandom};
use vm_memory::VolatileSlice;

use super::config::RngConfig;
use crate::epoll::{Epoll, Readiness};
use crate::limit::Offences;
use crate::rate::Limiter;
use crate::virtio::{
    Chain, DeviceKind, DeviceQueue, Driven, QUEUE_FEATURES, QueueError, complete_and_notify,
};

/// The most bytes that one request gets.
pub const MAX_REQUEST: usize = 64 << 10;

const QUEUE_SIZE: u16 = 64;

/// Requests before others on the thread have their turn.
const BUDGET: usize = 64;

/// A virtio-rng device.
#[derive(Debug)]
pub(crate) struct Rng {
    epoll: Arc<Epoll>,
    queue: Option<DeviceQueue>,
    limiter: Limiter,
    /// When the limit lets the next request pass.
    resume_at: Option<Instant>,
    malformed: Offences,
}

impl Rng {
    pub(crate) fn new(config: &RngConfig, epoll: &Arc<Epoll>) -> Self {
        Self {
            epoll: Arc::clone(epoll),
            queue: None,
            limiter: Limiter::new(&config.rate_limit),
            resume_at: None,
            malformed: Offences::default(),
        }
    }

    /// Serves requests; `true` when there are more.
    fn serve(&mut self, running: &mut DeviceQueue) -> Result<bool, QueueError> {
        let memory = Arc::clone(&running.memory);
        let queue = &mut running.queue;
        for _ in 0..BUDGET {
            if let Err(at) = self.limiter.check() {
                self.resume_at = Some(at);
                return Ok(false);
            }
            let Some(chain) = queue.next(&memory)? else {
                return Ok(false);
            };
            let head = chain.head_index();
            let chain = match Chain::parse(&memory, chain) {
                Ok(chain) => chain,
                Err(error) => {
                    queue.fault();
                    self.complain(&error.to_string());
                    return Ok(false);
                }
            };
            let written = fill(&chain.writable).unwrap_or_else(|error| {
                self.complain(&format!("the host has no entropy: {error}"));
                0
            });
            self.limiter.take(u64::from(written));
            complete_and_notify(queue, &memory, head, written)?;
        }
        Ok(true)
    }

    fn complain(&self, what: &str) {
        if let Some(total) = self.malformed.count() {
            log::warn!(total; "rng: {what}");
        }
    }
}

/// Fills `pieces` with entropy, as far as one request goes.
fn fill(pieces: &[VolatileSlice<'_>]) -> io::Result<u32> {
    let mut written = 0;
    let mut entropy = [0; 1024];
    for piece in pieces {
        let mut at = 0;
        while at < piece.len() && written < MAX_REQUEST {
            let count = (piece.len() - at)
                .min(entropy.len())
                .min(MAX_REQUEST - written);
            let got = getrandom(&mut entropy[..count], GetRandomFlags::empty())?;
            let place = piece.offset(at).map_err(io::Error::other)?;
            place.copy_from(&entropy[..got]);
            at += got;
            written += got;
        }
    }
    u32::try_from(written).map_err(io::Error::other)
}

impl Driven for Rng {
    fn kind(&self) -> DeviceKind {
        DeviceKind::RNG
    }

    fn features(&self) -> u64 {
        QUEUE_FEATURES
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE]
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn serves_config(&self) -> bool {
        // There is none.
        false
    }

    fn start(&mut self, index: usize, queue: DeviceQueue) -> io::Result<()> {
        let token = u64::try_from(index).map_err(io::Error::other)?;
        self.epoll.add(&queue.kick, token, EventFlags::IN)?;
        self.queue = Some(queue);
        Ok(())
    }

    fn stop(&mut self, _index: usize) -> Option<DeviceQueue> {
        let queue = self.queue.take()?;
        // It was registered when it started; if that is gone, so is the wish.
        let _ = self.epoll.remove(&queue.kick);
        Some(queue)
    }

    fn handle(&mut self, _readiness: Readiness) {
        // A kick says nothing but that `proceed` has something to do.
    }

    fn proceed(&mut self) -> bool {
        if self.resume_at.is_some() {
            return false;
        }
        let Some(mut queue) = self.queue.take() else {
            return false;
        };
        let more = self.serve(&mut queue).unwrap_or_else(|error| {
            self.complain(&error.to_string());
            false
        });
        self.queue = Some(queue);
        more
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.queue.as_ref().and(self.resume_at)
    }

    fn expire(&mut self, now: Instant) {
        self.resume_at = self.resume_at.filter(|at| *at > now);
    }
}
