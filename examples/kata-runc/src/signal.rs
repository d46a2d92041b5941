//! Signals of the host by their numbers.
#![expect(
    unsafe_code,
    reason = "real-time signals have numbers and no names, and rustix knows names"
)]

use rustix::process::Signal;

/// Real-time signals that the C library keeps none of for itself.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// A signal by its number, real-time ones too.
pub(crate) fn signal(number: i32) -> Option<Signal> {
    match Signal::from_named_raw(number) {
        // SAFETY: Linux has a signal of that number, and no library minds it.
        None if REAL_TIME.contains(&number) => Some(unsafe { Signal::from_raw_unchecked(number) }),
        named => named,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_time_signals_are_signals() {
        assert_eq!(signal(15), Some(Signal::TERM));
        assert_eq!(signal(35).map(Signal::as_raw), Some(35));
        for number in [-1, 0, 33, 65] {
            assert_eq!(signal(number), None, "{number}");
        }
    }
}
