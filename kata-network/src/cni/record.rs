//! What is noted of a sandbox's attachments, so that they can be undone after a
//! crash.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::attachment::Attachment;
use crate::error::{Error, Result};

/// A sandbox's attachments, in the order in which they are made.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// The sandbox's id.
    pub(super) sandbox: String,
    /// The name of its namespace, which its plugins know it by.
    pub(super) container: String,
    pub(super) attachments: Vec<Attachment>,
}

/// The directory with a record for each sandbox.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Records(PathBuf);

impl Records {
    pub(super) fn new(directory: impl Into<PathBuf>) -> Self {
        Self(directory.into())
    }

    fn path(&self, container: &str) -> PathBuf {
        self.0.join(format!("{container}.json"))
    }

    /// Notes it: whole, and on disk, or not at all.
    pub(super) fn write(&self, record: &Record) -> Result<()> {
        let path = self.path(&record.container);
        let failed = || Error::host(format!("write {}", path.display()));
        std::fs::create_dir_all(&self.0).map_err(failed())?;
        let text = serde_json::to_vec(record).map_err(|error| failed()(error.into()))?;
        let temporary = self.0.join(format!(".{}.new", record.container));
        let write = || -> io::Result<()> {
            let mut file = File::create(&temporary)?;
            file.write_all(&text)?;
            file.sync_data()?;
            std::fs::rename(&temporary, &path)?;
            File::open(&self.0)?.sync_all()
        };
        write().map_err(failed())
    }

    /// The record of a sandbox, if there is one.
    pub(super) fn read(&self, container: &str) -> Result<Option<Record>> {
        let path = self.path(container);
        let failed = || Error::host(format!("read {}", path.display()));
        match std::fs::read(&path) {
            Ok(text) => {
                let record = serde_json::from_slice(&text);
                record.map(Some).map_err(|error| failed()(error.into()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed()(error)),
        }
    }

    /// Forgets a sandbox.
    pub(super) fn remove(&self, container: &str) -> Result<()> {
        let path = self.path(container);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::host(format!("remove {}", path.display()))(error))
            }
            _ => Ok(()),
        }
    }

    /// The sandboxes that have a record.
    pub(super) fn containers(&self) -> Result<Vec<String>> {
        let failed = || Error::host(format!("list {}", self.0.display()));
        let entries = match std::fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed())?,
        };
        let mut containers = Vec::new();
        for entry in entries {
            let name = entry.map_err(failed())?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".json"));
            containers.extend(
                name.filter(|name| !name.starts_with('.'))
                    .map(str::to_owned),
            );
        }
        Ok(containers)
    }
}

/// The name of a sandbox for plugins and files: `CNI_CONTAINERID` may have
/// letters, digits and `_.-`, and no id of a sandbox becomes another's.
pub(super) fn container_id(sandbox: &str) -> String {
    const LONGEST: usize = 100;
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b".-".contains(byte);
    let mut name = String::from("kata-");
    for byte in sandbox.bytes() {
        if plain(&byte) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("_{byte:02x}"));
        }
    }
    if name.len() > LONGEST {
        // FNV-1a, 64 bits: long ids differ in what is cut off.
        let hash = sandbox
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
                (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        name.truncate(LONGEST - 17);
        name.push_str(&format!("_{hash:016x}"));
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let directory = tempfile::tempdir().unwrap();
        let records = Records::new(directory.path().join("new"));
        assert!(records.containers().unwrap().is_empty());
        assert_eq!(records.read("kata-a").unwrap(), None);
        let record = Record {
            sandbox: "a".into(),
            container: "kata-a".into(),
            attachments: Vec::new(),
        };
        records.write(&record).unwrap();
        assert_eq!(records.read("kata-a").unwrap(), Some(record));
        assert_eq!(records.containers().unwrap(), ["kata-a"]);
        records.remove("kata-a").unwrap();
        records.remove("kata-a").unwrap();
        assert_eq!(records.read("kata-a").unwrap(), None);
    }

    #[test]
    fn every_sandbox_has_a_name_of_its_own() {
        assert_eq!(container_id("pod-1.a"), "kata-pod-1.a");
        assert_eq!(container_id("a/b_c"), "kata-a_2fb_5fc");
        let (long, longer) = ("x".repeat(200), "x".repeat(201));
        assert_ne!(container_id(&long), container_id(&longer));
        assert!(container_id(&longer).len() <= 100);
    }
}
