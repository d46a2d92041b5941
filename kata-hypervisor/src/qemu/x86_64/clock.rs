//! The rate of the time stamp counter.
#![expect(
    unsafe_code,
    reason = "the time stamp counter is read by an instruction"
)]

use std::time::{Duration, Instant};

/// A moment on two clocks.
#[derive(Clone, Copy, Debug)]
pub(in crate::qemu) struct Clocks {
    counter: u64,
    at: Instant,
}

/// Shorter measurements are too coarse: 10 ms are good for some ten millionths.
const SHORTEST: Duration = Duration::from_millis(10);

impl Clocks {
    /// Now, read so that nothing came between the two clocks, as far as three
    /// attempts can tell.
    pub(in crate::qemu) fn now() -> Self {
        let attempt = |_| {
            let before = Instant::now();
            // SAFETY: every x86_64 processor has this instruction, and Linux
            // lets programs use it unless they ask it not to.
            let counter = unsafe { core::arch::x86_64::_rdtsc() };
            (
                before.elapsed(),
                Self {
                    counter,
                    at: before,
                },
            )
        };
        let (_, best) = (0..3)
            .map(attempt)
            .min_by_key(|(took, _)| *took)
            .expect("three attempts");
        best
    }

    /// The counter's rate in kHz since an earlier moment; `None` when that is
    /// too short ago, or the counter does not count time.
    pub(in crate::qemu) fn khz_since(self, earlier: Self) -> Option<u64> {
        let elapsed = self.at.checked_duration_since(earlier.at)?;
        if elapsed < SHORTEST || !counter_counts_time() {
            return None;
        }
        let ticks = u128::from(self.counter.checked_sub(earlier.counter)?);
        let khz = u64::try_from(ticks * 1_000_000 / elapsed.as_nanos()).ok()?;
        (100_000..20_000_000).contains(&khz).then_some(khz)
    }
}

/// Whether the kernel itself keeps time by this counter.
fn counter_counts_time() -> bool {
    let source = "/sys/devices/system/clocksource/clocksource0/available_clocksource";
    std::fs::read_to_string(source)
        .is_ok_and(|names| names.split_ascii_whitespace().any(|name| name == "tsc"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_rate_is_steady() {
        if !counter_counts_time() {
            eprintln!("skipped: this host's time stamp counter does not count time");
            return;
        }
        let measure = || {
            let earlier = Clocks::now();
            std::thread::sleep(SHORTEST * 2);
            Clocks::now().khz_since(earlier).unwrap()
        };
        let (first, second) = (measure(), measure());
        assert!(first.abs_diff(second) < first / 1000, "{first} {second}");
    }

    #[test]
    fn a_moment_ago_is_too_short_to_measure() {
        let now = Clocks::now();
        assert_eq!(Clocks::now().khz_since(now), None);
    }
}
