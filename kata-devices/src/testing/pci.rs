//! A driver of a function on a PCI bus.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::memory::Arena;
use super::ring::{DriverQueue, wait_readable};
use crate::pci::{PciBus, Slot};
use crate::virtio::pci::{MsiMessage, MsiRouter, PciTransport};
use crate::virtio::{Interrupt, Kick, VirtioDevice};

/// Where the driver puts the BAR.
pub const BAR_ADDRESS: u64 = 0xe000_0000;

/// Vectors that a test can wait for.
#[derive(Debug)]
pub struct Vectors {
    routes: Mutex<Vec<Option<MsiMessage>>>,
    events: Vec<Arc<Vector>>,
}

#[derive(Debug)]
struct Vector(Kick);

impl Interrupt for Vector {
    fn raise(&self) -> io::Result<()> {
        self.0.signal();
        Ok(())
    }

    fn eventfd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}

impl Vectors {
    fn new(count: u16) -> Arc<Self> {
        let vector = || Arc::new(Vector(Kick::new().unwrap()));
        Arc::new(Self {
            routes: Mutex::new(vec![None; usize::from(count)]),
            events: (0..count).map(|_| vector()).collect(),
        })
    }

    /// The message that a vector was routed to last.
    #[must_use]
    pub fn route_of(&self, vector: usize) -> Option<MsiMessage> {
        self.routes.lock().unwrap()[vector]
    }

    /// Waits for a vector, and takes its signal; `false` after `patience`.
    #[must_use]
    pub fn wait(&self, vector: usize, patience: Duration) -> bool {
        let event = &self.events[vector].0;
        let raised = wait_readable(event, Instant::now() + patience);
        if raised {
            let _ = rustix::io::read(event, &mut [0; 8]);
        }
        raised
    }
}

impl MsiRouter for Vectors {
    fn route(&self, vector: u16, message: MsiMessage) -> io::Result<()> {
        self.routes.lock().unwrap()[usize::from(vector)] = Some(message);
        Ok(())
    }

    fn interrupt(&self, vector: u16) -> Arc<dyn Interrupt> {
        Arc::clone(&self.events[usize::from(vector)]) as _
    }
}

/// A device on a bus, and its driver.
#[derive(Debug)]
pub struct PciDriver {
    /// The bus.
    pub bus: PciBus,
    /// Where the device is on it.
    pub slot: Slot,
    /// The function itself.
    pub transport: Arc<PciTransport>,
    /// Its interrupts.
    pub vectors: Arc<Vectors>,
    /// The memory.
    pub arena: Arena,
    /// The queues that were set up.
    pub queues: Vec<DriverQueue>,
}

impl PciDriver {
    /// Puts `device` on a bus; the driver has not begun.
    #[must_use]
    pub fn new(device: Box<dyn VirtioDevice>) -> Self {
        let arena = Arena::new();
        let vectors = Vectors::new(PciTransport::vectors(&*device));
        let router = Arc::clone(&vectors) as Arc<dyn MsiRouter>;
        let memory = Arc::clone(arena.memory());
        let transport = Arc::new(PciTransport::new(device, memory, router).unwrap());
        let bus = PciBus::new(None);
        let slot = bus.add(Arc::clone(&transport) as _).unwrap();
        Self {
            bus,
            slot,
            transport,
            vectors,
            arena,
            queues: Vec::new(),
        }
    }

    /// Puts another function, and bus, in the place of this: as it is in a machine
    /// that is made anew. Memory and queues stay.
    pub fn replace(&mut self, device: Box<dyn VirtioDevice>) {
        let vectors = Vectors::new(PciTransport::vectors(&*device));
        let router = Arc::clone(&vectors) as Arc<dyn MsiRouter>;
        let memory = Arc::clone(self.arena.memory());
        let transport = Arc::new(PciTransport::new(device, memory, router).unwrap());
        self.bus = PciBus::new(None);
        self.slot = self.bus.add(Arc::clone(&transport) as _).unwrap();
        (self.transport, self.vectors) = (transport, vectors);
        for (queue, doorbell) in self.queues.iter_mut().zip(self.transport.kicks()) {
            queue.kick = doorbell.kick;
        }
    }

