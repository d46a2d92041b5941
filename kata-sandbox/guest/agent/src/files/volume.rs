//! Paths of the guest that may lead into volumes.
//!
//! The guest's own files are what was mounted when the agent started; no
//! container can change them, and links among them are followed. Whatever was
//! mounted later may be written to by containers. From its root on, a path is
//! resolved inside: a link that a container planted leads nowhere else. In a
//! tree that the host shares, each name at its top is a volume of its own.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use kata_protocol::ttrpc::Status;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

use super::inside::{LINKS, link_target, names};
use super::{Kind, Root};
use crate::process::Context as _;

/// Where something was mounted when the agent started.
static TRUSTED: OnceLock<HashSet<PathBuf>> = OnceLock::new();

/// The file system of trees that the host shares.
const SHARED: &str = "virtiofs";

/// What is mounted where, besides the guest's own.
#[derive(Debug)]
pub(crate) struct Volumes(Vec<MountPoint>);

#[derive(Debug, PartialEq, Eq)]
struct MountPoint {
    path: PathBuf,
    kind: String,
}

impl Volumes {
    /// Takes what is mounted now for the guest's own, the first time this is called.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub(crate) fn trust_what_is_mounted() -> io::Result<()> {
        let paths = mounted()?.into_iter().map(|mount| mount.path).collect();
        TRUSTED.get_or_init(|| paths);
        Ok(())
    }

    /// What there is in the calling process's mount namespace.
    ///
    /// # Errors
    /// When `/proc` is not mounted.
    pub(crate) fn now() -> Result<Self, Status> {
        let trusted = |mount: &MountPoint| {
            TRUSTED
                .get()
                .is_none_or(|trusted| trusted.contains(&mount.path))
        };
        let mounted = mounted().context(|| "list what is mounted")?;
        Ok(Self(
            mounted
                .into_iter()
                .filter(|mount| !trusted(mount))
                .collect(),
        ))
    }

    /// Finds what is at `path`; the descriptor is good for finding only
    /// (`O_PATH`).
    ///
    /// # Errors
    /// When there is nothing, or the way there is no way.
    pub(crate) fn open(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let (place, rest) = self.locate(path)?;
        if rest.as_os_str().is_empty() {
            return Ok(place);
        }
        Root(place).open(rest, OFlags::PATH)
    }

    /// The same; what is missing is made, with the directories above it.
    ///
    /// # Errors
    /// When it cannot be made, or the way there is no way.
    pub(crate) fn open_or_make(&self, path: &Path, kind: Kind) -> Result<OwnedFd, Status> {
        let located = self.locate(path);
        let (place, rest) = located.context(|| format!("find {}", path.display()))?;
        if rest.as_os_str().is_empty() {
            return Ok(place);
        }
        Root(place).open_or_make(&rest, kind)
    }

    /// The last place on the way that can be trusted, and the rest of the way,
    /// to be gone inside it.
    fn locate(&self, path: &Path) -> Result<(OwnedFd, PathBuf), Errno> {
        if !path.is_absolute() {
            return Err(Errno::INVAL);
        }
        let mut left: Vec<OsString> = names(path).rev().collect();
        let mut done = PathBuf::from("/");
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == ".." {
                done.pop();
                continue;
            }
            let here = done.join(&name);
            if self.0.iter().any(|mount| mount.path == here) {
                let rest: PathBuf = left.into_iter().rev().collect();
                return self.enter(&here, &rest);
            }
            match find(CWD, &here, ResolveFlags::NO_MAGICLINKS).and_then(|fd| link_target(&fd)) {
                Ok(None) => done = here,
                Ok(Some(target)) => {
                    links += 1;
                    if links > LINKS {
                        return Err(Errno::LOOP);
                    }
                    if target.is_absolute() {
                        done = PathBuf::from("/");
                    }
                    left.extend(names(&target).rev());
                }
                Err(Errno::NOENT) => {
                    left.push(name);
                    let rest = left.into_iter().rev().collect();
                    return Ok((find(CWD, &done, ResolveFlags::NO_MAGICLINKS)?, rest));
                }
                Err(error) => return Err(error),
            }
        }
        Ok((
            find(CWD, &done, ResolveFlags::NO_MAGICLINKS)?,
            PathBuf::new(),
        ))
    }

    /// The innermost volume on the way `rest` from the one at `path`, and the
    /// rest of the way in that.
    fn enter(&self, path: &Path, rest: &Path) -> Result<(OwnedFd, PathBuf), Errno> {
        // After a "..", where the way leads is not for its letters to say.
        let plain = rest
            .components()
            .take_while(|part| matches!(part, Component::Normal(_)));
        let way = path.join(plain.collect::<PathBuf>());
        let nested = self.0.iter().filter(|mount| way.starts_with(&mount.path));
        let innermost = nested.max_by_key(|mount| mount.path.as_os_str().len());
        let innermost = innermost.ok_or(Errno::NOENT)?;
        let below = innermost.path.strip_prefix(path).unwrap_or(Path::new(""));
        let mut place = find(CWD, path, ResolveFlags::NO_MAGICLINKS)?;
        if !below.as_os_str().is_empty() {
            place = find(&place, below, STRAIGHT)?;
        }
        let mut rest: PathBuf = rest.strip_prefix(below).map_err(|_| Errno::NOENT)?.into();
        if innermost.kind == SHARED {
            let mut parts = rest.components();
            if let Some(top) = parts.next() {
                place = find(&place, top.as_ref(), STRAIGHT)?;
                rest = parts.collect();
            }
        }
        Ok((place, rest))
    }
}

