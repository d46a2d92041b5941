//! Switching off, resetting and panicking, as ACPI describes it.

use crate::kvm::bus::PortDevice;
use crate::kvm::ending::GuestEvent;

/// The sleep type that means off (`\_S5`).
pub(in crate::kvm) const SLEEP_TYPE_OFF: u8 = 5;
/// Written to the reset register.
pub(in crate::kvm) const RESET_VALUE: u8 = 1;
/// Distance of the reset register from the sleep control register.
pub(in crate::kvm) const RESET_OFFSET: u16 = 2;

/// `SLP_EN`, and where the sleep type is (ACPI 6.5 §4.8.3.7).
const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;

/// Sleep control, sleep status and reset, a byte each.
#[derive(Debug, Default)]
pub(in crate::kvm) struct PowerManagement;

impl PortDevice for PowerManagement {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(0);
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Option<GuestEvent> {
        let &[value] = data else { return None };
        match offset {
            0 if value & SLEEP_ENABLE != 0 => {
                let off = (value >> SLEEP_TYPE_SHIFT) & 7 == SLEEP_TYPE_OFF;
                off.then_some(GuestEvent::PowerOff)
            }
            RESET_OFFSET if value == RESET_VALUE => Some(GuestEvent::Reset),
            _ => None,
        }
    }
}

/// The event of a panic, both what is offered and what is told (pvpanic).
const PANICKED: u8 = 1;

/// One byte through which a kernel says that it panicked.
#[derive(Debug, Default)]
pub(in crate::kvm) struct PanicNotifier;

impl PortDevice for PanicNotifier {
    fn read(&mut self, _offset: u16, data: &mut [u8]) {
        data.fill(PANICKED);
    }

    fn write(&mut self, _offset: u16, data: &[u8]) -> Option<GuestEvent> {
        let told = data.iter().any(|byte| byte & PANICKED != 0);
        told.then_some(GuestEvent::Panic)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_sleep_that_is_off_switches_off() {
        let mut pm = PowerManagement;
        let sleep = |kind: u8| SLEEP_ENABLE | kind << SLEEP_TYPE_SHIFT;
        assert_eq!(
            pm.write(0, &[sleep(SLEEP_TYPE_OFF)]),
            Some(GuestEvent::PowerOff)
        );
        assert_eq!(pm.write(0, &[sleep(1)]), None);
        assert_eq!(pm.write(0, &[SLEEP_TYPE_OFF << SLEEP_TYPE_SHIFT]), None);
        assert_eq!(pm.write(0, &[sleep(SLEEP_TYPE_OFF), 0]), None);
    }

    #[test]
    fn the_reset_register_resets() {
        let mut pm = PowerManagement;
        assert_eq!(
            pm.write(RESET_OFFSET, &[RESET_VALUE]),
            Some(GuestEvent::Reset)
        );
        assert_eq!(pm.write(RESET_OFFSET, &[0]), None);
        let mut status = [0xff];
        pm.read(1, &mut status);
        assert_eq!(status, [0]);
    }

    #[test]
    fn a_panic_is_told() {
        let mut notifier = PanicNotifier;
        assert_eq!(notifier.write(0, &[PANICKED]), Some(GuestEvent::Panic));
        assert_eq!(notifier.write(0, &[2]), None);
        let mut offered = [0];
        notifier.read(0, &mut offered);
        assert_eq!(offered, [PANICKED]);
    }
}
