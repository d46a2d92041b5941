//! Counting and logging of what a guest does wrong, without letting it fill the log.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// At most one line in so many milliseconds.
const INTERVAL_MS: u64 = 1000;

/// Counts offences of one kind and says which of them deserve a log line.
#[derive(Debug)]
pub struct Offences {
    epoch: Instant,
    seen: AtomicU64,
    /// Milliseconds after `epoch` from which the next line may be written.
    next_line: AtomicU64,
}

impl Default for Offences {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            seen: AtomicU64::new(0),
            next_line: AtomicU64::new(0),
        }
    }
}

impl Offences {
    /// Counts one. `Some(total)` when it should be logged.
    #[must_use]
    pub fn count(&self) -> Option<u64> {
        let total = self.seen.fetch_add(1, Ordering::Relaxed) + 1;
        let now = u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX);
        let due = self.next_line.load(Ordering::Relaxed);
        let claim = |due| {
            let next = now.saturating_add(INTERVAL_MS);
            self.next_line
                .compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
        };
        (now >= due && claim(due).is_ok()).then_some(total)
    }

    /// How many there were.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.seen.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_counted_in_full_and_logged_once() {
        let offences = Offences::default();
        let lines = (0..10_000).filter(|_| offences.count().is_some()).count();
        assert_eq!(offences.total(), 10_000);
        assert!((1..=3).contains(&lines), "{lines} lines");
    }
}