/// No link, and not up.
const STRAIGHT: ResolveFlags = ResolveFlags::NO_SYMLINKS.union(ResolveFlags::BENEATH);

fn find(
    directory: impl std::os::fd::AsFd,
    path: &Path,
    how: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat2(directory, path, flags, Mode::empty(), how)
}

fn mounted() -> io::Result<Vec<MountPoint>> {
    let text = std::fs::read("/proc/self/mountinfo")?;
    Ok(text
        .split(|byte| *byte == b'\n')
        .filter_map(read_line)
        .collect())
}

/// A line of `/proc/<pid>/mountinfo` (proc_pid_mountinfo(5)).
fn read_line(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|byte| *byte == b' ');
    let path = unescape(fields.nth(4)?);
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    Some(MountPoint {
        path: OsString::from_vec(path).into(),
        kind: OsStr::from_bytes(kind).to_string_lossy().into_owned(),
    })
}

/// The kernel writes blanks and backslashes in octal.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let number = match after {
            digits if *first == b'\\' && digits.len() >= 3 => octal(&digits[..3]),
            _ => None,
        };
        match number {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

fn octal(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn volumes(mounts: &[(&Path, &str)]) -> Volumes {
        let mount = |(path, kind): &(&Path, &str)| MountPoint {
            path: (*path).to_owned(),
            kind: (*kind).to_owned(),
        };
        Volumes(mounts.iter().map(mount).collect())
    }

    /// Canonical: what is mounted has no links in its name.
    fn directory() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().canonicalize().unwrap();
        (directory, path)
    }

    fn shown(fd: &OwnedFd) -> PathBuf {
        std::fs::read_link(crate::files::name(fd)).unwrap()
    }

    #[test]
    fn links_of_the_guest_are_followed_and_those_in_volumes_stay_in() {
        let (_keep, guest) = directory();
        std::fs::create_dir_all(guest.join("volume/etc")).unwrap();
        std::fs::create_dir(guest.join("etc")).unwrap();
        symlink(guest.join("volume"), guest.join("way")).unwrap();
        symlink("/etc", guest.join("volume/planted")).unwrap();
        symlink("../../../../../etc", guest.join("volume/climbing")).unwrap();
        let volumes = volumes(&[(&guest.join("volume"), "ext4")]);
        for name in ["planted", "climbing"] {
            let fd = volumes.open(&guest.join("way").join(name)).unwrap();
            assert_eq!(shown(&fd), guest.join("volume/etc"));
        }
        let fd = volumes.open(&guest.join("volume")).unwrap();
        assert_eq!(shown(&fd), guest.join("volume"));
        assert_eq!(volumes.open(&guest.join("none")).unwrap_err(), Errno::NOENT);
    }

    #[test]
    fn names_at_the_top_of_a_shared_tree_do_not_see_each_other() {
        let (_keep, share) = directory();
        std::fs::create_dir_all(share.join("a/secret")).unwrap();
        std::fs::create_dir_all(share.join("b")).unwrap();
        symlink("/a/secret", share.join("b/planted")).unwrap();
        symlink("a", share.join("c")).unwrap();
        let volumes = volumes(&[(&share, "virtiofs")]);
        let planted = volumes.open(&share.join("b/planted"));
        assert_eq!(planted.unwrap_err(), Errno::NOENT);
        assert!(volumes.open(&share.join("c/secret")).is_err());
        assert!(volumes.open(&share.join("b/../a/secret")).is_err());
        assert!(volumes.open(&share.join("a/secret")).is_ok());
    }

    #[test]
    fn a_volume_in_a_volume_is_its_own() {
        let (_keep, outer) = directory();
        std::fs::create_dir_all(outer.join("in/x")).unwrap();
        std::fs::create_dir_all(outer.join("x/only-outside")).unwrap();
        symlink("/x", outer.join("in/planted")).unwrap();
        let volumes = volumes(&[(&outer, "tmpfs"), (&outer.join("in"), "tmpfs")]);
        let fd = volumes.open(&outer.join("in/planted")).unwrap();
        assert_eq!(shown(&fd), outer.join("in/x"));
    }

    #[test]
    fn what_is_missing_is_made_inside() {
        let (_keep, guest) = directory();
        let (_outside, outside) = directory();
        std::fs::create_dir(guest.join("volume")).unwrap();
        symlink(&outside, guest.join("volume/planted")).unwrap();
        let volumes = volumes(&[(&guest.join("volume"), "ext4")]);
        let path = guest.join("volume/planted/new");
        volumes.open_or_make(&path, Kind::Directory).unwrap();
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
        let made = guest.join("own/new/file");
        volumes.open_or_make(&made, Kind::File).unwrap();
        assert!(made.is_file());
    }

    #[test]
    fn mount_points_are_read_with_their_blanks() {
        let line =
            b"36 35 98:0 /a /run/with\\040blank rw,noatime shared:1 master:2 - virtiofs tag rw";
        let expected = MountPoint {
            path: "/run/with blank".into(),
            kind: "virtiofs".into(),
        };
        assert_eq!(read_line(line), Some(expected));
        assert_eq!(read_line(b"36 35 98:0"), None);
        assert_eq!(unescape(b"\\9\\134\\"), b"\\9\\\\");
    }

    proptest::proptest! {
        #[test]
        fn no_line_makes_it_panic(line: Vec<u8>) {
            let _ = (read_line(&line), unescape(&line));
        }
    }
}
