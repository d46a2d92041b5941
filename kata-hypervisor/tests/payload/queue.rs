//! The driver's side of a virtio device, as steps and memory of a payload.

use super::Payload;
use super::pci::Function;

/// Entries of every queue.
const SIZE: u16 = 8;

/// The device may write to the buffer.
pub(crate) const WRITE: u16 = 2;
const NEXT: u16 = 1;

/// Statuses, one after the other: acknowledged, driver, features chosen, ready.
const ACKNOWLEDGED: u8 = 1;
const DRIVER: u8 = 3;
const FEATURES_CHOSEN: u8 = 0xb;
const READY: u8 = 0xf;
/// `VIRTIO_F_VERSION_1`, in the upper half of the features.
const VERSION_1: u32 = 1;

/// A queue: its number, and a page of memory where its rings are.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring {
    pub(crate) queue: u32,
    pub(crate) page: u32,
}

impl Ring {
    fn available(self) -> u32 {
        self.page + 0x200
    }

    fn used(self) -> u32 {
        self.page + 0x400
    }

    /// Where the device says how many chains it has used.
    pub(crate) fn used_index(self) -> u32 {
        self.used() + 2
    }

    /// Where it says how much it has written to the first one used, and so on.
    pub(crate) fn written(self, turn: u32) -> u32 {
        self.used() + 4 + 8 * turn + 4
    }

    /// Puts chains of buffers (address, length, flags) into the ring, all made
    /// available from the beginning.
    pub(crate) fn with_chains(self, payload: Payload, chains: &[&[(u32, u32, u16)]]) -> Payload {
        let count = u16::try_from(chains.len()).unwrap();
        self.with_some_of(payload, chains, count)
    }

    /// Puts chains into the ring, of which so many are available from the beginning.
    pub(crate) fn with_some_of(
        self,
        payload: Payload,
        chains: &[&[(u32, u32, u16)]],
        count: u16,
    ) -> Payload {
        let mut table = Vec::new();
        let mut available = vec![0, 0];
        available.extend(count.to_le_bytes());
        let mut index = 0u16;
        for chain in chains {
            available.extend(index.to_le_bytes());
            for (position, &(address, length, flags)) in chain.iter().enumerate() {
                let more = if position + 1 < chain.len() { NEXT } else { 0 };
                table.extend(u64::from(address).to_le_bytes());
                table.extend(length.to_le_bytes());
                table.extend((flags | more).to_le_bytes());
                index += 1;
                table.extend((index * (more & NEXT)).to_le_bytes());
            }
        }
        assert!(index <= SIZE, "a queue has {SIZE} descriptors");
        available.resize(4 + 2 * usize::from(SIZE) + 2, 0);
        payload
            .data(self.page, table)
            .data(self.available(), available)
            .data(self.used(), vec![0; 4 + 8 * usize::from(SIZE) + 2])
    }

    /// Gives a descriptor another buffer; what follows it stays.
    pub(crate) fn replace(self, payload: Payload, index: u32, at: u32, length: u32) -> Payload {
        let descriptor = self.page + 16 * index;
        payload.write(descriptor, at).write(descriptor + 8, length)
    }

    /// Makes so many chains available, in all.
    pub(crate) fn offer(self, payload: Payload, count: u16) -> Payload {
        payload.write16(self.available() + 2, count)
    }
}

/// A device, as its driver sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Device {
    /// Behind registers at an address, with a line.
    Mmio(u32, u32),
    /// A function on a bus.
    Pci(Function),
}

/// Registers of virtio-mmio (virtio 1.2 §4.2.2).
mod mmio {
    pub(super) const DRIVER_FEATURES: u32 = 0x20;
    pub(super) const DRIVER_FEATURES_SELECT: u32 = 0x24;
    pub(super) const QUEUE_SELECT: u32 = 0x30;
    pub(super) const QUEUE_SIZE: u32 = 0x38;
    pub(super) const QUEUE_READY: u32 = 0x44;
    pub(super) const QUEUE_NOTIFY: u32 = 0x50;
    pub(super) const STATUS: u32 = 0x70;
    pub(super) const AREAS: [u32; 3] = [0x80, 0x90, 0xa0];
    pub(super) const CONFIG: u32 = 0x100;
}

/// Registers of virtio-pci (virtio 1.2 §4.1.4.3), where this project has them.
mod pci {
    pub(super) const DRIVER_FEATURES_SELECT: u32 = 0x08;
    pub(super) const DRIVER_FEATURES: u32 = 0x0c;
    pub(super) const CONFIG_VECTOR: u32 = 0x10;
    pub(super) const STATUS: u32 = 0x14;
    pub(super) const QUEUE_SELECT: u32 = 0x16;
    pub(super) const QUEUE_SIZE: u32 = 0x18;
    pub(super) const QUEUE_VECTOR: u32 = 0x1a;
    pub(super) const QUEUE_ENABLE: u32 = 0x1c;
    pub(super) const AREAS: [u32; 3] = [0x20, 0x28, 0x30];
    pub(super) const CONFIG: u32 = 0x2000;
    pub(super) const NOTIFY: u32 = 0x3000;
}

