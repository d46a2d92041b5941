//! The containers of a sandbox, by id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ContainerRecord;

type Entries = BTreeMap<String, Option<Arc<ContainerRecord>>>;

/// The containers that there are; `None` stands for one that is being made.
#[derive(Clone, Debug, Default)]
pub(crate) struct Containers(Arc<Mutex<Entries>>);

/// An id that is taken until its container is entered, or this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    containers: Containers,
    id: Option<String>,
}

impl Containers {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an id; `None` when it is taken.
    pub(super) fn reserve(&self, id: &str) -> Option<Slot> {
        let mut entries = self.lock();
        if entries.contains_key(id) {
            return None;
        }
        entries.insert(id.to_owned(), None);
        Some(Slot {
            containers: self.clone(),
            id: Some(id.to_owned()),
        })
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<ContainerRecord>> {
        self.lock().get(id)?.clone()
    }

    pub(crate) fn all(&self) -> Vec<Arc<ContainerRecord>> {
        self.lock().values().flatten().cloned().collect()
    }

    /// Forgets that very container.
    pub(super) fn remove(&self, record: &Arc<ContainerRecord>) {
        let mut entries = self.lock();
        let is_it = entries.get(record.id()).is_some_and(|entry| {
            entry
                .as_ref()
                .is_some_and(|entry| Arc::ptr_eq(entry, record))
        });
        if is_it {
            entries.remove(record.id());
        }
    }
}

impl Slot {
    pub(super) fn enter(mut self, record: &Arc<ContainerRecord>) {
        if let Some(id) = self.id.take() {
            self.containers.lock().insert(id, Some(Arc::clone(record)));
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(id) = self.id.take() {
            self.containers.lock().remove(&id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_taken_while_its_container_is_made() {
        let containers = Containers::default();
        let slot = containers.reserve("a").unwrap();
        assert!(containers.reserve("a").is_none());
        assert!(containers.get("a").is_none());
        assert!(containers.all().is_empty());
        drop(slot);
        assert!(containers.reserve("a").is_some());
    }
}
