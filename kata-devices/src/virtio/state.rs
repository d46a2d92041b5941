//! What is kept of a device when its machine is saved.
//!
//! A state says of which kind of device and of which version it is. A reader
//! refuses what it does not know; it never guesses.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::device::DeviceKind;
use super::queue_setup::Area;

/// What a device keeps beside its queues.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeviceState {
    /// The kind of the device that made it.
    pub kind: DeviceKind,
    /// The version of `content`, counted by each kind on its own from 1.
    pub version: u32,
    /// What the device keeps.
    pub content: serde_json::Value,
}

/// Why a state was not saved or taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// It is of another kind of device.
    #[error("the state is of a device of type {}, not {}", found.0, expected.0)]
    Kind {
        /// The device's own kind.
        expected: DeviceKind,
        /// The kind in the state.
        found: DeviceKind,
    },
    /// It is of a version that this program does not know.
    #[error("version {version} of the state is not known; it was made by a newer program")]
    Version {
        /// The version in the state.
        version: u32,
    },
    /// It contradicts itself or the device.
    #[error("the state is damaged: {reason}")]
    Damaged {
        /// What is wrong with it.
        reason: String,
    },
    /// The device's state cannot be had.
    #[error("the state of this device cannot be saved: {reason}")]
    Unavailable {
        /// Why not.
        reason: String,
    },
}

impl DeviceState {
    /// The state of a device.
    ///
    /// # Errors
    /// When `content` cannot be put into words.
    pub(crate) fn new(
        kind: DeviceKind,
        version: u32,
        content: &impl Serialize,
    ) -> Result<Self, StateError> {
        let content = serde_json::to_value(content).map_err(|error| StateError::Unavailable {
            reason: error.to_string(),
        })?;
        Ok(Self {
            kind,
            version,
            content,
        })
    }

    /// The content, if it is of `kind` and `version`.
    pub(crate) fn read<T: DeserializeOwned>(
        &self,
        kind: DeviceKind,
        version: u32,
    ) -> Result<T, StateError> {
        if self.kind != kind {
            return Err(StateError::Kind {
                expected: kind,
                found: self.kind,
            });
        }
        if self.version != version {
            return Err(StateError::Version {
                version: self.version,
            });
        }
        T::deserialize(&self.content).map_err(|error| StateError::Damaged {
            reason: error.to_string(),
        })
    }
}

/// The set-up of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SavedQueue {
    pub(super) size: u16,
    pub(super) ready: bool,
    pub(super) descriptors: u64,
    pub(super) available: u64,
    pub(super) used: u64,
    pub(super) next_available: u16,
    pub(super) next_used: u16,
    pub(super) vector: Option<u16>,
}

impl SavedQueue {
    /// Where a part of the queue is.
    pub(super) fn area(&self, area: Area) -> u64 {
        match area {
            Area::Descriptors => self.descriptors,
            Area::Available => self.available,
            Area::Used => self.used,
        }
    }
}

/// What a transport keeps: the negotiation, the queues and the device's state.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TransportState {
    pub(super) version: u32,
    pub(super) status: u8,
    pub(super) driver_features: u64,
    pub(super) pending: u32,
    pub(super) queues: Vec<SavedQueue>,
    pub(super) device: DeviceState,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_by_its_own_kind_and_version_only() {
        let state = DeviceState::new(DeviceKind::RNG, 1, &7u32).unwrap();
        assert_eq!(state.read::<u32>(DeviceKind::RNG, 1).unwrap(), 7);
        let other = state.read::<u32>(DeviceKind::NET, 1).unwrap_err();
        assert!(matches!(other, StateError::Kind { .. }), "{other}");
        let newer = state.read::<u32>(DeviceKind::RNG, 2).unwrap_err();
        assert!(matches!(newer, StateError::Version { .. }), "{newer}");
        let damaged = state.read::<String>(DeviceKind::RNG, 1).unwrap_err();
        assert!(matches!(damaged, StateError::Damaged { .. }), "{damaged}");
    }
}
