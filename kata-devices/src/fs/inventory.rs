//! What the guest holds of the host's file descriptors, and how much it may.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Never less than this, however small the process's limit is.
const LEAST: u64 = 256;

/// Descriptors that all shares of a tree may use together.
#[derive(Debug)]
pub(super) struct Budget {
    limit: u64,
    used: AtomicU64,
}

impl Budget {
    /// Half of what the process may open.
    pub(super) fn of_this_process() -> Self {
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        Self::new(limit.map_or(u64::MAX, |limit| limit / 2).max(LEAST))
    }

    pub(super) fn new(limit: u64) -> Self {
        Self {
            limit,
            used: AtomicU64::new(0),
        }
    }

    fn take(&self) -> io::Result<()> {
        let more = |used| (used < self.limit).then_some(used + 1);
        match self
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        {
            Ok(_) => Ok(()),
            Err(_) => Err(io::Error::from_raw_os_error(libc::ENFILE)),
        }
    }

    fn give_back(&self, count: u64) {
        self.used.fetch_sub(count, Ordering::Relaxed);
    }

    #[cfg(test)]
    pub(super) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }
}

/// What the guest holds of one share.
#[derive(Debug)]
pub(super) struct Inventory {
    budget: Arc<Budget>,
    holdings: Mutex<Holdings>,
}

/// Inodes with the number of look-ups that the guest has not forgotten, and open
/// files with their inodes.
#[derive(Debug, Default)]
pub(super) struct Holdings {
    pub(super) inodes: HashMap<u64, u64>,
    pub(super) handles: HashMap<u64, u64>,
}

impl Inventory {
    pub(super) fn new(budget: Arc<Budget>) -> Self {
        Self {
            budget,
            holdings: Mutex::default(),
        }
    }

    /// The guest gets to know `inode`, once more.
    pub(super) fn look_up(&self, inode: u64) -> io::Result<()> {
        let mut holdings = self.lock();
        if let Some(count) = holdings.inodes.get_mut(&inode) {
            *count = count.saturating_add(1);
            return Ok(());
        }
        self.budget.take()?;
        holdings.inodes.insert(inode, 1);
        Ok(())
    }

    /// The guest forgets `count` look-ups; says how many it really had.
    pub(super) fn forget(&self, inode: u64, count: u64) -> u64 {
        let mut holdings = self.lock();
        let Some(known) = holdings.inodes.get_mut(&inode) else {
            return 0;
        };
        let forgotten = count.min(*known);
        *known -= forgotten;
        if *known == 0 {
            holdings.inodes.remove(&inode);
            self.budget.give_back(1);
        }
        forgotten
    }

    /// The guest opened `inode`.
    pub(super) fn open(&self, handle: u64, inode: u64) -> io::Result<()> {
        self.budget.take()?;
        if self.lock().handles.insert(handle, inode).is_some() {
            self.budget.give_back(1);
        }
        Ok(())
    }

    /// The guest closed it.
    pub(super) fn close(&self, handle: u64) {
        if self.lock().handles.remove(&handle).is_some() {
            self.budget.give_back(1);
        }
    }

    /// The guest holds nothing any more; says what it held.
    pub(super) fn clear(&self) -> Holdings {
        let held = std::mem::take(&mut *self.lock());
        self.budget
            .give_back((held.inodes.len() + held.handles.len()) as u64);
        held
    }

    fn lock(&self) -> MutexGuard<'_, Holdings> {
        self.holdings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inventory {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_bounds_inodes_and_handles_together() {
        let budget = Arc::new(Budget::new(2));
        let inventory = Inventory::new(Arc::clone(&budget));
        inventory.look_up(5).unwrap();
        inventory.look_up(5).unwrap();
        inventory.open(1, 5).unwrap();
        assert_eq!(
            inventory.look_up(6).unwrap_err().raw_os_error(),
            Some(libc::ENFILE)
        );
        inventory.close(1);
        inventory.look_up(6).unwrap();
        drop(inventory);
        assert_eq!(budget.used(), 0);
    }

    #[test]
    fn more_cannot_be_forgotten_than_was_known() {
        let inventory = Inventory::new(Arc::new(Budget::new(9)));
        inventory.look_up(5).unwrap();
        inventory.look_up(5).unwrap();
        assert_eq!(inventory.forget(5, u64::MAX), 2);
        assert_eq!(inventory.forget(5, 1), 0);
        inventory.close(99);
        assert_eq!(inventory.budget.used(), 0);
    }
}
