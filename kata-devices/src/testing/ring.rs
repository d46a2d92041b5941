//! The driver's side of a split virtqueue (virtio 1.2 §2.7).

use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use virtio_queue::{Queue, QueueState};
use vm_memory::{Bytes, GuestAddress};

use super::memory::Arena;
use crate::virtio::{DeviceQueue, GuestMemory, Interrupt, Kick, VirtQueue};

/// A descriptor: address, length, flags, next.
pub type Descriptor = (u64, u32, u16, u16);
/// A buffer of a chain: address, length, and `WRITE` or no flag.
pub type Buffer = (u64, u32, u16);
/// `VIRTQ_DESC_F_NEXT`.
pub const NEXT: u16 = 1;
/// `VIRTQ_DESC_F_WRITE`.
pub const WRITE: u16 = 2;
/// `VIRTQ_DESC_F_INDIRECT`.
pub const TABLE: u16 = 4;

/// A queue as its driver sees it.
#[derive(Debug)]
pub struct DriverQueue {
    /// Entries.
    pub size: u16,
    /// Where the descriptor table is.
    pub descriptors: u64,
    /// Where the available ring is.
    pub available: u64,
    /// Where the used ring is.
    pub used: u64,
    /// Tells the device.
    pub kick: Arc<Kick>,
    /// Signalled by the device's interrupt.
    pub call: Arc<Kick>,
    event_idx: bool,
    next_available: u16,
    next_used: u16,
    memory: Arc<GuestMemory>,
}

/// The interrupt of a driver under test: its eventfd.
struct Call(Arc<Kick>);

impl Interrupt for Call {
    fn raise(&self) -> std::io::Result<()> {
        self.0.signal();
        Ok(())
    }

    fn eventfd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

impl DriverQueue {
    /// Rings of `size` entries in `arena`, unknown to any device yet.
    #[must_use]
    pub fn new(arena: &mut Arena, size: u16, event_idx: bool) -> Self {
        let entries = usize::from(size);
        let mut zeroed = |length| arena.place(&vec![0; length]);
        Self {
            size,
            descriptors: zeroed(16 * entries),
            available: zeroed(6 + 2 * entries),
            used: zeroed(6 + 8 * entries),
            kick: Arc::new(Kick::new().unwrap()),
            call: Arc::new(Kick::new().unwrap()),
            event_idx,
            next_available: 0,
            next_used: 0,
            memory: Arc::clone(arena.memory()),
        }
    }

    /// The same queue as the device gets it.
    #[must_use]
    pub fn device_queue(&self) -> DeviceQueue {
        let state = QueueState {
            max_size: self.size,
            next_avail: 0,
            next_used: 0,
            event_idx_enabled: self.event_idx,
            size: self.size,
            ready: true,
            desc_table: self.descriptors,
            avail_ring: self.available,
            used_ring: self.used,
        };
        let interrupt = Arc::new(Call(Arc::clone(&self.call)));
        DeviceQueue {
            queue: VirtQueue::new(Queue::try_from(state).unwrap(), interrupt),
            kick: Arc::clone(&self.kick),
            memory: Arc::clone(&self.memory),
        }
    }

    /// Writes a descriptor into the table.
    pub fn describe(&self, at: u16, descriptor: Descriptor) {
        self.describe_at(self.descriptors + 16 * u64::from(at), descriptor);
    }

    /// Writes a descriptor anywhere, such as into an indirect table.
    pub fn describe_at(&self, address: u64, descriptor: Descriptor) {
        let (buffer, length, flags, next) = descriptor;
        let mut bytes = [0; 16];
        bytes[0..8].copy_from_slice(&buffer.to_le_bytes());
        bytes[8..12].copy_from_slice(&length.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..16].copy_from_slice(&next.to_le_bytes());
        self.memory
            .write_slice(&bytes, GuestAddress(address))
            .unwrap();
    }

