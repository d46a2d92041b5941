//! What a transport tells the driver: interrupt status, faults, generation.
//!
//! Shared by the transport, whose registers show it, and the device's threads,
//! which change it. No lock is held while an interrupt is raised.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use super::device::DeviceEvents;
use super::queue::Interrupt;

/// Used buffers (virtio 1.2 §4.2.2, §4.1.4.5).
pub(super) const USED: u32 = 1;
/// The configuration space has changed, or the device needs a reset.
pub(super) const CONFIG: u32 = 2;

/// State that devices change and registers show.
#[derive(Debug, Default)]
pub(super) struct Signals {
    pending: AtomicU32,
    generation: AtomicU32,
    broken: AtomicBool,
    /// Whoever raises used-buffer interrupts does so without our knowledge.
    direct: AtomicBool,
}

impl Signals {
    /// The interrupt status. With an interrupt that somebody else may raise, the
    /// bit of used buffers is always set: the driver then looks at its rings.
    pub(super) fn pending(&self) -> u32 {
        let direct = u32::from(self.direct.load(Ordering::Acquire)) * USED;
        self.pending.load(Ordering::Acquire) | direct
    }

    pub(super) fn acknowledge(&self, bits: u32) {
        self.pending.fetch_and(!bits, Ordering::AcqRel);
    }

    pub(super) fn note(&self, bits: u32) {
        self.pending.fetch_or(bits, Ordering::AcqRel);
    }

    pub(super) fn set_direct(&self) {
        self.direct.store(true, Ordering::Release);
    }

    pub(super) fn generation(&self) -> u32 {
        self.generation.load(Ordering::Acquire)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Acquire)
    }

    /// Only a reset helps; the driver sees it when it looks.
    pub(super) fn break_down(&self) {
        self.broken.store(true, Ordering::Release);
    }

    /// As new, but for the generation, which only grows.
    pub(super) fn reset(&self) {
        self.pending.store(0, Ordering::Release);
        self.direct.store(false, Ordering::Release);
        self.broken.store(false, Ordering::Release);
    }
}

/// The events of a device behind a transport.
pub(super) struct Events {
    pub(super) signals: Arc<Signals>,
    /// Interrupts for a change of configuration.
    pub(super) interrupt: Arc<dyn Interrupt>,
    /// A device of an earlier life, before the last reset, has nothing to say.
    pub(super) retired: Arc<AtomicBool>,
}

impl Events {
    fn tell(&self) {
        self.signals.note(CONFIG);
        // A machine that is going away has nobody to be told.
        let _ = self.interrupt.raise();
    }
}

impl DeviceEvents for Events {
    fn config_changed(&self) {
        if !self.retired.load(Ordering::Acquire) {
            self.signals.generation.fetch_add(1, Ordering::AcqRel);
            self.tell();
        }
    }

    fn needs_reset(&self) {
        let new = !self.retired.load(Ordering::Acquire)
            && !self.signals.broken.swap(true, Ordering::AcqRel);
        if new {
            self.tell();
        }
    }
}
