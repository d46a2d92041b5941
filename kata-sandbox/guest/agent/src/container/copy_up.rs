//! Copying a directory into a tmpfs that is mounted over it.
//!
//! The files are the image's, so nothing is followed: each is opened in its
//! directory, by descriptor.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, Stat, Timespec, Timestamps, chownat, fchmod, fstat,
    futimens, mkdirat, mknodat, openat, readlinkat, statat, symlinkat,
};
use rustix::process::{Gid, Uid};

/// Directories below each other; an image that has more is refused.
const DEPTH: u32 = 256;

/// Copies what is in one directory to another, with modes, owners and times.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    directory(from, to, DEPTH)
}

fn directory(from: &OwnedFd, to: &OwnedFd, depth: u32) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::other("its directories are nested too deeply"));
    }
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            one(from, to, name, depth)?;
        }
    }
    finish(to, &fstat(from)?)
}

fn one(from: &OwnedFd, to: &OwnedFd, name: &CStr, depth: u32) -> io::Result<()> {
    let status = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(status.st_mode);
    let open = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    match kind {
        FileType::Directory => {
            mkdirat(to, name, Mode::RWXU)?;
            let flags = open | OFlags::RDONLY | OFlags::DIRECTORY;
            let from = openat(from, name, flags, Mode::empty())?;
            let to = openat(to, name, flags, Mode::empty())?;
            directory(&from, &to, depth - 1)
        }
        FileType::RegularFile => {
            let mut source = File::from(openat(from, name, open | OFlags::RDONLY, Mode::empty())?);
            let make = open | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let copy = openat(to, name, make, Mode::RUSR | Mode::WUSR)?;
            let mut target = File::from(copy);
            io::copy(&mut source, &mut target)?;
            finish(&target, &status)
        }
        FileType::Symlink => {
            let target = readlinkat(from, name, Vec::new())?;
            symlinkat(target.as_c_str(), to, name)?;
            own(to, name, &status)
        }
        FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
            let mode = Mode::from_raw_mode(status.st_mode);
            mknodat(to, name, kind, mode, status.st_rdev)?;
            own(to, name, &status)
        }
        // A socket without whoever listens on it is nothing.
        _ => Ok(()),
    }
}

fn own(directory: &OwnedFd, name: &CStr, status: &Stat) -> io::Result<()> {
    let (uid, gid) = owner(status);
    let flags = AtFlags::SYMLINK_NOFOLLOW;
    Ok(chownat(directory, name, Some(uid), Some(gid), flags)?)
}

fn owner(status: &Stat) -> (Uid, Gid) {
    (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid))
}

/// Gives a copy the owner, then the mode, which a change of owner may reduce,
/// and the times.
fn finish(copy: impl AsFd, status: &Stat) -> io::Result<()> {
    let (uid, gid) = owner(status);
    rustix::fs::fchown(&copy, Some(uid), Some(gid))?;
    fchmod(&copy, Mode::from_raw_mode(status.st_mode))?;
    let time = |seconds, nanoseconds: u64| Timespec {
        tv_sec: seconds,
        tv_nsec: i64::try_from(nanoseconds).unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(status.st_atime, status.st_atime_nsec),
        last_modification: time(status.st_mtime, status.st_mtime_nsec),
    };
    Ok(futimens(&copy, &times)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
    use std::path::Path;

    fn open(path: &Path) -> OwnedFd {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        rustix::fs::open(path, flags, Mode::empty()).unwrap()
    }

    #[test]
    fn files_modes_times_and_links_are_the_same() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(from.path().join("d")).unwrap();
        std::fs::write(from.path().join("d/file"), "text").unwrap();
        let mode = std::fs::Permissions::from_mode(0o4750);
        std::fs::set_permissions(from.path().join("d/file"), mode).unwrap();
        let mode = std::fs::Permissions::from_mode(0o555);
        std::fs::set_permissions(from.path().join("d"), mode).unwrap();
        symlink("/etc/passwd", from.path().join("link")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(from.path().join("socket")).unwrap();

        copy(&open(from.path()), &open(to.path())).unwrap();

        let of = |directory: &Path, name: &str| {
            let metadata = directory.join(name).symlink_metadata().unwrap();
            (metadata.mode(), metadata.uid(), metadata.mtime_nsec())
        };
        for name in ["d", "d/file"] {
            assert_eq!(of(to.path(), name), of(from.path(), name), "{name}");
        }
        assert_eq!(std::fs::read(to.path().join("d/file")).unwrap(), b"text");
        let link = std::fs::read_link(to.path().join("link")).unwrap();
        assert_eq!(link, Path::new("/etc/passwd"));
        assert!(!to.path().join("socket").exists());
    }
}
