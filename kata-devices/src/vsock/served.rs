//! The vsock device as a vhost-user back end.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::EventFlags;

use super::config::VsockConfig;
use super::device::{Device, RX_QUEUE, TX_QUEUE};
use super::muxer::{FIRST_TOKEN, Muxer};
use crate::Result;
use crate::epoll::{Epoll, Readiness};
use crate::queue::VirtQueue;
use crate::vhost_user::{Backend, RunningQueue};
use virtio_queue::QueueT;

/// Queues that the device processes; the event queue is the front end's.
const QUEUES: usize = 2;

/// A vsock device in the service of a front end.
#[derive(Debug)]
pub(crate) struct Served {
    device: Device<Muxer>,
    epoll: Arc<Epoll>,
    queues: [Option<RunningQueue>; QUEUES],
    /// Where each queue was when it was stopped. A driver that goes on from
    /// there is the same; another starts anew.
    stopped_at: [u16; QUEUES],
}

impl Served {
    /// Listens on the device's socket; everything else waits for the front end.
    pub(crate) fn new(config: &VsockConfig, epoll: Arc<Epoll>) -> Result<Self> {
        let muxer = Muxer::new(config.clone(), Arc::clone(&epoll))?;
        let device = Device::new(config.guest_cid, muxer);
        Ok(Self {
            device,
            epoll,
            queues: [None, None],
            stopped_at: [0; QUEUES],
        })
    }
}

impl Backend for Served {
    fn features(&self) -> u64 {
        Device::<Muxer>::FEATURES
    }

    fn queue_count(&self) -> usize {
        QUEUES
    }

    fn config_space(&self) -> Option<Vec<u8>> {
        Some(self.device.config_space().to_vec())
    }

    fn start(&mut self, index: usize, running: RunningQueue) -> io::Result<()> {
        let token = u64::try_from(index).map_err(io::Error::other)?;
        self.epoll.add(&running.kick, token, EventFlags::IN)?;
        if running.queue.queue().next_avail() != self.stopped_at[index] {
            self.device.reset();
        }
        self.queues[index] = Some(running);
        Ok(())
    }

    fn stop(&mut self, index: usize) -> Option<VirtQueue> {
        let running = self.queues[index].take()?;
        // It was registered when it started; if that is gone, so is the wish.
        let _ = self.epoll.remove(&running.kick);
        self.stopped_at[index] = running.queue.queue().next_avail();
        Some(running.queue)
    }

    fn handle(&mut self, readiness: Readiness) {
        // A kick says nothing but that `proceed` has something to do.
        if readiness.token >= FIRST_TOKEN {
            self.device.channel_mut().handle(readiness);
        }
    }

    fn proceed(&mut self) -> bool {
        let [rx, tx] = &mut self.queues;
        const { assert!(RX_QUEUE == 0 && TX_QUEUE == 1) };
        match (rx, tx) {
            (Some(rx), Some(tx)) => {
                let memory = Arc::clone(&rx.memory);
                self.device.process(&memory, &mut rx.queue, &mut tx.queue)
            }
            _ => {
                self.device.set_active(false);
                false
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.device.channel().next_deadline()
    }

    fn expire(&mut self, now: Instant) {
        self.device.channel_mut().expire(now);
    }
}
