//! The host's hand on a balloon.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::stats::BalloonStats;
use crate::epoll::Event;

/// Bytes of a page, whatever the guest's pages are (virtio 1.2 §5.5.6).
pub(super) const PAGE: u64 = 4096;

/// What both sides know.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    /// Pages that the host wants.
    pub(super) target: u32,
    /// Pages that the guest says it has given.
    pub(super) actual: u32,
    /// Bytes that reports of free pages gave back.
    pub(super) reported: u64,
    /// What the guest told last.
    pub(super) stats: Option<BalloonStats>,
    /// The host wants to hear more.
    pub(super) ask: bool,
}

#[derive(Debug)]
pub(super) struct Shared {
    numbers: Mutex<Numbers>,
    pub(super) changed: Event,
}

impl Shared {
    pub(super) fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The host's hand on a balloon. Clones are the same hand.
#[derive(Clone, Debug)]
pub struct Balloon {
    pub(super) shared: Arc<Shared>,
}

impl Balloon {
    pub(crate) fn new() -> io::Result<Self> {
        let shared = Shared {
            numbers: Mutex::default(),
            changed: Event::new()?,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Asks the guest to give up `bytes` of memory in all, rounded down to pages of
    /// 4096; less than before takes the balloon in.
    pub fn set_target(&self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE).unwrap_or(u32::MAX);
        self.shared.numbers().target = pages;
        self.shared.changed.raise();
    }

    /// Bytes that the guest says it has given up.
    #[must_use]
    pub fn actual(&self) -> u64 {
        u64::from(self.shared.numbers().actual) * PAGE
    }

    /// Bytes that reports of free pages have given back since the start, those of
    /// pages that were reported again included.
    #[must_use]
    pub fn reported(&self) -> u64 {
        self.shared.numbers().reported
    }

    /// What the guest told last, and asks it for more, which comes when the guest
    /// pleases. `None` until it has told anything.
    #[must_use]
    pub fn statistics(&self) -> Option<BalloonStats> {
        let mut numbers = self.shared.numbers();
        numbers.ask = true;
        let stats = numbers.stats;
        drop(numbers);
        self.shared.changed.raise();
        stats
    }
}
