//! What is written down about a sandbox.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use kata_network::Network;
use oci_spec::runtime as oci;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::process::ProcessId;
use super::{JournalError, Result};

const FILE: &str = "state.json";
/// Version of the record's format.
const VERSION: u32 = 2;

/// What is written down about a sandbox, before it is made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// The sandbox's id, which the directory's name may abbreviate.
    pub(crate) id: String,
    /// The process that runs it, for people: the lock decides.
    pub(crate) owner: ProcessId,
    /// The network to be torn down.
    pub(crate) network: Option<NetworkRecord>,
    /// Those that were added while it ran, in their order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) added: Vec<NetworkRecord>,
    /// The machine's own process, once it runs. Until that is written down, the
    /// kernel ends it with the owner.
    #[serde(default)]
    pub(crate) monitor: Option<ProcessId>,
    /// Control groups made for it on the host, parents first.
    #[serde(default)]
    pub(crate) cgroups: Vec<PathBuf>,
    /// Programs of the host that are to hear of its containers' ends.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) hooks: Vec<HooksRecord>,
}

/// The `poststop` hooks of a container, with all that they are to be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HooksRecord {
    pub(crate) container: String,
    pub(crate) hooks: Vec<oci::Hook>,
    /// The state of the container that has stopped.
    pub(crate) state: Value,
    /// The directory that they run in.
    pub(crate) directory: Option<PathBuf>,
}

/// A network that was, or was about to be, set up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NetworkRecord {
    pub(crate) name: String,
    /// By which any process can make it again; `None` for one of the program's
    /// own.
    pub(crate) description: Option<Value>,
    /// What it calls the sandbox, where that is not the sandbox's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<String>,
}

impl NetworkRecord {
    pub(crate) fn of(network: &dyn Network) -> Self {
        Self {
            name: network.name().to_owned(),
            description: network.description(),
            subject: None,
        }
    }
}

impl Record {
    pub(crate) fn new(id: &str, network: Option<NetworkRecord>) -> Self {
        Self {
            version: VERSION,
            id: id.to_owned(),
            owner: ProcessId::of(std::process::id()),
            network,
            added: Vec::new(),
            monitor: None,
            cgroups: Vec::new(),
            hooks: Vec::new(),
        }
    }

    /// Whether it says what takes more than a look at the disk to undo.
    pub(super) fn needs_a_runtime(&self) -> bool {
        self.network.is_some() || !self.added.is_empty() || !self.hooks.is_empty()
    }

    /// Writes it down in that directory, so that it is there whole or not.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let new = directory.join("state.json.new");
        let json = serde_json::to_vec_pretty(self).expect("a record has string keys only");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new)?;
        file.write_all(&json)?;
        file.sync_all()?;
        std::fs::rename(&new, directory.join(FILE))
    }
}

/// What was written down in that directory, if anything was.
///
/// # Errors
/// `Unreadable` when something was, and cannot be read.
pub(super) fn read(directory: &Path) -> Result<Option<Record>> {
    let unreadable = |reason| JournalError::Unreadable {
        path: directory.join(FILE),
        reason,
    };
    let written = match std::fs::read(directory.join(FILE)) {
        Ok(written) => written,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error.to_string())),
    };
    /// What every version says.
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    let parsed: serde_json::Result<Versioned> = serde_json::from_slice(&written);
    match parsed.map_err(|error| unreadable(error.to_string()))? {
        Versioned { version: VERSION } => {}
        Versioned { version } => {
            let reason = format!("it is of version {version}, and this program reads {VERSION}");
            return Err(unreadable(reason));
        }
    }
    let record = serde_json::from_slice(&written);
    record.map_err(|error| unreadable(error.to_string()))
}
