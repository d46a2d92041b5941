//! A split virtqueue and its way to interrupt the driver (virtio 1.2 §2.7).
//!
//! Guest-controlled: the descriptor table, both rings and every index and
//! length in them. A ring whose indices make no sense is [`QueueError::Broken`]
//! and stays unused until it is set up again.

use std::io;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemory as _};

use super::device::DeviceEvents;

/// Guest memory, as all devices see it.
pub type GuestMemory = vm_memory::GuestMemoryMmap<()>;

/// The largest queue that a device offers.
pub(crate) const MAX_SIZE: u16 = 1024;

/// The features that every device offers because its queues have them.
pub(crate) const QUEUE_FEATURES: u64 =
    1 << VIRTIO_F_VERSION_1 | 1 << VIRTIO_RING_F_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC;

/// `VIRTQ_AVAIL_F_NO_INTERRUPT` (virtio 1.2 §2.7.6).
const NO_INTERRUPT: u16 = 1;

/// A way to interrupt the driver: an eventfd of a vhost-user front end, or an
/// irqfd or MSI of an in-process machine. Devices have one per queue, and one for
/// changes of the configuration.
pub trait Interrupt: Send + Sync {
    /// Interrupts the driver.
    ///
    /// # Errors
    /// When nobody is there to be interrupted any more.
    fn raise(&self) -> io::Result<()>;

    /// An eventfd whose signal is as good as [`raise`](Self::raise), for the
    /// kernel (vhost) or another process (vhost-user). Whoever asks may signal it
    /// from then on. `None` when only this process can interrupt.
    fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// Why a queue cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// Its rings contradict themselves or lie outside of guest memory.
    #[error("the driver broke the virtqueue")]
    Broken(#[source] virtio_queue::Error),
}

/// A virtqueue in use by a device.
pub struct VirtQueue {
    queue: Queue,
    interrupt: Option<Arc<dyn Interrupt>>,
    events: Option<Arc<dyn DeviceEvents>>,
    /// Buffers were used since the driver was last considered for an interrupt.
    used: bool,
    broken: bool,
}

impl std::fmt::Debug for VirtQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VirtQueue")
            .field("queue", &self.queue)
            .field("broken", &self.broken)
            .finish_non_exhaustive()
    }
}

impl Default for VirtQueue {
    fn default() -> Self {
        let queue = Queue::new(MAX_SIZE).expect("the largest size is a power of two");
        Self {
            queue,
            interrupt: None,
            events: None,
            used: false,
            broken: false,
        }
    }
}

impl VirtQueue {
    /// A queue that is set up already, such as one of an in-process transport.
    #[must_use]
    pub fn new(queue: Queue, interrupt: Arc<dyn Interrupt>) -> Self {
        Self {
            queue,
            interrupt: Some(interrupt),
            events: None,
            used: false,
            broken: false,
        }
    }

    /// The queue's set-up: size, addresses, indices.
    #[must_use]
    pub fn queue(&self) -> &Queue {
        &self.queue
    }

    /// Sets it up. A queue that was broken gets another chance.
    pub(crate) fn configure(&mut self) -> &mut Queue {
        self.broken = false;
        &mut self.queue
    }

    /// Somebody else has taken chains up to there.
    pub(crate) fn set_next_avail(&mut self, at: u16) {
        self.queue.set_next_avail(at);
    }

    /// Somebody else has given chains back up to there.
    pub(crate) fn set_next_used(&mut self, at: u16) {
        self.queue.set_next_used(at);
    }

    /// Whom it tells when it turns out to be broken.
    pub(crate) fn set_events(&mut self, events: Option<Arc<dyn DeviceEvents>>) {
        self.events = events;
    }

    /// The interrupt of used buffers.
    #[must_use]
    pub fn interrupt(&self) -> Option<&Arc<dyn Interrupt>> {
        self.interrupt.as_ref()
    }

    /// Whether all of its rings are in `memory`.
    pub(crate) fn lies_in(&self, memory: &GuestMemory) -> bool {
        let size = usize::from(self.queue.size());
        [
            (self.queue.desc_table(), 16 * size),
            (self.queue.avail_ring(), 6 + 2 * size),
            (self.queue.used_ring(), 6 + 8 * size),
        ]
        .into_iter()
        .all(|(at, length)| memory.check_range(GuestAddress(at), length))
    }

    /// Uses it no more: what came through it cannot be answered. The driver is
    /// told that the device needs a reset.
    pub fn fault(&mut self) {
        self.broken = true;
        if let Some(events) = &self.events {
            events.needs_reset();
        }
    }

