//! Disks of a machine.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Bytes that a virtio disk's serial number may have
/// (virtio 1.2, section 5.2.6: `VIRTIO_BLK_T_GET_ID`).
const LONGEST_ID: usize = 20;

/// A disk: bytes of the host that the guest has as a virtio block device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DiskConfig {
    /// The serial number by which the guest knows it: letters, digits and
    /// dashes, at most 20 of them, unique in the machine.
    pub id: String,
    /// A file that holds the disk's bytes as they are, or a block device.
    pub path: PathBuf,
    /// Whether the guest can only read it.
    pub read_only: bool,
}

impl DiskConfig {
    /// Checks what needs no look at the host.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`].
    pub fn validate(&self) -> Result<()> {
        let wrong = |reason: String| Error::InvalidConfig {
            field: "disk",
            reason,
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if self.id.is_empty() || self.id.len() > LONGEST_ID || !self.id.chars().all(plain) {
            return Err(wrong(format!(
                "its id {:?} is not made of 1 to {LONGEST_ID} letters, digits and dashes",
                self.id
            )));
        }
        if !self.path.is_absolute() {
            let path = self.path.display();
            return Err(wrong(format!("its path {path} is not absolute")));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_that_no_guest_could_show_is_refused() {
        let disk = |id: &str, path: &str| DiskConfig {
            id: id.to_owned(),
            path: path.into(),
            read_only: true,
        };
        disk("disk-0", "/a").validate().unwrap();
        for (id, path) in [
            ("", "/a"),
            ("disk 0", "/a"),
            ("a,b", "/a"),
            ("123456789012345678901", "/a"),
            ("disk-0", "a"),
        ] {
            assert!(disk(id, path).validate().is_err(), "{id:?} {path:?}");
        }
    }
}
