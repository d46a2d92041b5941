//! A mutex that a busy thread cannot keep for itself.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A mutex whose waiters get their turn even if the holder locks it again at
/// once: each passes a door that stays shut while another waits.
#[derive(Debug, Default)]
pub(super) struct FairMutex<T> {
    door: Mutex<()>,
    value: Mutex<T>,
}

impl<T> FairMutex<T> {
    pub(super) fn new(value: T) -> Self {
        Self {
            door: Mutex::new(()),
            value: Mutex::new(value),
        }
    }

    /// The value. A holder that panicked left it whole enough to be ended.
    pub(super) fn lock(&self) -> MutexGuard<'_, T> {
        let door = self.door.lock().unwrap_or_else(PoisonError::into_inner);
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        drop(door);
        value
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[test]
    fn a_thread_that_locks_all_the_time_lets_others_in() {
        let shared = Arc::new(FairMutex::new(0));
        let stop = Arc::new(AtomicBool::new(false));
        let busy = {
            let (shared, stop) = (Arc::clone(&shared), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    *shared.lock() += 1;
                }
            })
        };
        for _ in 0..1000 {
            *shared.lock() += 1;
        }
        stop.store(true, Ordering::Relaxed);
        busy.join().unwrap();
        assert!(*shared.lock() >= 1000);
    }
}