    /// Writes a chain of these buffers as an indirect table, linked in order.
    pub fn describe_table(&self, table: u64, buffers: &[Buffer]) {
        for (index, (at, length, flags)) in (0..).zip(buffers) {
            let last = usize::from(index) + 1 == buffers.len();
            let (link, next) = if last { (0, 0) } else { (NEXT, index + 1) };
            let address = table + 16 * u64::from(index);
            self.describe_at(address, (*at, *length, flags | link, next));
        }
    }

    /// Makes a chain of these buffers, linked in order from descriptor `first` on,
    /// and offers it. Flags are `WRITE` or none.
    pub fn send(&mut self, first: u16, buffers: &[Buffer]) {
        for (index, (at, length, flags)) in (first..).zip(buffers) {
            let last = usize::from(index - first) + 1 == buffers.len();
            let (link, next) = if last { (0, 0) } else { (NEXT, index + 1) };
            self.describe(index, (*at, *length, flags | link, next));
        }
        self.offer(first);
    }

    /// Makes the chain that begins at `head` available, without a kick.
    pub fn offer(&mut self, head: u16) {
        let slot = u64::from(self.next_available % self.size);
        self.memory
            .write_obj(head, GuestAddress(self.available + 4 + 2 * slot))
            .unwrap();
        self.next_available = self.next_available.wrapping_add(1);
        self.set_available_index(self.next_available);
    }

    /// Says that the available ring has got as far as `index`, whatever is in it.
    pub fn set_available_index(&self, index: u16) {
        let at = GuestAddress(self.available + 2);
        self.memory.store(index, at, Ordering::Release).unwrap();
    }

    /// Kicks the device if it wants to be, of `offered` new chains.
    pub fn kick(&self, offered: u16) {
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let at = GuestAddress(self.used + 4 + 8 * u64::from(self.size));
            let event: u16 = self.memory.load(at, Ordering::Acquire).unwrap();
            let new = self.next_available;
            let old = new.wrapping_sub(offered);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            let at = GuestAddress(self.used);
            self.memory.load::<u16>(at, Ordering::Acquire).unwrap() & 1 == 0
        };
        if wanted {
            self.kick.signal();
        }
    }

    /// The next chain that the device has used: its head, and the bytes in it.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        let at = GuestAddress(self.used + 2);
        let index: u16 = self.memory.load(at, Ordering::Acquire).unwrap();
        if index == self.next_used {
            return None;
        }
        let slot = u64::from(self.next_used % self.size);
        let element = GuestAddress(self.used + 4 + 8 * slot);
        let [head, length]: [u32; 2] = self.memory.read_obj(element).unwrap();
        self.next_used = self.next_used.wrapping_add(1);
        Some((head as u16, length))
    }

    /// Asks for an interrupt of the next used chain. It may be there already.
    pub fn arm(&self) {
        if self.event_idx {
            let at = GuestAddress(self.available + 4 + 2 * u64::from(self.size));
            self.memory
                .store(self.next_used, at, Ordering::Relaxed)
                .unwrap();
            fence(Ordering::SeqCst);
        }
    }

    /// The same, waiting for the interrupt if need be; `None` after `patience`.
    pub fn wait_used(&mut self, patience: Duration) -> Option<(u16, u32)> {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(used) = self.used() {
                return Some(used);
            }
            self.arm();
            if let Some(used) = self.used() {
                return Some(used);
            }
            if !wait_readable(&self.call, deadline) {
                return None;
            }
            let _ = rustix::io::read(&self.call, &mut [0; 8]);
        }
    }
}

/// Waits until a descriptor is readable, or gives up.
pub(super) fn wait_readable(fd: &impl AsFd, deadline: Instant) -> bool {
    let left = deadline.saturating_duration_since(Instant::now());
    let timeout = Timespec {
        tv_sec: i64::try_from(left.as_secs()).unwrap(),
        tv_nsec: i64::from(left.subsec_nanos()),
    };
    let mut wanted = [PollFd::new(fd, PollFlags::IN)];
    poll(&mut wanted, Some(&timeout)).unwrap() > 0
}
