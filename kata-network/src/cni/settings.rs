//! What the embedder chose.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::runtime_config::RuntimeConfig;
use crate::wiring::WiringModel;

/// Where plugins are when nothing else is said.
const PLUGIN_DIRS: [&str; 3] = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];
/// Where attachments are noted when nothing else is said.
const STATE_DIR: &str = "/var/lib/kata-network";
/// Where namespaces are when nothing else is said.
const NETNS_DIR: &str = "/run/netns";
/// How long a plugin may take when nothing else is said.
const LIMIT: Duration = Duration::from_secs(60);

/// What the embedder chose.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Settings {
    pub(super) networks: Vec<Value>,
    pub(super) plugin_dirs: Vec<PathBuf>,
    /// How many of them the embedder added.
    pub(super) chosen_plugin_dirs: usize,
    pub(super) state_dir: PathBuf,
    pub(super) netns_dir: PathBuf,
    pub(super) limit: Duration,
    pub(super) arguments: Vec<(String, String)>,
    pub(super) runtime: RuntimeConfig,
    pub(super) wiring: WiringModel,
    /// Whether devices are made before the plugins run; `None` where they are
    /// known to make one interface each.
    #[serde(default)]
    pub(super) ahead: Option<bool>,
}

impl Settings {
    pub(super) fn of(network: Value) -> Self {
        Self {
            networks: vec![network],
            plugin_dirs: PLUGIN_DIRS.map(PathBuf::from).into(),
            chosen_plugin_dirs: 0,
            state_dir: STATE_DIR.into(),
            netns_dir: NETNS_DIR.into(),
            limit: LIMIT,
            arguments: Vec::new(),
            runtime: RuntimeConfig::default(),
            wiring: WiringModel::default(),
            ahead: None,
        }
    }

    /// The value of `CNI_ARGS`.
    pub(super) fn args(&self) -> String {
        let pairs = self.arguments.iter();
        let pairs: Vec<String> = pairs.map(|(key, value)| format!("{key}={value}")).collect();
        pairs.join(";")
    }
}
