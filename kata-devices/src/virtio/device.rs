//! The seam between devices and transports.

use std::io;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_ids;

use super::kick::Kick;
use super::queue::{GuestMemory, VirtQueue};
use super::state::{DeviceState, StateError};

/// What kind of device it is, by its number (virtio 1.2 §5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct DeviceKind(pub u32);

impl DeviceKind {
    /// A network card (§5.1).
    pub const NET: Self = Self(virtio_ids::VIRTIO_ID_NET);
    /// A block device (§5.2).
    pub const BLOCK: Self = Self(virtio_ids::VIRTIO_ID_BLOCK);
    /// A console (§5.3).
    pub const CONSOLE: Self = Self(virtio_ids::VIRTIO_ID_CONSOLE);
    /// A source of entropy (§5.4).
    pub const RNG: Self = Self(virtio_ids::VIRTIO_ID_RNG);
    /// A memory balloon (§5.5).
    pub const BALLOON: Self = Self(virtio_ids::VIRTIO_ID_BALLOON);
    /// Streams between guest and host (§5.10).
    pub const VSOCK: Self = Self(virtio_ids::VIRTIO_ID_VSOCK);
    /// A shared file system (§5.11).
    pub const FS: Self = Self(virtio_ids::VIRTIO_ID_FS);
}

/// A queue that a device may use, with the means to be told of new chains.
#[derive(Debug)]
pub struct DeviceQueue {
    /// The rings, and the interrupt of used buffers.
    pub queue: VirtQueue,
    /// Signalled when the driver made chains available.
    pub kick: Arc<Kick>,
    /// The memory in which the rings and all buffers lie.
    pub memory: Arc<GuestMemory>,
}

/// What a device may tell its driver besides used buffers. A transport is one.
pub trait DeviceEvents: Send + Sync {
    /// The configuration space has changed (virtio 1.2 §2.5).
    fn config_changed(&self);

    /// The device can only go on after a reset (`DEVICE_NEEDS_RESET`, §2.1.1).
    fn needs_reset(&self);
}

/// What a device gets when its driver is ready (`DRIVER_OK`).
pub struct Activation {
    /// The features that driver and device agreed on.
    pub features: u64,
    /// How to tell the driver of changes and faults.
    pub events: Arc<dyn DeviceEvents>,
    /// The queues that the driver has set up, by index; others are absent.
    pub queues: Vec<(usize, DeviceQueue)>,
}

impl std::fmt::Debug for Activation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Activation")
            .field("features", &self.features)
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

/// A virtio device without a transport.
///
/// Threads belong to the device: none outlives it. Dropping it waits for them,
/// however long the host takes for what they do: then nothing is written any more
/// to what is behind the device.
pub trait VirtioDevice: Send {
    /// What kind of device it is.
    fn kind(&self) -> DeviceKind;

    /// The features that it offers, those of the queues and `VIRTIO_F_VERSION_1`
    /// included, those of the transport not.
    fn features(&self) -> u64;

    /// The largest size of each queue, a power of two.
    fn queue_sizes(&self) -> &[u16];

    /// The configuration space as it is now. Reads beyond its end give zeroes.
    fn config(&self) -> Vec<u8>;

    /// The driver writes `data` at `offset` of the configuration space. Writes
    /// outside of what is writable are ignored.
    fn write_config(&mut self, offset: usize, data: &[u8]);

    /// The driver is ready: begins to serve the queues.
    ///
    /// # Errors
    /// When the host refuses something. The driver is told that the device needs
    /// a reset.
    fn activate(&mut self, activation: Activation) -> io::Result<()>;

    /// Takes a queue away, after the last access to it and its buffers. `None`
    /// when the device does not have it. What was taken from the queue is
    /// completed first, or left on it.
    ///
    /// # Errors
    /// When what was taken from the queue does not end. The device has the queue
    /// still, and serves it.
    fn quiesce(&mut self, queue: usize) -> io::Result<Option<DeviceQueue>>;

    /// Gives a queue to an active device: one that was quiesced, or one that the
    /// driver has reset and set up anew.
    ///
    /// # Errors
    /// When the host refuses something.
    fn resume(&mut self, index: usize, queue: DeviceQueue) -> io::Result<()>;

    /// The driver starts anew: all queues are given up and nothing is kept of
    /// what was negotiated.
    fn reset(&mut self);

    /// What must be kept to make this device anew, without its queues. It is
    /// meaningful while all queues are quiesced.
    ///
    /// # Errors
    /// When the device's state lies outside of this process, and cannot be had.
    fn save(&mut self) -> Result<DeviceState, StateError>;

    /// Takes over what [`save`](Self::save) gave. The device is not active.
    ///
    /// # Errors
    /// When the state is another device's, or of a version that is not known.
    fn restore(&mut self, state: &DeviceState) -> Result<(), StateError>;
}
