//! Giving a volume to a group, as Kubernetes' `fsGroup` asks.
//!
//! What is in the volume is not trusted: no link in it is followed.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use kata_protocol::agent::FsGroup;
use kata_protocol::types::FsGroupChangePolicy;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Mode, OFlags, chownat, fchmod, fchown, fstat, openat, statat,
};
use rustix::process::Gid;

/// Directories below each other; a volume deeper than that is refused.
const DEPTH: u32 = 256;
/// The group reads and writes, and new files are the group's.
const DIRECTORY: u32 = 0o2770;
const FILE: u32 = 0o660;

/// The change that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) group: u32,
    only_on_mismatch: bool,
}

impl From<&FsGroup> for Change {
    fn from(wire: &FsGroup) -> Self {
        Self {
            group: wire.group_id,
            only_on_mismatch: wire.group_change_policy
                == FsGroupChangePolicy::OnRootMismatch as i32,
        }
    }
}

impl Change {
    /// Gives `root` and all below it to the group.
    pub(super) fn apply(&self, root: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = openat(CWD, root, flags, Mode::empty())?;
        if self.only_on_mismatch && fstat(&root)?.st_gid == self.group {
            return Ok(());
        }
        self.directory(&root, DEPTH)
    }

    fn directory(&self, directory: &OwnedFd, depth: u32) -> io::Result<()> {
        if depth == 0 {
            return Err(io::Error::other(
                "the volume's directories are nested too deeply",
            ));
        }
        let gid = Some(Gid::from_raw(self.group));
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let kind = FileType::from_raw_mode(stat.st_mode);
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
            match kind {
                FileType::Directory => {
                    let flags = flags | OFlags::DIRECTORY;
                    let child = openat(directory, name, flags, Mode::empty())?;
                    self.directory(&child, depth - 1)?;
                }
                FileType::RegularFile => {
                    let file = openat(directory, name, flags, Mode::empty())?;
                    fchown(&file, None, gid)?;
                    add_mode(file.as_fd(), FILE)?;
                }
                _ => chownat(directory, name, None, gid, AtFlags::SYMLINK_NOFOLLOW)?,
            }
        }
        fchown(directory, None, gid)?;
        add_mode(directory.as_fd(), DIRECTORY)
    }
}

fn add_mode(file: impl AsFd, bits: u32) -> io::Result<()> {
    let mode = fstat(&file)?.st_mode & 0o7777;
    Ok(fchmod(file, Mode::from_raw_mode(mode | bits))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_link_in_the_volume_is_not_followed() {
        let outside = tempfile::NamedTempFile::new().unwrap();
        std::fs::set_permissions(outside.path(), PermissionsExt::from_mode(0o600)).unwrap();
        let volume = tempfile::tempdir().unwrap();
        std::fs::create_dir(volume.path().join("d")).unwrap();
        std::fs::write(volume.path().join("d/f"), "x").unwrap();
        symlink(outside.path(), volume.path().join("d/link")).unwrap();
        let group = rustix::process::getegid().as_raw();

        Change {
            group,
            only_on_mismatch: false,
        }
        .apply(volume.path())
        .unwrap();

        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&volume.path().join("d")) & DIRECTORY, DIRECTORY);
        assert_eq!(mode(&volume.path().join("d/f")) & FILE, FILE);
        assert_eq!(mode(outside.path()), 0o600);
    }
}