impl Device {
    /// Has the guest take the device's interrupts, and count them.
    pub(crate) fn interrupts(self, payload: Payload) -> Payload {
        match self {
            Self::Mmio(_, line) => payload.interrupts_from(line),
            Self::Pci(_) => payload.interrupts(),
        }
    }

    /// Negotiates `VIRTIO_F_VERSION_1` alone, sets up the queues, and starts.
    pub(crate) fn start(self, payload: Payload, rings: &[Ring]) -> Payload {
        self.start_with(payload, rings, 0)
    }

    /// The same with further features, of the lower half.
    pub(crate) fn start_with(self, payload: Payload, rings: &[Ring], features: u32) -> Payload {
        let payload = match self {
            Self::Mmio(..) => payload,
            Self::Pci(function) => {
                let payload = function.set_vector(function.enable(payload), 0);
                payload.write16(function.bar() + pci::CONFIG_VECTOR, 0)
            }
        };
        let steps = [0, ACKNOWLEDGED, DRIVER].into_iter();
        let payload = steps.fold(payload, |payload, status| self.status(payload, status));
        let payload = self.choose(payload, 0, features);
        let payload = self.choose(payload, 1, VERSION_1);
        let payload = self.status(payload, FEATURES_CHOSEN);
        let rings = rings.iter();
        let payload = rings.fold(payload, |payload, ring| self.set_up(payload, *ring));
        self.status(payload, READY)
    }

    fn status(self, payload: Payload, value: u8) -> Payload {
        match self {
            Self::Mmio(at, _) => payload.write(at + mmio::STATUS, value.into()),
            Self::Pci(function) => payload.write8(function.bar() + pci::STATUS, value),
        }
    }

    fn choose(self, payload: Payload, half: u32, features: u32) -> Payload {
        let (at, select, choose) = match self {
            Self::Mmio(at, _) => (at, mmio::DRIVER_FEATURES_SELECT, mmio::DRIVER_FEATURES),
            Self::Pci(function) => (
                function.bar(),
                pci::DRIVER_FEATURES_SELECT,
                pci::DRIVER_FEATURES,
            ),
        };
        payload
            .write(at + select, half)
            .write(at + choose, features)
    }

    fn set_up(self, payload: Payload, ring: Ring) -> Payload {
        match self {
            Self::Mmio(at, _) => {
                let payload = payload
                    .write(at + mmio::QUEUE_SELECT, ring.queue)
                    .write(at + mmio::QUEUE_SIZE, SIZE.into());
                let payload = areas(payload, mmio::AREAS.map(|area| at + area), ring);
                payload.write(at + mmio::QUEUE_READY, 1)
            }
            Self::Pci(function) => {
                let (at, queue) = (function.bar(), u16::try_from(ring.queue).unwrap());
                let payload = function
                    .set_vector(payload, ring.queue + 1)
                    .write16(at + pci::QUEUE_SELECT, queue)
                    .write16(at + pci::QUEUE_SIZE, SIZE)
                    .write16(at + pci::QUEUE_VECTOR, queue + 1);
                let payload = areas(payload, pci::AREAS.map(|area| at + area), ring);
                payload.write16(at + pci::QUEUE_ENABLE, 1)
            }
        }
    }

    /// Rings the doorbell of a queue.
    pub(crate) fn kick(self, payload: Payload, ring: Ring) -> Payload {
        match self {
            Self::Mmio(at, _) => payload.write(at + mmio::QUEUE_NOTIFY, ring.queue),
            Self::Pci(function) => {
                let bell = function.bar() + pci::NOTIFY + 4 * ring.queue;
                payload.write16(bell, u16::try_from(ring.queue).unwrap())
            }
        }
    }

    /// Where the device's own configuration is.
    pub(crate) fn config(self) -> u32 {
        match self {
            Self::Mmio(at, _) => at + mmio::CONFIG,
            Self::Pci(function) => function.bar() + pci::CONFIG,
        }
    }
}

/// Says where the parts of a ring are.
fn areas(payload: Payload, registers: [u32; 3], ring: Ring) -> Payload {
    let parts = [ring.page, ring.available(), ring.used()];
    registers
        .into_iter()
        .zip(parts)
        .fold(payload, |payload, (register, part)| {
            payload.write(register, part).write(register + 4, 0)
        })
}
