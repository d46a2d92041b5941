//! Limits of rate, as token buckets.
//!
//! A bucket is filled at a steady rate up to its burst. What is taken may leave
//! it in debt once, so that a request larger than the burst passes too, and pays
//! with the time that the debt takes.

use std::time::{Duration, Instant};

use crate::{Error, Result};

/// A rate: so many units per second, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Units (bytes or operations) per second.
    pub per_second: u64,
    /// Units that may pass at once after a pause.
    pub burst: u64,
}

/// The limits of a device, or of one direction of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// Bytes per second; `None` is no limit.
    pub bytes: Option<Rate>,
    /// Requests or frames per second; `None` is no limit.
    pub operations: Option<Rate>,
}

impl RateLimit {
    /// Whether anything passes at all.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] for a rate or burst of zero.
    pub fn validate(&self) -> Result<()> {
        let dead = |rate: &Rate| rate.per_second == 0 || rate.burst == 0;
        if self.bytes.iter().chain(&self.operations).any(dead) {
            return Err(Error::InvalidConfig {
                field: "rate_limit",
                reason: "a rate or burst of zero lets nothing pass; leave the limit out".to_owned(),
            });
        }
        Ok(())
    }
}

/// One bucket.
#[derive(Debug)]
struct Bucket {
    rate: Rate,
    /// Units times 10^9, so that no fraction is lost; negative is debt.
    balance: i128,
    filled: Instant,
}

const NANO: i128 = 1_000_000_000;

impl Bucket {
    fn new(rate: Rate, now: Instant) -> Self {
        Self {
            rate,
            balance: i128::from(rate.burst) * NANO,
            filled: now,
        }
    }

    fn fill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.filled).as_nanos();
        let gained = i128::try_from(elapsed)
            .unwrap_or(i128::MAX)
            .saturating_mul(i128::from(self.rate.per_second));
        let full = i128::from(self.rate.burst) * NANO;
        self.balance = self.balance.saturating_add(gained).min(full);
        self.filled = now;
    }

    /// How long until something may pass; `None` when it may now.
    fn wait(&self) -> Option<Duration> {
        let missing = NANO - self.balance;
        (self.balance < NANO.min(i128::from(self.rate.burst) * NANO)).then(|| {
            let nanos = missing / i128::from(self.rate.per_second) + 1;
            Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
        })
    }
}

/// Applies a [`RateLimit`].
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    bytes: Option<Bucket>,
    operations: Option<Bucket>,
}

impl Limiter {
    pub(crate) fn new(limit: &RateLimit) -> Self {
        let now = Instant::now();
        Self {
            bytes: limit.bytes.map(|rate| Bucket::new(rate, now)),
            operations: limit.operations.map(|rate| Bucket::new(rate, now)),
        }
    }

    /// Whether an operation may begin; if not, from when.
    pub(crate) fn check(&mut self) -> std::result::Result<(), Instant> {
        if self.bytes.is_none() && self.operations.is_none() {
            return Ok(());
        }
        self.check_at(Instant::now())
    }

    fn check_at(&mut self, now: Instant) -> std::result::Result<(), Instant> {
        let mut until = now;
        for bucket in self.bytes.iter_mut().chain(&mut self.operations) {
            bucket.fill(now);
            if let Some(wait) = bucket.wait() {
                until = until.max(now + wait);
            }
        }
        if until > now { Err(until) } else { Ok(()) }
    }

    /// One operation of `bytes` took place.
    pub(crate) fn take(&mut self, bytes: u64) {
        if let Some(bucket) = &mut self.bytes {
            bucket.balance -= i128::from(bytes) * NANO;
        }
        if let Some(bucket) = &mut self.operations {
            bucket.balance -= NANO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(bytes: Option<(u64, u64)>, operations: Option<(u64, u64)>) -> RateLimit {
        let rate = |(per_second, burst)| Rate { per_second, burst };
        RateLimit {
            bytes: bytes.map(rate),
            operations: operations.map(rate),
        }
    }

    /// Operations of `size` bytes that pass within `time`.
    fn passed(limit: &RateLimit, size: u64, time: Duration) -> u64 {
        let mut limiter = Limiter::new(limit);
        let begin = Instant::now();
        let (mut now, mut count) = (begin, 0);
        while now <= begin + time {
            match limiter.check_at(now) {
                Ok(()) => {
                    limiter.take(size);
                    count += 1;
                }
                Err(at) => now = at,
            }
        }
        count
    }

    #[test]
    fn the_burst_passes_at_once_and_the_rate_thereafter() {
        let count = passed(&limit(None, Some((100, 10))), 1, Duration::from_secs(1));
        assert!((109..=112).contains(&count), "{count}");
        let count = passed(
            &limit(Some((1 << 20, 1 << 16)), None),
            4096,
            Duration::from_secs(2),
        );
        assert!((520..=532).contains(&count), "{count}");
    }

    #[test]
    fn what_is_larger_than_the_burst_passes_and_is_paid_for() {
        let count = passed(&limit(Some((1000, 10)), None), 500, Duration::from_secs(5));
        assert!((10..=12).contains(&count), "{count}");
    }

    #[test]
    fn the_tighter_limit_counts() {
        let both = limit(Some((1 << 30, 1 << 30)), Some((5, 1)));
        let count = passed(&both, 1, Duration::from_secs(1));
        assert!((5..=7).contains(&count), "{count}");
    }

    #[test]
    fn nothing_overflows() {
        let huge = limit(Some((u64::MAX, u64::MAX)), Some((u64::MAX, u64::MAX)));
        let mut limiter = Limiter::new(&huge);
        for _ in 0..4 {
            limiter.take(u64::MAX);
        }
        let _ = limiter.check_at(Instant::now() + Duration::from_secs(1 << 40));
    }

    #[test]
    fn a_limit_that_lets_nothing_pass_is_refused() {
        assert!(limit(Some((0, 1)), None).validate().is_err());
        assert!(limit(None, Some((1, 0))).validate().is_err());
        limit(Some((1, 1)), None).validate().unwrap();
    }
}
