//! How a namespace is adopted.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::wiring::WiringModel;

/// How a namespace is adopted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Options {
    /// The wiring of interfaces that have none of their own.
    pub(crate) wiring: WiringModel,
    /// The wiring of single interfaces, by name.
    pub(crate) wiring_of: BTreeMap<String, WiringModel>,
    /// Where the guest's name servers are read.
    pub(crate) resolv_conf: Option<PathBuf>,
    /// How many devices are made before there are interfaces for them.
    pub(crate) ahead: usize,
}

impl Options {
    pub(crate) fn wiring_of(&self, interface: &str) -> WiringModel {
        self.wiring_of
            .get(interface)
            .copied()
            .unwrap_or(self.wiring)
    }
}
