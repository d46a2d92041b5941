//! Pausing a device, saving what was agreed on, and taking it over.

use std::io;
use std::sync::Arc;

use super::{InterruptOf, Negotiation};
use crate::virtio::Interrupt;
use crate::virtio::queue_setup::QueueSetup;
use crate::virtio::state::{StateError, TransportState};
use crate::virtio::status::{self, Status};

/// The version of [`TransportState`].
const STATE_VERSION: u32 = 1;

impl Negotiation {
    /// Quiesces all queues, or none.
    pub(crate) fn pause(&mut self) -> io::Result<()> {
        if !self.active || self.paused {
            return Ok(());
        }
        for index in 0..self.queues.len() {
            match self.device.quiesce(index) {
                // What is held already is not running, and so is not given.
                Ok(None) => {}
                Ok(queue) => self.queues[index].held = queue,
                Err(error) => {
                    self.resume()?;
                    return Err(error);
                }
            }
        }
        self.paused = true;
        Ok(())
    }

    /// Lets the device go on after [`pause`](Self::pause), whether that came to its
    /// end or not.
    pub(crate) fn resume(&mut self) -> io::Result<()> {
        self.paused = false;
        for index in 0..self.queues.len() {
            if let Some(queue) = self.queues[index].held.take() {
                self.device.resume(index, queue)?;
            }
        }
        Ok(())
    }

    /// The state of a paused device, or of one that is not active.
    pub(crate) fn save(&mut self) -> Result<TransportState, StateError> {
        if self.active && !self.paused {
            return Err(StateError::Unavailable {
                reason: "the device runs; pause it first".to_owned(),
            });
        }
        let queues = self.queues.iter().map(QueueSetup::save).collect();
        Ok(TransportState {
            version: STATE_VERSION,
            status: self.status(),
            driver_features: self.chosen,
            pending: self.signals.pending(),
            queues,
            device: self.device.save()?,
        })
    }

    /// Makes a device that was never used be as the saved one was.
    pub(crate) fn restore(
        &mut self,
        state: &TransportState,
        config_interrupt: Arc<dyn Interrupt>,
        interrupt_of: InterruptOf<'_>,
    ) -> Result<(), StateError> {
        if state.version != STATE_VERSION {
            return Err(StateError::Version {
                version: state.version,
            });
        }
        if state.queues.len() != self.queues.len() || state.driver_features & !self.offered() != 0 {
            return Err(StateError::Damaged {
                reason: "it is of a device with other queues or features".to_owned(),
            });
        }
        self.reset();
        self.device.restore(&state.device)?;
        self.chosen = state.driver_features;
        self.signals.note(state.pending);
        self.status = Status(state.status & !status::NEEDS_RESET);
        for (queue, saved) in self.queues.iter_mut().zip(&state.queues) {
            queue.saved = *saved;
        }
        let events = self.events(Arc::clone(&config_interrupt));
        if state.status & status::NEEDS_RESET != 0 {
            events.needs_reset();
        } else if self.status.has(status::DRIVER_OK) {
            self.activate(config_interrupt, interrupt_of);
        }
        Ok(())
    }
}
