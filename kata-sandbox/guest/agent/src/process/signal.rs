//! Signals by their numbers.
#![expect(
    unsafe_code,
    reason = "real-time signals have numbers and no names, and rustix knows names"
)]

use rustix::process::Signal;

/// A signal by its number, real-time ones too.
pub(crate) fn signal(number: i32) -> Option<Signal> {
    let real_time = libc::SIGRTMIN()..=libc::SIGRTMAX();
    match Signal::from_named_raw(number) {
        // SAFETY: a signal that Linux has, and that the C library keeps none of
        // for itself: it begins its range after those.
        None if real_time.contains(&number) => Some(unsafe { Signal::from_raw_unchecked(number) }),
        named => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_signal_has_a_number_and_no_other_number_is_one() {
        assert_eq!(signal(9), Some(Signal::KILL));
        for number in [34, 35, 64] {
            assert_eq!(signal(number).unwrap().as_raw(), number);
        }
        for number in [-1, 0, 33, 65] {
            assert_eq!(signal(number), None, "{number}");
        }
    }
}
