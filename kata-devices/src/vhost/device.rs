//! The device: hands its queues on.

use std::io;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_net::{VIRTIO_NET_F_MAC, VIRTIO_NET_F_MTU, VIRTIO_NET_F_STATUS};
use virtio_queue::QueueT;

use super::link::Link;
use crate::virtio::{Activation, DeviceKind, DeviceQueue, DeviceState, StateError, VirtioDevice};

/// A device whose queues somebody else serves.
pub(super) struct Offloaded<L> {
    pub(super) link: L,
    pub(super) kind: DeviceKind,
    pub(super) sizes: Vec<u16>,
    pub(super) features: u64,
    pub(super) config: Vec<u8>,
    queues: Vec<Option<DeviceQueue>>,
}

impl<L: Link> Offloaded<L> {
    /// A device that offers of `features` what the link can serve, and what needs no
    /// serving.
    pub(super) fn new(
        link: L,
        kind: DeviceKind,
        sizes: Vec<u16>,
        features: u64,
        config: Vec<u8>,
    ) -> Self {
        Self {
            features: features & (link.features() | unserved(kind)),
            link,
            kind,
            queues: sizes.iter().map(|_| None).collect(),
            sizes,
            config,
        }
    }

    fn start(&mut self, index: usize, queue: DeviceQueue) -> io::Result<()> {
        let slot = self
            .queues
            .get_mut(index)
            .ok_or(io::ErrorKind::InvalidInput)?;
        self.link.start(index, &queue)?;
        *slot = Some(queue);
        Ok(())
    }

    fn stop(&mut self, queue: usize) -> Option<DeviceQueue> {
        let mut taken = self.queues.get_mut(queue)?.take()?;
        match self.link.stop(queue) {
            Ok(at) => taken.queue.set_next_avail(at),
            Err(error) => {
                // Whoever served it is gone, and so is what it had taken.
                log::warn!(error:%, queue; "vhost: cannot take a queue back");
                taken.queue.fault();
            }
        }
        let used = taken
            .queue
            .queue()
            .used_idx(&*taken.memory, Ordering::Acquire);
        if let Ok(used) = used {
            taken.queue.set_next_used(used.0);
        }
        Some(taken)
    }
}

/// Features of what the configuration space alone tells: a card's address, link and
/// MTU.
fn unserved(kind: DeviceKind) -> u64 {
    match kind {
        DeviceKind::NET => 1 << VIRTIO_NET_F_MAC | 1 << VIRTIO_NET_F_STATUS | 1 << VIRTIO_NET_F_MTU,
        _ => 0,
    }
}

impl<L: Link> VirtioDevice for Offloaded<L> {
    fn kind(&self) -> DeviceKind {
        self.kind
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn config(&self) -> Vec<u8> {
        self.config.clone()
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        self.link.write_config(offset, data);
    }

    fn activate(&mut self, activation: Activation) -> io::Result<()> {
        let Some((_, first)) = activation.queues.first() else {
            return Ok(());
        };
        self.link
            .begin(activation.features, &first.memory, &activation.events)?;
        for (index, queue) in activation.queues {
            self.start(index, queue)?;
        }
        Ok(())
    }

    fn quiesce(&mut self, queue: usize) -> io::Result<Option<DeviceQueue>> {
        Ok(self.stop(queue))
    }

    fn resume(&mut self, index: usize, queue: DeviceQueue) -> io::Result<()> {
        self.start(index, queue)
    }

    fn reset(&mut self) {
        for index in 0..self.queues.len() {
            self.stop(index);
        }
        self.link.end();
    }

    fn save(&mut self) -> Result<DeviceState, StateError> {
        Err(StateError::Unavailable {
            reason: "it lies with a back end that has no means to give it".to_owned(),
        })
    }

    fn restore(&mut self, _state: &DeviceState) -> Result<(), StateError> {
        Err(StateError::Unavailable {
            reason: "a back end has no means to take it".to_owned(),
        })
    }
}