    pub(crate) fn set_interrupt(&mut self, interrupt: Option<Arc<dyn Interrupt>>) {
        self.interrupt = interrupt;
    }

    /// Whether the driver has set it up and it makes sense so far.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        self.queue.ready() && !self.broken
    }

    /// The next chain that the driver made available.
    ///
    /// # Errors
    /// [`QueueError::Broken`] once, when it turns out to be; then there are no
    /// further chains.
    pub fn pop<'m>(
        &mut self,
        memory: &'m GuestMemory,
    ) -> Result<Option<DescriptorChain<&'m GuestMemory>>, QueueError> {
        if !self.is_usable() {
            return Ok(None);
        }
        match self.queue.iter(memory) {
            Ok(mut available) => Ok(available.next()),
            Err(error) => Err(self.broke(error)),
        }
    }

    /// The next chain, or the promise of a kick when there is none.
    ///
    /// # Errors
    /// [`QueueError::Broken`] once, when it turns out to be.
    pub fn next<'m>(
        &mut self,
        memory: &'m GuestMemory,
    ) -> Result<Option<DescriptorChain<&'m GuestMemory>>, QueueError> {
        loop {
            if let Some(chain) = self.pop(memory)? {
                return Ok(Some(chain));
            }
            if !self.enable_kicks(memory)? {
                return Ok(None);
            }
        }
    }

    /// Gives the last `count` popped chains back, unused.
    pub fn unpop(&mut self, count: u16) {
        self.queue
            .set_next_avail(self.queue.next_avail().wrapping_sub(count));
    }

    /// Gives a chain back to the driver, with `written` bytes in it.
    ///
    /// # Errors
    /// [`QueueError::Broken`] when the used ring is not in guest memory.
    pub fn complete(
        &mut self,
        memory: &GuestMemory,
        head: u16,
        written: u32,
    ) -> Result<(), QueueError> {
        self.queue
            .add_used(memory, head, written)
            .map_err(|error| self.broke(error))?;
        self.used = true;
        Ok(())
    }

    /// Interrupts the driver if buffers were used and it wants to know.
    ///
    /// # Errors
    /// [`QueueError::Broken`] when the rings are not in guest memory.
    pub fn notify(&mut self, memory: &GuestMemory) -> Result<(), QueueError> {
        if !self.used || !self.is_usable() {
            return Ok(());
        }
        self.used = false;
        let wanted = self
            .queue
            .needs_notification(memory)
            .map_err(|error| self.broke(error))?;
        if wanted
            && (self.queue.event_idx_enabled() || !self.interrupts_off(memory))
            && let Some(interrupt) = &self.interrupt
        {
            // The other side of a machine that is going away is no error here.
            let _ = interrupt.raise();
        }
        Ok(())
    }

    /// Asks the driver for kicks. `true` when chains are available already, of
    /// which there will be no kick.
    ///
    /// # Errors
    /// [`QueueError::Broken`] when the rings are not in guest memory.
    pub fn enable_kicks(&mut self, memory: &GuestMemory) -> Result<bool, QueueError> {
        if !self.is_usable() {
            return Ok(false);
        }
        self.queue
            .enable_notification(memory)
            .map_err(|error| self.broke(error))
    }

    /// Spares the driver its kicks.
    ///
    /// # Errors
    /// [`QueueError::Broken`] when the rings are not in guest memory.
    pub fn disable_kicks(&mut self, memory: &GuestMemory) -> Result<(), QueueError> {
        if !self.is_usable() {
            return Ok(());
        }
        self.queue
            .disable_notification(memory)
            .map_err(|error| self.broke(error))
    }

    /// Whether chains are available.
    #[must_use]
    pub fn has_available(&self, memory: &GuestMemory) -> bool {
        self.is_usable()
            && self
                .queue
                .avail_idx(memory, Ordering::Acquire)
                .is_ok_and(|index| index.0 != self.queue.next_avail())
    }

    fn interrupts_off(&self, memory: &GuestMemory) -> bool {
        let flags = memory.load::<u16>(GuestAddress(self.queue.avail_ring()), Ordering::Relaxed);
        flags.is_ok_and(|flags| u16::from_le(flags) & NO_INTERRUPT != 0)
    }

    fn broke(&mut self, error: virtio_queue::Error) -> QueueError {
        self.fault();
        QueueError::Broken(error)
    }
}

/// Gives a chain back, and interrupts the driver if it wants to know.
pub(crate) fn complete_and_notify(
    queue: &mut VirtQueue,
    memory: &GuestMemory,
    head: u16,
    written: u32,
) -> Result<(), QueueError> {
    queue.complete(memory, head, written)?;
    queue.notify(memory)
}
