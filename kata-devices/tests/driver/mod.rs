//! A front end and the guest's driver in one: sets devices up over vhost-user,
//! and works their virtqueues in shared memory.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{Ordering, fence};
use std::time::Duration;

use vhost::vhost_user::message::VhostUserHeaderFlag;
use vhost::vhost_user::{
    Frontend, VhostUserFrontend, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemory, GuestMemoryMmap};
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) const VERSION_1: u64 = 1 << 32;
pub(crate) const EVENT_IDX: u64 = 1 << 29;
pub(crate) const INDIRECT: u64 = 1 << 28;

/// Where the second region begins; the first ends long before.
pub(crate) const SECOND_REGION: u64 = 1 << 30;
const REGION_SIZE: usize = 48 << 20;

/// A descriptor: address, length, flags, next.
pub(crate) type Descriptor = (u64, u32, u16, u16);
pub(crate) const NEXT: u16 = 1;
pub(crate) const WRITE: u16 = 2;

pub(crate) struct Driver {
    pub(crate) memory: GuestMemoryMmap<()>,
    pub(crate) front_end: Frontend,
    pub(crate) queues: Vec<DriverQueue>,
    /// The next free byte for [`allocate`](Self::allocate).
    free: u64,
}

impl Driver {
    /// Negotiates with the back end at the other end of `stream`.
    pub(crate) fn new(stream: UnixStream, queues: u16) -> Self {
        let memory = shared_memory();
        let mut front_end = Frontend::from_stream(stream, u64::from(queues));
        front_end.set_owner().unwrap();
        front_end.set_hdr_flags(VhostUserHeaderFlag::empty());
        let offered = front_end.get_features().unwrap();
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        assert_eq!(offered, VERSION_1 | EVENT_IDX | INDIRECT | protocol);
        let has = front_end.get_protocol_features().unwrap();
        let wanted = VhostUserProtocolFeatures::MQ
            | VhostUserProtocolFeatures::CONFIG
            | VhostUserProtocolFeatures::REPLY_ACK
            | VhostUserProtocolFeatures::RESET_DEVICE;
        front_end.set_protocol_features(has & wanted).unwrap();
        front_end.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        assert_eq!(front_end.get_queue_num().unwrap(), u64::from(queues));
        Self {
            memory,
            front_end,
            queues: Vec::new(),
            free: 0x1000,
        }
    }

    /// Sets up and starts `count` queues of `size` entries.
    pub(crate) fn start(&mut self, features: u64, count: usize, size: u16) {
        let protocol = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        self.front_end.set_features(features | protocol).unwrap();
        let regions: Vec<_> = self
            .memory
            .iter()
            .map(|region| VhostUserMemoryRegionInfo::from_guest_region(region).unwrap())
            .collect();
        self.front_end.set_mem_table(&regions).unwrap();
        for index in 0..count {
            let queue = DriverQueue::new(self, size, features & EVENT_IDX != 0);
            self.start_queue(index, &queue, 0);
            self.queues.push(queue);
        }
    }

    /// Starts a queue that is laid out in memory, from `base` on.
    pub(crate) fn start_queue(&mut self, index: usize, queue: &DriverQueue, base: u16) {
        let host = |address| {
            self.memory
                .get_host_address(GuestAddress(address))
                .unwrap()
                .expose_provenance() as u64
        };
        let config = VringConfigData {
            queue_max_size: 1024,
            queue_size: queue.size,
            flags: 0,
            desc_table_addr: host(queue.descriptors),
            used_ring_addr: host(queue.used),
            avail_ring_addr: host(queue.available),
            log_addr: None,
        };
        self.front_end.set_vring_num(index, queue.size).unwrap();
        self.front_end.set_vring_base(index, base).unwrap();
        self.front_end.set_vring_addr(index, &config).unwrap();
        self.front_end.set_vring_call(index, &queue.call).unwrap();
        self.front_end.set_vring_kick(index, &queue.kick).unwrap();
        self.front_end.set_vring_enable(index, true).unwrap();
    }

    /// Guest memory of one's own, page-aligned.
    pub(crate) fn allocate(&mut self, size: usize) -> u64 {
        let at = self.free;
        self.free = (self.free + size as u64).next_multiple_of(4096);
        assert!(self.free < REGION_SIZE as u64);
        at
    }
}

fn shared_memory() -> GuestMemoryMmap<()> {
    let file = |name: &str| {
        let file = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        rustix::fs::ftruncate(&file, REGION_SIZE as u64).unwrap();
        Some(FileOffset::new(File::from(file), 0))
    };
    GuestMemoryMmap::from_ranges_with_files([
        (GuestAddress(0), REGION_SIZE, file("low")),
        (GuestAddress(SECOND_REGION), REGION_SIZE, file("high")),
    ])
    .unwrap()
}

