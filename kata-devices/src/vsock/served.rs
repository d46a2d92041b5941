//! The vsock device as its loop sees it.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use rustix::event::epoll::EventFlags;

use super::config::VsockConfig;
use super::device::{Device, RX_QUEUE, TX_QUEUE};
use super::muxer::{FIRST_TOKEN, Muxer};
use crate::Result;
use crate::epoll::{Epoll, Readiness};
use crate::virtio::{DeviceKind, DeviceQueue, Driven};
use virtio_queue::QueueT;

/// Receive, transmit, and events, which is the front end's where there is one.
const QUEUES: usize = 3;

/// The queue of the transport's own events, of which there are none yet.
const EVENT_QUEUE: usize = 2;

/// As many entries as streams keep busy.
const QUEUE_SIZE: u16 = 256;

/// A vsock device in the service of a driver.
#[derive(Debug)]
pub(crate) struct Served {
    device: Device<Muxer>,
    epoll: Arc<Epoll>,
    queues: [Option<DeviceQueue>; QUEUES],
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
            queues: [const { None }; QUEUES],
            stopped_at: [0; QUEUES],
        })
    }
}

impl Driven for Served {
    fn kind(&self) -> DeviceKind {
        DeviceKind::VSOCK
    }

    fn features(&self) -> u64 {
        Device::<Muxer>::FEATURES
    }

    fn queue_sizes(&self) -> Vec<u16> {
        vec![QUEUE_SIZE; QUEUES]
    }

    fn served_queues(&self) -> usize {
        EVENT_QUEUE
    }

    fn config(&self) -> Vec<u8> {
        self.device.config_space().to_vec()
    }

    fn start(&mut self, index: usize, running: DeviceQueue) -> io::Result<()> {
        let token = u64::try_from(index).map_err(io::Error::other)?;
        self.epoll.add(&running.kick, token, EventFlags::IN)?;
        let anew = running.queue.queue().next_avail() != self.stopped_at[index];
        if index != EVENT_QUEUE && anew {
            self.device.reset();
        }
        self.queues[index] = Some(running);
        Ok(())
    }

    fn stop(&mut self, index: usize) -> Option<DeviceQueue> {
        let running = self.queues[index].take()?;
        // It was registered when it started; if that is gone, so is the wish.
        let _ = self.epoll.remove(&running.kick);
        self.stopped_at[index] = running.queue.queue().next_avail();
        Some(running)
    }

    fn reset(&mut self) {
        self.stopped_at = [0; QUEUES];
        self.device.reset();
    }

    fn handle(&mut self, readiness: Readiness) {
        // A kick says nothing but that `proceed` has something to do.
        if readiness.token >= FIRST_TOKEN {
            self.device.channel_mut().handle(readiness);
        }
    }

    fn proceed(&mut self) -> bool {
        let [rx, tx, _] = &mut self.queues;
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
