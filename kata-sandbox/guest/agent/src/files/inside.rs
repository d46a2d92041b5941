//! Paths inside a root file system.
//!
//! The files there belong to whoever made the image, so a path may lead
//! anywhere through symbolic links. Every look-up goes through
//! `openat2(RESOLVE_IN_ROOT)`: it cannot leave, whatever it meets.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Component, Path, PathBuf};

use kata_protocol::ttrpc::Status;
use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::process::{Context as _, refuse};

/// Symbolic links that are followed in one path.
pub(super) const LINKS: usize = 40;

/// What is made where nothing is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
}

/// A root file system.
#[derive(Debug)]
pub(crate) struct Root(pub(crate) OwnedFd);

impl Root {
    /// Opens what is there, following symbolic links inside.
    pub(crate) fn open(&self, path: impl AsRef<Path>, flags: OFlags) -> Result<OwnedFd, Errno> {
        let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = path.as_ref();
        let path = if path.as_os_str().is_empty() {
            Path::new(".")
        } else {
            path
        };
        rustix::fs::openat2(&self.0, path, flags | OFlags::CLOEXEC, Mode::empty(), how)
    }

    /// Opens what is there, or makes it and the directories above it.
    pub(crate) fn open_or_make(&self, path: &Path, kind: Kind) -> Result<OwnedFd, Status> {
        match self.open(path, OFlags::PATH) {
            Err(Errno::NOENT) => self.make(path, kind),
            result => result.context(|| format!("open {} in the container", path.display())),
        }
    }

    /// Opens the directory that holds `path`, and gives the name in it.
    pub(crate) fn parent<'a>(&self, path: &'a Path) -> Result<(OwnedFd, &'a OsStr), Status> {
        let name = path
            .file_name()
            .ok_or_else(|| refuse(format!("{path:?} names no file")))?;
        let directory = path.parent().unwrap_or(Path::new("/"));
        Ok((self.open_or_make(directory, Kind::Directory)?, name))
    }

    fn make(&self, path: &Path, kind: Kind) -> Result<OwnedFd, Status> {
        let what = || format!("make {} in the container", path.display());
        let mut left: Vec<OsString> = names(path).rev().collect();
        let mut done = PathBuf::new();
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == ".." {
                done.pop();
                continue;
            }
            let here = done.join(&name);
            let found = self.open(&here, OFlags::PATH | OFlags::NOFOLLOW);
            match found.and_then(|fd| link_target(&fd)) {
                Ok(None) => done = here,
                Ok(Some(target)) => {
                    links += 1;
                    if links > LINKS {
                        return Err(Errno::LOOP).context(what);
                    }
                    if target.is_absolute() {
                        done.clear();
                    }
                    left.extend(names(&target).rev());
                }
                Err(Errno::NOENT) => {
                    let kind = if left.is_empty() {
                        kind
                    } else {
                        Kind::Directory
                    };
                    self.make_one(&done, &name, kind).context(what)?;
                    done = here;
                }
                Err(error) => return Err(error).context(what),
            }
        }
        self.open(&done, OFlags::PATH).context(what)
    }

    fn make_one(&self, directory: &Path, name: &OsStr, kind: Kind) -> Result<(), Errno> {
        let directory = self.open(directory, OFlags::PATH | OFlags::DIRECTORY)?;
        match kind {
            Kind::Directory => rustix::fs::mkdirat(&directory, name, Mode::from(0o755)),
            Kind::File => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&directory, name, flags, Mode::from(0o644)).map(drop)
            }
        }
    }
}

pub(super) fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    })
}

/// Where a symbolic link leads; `None` for anything else.
pub(super) fn link_target(fd: &OwnedFd) -> Result<Option<PathBuf>, Errno> {
    let status = rustix::fs::statat(fd, "", AtFlags::EMPTY_PATH)?;
    if FileType::from_raw_mode(status.st_mode) != FileType::Symlink {
        return Ok(None);
    }
    let target = rustix::fs::readlinkat(fd, "", Vec::new())?;
    Ok(Some(OsString::from_vec(target.into_bytes()).into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn root() -> (tempfile::TempDir, Root) {
        let directory = tempfile::tempdir().unwrap();
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        let fd = rustix::fs::open(directory.path(), flags, Mode::empty()).unwrap();
        (directory, Root(fd))
    }

    #[test]
    fn what_is_missing_is_made() {
        let (directory, root) = root();
        root.open_or_make(Path::new("/a/b/c"), Kind::File).unwrap();
        assert!(directory.path().join("a/b/c").is_file());
        root.open_or_make(Path::new("/a/d"), Kind::Directory)
            .unwrap();
        assert!(directory.path().join("a/d").is_dir());
    }

    #[test]
    fn links_out_of_the_root_stay_in() {
        let (directory, root) = root();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), directory.path().join("way-out")).unwrap();
        symlink("../../../../../..", directory.path().join("up")).unwrap();
        root.open_or_make(Path::new("/way-out/file"), Kind::File)
            .unwrap();
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
        let inside = directory
            .path()
            .join(outside.path().strip_prefix("/").unwrap());
        assert!(inside.join("file").is_file());
        root.open_or_make(Path::new("/up/file"), Kind::File)
            .unwrap();
        assert!(directory.path().join("file").is_file());
    }

    #[test]
    fn a_link_that_dangles_is_completed() {
        let (directory, root) = root();
        std::fs::create_dir(directory.path().join("var")).unwrap();
        symlink("/run", directory.path().join("var/run")).unwrap();
        root.open_or_make(Path::new("/var/run/lock"), Kind::Directory)
            .unwrap();
        assert!(directory.path().join("run/lock").is_dir());
    }

    #[test]
    fn links_in_a_circle_are_an_error() {
        let (directory, root) = root();
        symlink("b", directory.path().join("a")).unwrap();
        symlink("a", directory.path().join("b")).unwrap();
        assert!(
            root.open_or_make(Path::new("/a/c"), Kind::Directory)
                .is_err()
        );
    }
}