/// The driver's side of a split virtqueue.
pub(crate) struct DriverQueue {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) kick: EventFd,
    pub(crate) call: EventFd,
    event_idx: bool,
    next_available: u16,
    next_used: u16,
}

impl DriverQueue {
    fn new(driver: &mut Driver, size: u16, event_idx: bool) -> Self {
        let entries = usize::from(size);
        Self {
            size,
            descriptors: driver.allocate(16 * entries),
            available: driver.allocate(6 + 2 * entries),
            used: driver.allocate(6 + 8 * entries),
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            call: EventFd::new(EFD_NONBLOCK).unwrap(),
            event_idx,
            next_available: 0,
            next_used: 0,
        }
    }

    /// Writes a descriptor into the table.
    pub(crate) fn describe(&self, memory: &GuestMemoryMmap<()>, at: u16, descriptor: Descriptor) {
        write_descriptor(memory, self.descriptors + 16 * u64::from(at), descriptor);
    }

    /// Makes the chain that begins at `head` available, without a kick.
    pub(crate) fn offer(&mut self, memory: &GuestMemoryMmap<()>, head: u16) {
        let slot = u64::from(self.next_available % self.size);
        memory
            .write_obj(head, GuestAddress(self.available + 4 + 2 * slot))
            .unwrap();
        self.next_available = self.next_available.wrapping_add(1);
        let index = GuestAddress(self.available + 2);
        memory
            .store(self.next_available, index, Ordering::Release)
            .unwrap();
    }

    /// Kicks the device if it wants to be.
    pub(crate) fn kick(&self, memory: &GuestMemoryMmap<()>, offered: u16) {
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let at = GuestAddress(self.used + 4 + 8 * u64::from(self.size));
            let event: u16 = memory.load(at, Ordering::Acquire).unwrap();
            let new = self.next_available;
            let old = new.wrapping_sub(offered);
            new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old)
        } else {
            memory
                .load::<u16>(GuestAddress(self.used), Ordering::Acquire)
                .unwrap()
                & 1
                == 0
        };
        if wanted {
            self.kick.write(1).unwrap();
        }
    }

    /// The next chain that the device has used: its head, and the bytes in it.
    pub(crate) fn used(&mut self, memory: &GuestMemoryMmap<()>) -> Option<(u16, u32)> {
        let index: u16 = memory
            .load(GuestAddress(self.used + 2), Ordering::Acquire)
            .unwrap();
        if index == self.next_used {
            return None;
        }
        let slot = u64::from(self.next_used % self.size);
        let element = GuestAddress(self.used + 4 + 8 * slot);
        let [head, length]: [u32; 2] = memory.read_obj(element).unwrap();
        self.next_used = self.next_used.wrapping_add(1);
        Some((u16::try_from(head).unwrap(), length))
    }

    /// The same, waiting for the interrupt if need be; `None` after `patience`.
    pub(crate) fn wait_used(
        &mut self,
        memory: &GuestMemoryMmap<()>,
        patience: Duration,
    ) -> Option<(u16, u32)> {
        loop {
            if let Some(used) = self.used(memory) {
                return Some(used);
            }
            if self.event_idx {
                let at = GuestAddress(self.available + 4 + 2 * u64::from(self.size));
                memory.store(self.next_used, at, Ordering::Relaxed).unwrap();
                fence(Ordering::SeqCst);
                if let Some(used) = self.used(memory) {
                    return Some(used);
                }
            }
            if !wait_readable(&self.call, patience) {
                return None;
            }
            let _ = self.call.read();
        }
    }
}

pub(crate) fn write_descriptor(memory: &GuestMemoryMmap<()>, at: u64, descriptor: Descriptor) {
    let (address, length, flags, next) = descriptor;
    let mut bytes = [0; 16];
    bytes[0..8].copy_from_slice(&address.to_le_bytes());
    bytes[8..12].copy_from_slice(&length.to_le_bytes());
    bytes[12..14].copy_from_slice(&flags.to_le_bytes());
    bytes[14..16].copy_from_slice(&next.to_le_bytes());
    memory.write_slice(&bytes, GuestAddress(at)).unwrap();
}

/// Waits until a descriptor is readable, or gives up.
pub(crate) fn wait_readable(fd: &impl AsRawFd, patience: Duration) -> bool {
    let epoll = Epoll::new().unwrap();
    let event = EpollEvent::new(EventSet::IN, 0);
    epoll
        .ctl(ControlOperation::Add, fd.as_raw_fd(), event)
        .unwrap();
    let timeout = i32::try_from(patience.as_millis()).unwrap();
    epoll.wait(timeout, &mut [EpollEvent::default()]).unwrap() > 0
}
