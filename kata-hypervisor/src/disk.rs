//! Disks of a machine.

use std::path::{Path, PathBuf};

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

/// What a disk's bytes are taken from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Medium {
    /// A file.
    File,
    /// A block device of the host.
    BlockDevice,
}

impl Medium {
    /// What there is at `path`, if a disk can be made of it.
    ///
    /// # Errors
    /// As looking at it; and `InvalidInput` for what is neither.
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::FileTypeExt as _;
        let kind = std::fs::metadata(path)?.file_type();
        if kind.is_block_device() {
            return Ok(Self::BlockDevice);
        }
        if kind.is_file() {
            return Ok(Self::File);
        }
        let reason = "neither a file nor a block device";
        Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            reason,
        ))
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

    #[test]
    fn a_directory_is_no_medium() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Medium::of(directory.path()).is_err());
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(Medium::of(&file).unwrap(), Medium::File);
    }
}
