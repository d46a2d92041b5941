//! What a device tells a front end besides used buffers.

use std::sync::{Mutex, PoisonError};

use crate::virtio::{DeviceEvents, Kick};

/// The eventfds by which a front end wants to hear of broken queues.
///
/// A change of the configuration has no message that the `vhost` crate sends: it
/// is logged, and the front end sees it when it next asks.
#[derive(Debug, Default)]
pub(super) struct FrontEndEvents {
    errors: Mutex<Vec<(u32, Kick)>>,
}

impl FrontEndEvents {
    /// Sets or takes away the eventfd of a queue.
    pub(super) fn set_error(&self, queue: u32, error: Option<Kick>) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.retain(|(other, _)| *other != queue);
        errors.extend(error.map(|error| (queue, error)));
    }
}

impl DeviceEvents for FrontEndEvents {
    fn config_changed(&self) {
        log::debug!("vhost-user: the configuration has changed; the front end is not told");
    }

    fn needs_reset(&self) {
        let errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, error) in &*errors {
            error.signal();
        }
    }
}
