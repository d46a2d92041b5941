//! What is kept of a function when its machine is saved.

use serde::{Deserialize, Serialize};

use super::msix::SavedVectors;
use crate::virtio::state::{StateError, TransportState};

/// The version of [`PciState`].
const VERSION: u32 = 1;

/// What a function keeps: configuration space, vectors, and what its driver has
/// agreed on with the device.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PciState {
    version: u32,
    /// Configuration space without extensions.
    pub(super) space: Vec<u8>,
    pub(super) config_vector: u16,
    pub(super) vectors: SavedVectors,
    pub(super) transport: TransportState,
}

impl PciState {
    pub(super) fn new(
        space: &[u8],
        config_vector: u16,
        vectors: SavedVectors,
        transport: TransportState,
    ) -> Self {
        Self {
            version: VERSION,
            space: space.to_vec(),
            config_vector,
            vectors,
            transport,
        }
    }

    /// Checks that it is of a version that is known, and of a function with so many
    /// vectors.
    pub(super) fn check(&self, vectors: usize) -> Result<(), StateError> {
        if self.version != VERSION {
            return Err(StateError::Version {
                version: self.version,
            });
        }
        let queues = self.transport.queues.iter();
        let mut used = queues.filter_map(|queue| queue.vector);
        if self.vectors.len() != vectors || used.any(|vector| usize::from(vector) >= vectors) {
            return Err(damaged("it is of a function with other interrupts"));
        }
        Ok(())
    }
}

pub(super) fn damaged(reason: &str) -> StateError {
    StateError::Damaged {
        reason: reason.to_owned(),
    }
}
