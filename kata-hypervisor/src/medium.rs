//! Where the bytes of a disk come from.

use std::path::Path;

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

/// By which the bytes of a disk are known, whatever their path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// A block device, by its number.
    Device(u64),
    /// A file, by its file system and inode.
    File(u64, u64),
}

impl Identity {
    /// That of what there is at `path`.
    pub(crate) fn of(path: &Path) -> std::io::Result<Self> {
        use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
        let found = std::fs::metadata(path)?;
        Ok(if found.file_type().is_block_device() {
            Self::Device(found.rdev())
        } else {
            Self::File(found.dev(), found.ino())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_no_medium() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Medium::of(directory.path()).is_err());
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert_eq!(Medium::of(&file).unwrap(), Medium::File);
    }

    #[test]
    fn a_disk_is_the_same_by_every_path() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name| directory.path().join(name);
        std::fs::write(at("a"), "").unwrap();
        std::os::unix::fs::symlink(at("a"), at("link")).unwrap();
        std::fs::hard_link(at("a"), at("name")).unwrap();
        std::fs::copy(at("a"), at("copy")).unwrap();
        let identity = |name| Identity::of(&at(name)).unwrap();
        assert_eq!(identity("a"), identity("link"));
        assert_eq!(identity("a"), identity("name"));
        assert_ne!(identity("a"), identity("copy"));
        assert!(Identity::of(&at("nothing")).is_err());
    }

    #[test]
    fn a_block_device_is_the_same_by_every_node() {
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
        let directory = tempfile::tempdir().unwrap();
        let at = |name| directory.path().join(name);
        // Not opened, and so none that there must be.
        for (name, minor) in [("a", 77), ("b", 77), ("c", 78)] {
            let made = mknodat(
                CWD,
                at(name),
                FileType::BlockDevice,
                Mode::RUSR,
                makedev(240, minor),
            );
            if let Err(error) = made {
                return eprintln!("skipped: no device nodes can be made here: {error}");
            }
        }
        let identity = |name| Identity::of(&at(name)).unwrap();
        assert_eq!(identity("a"), identity("b"));
        assert_ne!(identity("a"), identity("c"));
    }
}
