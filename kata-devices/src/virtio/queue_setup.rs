//! A queue, as far as its driver has set it up.

use std::sync::Arc;

use virtio_queue::QueueT;

use super::device::DeviceQueue;
use super::kick::Kick;
use super::state::SavedQueue;

/// The half of a 64-bit value that a 32-bit register holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    /// Bits 0 to 31.
    Low,
    /// Bits 32 to 63.
    High,
}

impl Half {
    pub(super) fn set(self, value: &mut u64, half: u32) {
        *value = match self {
            Self::Low => *value & !0xffff_ffff | u64::from(half),
            Self::High => *value & 0xffff_ffff | u64::from(half) << 32,
        };
    }

    pub(crate) fn of(self, value: u64) -> u32 {
        let bytes = value.to_le_bytes();
        let at = match self {
            Self::Low => 0,
            Self::High => 4,
        };
        u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
    }
}

/// The parts of a queue (virtio 1.2 §2.7).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Area {
    /// The descriptor table.
    Descriptors,
    /// The available ring, of the driver.
    Available,
    /// The used ring, of the device.
    Used,
}

/// A queue, as far as the driver has set it up.
#[derive(Debug)]
pub(crate) struct QueueSetup {
    pub(super) max: u16,
    pub(super) saved: SavedQueue,
    pub(super) kick: Arc<Kick>,
    /// Here while the machine is paused.
    pub(super) held: Option<DeviceQueue>,
}

impl QueueSetup {
    pub(super) fn new(max: u16) -> std::io::Result<Self> {
        Ok(Self {
            max,
            saved: Self::fresh(max),
            kick: Arc::new(Kick::new()?),
            held: None,
        })
    }

    fn fresh(max: u16) -> SavedQueue {
        SavedQueue {
            size: max,
            ..SavedQueue::default()
        }
    }

    pub(super) fn clear(&mut self) {
        self.saved = Self::fresh(self.max);
        self.held = None;
    }

    pub(crate) fn max(&self) -> u16 {
        self.max
    }

    pub(super) fn saved(&self) -> &SavedQueue {
        &self.saved
    }

    pub(super) fn save(&self) -> SavedQueue {
        let mut saved = self.saved;
        if let Some(held) = &self.held {
            let queue = held.queue.queue();
            saved.next_available = queue.next_avail();
            saved.next_used = queue.next_used();
        }
        saved
    }
}
