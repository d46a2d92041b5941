//! The containers of a sandbox, by id.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::ContainerRecord;
use crate::home::ContainerKey;

/// The containers that there are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Containers(Arc<Mutex<Entries>>);

#[derive(Debug, Default)]
struct Entries {
    /// By id; `None` stands for one that is being made.
    by_id: BTreeMap<String, Option<Arc<ContainerRecord>>>,
    /// How many there have been.
    numbered: u64,
}

/// An id that is taken until its container is entered, or this is dropped.
#[derive(Debug)]
pub(super) struct Slot {
    containers: Containers,
    key: Option<ContainerKey>,
}

impl Containers {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes an id; `None` when it is taken.
    pub(super) fn reserve(&self, id: &str) -> Option<Slot> {
        let mut entries = self.lock();
        if entries.by_id.contains_key(id) {
            return None;
        }
        entries.by_id.insert(id.to_owned(), None);
        entries.numbered += 1;
        let key = ContainerKey {
            id: id.to_owned(),
            number: entries.numbered,
        };
        Some(Slot {
            containers: self.clone(),
            key: Some(key),
        })
    }

    pub(crate) fn get(&self, id: &str) -> Option<Arc<ContainerRecord>> {
        self.lock().by_id.get(id)?.clone()
    }

    /// That very container, unless it was deleted.
    pub(crate) fn find(&self, key: &ContainerKey) -> Option<Arc<ContainerRecord>> {
        self.get(&key.id).filter(|record| record.face().key == *key)
    }

    pub(crate) fn all(&self) -> Vec<Arc<ContainerRecord>> {
        self.lock().by_id.values().flatten().cloned().collect()
    }

    /// Forgets that very container; answers whether it was there.
    pub(super) fn remove(&self, record: &Arc<ContainerRecord>) -> bool {
        let mut entries = self.lock();
        let is_it = entries.by_id.get(record.id()).is_some_and(|entry| {
            entry
                .as_ref()
                .is_some_and(|entry| Arc::ptr_eq(entry, record))
        });
        if is_it {
            entries.by_id.remove(record.id());
        }
        is_it
    }
}

impl Slot {
    pub(super) fn enter(mut self, record: &Arc<ContainerRecord>) {
        if let Some(key) = self.key.take() {
            let entry = Some(Arc::clone(record));
            self.containers.lock().by_id.insert(key.id, entry);
        }
    }

    /// What the container is to be known by.
    pub(super) fn key(&self) -> ContainerKey {
        self.key.clone().expect("a slot is entered once, by value")
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if let Some(key) = self.key.take() {
            self.containers.lock().by_id.remove(&key.id);
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
