//! The driver's side of a virtio-mmio device, as steps and memory of a payload.

use super::Payload;

/// Registers (virtio 1.2 §4.2.2).
const DRIVER_FEATURES: u32 = 0x20;
const DRIVER_FEATURES_SELECT: u32 = 0x24;
const QUEUE_SELECT: u32 = 0x30;
const QUEUE_SIZE: u32 = 0x38;
const QUEUE_READY: u32 = 0x44;
const QUEUE_NOTIFY: u32 = 0x50;
const STATUS: u32 = 0x70;
const DESCRIPTORS: u32 = 0x80;
const AVAILABLE: u32 = 0x90;
const USED: u32 = 0xa0;
/// Entries of every queue.
const SIZE: u32 = 8;

/// The device may write to the buffer.
pub(crate) const WRITE: u16 = 2;
const NEXT: u16 = 1;

/// A device at an address, as its driver sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device(pub(crate) u32);

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

    /// Puts chains of buffers (address, length, flags) into the ring, all made
    /// available from the beginning.
    pub(crate) fn with_chains(self, payload: Payload, chains: &[&[(u32, u32, u16)]]) -> Payload {
        let mut table = Vec::new();
        let mut available = vec![0, 0];
        available.extend(u16::try_from(chains.len()).unwrap().to_le_bytes());
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
        available.resize(4 + 2 * SIZE as usize + 2, 0);
        payload
            .data(self.page, table)
            .data(self.available(), available)
            .data(self.used(), vec![0; 4 + 8 * SIZE as usize + 2])
    }
}

impl Device {
    /// Negotiates `VIRTIO_F_VERSION_1` alone, sets up the queues, and starts.
    pub(crate) fn start(self, payload: Payload, rings: &[Ring]) -> Payload {
        let at = |register| self.0 + register;
        let mut payload = payload
            .write(at(STATUS), 0)
            .write(at(STATUS), 1)
            .write(at(STATUS), 3)
            .write(at(DRIVER_FEATURES_SELECT), 0)
            .write(at(DRIVER_FEATURES), 0)
            .write(at(DRIVER_FEATURES_SELECT), 1)
            .write(at(DRIVER_FEATURES), 1)
            .write(at(STATUS), 0xb);
        for ring in rings {
            payload = payload
                .write(at(QUEUE_SELECT), ring.queue)
                .write(at(QUEUE_SIZE), SIZE)
                .write(at(DESCRIPTORS), ring.page)
                .write(at(DESCRIPTORS + 4), 0)
                .write(at(AVAILABLE), ring.available())
                .write(at(AVAILABLE + 4), 0)
                .write(at(USED), ring.used())
                .write(at(USED + 4), 0)
                .write(at(QUEUE_READY), 1);
        }
        payload.write(at(STATUS), 0xf)
    }

    /// Rings the doorbell of a queue.
    pub(crate) fn kick(self, payload: Payload, ring: Ring) -> Payload {
        payload.write(self.0 + QUEUE_NOTIFY, ring.queue)
    }
}