    fn select(&self, register: u16) -> u16 {
        let slot = u32::from(self.slot.0) << 11;
        let address = 0x8000_0000 | slot | u32::from(register & !3);
        self.bus.write_port(0, &address.to_le_bytes());
        4 + (register & 3)
    }

    /// Reads configuration space through the ports.
    #[must_use]
    pub fn config<const N: usize>(&self, register: u16) -> [u8; N] {
        let port = self.select(register);
        let mut data = [0; N];
        self.bus.read_port(port, &mut data);
        data
    }

    /// Writes configuration space through the ports.
    pub fn set_config(&self, register: u16, data: &[u8]) {
        let port = self.select(register);
        self.bus.write_port(port, data);
    }

    /// Reads memory of the BAR.
    #[must_use]
    pub fn read<const N: usize>(&self, offset: u64) -> [u8; N] {
        let mut data = [0; N];
        assert!(self.bus.read_memory(BAR_ADDRESS + offset, &mut data));
        data
    }

    /// Writes memory of the BAR.
    pub fn write(&self, offset: u64, data: &[u8]) {
        assert!(self.bus.write_memory(BAR_ADDRESS + offset, data));
    }

    /// The offset of the capability `id`; for virtio's own, of structure `kind`.
    #[must_use]
    pub fn capability(&self, id: u8, kind: Option<u8>) -> Option<u16> {
        let mut at = u16::from(self.config::<1>(0x34)[0]);
        while at != 0 {
            let [found, next, _, structure] = self.config(at);
            if found == id && kind.is_none_or(|kind| kind == structure) {
                return Some(at);
            }
            at = u16::from(next);
        }
        None
    }

    /// Gives the BAR its place, enables MSI-X and the device's answers.
    pub fn enable(&self) {
        self.set_config(0x10, &(BAR_ADDRESS as u32).to_le_bytes());
        self.set_config(0x14, &0u32.to_le_bytes());
        self.set_config(0x04, &[6, 0]);
        let msix = self.capability(0x11, None).unwrap();
        self.set_config(msix + 2, &0x8000u16.to_le_bytes());
    }

    /// Gives a vector its message, and unmasks it.
    pub fn set_vector(&self, vector: u16, data: u32) {
        let entry = 0x8000 + 16 * u64::from(vector);
        self.write(entry, &0xfee0_0000u32.to_le_bytes());
        self.write(entry + 4, &[0; 4]);
        self.write(entry + 8, &data.to_le_bytes());
        self.write(entry + 12, &[0; 4]);
    }

    /// Goes all the way to `DRIVER_OK`, with a vector for changes and one for each
    /// queue.
    pub fn start(&mut self, features: u64, size: u16) {
        self.enable();
        for status in [0, 1, 3] {
            self.write(0x14, &[status]);
        }
        for (select, half) in [(0u32, features as u32), (1, (features >> 32) as u32)] {
            self.write(0x08, &select.to_le_bytes());
            self.write(0x0c, &half.to_le_bytes());
        }
        self.write(0x14, &[11]);
        self.set_vector(0, 0x40);
        self.write(0x10, &[0, 0]);
        self.queues.clear();
        for (index, doorbell) in (0u16..).zip(self.transport.kicks()) {
            self.write(0x16, &index.to_le_bytes());
            let mut queue = DriverQueue::new(&mut self.arena, size, features & 1 << 29 != 0);
            queue.kick = doorbell.kick;
            self.set_vector(index + 1, 0x41 + u32::from(index));
            self.write(0x18, &size.to_le_bytes());
            self.write(0x1a, &(index + 1).to_le_bytes());
            let areas = [queue.descriptors, queue.available, queue.used];
            for (at, area) in (0x20..).step_by(8).zip(areas) {
                self.write(at, &(area as u32).to_le_bytes());
                self.write(at + 4, &((area >> 32) as u32).to_le_bytes());
            }
            self.write(0x1c, &[1, 0]);
            self.queues.push(queue);
        }
        self.write(0x14, &[15]);
    }

    /// The next chain used of a queue, waiting for its vector if need be.
    pub fn wait_used(&mut self, queue: usize, patience: Duration) -> Option<(u16, u32)> {
        let deadline = Instant::now() + patience;
        loop {
            self.queues[queue].arm();
            if let Some(used) = self.queues[queue].used() {
                return Some(used);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if !self.vectors.wait(queue + 1, left) {
                return None;
            }
        }
    }
}
