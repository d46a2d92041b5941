//! Which register an access means (virtio 1.2 §4.2.2).

use virtio_bindings::virtio_mmio as layout;

use crate::virtio::queue_setup::{Area, Half};

/// "virt", little-endian.
pub(super) const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// The version of the interface without legacy.
pub(super) const VERSION: u32 = 2;
/// Says who made the device; any number will do.
pub(super) const VENDOR: u32 = u32::from_le_bytes(*b"kata");

const QUEUE_RESET: u32 = 0xc0;

/// A register that the driver may read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readable {
    Magic,
    Version,
    DeviceId,
    VendorId,
    DeviceFeatures,
    QueueSizeMax,
    QueueReady,
    InterruptStatus,
    Status,
    /// Length and base of a shared memory region, of which there are none.
    SharedMemory,
    QueueReset,
    ConfigGeneration,
    /// A place in the configuration space.
    Config(usize),
}

/// A register that the driver may write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writable {
    DeviceFeaturesSelect,
    DriverFeatures,
    DriverFeaturesSelect,
    QueueSelect,
    QueueSize,
    QueueReady,
    QueueNotify,
    InterruptAck,
    Status,
    QueueArea(Area, Half),
    SharedMemorySelect,
    QueueReset,
    Config(usize),
}

/// The register that a read of `width` bytes at `offset` means.
pub(super) fn readable(offset: u64, width: usize) -> Option<Readable> {
    if let Some(at) = config(offset, width) {
        return Some(Readable::Config(at));
    }
    let register = match register(offset, width)? {
        layout::VIRTIO_MMIO_MAGIC_VALUE => Readable::Magic,
        layout::VIRTIO_MMIO_VERSION => Readable::Version,
        layout::VIRTIO_MMIO_DEVICE_ID => Readable::DeviceId,
        layout::VIRTIO_MMIO_VENDOR_ID => Readable::VendorId,
        layout::VIRTIO_MMIO_DEVICE_FEATURES => Readable::DeviceFeatures,
        layout::VIRTIO_MMIO_QUEUE_NUM_MAX => Readable::QueueSizeMax,
        layout::VIRTIO_MMIO_QUEUE_READY => Readable::QueueReady,
        layout::VIRTIO_MMIO_INTERRUPT_STATUS => Readable::InterruptStatus,
        layout::VIRTIO_MMIO_STATUS => Readable::Status,
        layout::VIRTIO_MMIO_SHM_LEN_LOW
        | layout::VIRTIO_MMIO_SHM_LEN_HIGH
        | layout::VIRTIO_MMIO_SHM_BASE_LOW
        | layout::VIRTIO_MMIO_SHM_BASE_HIGH => Readable::SharedMemory,
        QUEUE_RESET => Readable::QueueReset,
        layout::VIRTIO_MMIO_CONFIG_GENERATION => Readable::ConfigGeneration,
        _ => return None,
    };
    Some(register)
}

/// The register that a write of `width` bytes at `offset` means.
pub(super) fn writable(offset: u64, width: usize) -> Option<Writable> {
    if let Some(at) = config(offset, width) {
        return Some(Writable::Config(at));
    }
    let area = Writable::QueueArea;
    let register = match register(offset, width)? {
        layout::VIRTIO_MMIO_DEVICE_FEATURES_SEL => Writable::DeviceFeaturesSelect,
        layout::VIRTIO_MMIO_DRIVER_FEATURES => Writable::DriverFeatures,
        layout::VIRTIO_MMIO_DRIVER_FEATURES_SEL => Writable::DriverFeaturesSelect,
        layout::VIRTIO_MMIO_QUEUE_SEL => Writable::QueueSelect,
        layout::VIRTIO_MMIO_QUEUE_NUM => Writable::QueueSize,
        layout::VIRTIO_MMIO_QUEUE_READY => Writable::QueueReady,
        layout::VIRTIO_MMIO_QUEUE_NOTIFY => Writable::QueueNotify,
        layout::VIRTIO_MMIO_INTERRUPT_ACK => Writable::InterruptAck,
        layout::VIRTIO_MMIO_STATUS => Writable::Status,
        layout::VIRTIO_MMIO_QUEUE_DESC_LOW => area(Area::Descriptors, Half::Low),
        layout::VIRTIO_MMIO_QUEUE_DESC_HIGH => area(Area::Descriptors, Half::High),
        layout::VIRTIO_MMIO_QUEUE_AVAIL_LOW => area(Area::Available, Half::Low),
        layout::VIRTIO_MMIO_QUEUE_AVAIL_HIGH => area(Area::Available, Half::High),
        layout::VIRTIO_MMIO_QUEUE_USED_LOW => area(Area::Used, Half::Low),
        layout::VIRTIO_MMIO_QUEUE_USED_HIGH => area(Area::Used, Half::High),
        layout::VIRTIO_MMIO_SHM_SEL => Writable::SharedMemorySelect,
        QUEUE_RESET => Writable::QueueReset,
        _ => return None,
    };
    Some(register)
}

/// All registers but the configuration space are read and written as words.
fn register(offset: u64, width: usize) -> Option<u32> {
    let offset = u32::try_from(offset).ok()?;
    (width == 4 && offset.is_multiple_of(4)).then_some(offset)
}

/// The place in the configuration space, for aligned accesses.
fn config(offset: u64, width: usize) -> Option<usize> {
    let at = offset.checked_sub(u64::from(layout::VIRTIO_MMIO_CONFIG))?;
    let at = usize::try_from(at).ok()?;
    (matches!(width, 1 | 2 | 4 | 8) && at < super::transport::CONFIG_SIZE).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registers_are_words_and_the_configuration_is_not() {
        assert_eq!(readable(0, 4), Some(Readable::Magic));
        assert_eq!(readable(0, 1), None);
        assert_eq!(readable(2, 4), None);
        assert_eq!(readable(0x101, 1), Some(Readable::Config(1)));
        assert_eq!(writable(0x108, 8), Some(Writable::Config(8)));
        assert_eq!(writable(0x108, 3), None);
    }

    #[test]
    fn nothing_is_both_unless_the_specification_says_so() {
        for offset in (0..0x100).step_by(4) {
            let both = readable(offset, 4).is_some() && writable(offset, 4).is_some();
            assert_eq!(both, matches!(offset, 0x44 | 0x70 | 0xc0), "{offset:#x}");
        }
    }

    #[test]
    fn beyond_the_end_is_nothing() {
        for offset in [0x1000, u64::from(u32::MAX), u64::MAX] {
            assert_eq!(readable(offset, 4), None);
            assert_eq!(writable(offset, 4), None);
        }
    }
}
