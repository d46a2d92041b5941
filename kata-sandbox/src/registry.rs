//! The sandboxes of one runtime, by id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::home::Home;

/// The sandboxes that there are, or are about to be.
#[derive(Clone, Debug, Default)]
pub(crate) struct Registry(Arc<Mutex<BTreeMap<String, Weak<Home>>>>);

/// An id that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    registry: Registry,
    id: String,
}

impl Registry {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Weak<Home>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an id; `None` when it is taken.
    pub(crate) fn reserve(&self, id: &str) -> Option<Reservation> {
        let mut sandboxes = self.lock();
        if sandboxes.contains_key(id) {
            return None;
        }
        sandboxes.insert(id.to_owned(), Weak::new());
        Some(Reservation {
            registry: self.clone(),
            id: id.to_owned(),
        })
    }

    /// Notes the sandbox of a reserved id.
    pub(crate) fn enter(&self, id: &str, home: &Arc<Home>) {
        if let Some(entry) = self.lock().get_mut(id) {
            *entry = Arc::downgrade(home);
        }
    }

    /// The sandbox of that id, if it has been started.
    pub(crate) fn get(&self, id: &str) -> Option<Arc<Home>> {
        self.lock().get(id)?.upgrade()
    }

    /// All that have been started, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Home>> {
        self.lock().values().filter_map(Weak::upgrade).collect()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.registry.lock().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_until_its_reservation_is_dropped() {
        let registry = Registry::default();
        let first = registry.reserve("a").unwrap();
        assert!(registry.reserve("a").is_none());
        assert!(registry.get("a").is_none());
        drop(first);
        assert!(registry.reserve("a").is_some());
        assert!(registry.all().is_empty());
    }
}
