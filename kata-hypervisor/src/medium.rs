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
}
