//! The clock of an old PC, as far as kernels read it while they start.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::kvm::bus::PortDevice;
use crate::kvm::ending::GuestEvent;

/// A clock that shows the host's time in UTC, and cannot be set. It has no
/// alarm and keeps no bytes.
#[derive(Debug, Default)]
pub(in crate::kvm) struct Rtc {
    register: u8,
}

/// Status register B: binary digits, 24 hours.
const BINARY_24H: u8 = 0x06;
/// Status register A: the divider of a running clock; no update in progress.
const RUNNING: u8 = 0x26;
/// Status register D: the time is valid.
const VALID: u8 = 0x80;

impl PortDevice for Rtc {
    fn read(&mut self, offset: u16, data: &mut [u8]) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        data.fill(if offset == 0 {
            0xff
        } else {
            shown(self.register, now)
        });
    }

    fn write(&mut self, offset: u16, data: &[u8]) -> Option<GuestEvent> {
        if let (0, &[register]) = (offset, data) {
            // The uppermost bit masks an interrupt that does not exist.
            self.register = register & 0x7f;
        }
        None
    }
}

/// What a register shows so many seconds after 1970 began.
fn shown(register: u8, seconds: u64) -> u8 {
    let days = seconds / 86400;
    let (year, month, day) = date(days);
    let value = match register {
        0 => seconds % 60,
        2 => seconds / 60 % 60,
        4 => seconds / 3600 % 24,
        6 => (days + 4) % 7 + 1,
        7 => day,
        8 => month,
        9 => year % 100,
        0x32 => year / 100,
        0xa => RUNNING.into(),
        0xb => BINARY_24H.into(),
        0xd => VALID.into(),
        _ => 0,
    };
    u8::try_from(value).unwrap_or(0)
}

/// Year, month and day of the Gregorian calendar, so many days after 1970 began.
fn date(days: u64) -> (u64, u64, u64) {
    // Years that begin in March have the leap day at their end.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (year + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_around_leap_days_are_right() {
        for (days, expected) in [
            (0, (1970, 1, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_512, (2026, 2, 28)),
            (20_513, (2026, 3, 1)),
            (47_540, (2100, 2, 28)),
            (47_541, (2100, 3, 1)),
        ] {
            assert_eq!(date(days), expected, "{days}");
        }
    }

    #[test]
    fn the_registers_show_the_time() {
        // 2026-11-23 20:40:33, a Monday.
        let at = 1_795_466_433;
        let read = [0, 2, 4, 6, 7, 8, 9, 0x32].map(|register| shown(register, at));
        assert_eq!(read, [33, 40, 20, 2, 23, 11, 26, 20]);
        assert_eq!(
            [0xa, 0xd].map(|register| shown(register, at)),
            [RUNNING, VALID]
        );
    }

    #[test]
    fn a_register_is_chosen_and_read() {
        let mut rtc = Rtc::default();
        assert_eq!(rtc.write(0, &[0x8d]), None);
        let mut byte = [0];
        rtc.read(1, &mut byte);
        assert_eq!(byte, [VALID]);
    }
}
