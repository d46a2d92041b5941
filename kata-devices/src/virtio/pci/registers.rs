//! What an access to the BAR means (virtio 1.2 §4.1.4). Pure.

use crate::virtio::queue_setup::{Area, Half};

/// Bytes of the BAR.
pub(super) const BAR_SIZE: u64 = 0x1_0000;

/// Where the structures are, and their sizes.
pub(super) const COMMON: (u64, u64) = (0x0000, 0x40);
pub(super) const ISR: (u64, u64) = (0x1000, 4);
pub(super) const DEVICE: (u64, u64) = (0x2000, 0x1000);
pub(super) const NOTIFY: (u64, u64) = (0x3000, 0x1000);
pub(super) const MSIX_TABLE: (u64, u64) = (0x8000, 0x4000);
pub(super) const MSIX_PENDING: (u64, u64) = (0xc000, 0x1000);

/// Bytes between the doorbells of queues.
pub(super) const NOTIFY_STEP: u64 = 4;

/// Bytes of an entry of the MSI-X table.
pub(super) const ENTRY_LEN: u64 = 16;

/// A register of the common structure (§4.1.4.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Common {
    DeviceFeatureSelect,
    DeviceFeature,
    DriverFeatureSelect,
    DriverFeature,
    ConfigVector,
    QueueCount,
    Status,
    ConfigGeneration,
    QueueSelect,
    QueueSize,
    QueueVector,
    QueueEnable,
    QueueNotifyOffset,
    QueueArea(Area, Half),
    QueueReset,
}

/// What an access means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Register {
    Common(Common),
    Isr,
    /// A place in the device's own configuration space.
    Device(usize),
    /// A doorbell; the queue's index is the value written.
    Notify(u32),
    /// Bytes of an entry of the MSI-X table.
    Entry(usize, usize),
    /// A place in the array of pending bits.
    Pending(usize),
}

/// The register that an access of `width` bytes at `offset` means.
pub(super) fn decode(offset: u64, width: usize) -> Option<Register> {
    let length = u64::try_from(width).ok()?;
    let aligned = matches!(width, 1 | 2 | 4 | 8) && offset.is_multiple_of(length);
    if !aligned {
        return None;
    }
    let within = |(start, size): (u64, u64)| {
        let at = offset.checked_sub(start)?;
        (at.checked_add(length)? <= size).then_some(at)
    };
    if let Some(at) = within(COMMON) {
        return common(at, width).map(Register::Common);
    }
    if let Some(at) = within(DEVICE) {
        return Some(Register::Device(usize::try_from(at).ok()?));
    }
    if let Some(at) = within(NOTIFY) {
        let queue = u32::try_from(at / NOTIFY_STEP).ok()?;
        return (at.is_multiple_of(NOTIFY_STEP) && width <= 4).then_some(Register::Notify(queue));
    }
    if let Some(at) = within(MSIX_TABLE) {
        let entry = usize::try_from(at / ENTRY_LEN).ok()?;
        let field = usize::try_from(at % ENTRY_LEN).ok()?;
        return (width >= 4).then_some(Register::Entry(entry, field));
    }
    if let Some(at) = within(MSIX_PENDING) {
        return (width >= 4).then_some(Register::Pending(usize::try_from(at).ok()?));
    }
    within(ISR).map(|_| Register::Isr)
}

fn common(at: u64, width: usize) -> Option<Common> {
    let register = match (at, width) {
        (0x00, 4) => Common::DeviceFeatureSelect,
        (0x04, 4) => Common::DeviceFeature,
        (0x08, 4) => Common::DriverFeatureSelect,
        (0x0c, 4) => Common::DriverFeature,
        (0x10, 2) => Common::ConfigVector,
        (0x12, 2) => Common::QueueCount,
        (0x14, 1) => Common::Status,
        (0x15, 1) => Common::ConfigGeneration,
        (0x16, 2) => Common::QueueSelect,
        (0x18, 2) => Common::QueueSize,
        (0x1a, 2) => Common::QueueVector,
        (0x1c, 2) => Common::QueueEnable,
        (0x1e, 2) => Common::QueueNotifyOffset,
        (0x20, 4) => Common::QueueArea(Area::Descriptors, Half::Low),
        (0x24, 4) => Common::QueueArea(Area::Descriptors, Half::High),
        (0x28, 4) => Common::QueueArea(Area::Available, Half::Low),
        (0x2c, 4) => Common::QueueArea(Area::Available, Half::High),
        (0x30, 4) => Common::QueueArea(Area::Used, Half::Low),
        (0x34, 4) => Common::QueueArea(Area::Used, Half::High),
        (0x3a, 2) => Common::QueueReset,
        _ => return None,
    };
    Some(register)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_do_not_overlap_and_are_in_the_bar() {
        let all = [COMMON, ISR, DEVICE, NOTIFY, MSIX_TABLE, MSIX_PENDING];
        for pair in all.windows(2) {
            assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:x?}");
        }
        assert!(MSIX_PENDING.0 + MSIX_PENDING.1 <= BAR_SIZE);
    }

    #[test]
    fn registers_have_their_width_and_place() {
        assert_eq!(decode(0x14, 1), Some(Register::Common(Common::Status)));
        assert_eq!(decode(0x14, 2), None);
        assert_eq!(decode(0x2001, 1), Some(Register::Device(1)));
        assert_eq!(decode(0x3008, 2), Some(Register::Notify(2)));
        assert_eq!(decode(0x3002, 2), None);
        assert_eq!(decode(0x8018, 4), Some(Register::Entry(1, 8)));
        assert_eq!(decode(0x8018, 2), None);
        assert_eq!(decode(0xc000, 8), Some(Register::Pending(0)));
        for offset in [0x40, 0x7000, BAR_SIZE, u64::MAX - 3] {
            assert_eq!(decode(offset, 4), None, "{offset:#x}");
        }
    }
}
