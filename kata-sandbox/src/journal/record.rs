//! What is written down about a sandbox.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

const FILE: &str = "state.json";
/// Version of the record's format.
const VERSION: u32 = 1;

/// What is written down about a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// The sandbox's id, which the directory's name may abbreviate.
    pub(crate) id: String,
    /// The process that runs it, for people: the lock decides.
    pub(crate) pid: u32,
    /// When that process began, in clock ticks since boot.
    start_time: Option<u64>,
    /// The boot of the host in which all this is.
    boot_id: Option<String>,
    /// The network to be torn down, by name.
    pub(crate) network: Option<String>,
}

impl Record {
    pub(crate) fn new(id: &str, network: Option<&str>) -> Self {
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        Self {
            version: VERSION,
            id: id.to_owned(),
            pid: std::process::id(),
            start_time: start_time(),
            boot_id: boot_id.map(|id| id.trim().to_owned()),
            network: network.map(str::to_owned),
        }
    }
}

impl Record {
    /// Writes it down in that directory, so that it is there whole or not.
    pub(super) fn write(&self, directory: &Path) -> io::Result<()> {
        let new = directory.join("state.json.new");
        let json = serde_json::to_vec_pretty(self).expect("a record has nothing but strings");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&new)?;
        file.write_all(&json)?;
        file.sync_all()?;
        std::fs::rename(&new, directory.join(FILE))
    }
}

/// Field 22 of this process's `stat`, counted after the command's parenthesis.
fn start_time() -> Option<u64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    stat.rsplit_once(')')?
        .1
        .split_whitespace()
        .nth(19)?
        .parse()
        .ok()
}

/// What was written down in that directory, if it can be read.
pub(super) fn read(path: &Path) -> Option<Record> {
    serde_json::from_slice(&std::fs::read(path.join(FILE)).ok()?).ok()
}
