//! What is left of a device that has ended.

use std::io;

use crate::virtio::device::{Activation, DeviceKind, DeviceQueue, VirtioDevice};
use crate::virtio::state::{DeviceState, StateError};

/// A device that has ended: its looks, and nothing behind them.
pub(super) struct Ended {
    kind: DeviceKind,
    features: u64,
    sizes: Vec<u16>,
}

impl Ended {
    pub(super) fn of(device: &dyn VirtioDevice) -> Self {
        Self {
            kind: device.kind(),
            features: device.features(),
            sizes: device.queue_sizes().to_vec(),
        }
    }
}

fn unavailable<T>() -> Result<T, StateError> {
    Err(StateError::Unavailable {
        reason: "the device has ended".to_owned(),
    })
}

impl VirtioDevice for Ended {
    fn kind(&self) -> DeviceKind {
        self.kind
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn queue_sizes(&self) -> &[u16] {
        &self.sizes
    }

    fn config(&self) -> Vec<u8> {
        Vec::new()
    }

    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    fn activate(&mut self, _activation: Activation) -> io::Result<()> {
        Err(io::Error::other("the device has ended"))
    }

    fn quiesce(&mut self, _queue: usize) -> io::Result<Option<DeviceQueue>> {
        Ok(None)
    }

    fn resume(&mut self, _index: usize, _queue: DeviceQueue) -> io::Result<()> {
        Err(io::Error::other("the device has ended"))
    }

    fn reset(&mut self) {}

    fn save(&mut self) -> Result<DeviceState, StateError> {
        unavailable()
    }

    fn restore(&mut self, _state: &DeviceState) -> Result<(), StateError> {
        unavailable()
    }
}
