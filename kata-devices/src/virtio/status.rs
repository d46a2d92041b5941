//! The device status field (virtio 1.2 §2.1).

use virtio_bindings::virtio_config as bindings;

/// The status of a device, as the driver reads and writes it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Status(pub(super) u8);

/// Constants are `u32` in the bindings and fit into a byte.
const fn bit(value: u32) -> u8 {
    assert!(value < 0x100);
    value.to_le_bytes()[0]
}

pub(super) const ACKNOWLEDGE: u8 = bit(bindings::VIRTIO_CONFIG_S_ACKNOWLEDGE);
pub(super) const DRIVER: u8 = bit(bindings::VIRTIO_CONFIG_S_DRIVER);
pub(super) const DRIVER_OK: u8 = bit(bindings::VIRTIO_CONFIG_S_DRIVER_OK);
pub(super) const FEATURES_OK: u8 = bit(bindings::VIRTIO_CONFIG_S_FEATURES_OK);
pub(super) const NEEDS_RESET: u8 = bit(bindings::VIRTIO_CONFIG_S_NEEDS_RESET);
pub(super) const FAILED: u8 = bit(bindings::VIRTIO_CONFIG_S_FAILED);

/// What a write of the status asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// The driver wants the device as it was at first.
    Reset,
    /// The driver has chosen its features.
    FeaturesChosen,
    /// The driver is ready.
    DriverReady,
    /// Nothing but the bits themselves.
    Noted,
    /// No driver does this: a bit taken back, or one before its time.
    Invalid,
}

impl Status {
    pub(super) fn has(self, bits: u8) -> bool {
        self.0 & bits == bits
    }

    /// What the driver asks for by writing `value`.
    pub(super) fn change(self, value: u8) -> Change {
        if value == 0 {
            return Change::Reset;
        }
        let value = value & !NEEDS_RESET;
        let before = self.0 & !NEEDS_RESET;
        let added = value & !before;
        if value & before != before {
            return Change::Invalid;
        }
        if added & FAILED != 0 {
            return Change::Noted;
        }
        match added {
            0 | ACKNOWLEDGE => Change::Noted,
            DRIVER if self.has(ACKNOWLEDGE) => Change::Noted,
            // Some drivers write both at once.
            both if both == ACKNOWLEDGE | DRIVER => Change::Noted,
            FEATURES_OK if self.has(DRIVER) => Change::FeaturesChosen,
            DRIVER_OK if self.has(FEATURES_OK) => Change::DriverReady,
            _ => Change::Invalid,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_goes_step_by_step() {
        let mut status = Status::default();
        for (bit, change) in [
            (ACKNOWLEDGE, Change::Noted),
            (DRIVER, Change::Noted),
            (FEATURES_OK, Change::FeaturesChosen),
            (DRIVER_OK, Change::DriverReady),
        ] {
            assert_eq!(status.change(status.0 | bit), change);
            status.0 |= bit;
        }
        assert_eq!(status.change(0), Change::Reset);
    }

    #[test]
    fn steps_left_out_or_taken_back_are_invalid() {
        assert_eq!(Status(0).change(DRIVER_OK), Change::Invalid);
        assert_eq!(Status(0).change(DRIVER), Change::Invalid);
        let known = ACKNOWLEDGE | DRIVER;
        assert_eq!(Status(known).change(known | DRIVER_OK), Change::Invalid);
        assert_eq!(Status(known).change(DRIVER), Change::Invalid);
        assert_eq!(Status(known).change(known | 0x30), Change::Invalid);
    }

    #[test]
    fn giving_up_is_always_allowed() {
        assert_eq!(Status(0).change(FAILED), Change::Noted);
    }

    #[test]
    fn the_need_of_a_reset_is_the_devices_to_say() {
        let broken = Status(ACKNOWLEDGE | NEEDS_RESET);
        assert_eq!(broken.change(ACKNOWLEDGE | DRIVER), Change::Noted);
        assert_eq!(Status(0).change(NEEDS_RESET), Change::Noted);
    }
}
