//! A driver behind virtio-mmio registers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_mmio as layout;

use super::memory::Arena;
use super::ring::{DriverQueue, wait_readable};
use crate::virtio::mmio::MmioTransport;
use crate::virtio::{Interrupt, Kick, VirtioDevice};

/// An interrupt line that a test can wait for.
#[derive(Debug)]
pub struct Line {
    event: Kick,
}

impl Line {
    /// A line nobody has raised.
    #[must_use]
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            event: Kick::new().unwrap(),
        })
    }

    /// Waits until it is raised, and lowers it; `false` after `patience`.
    pub fn wait(&self, patience: Duration) -> bool {
        let raised = wait_readable(&self.event, Instant::now() + patience);
        if raised {
            let _ = rustix::io::read(&self.event, &mut [0; 8]);
        }
        raised
    }
}

impl Interrupt for Line {
    fn raise(&self) -> io::Result<()> {
        self.event.signal();
        Ok(())
    }

    fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.event.as_fd())
    }
}

/// A device on virtio-mmio, and its driver.
#[derive(Debug)]
pub struct MmioDriver {
    /// The registers.
    pub transport: MmioTransport,
    /// The interrupt.
    pub line: Arc<Line>,
    /// The memory.
    pub arena: Arena,
    /// The queues that were set up.
    pub queues: Vec<DriverQueue>,
}

impl MmioDriver {
    /// Puts `device` behind registers; the driver has not begun.
    #[must_use]
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        Self::with_arena(device, Arena::new())
    }

    /// The same for a device that knows its memory already.
    #[must_use]
    pub fn with_arena(device: Box<dyn VirtioDevice>, arena: Arena) -> Self {
        let line = Line::new();
        let interrupt: Arc<dyn Interrupt> = Arc::clone(&line) as _;
        let memory = Arc::clone(arena.memory());
        Self {
            transport: MmioTransport::new(device, memory, interrupt).unwrap(),
            line,
            arena,
            queues: Vec::new(),
        }
    }

    /// Reads a register.
    #[must_use]
    pub fn read(&self, register: u32) -> u32 {
        let mut word = [0; 4];
        self.transport.read(u64::from(register), &mut word);
        u32::from_le_bytes(word)
    }

    /// Writes a register.
    pub fn write(&self, register: u32, value: u32) {
        self.transport
            .write(u64::from(register), &value.to_le_bytes());
    }

    /// Reads `length` bytes of the configuration space, byte by byte.
    #[must_use]
    pub fn config(&self, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        for (at, byte) in (u64::from(layout::VIRTIO_MMIO_CONFIG)..).zip(&mut bytes) {
            self.transport.read(at, std::slice::from_mut(byte));
        }
        bytes
    }

    /// The features that the device offers.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.write(layout::VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
        let low = self.read(layout::VIRTIO_MMIO_DEVICE_FEATURES);
        self.write(layout::VIRTIO_MMIO_DEVICE_FEATURES_SEL, 1);
        let high = self.read(layout::VIRTIO_MMIO_DEVICE_FEATURES);
        u64::from(high) << 32 | u64::from(low)
    }

    /// Goes all the way to `DRIVER_OK`: resets, chooses `features` and sets up all
    /// queues with up to `size` entries each.
    pub fn start(&mut self, features: u64, size: u16) {
        self.negotiate(features);
        self.queues.clear();
        for (index, doorbell) in (0..).zip(self.transport.kicks()) {
            self.write(layout::VIRTIO_MMIO_QUEUE_SEL, index);
            let max = self.read(layout::VIRTIO_MMIO_QUEUE_NUM_MAX) as u16;
            let event_idx = features & 1 << 29 != 0;
            let mut queue = DriverQueue::new(&mut self.arena, size.min(max), event_idx);
            queue.kick = doorbell.kick;
            self.set_up(&queue);
            self.queues.push(queue);
        }
        self.write(layout::VIRTIO_MMIO_STATUS, 15);
    }

    /// Resets, and chooses features.
    pub fn negotiate(&self, features: u64) {
        for status in [0, 1, 3] {
            self.write(layout::VIRTIO_MMIO_STATUS, status);
        }
        for (select, half) in [(0, features as u32), (1, (features >> 32) as u32)] {
            self.write(layout::VIRTIO_MMIO_DRIVER_FEATURES_SEL, select);
            self.write(layout::VIRTIO_MMIO_DRIVER_FEATURES, half);
        }
        self.write(layout::VIRTIO_MMIO_STATUS, 11);
    }

    /// Tells the selected queue's set-up, and enables it.
    pub fn set_up(&self, queue: &DriverQueue) {
        self.write(layout::VIRTIO_MMIO_QUEUE_NUM, u32::from(queue.size));
        let areas = [
            (layout::VIRTIO_MMIO_QUEUE_DESC_LOW, queue.descriptors),
            (layout::VIRTIO_MMIO_QUEUE_AVAIL_LOW, queue.available),
            (layout::VIRTIO_MMIO_QUEUE_USED_LOW, queue.used),
        ];
        for (low, address) in areas {
            self.write(low, address as u32);
            self.write(low + 4, (address >> 32) as u32);
        }
        self.write(layout::VIRTIO_MMIO_QUEUE_READY, 1);
    }

    /// The next chain used of a queue, waiting for the interrupt if need be.
    pub fn wait_used(&mut self, queue: usize, patience: Duration) -> Option<(u16, u32)> {
        let deadline = Instant::now() + patience;
        loop {
            self.queues[queue].arm();
            if let Some(used) = self.queues[queue].used() {
                return Some(used);
            }
            if !self
                .line
                .wait(deadline.saturating_duration_since(Instant::now()))
            {
                return None;
            }
            let pending = self.read(layout::VIRTIO_MMIO_INTERRUPT_STATUS);
            self.write(layout::VIRTIO_MMIO_INTERRUPT_ACK, pending);
        }
    }
}
