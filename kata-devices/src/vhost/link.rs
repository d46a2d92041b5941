//! The way to whoever serves the queues.

use std::io;
use std::sync::Arc;

use crate::virtio::{DeviceEvents, DeviceQueue, GuestMemory};

/// Somebody who serves the queues of one device.
pub(super) trait Link: Send {
    /// The features that it can serve.
    fn features(&self) -> u64;

    /// The driver is ready: tells features and memory.
    fn begin(
        &mut self,
        features: u64,
        memory: &GuestMemory,
        events: &Arc<dyn DeviceEvents>,
    ) -> io::Result<()>;

    /// Hands a queue over.
    fn start(&mut self, index: usize, queue: &DeviceQueue) -> io::Result<()>;

    /// Takes it back; says where in the available ring it stopped.
    fn stop(&mut self, index: usize) -> io::Result<u16>;

    /// The driver writes to the configuration space.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    /// The driver starts anew.
    fn end(&mut self) {}
}
