//! CopyFile: files for guests without a shared directory, in pieces.
//!
//! Only below `/run`, and only by a way on which nothing is a link: a container
//! that could plant one must not make the agent write elsewhere.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Component, Path};

use kata_protocol::agent::CopyFileRequest;
use kata_protocol::ttrpc::Status;
use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, RawMode, ResolveFlags, chownat, fchmod, mkdirat, openat,
    openat2, renameat, symlinkat, unlinkat,
};
use rustix::io::Errno;
use rustix::process::{Gid, Uid};

use super::{internal, invalid};

/// The directory that everything must be in.
const BASE: &str = "/run";
/// Ends the name of a file that is not complete yet.
const PARTIAL: &str = ".partial-copy";

/// Takes one piece of a file, or a whole directory or link.
pub(super) fn copy(request: CopyFileRequest) -> Result<(), Status> {
    let what = format!("copy to {}", request.path);
    let copy = Copy::new(request, Path::new(BASE))?;
    copy.run(Path::new(BASE)).map_err(internal(&what))
}

struct Copy {
    directory: Vec<String>,
    name: String,
    kind: FileType,
    mode: Mode,
    directory_mode: Mode,
    owner: (Option<Uid>, Option<Gid>),
    size: u64,
    offset: u64,
    data: Vec<u8>,
}

impl Copy {
    fn new(request: CopyFileRequest, base: &Path) -> Result<Self, Status> {
        let (directory, name) = split(&request.path, base).ok_or_else(|| {
            invalid(format!(
                "{:?} is no path of a file below {}",
                request.path,
                base.display()
            ))
        })?;
        let kind = FileType::from_raw_mode(request.file_mode);
        // Kata's runtime leaves the type out for regular files.
        let typeless = request.file_mode & 0o170_000 == 0;
        let kind = if typeless {
            FileType::RegularFile
        } else {
            kind
        };
        let size = u64::try_from(request.file_size);
        let offset = u64::try_from(request.offset);
        let (Ok(size), Ok(offset)) = (size, offset) else {
            return Err(invalid("a size or an offset is negative"));
        };
        let end = offset.checked_add(request.data.len() as u64);
        if kind == FileType::RegularFile && end.is_none_or(|end| end > size) {
            return Err(invalid(format!(
                "the piece at {offset} goes past the file's end, {size}"
            )));
        }
        let id = |number: i32| u32::try_from(number).ok();
        Ok(Self {
            directory,
            name,
            kind,
            mode: mode(request.file_mode, 0o644),
            directory_mode: mode(request.dir_mode, 0o755),
            owner: (
                id(request.uid).map(Uid::from_raw),
                id(request.gid).map(Gid::from_raw),
            ),
            size,
            offset,
            data: request.data,
        })
    }

    fn run(&self, base: &Path) -> io::Result<()> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let base = openat(CWD, base, flags, Mode::empty())?;
        let directory = self.make_directories(base)?;
        match self.kind {
            FileType::Directory => self.make_directory(&directory),
            FileType::Symlink => self.make_link(&directory),
            FileType::RegularFile => self.write(&directory),
            _ => Err(io::Error::other(
                "only files, directories and links are copied",
            )),
        }
    }

    fn make_directories(&self, base: OwnedFd) -> io::Result<OwnedFd> {
        let mut at = base;
        for name in &self.directory {
            match mkdirat(&at, name.as_str(), self.directory_mode) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            at = beneath(&at, name, OFlags::PATH | OFlags::DIRECTORY, Mode::empty())?;
        }
        Ok(at)
    }

    fn make_directory(&self, directory: &OwnedFd) -> io::Result<()> {
        match mkdirat(directory, self.name.as_str(), self.mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let made = beneath(directory, &self.name, OFlags::DIRECTORY, Mode::empty())?;
        self.set_owner(directory, &self.name)?;
        Ok(fchmod(&made, self.mode)?)
    }

    /// The data of a link is what it points to.
    fn make_link(&self, directory: &OwnedFd) -> io::Result<()> {
        match unlinkat(directory, self.name.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let target = Path::new(std::ffi::OsStr::from_bytes(&self.data));
        symlinkat(target, directory, self.name.as_str())?;
        self.set_owner(directory, &self.name)
    }

    /// Pieces gather in a file beside; the last one puts it in place, so that
    /// nobody sees half a file.
    fn write(&self, directory: &OwnedFd) -> io::Result<()> {
        let partial = format!("{}{PARTIAL}", self.name);
        let flags = OFlags::WRONLY | OFlags::CREATE;
        let file = File::from(beneath(
            directory,
            &partial,
            flags,
            Mode::RUSR | Mode::WUSR,
        )?);
        if self.offset == 0 {
            file.set_len(0)?;
        }
        file.write_all_at(&self.data, self.offset)?;
        if file.metadata()?.len() < self.size {
            return Ok(());
        }
        self.set_owner(directory, &partial)?;
        fchmod(&file, self.mode)?;
        Ok(renameat(
            directory,
            partial.as_str(),
            directory,
            self.name.as_str(),
        )?)
    }

    fn set_owner(&self, directory: impl AsFd, name: &str) -> io::Result<()> {
        let (user, group) = self.owner;
        Ok(chownat(
            directory,
            name,
            user,
            group,
            AtFlags::SYMLINK_NOFOLLOW,
        )?)
    }
}

/// Opens `name` in `directory` if it is not a link, nor leads elsewhere.
fn beneath(directory: &OwnedFd, name: &str, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let how = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(openat2(directory, name, flags, mode, how)?)
}

/// The permissions in a mode of the wire, or the usual ones.
fn mode(raw: u32, usual: RawMode) -> Mode {
    match raw & 0o7777 {
        0 => Mode::from_raw_mode(usual),
        bits => Mode::from_raw_mode(bits),
    }
}

/// The directories below `base`, and the file's name.
fn split(path: &str, base: &Path) -> Option<(Vec<String>, String)> {
    let below = Path::new(path).strip_prefix(base).ok()?;
    let mut names = Vec::new();
    for part in below.components() {
        match part {
            Component::Normal(name) => names.push(name.to_str()?.to_owned()),
            _ => return None,
        }
    }
    let name = names.pop()?;
    (!path.contains('\0')).then_some((names, name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn request(path: &Path, data: &[u8]) -> CopyFileRequest {
        CopyFileRequest {
            path: path.to_str().unwrap().into(),
            file_size: i64::try_from(data.len()).unwrap(),
            file_mode: 0o100_640,
            dir_mode: 0o750,
            uid: -1,
            gid: -1,
            offset: 0,
            data: data.to_vec(),
        }
    }

    fn copy_below(base: &Path, request: CopyFileRequest) -> io::Result<()> {
        Copy::new(request, base)
            .map_err(io::Error::other)?
            .run(base)
    }

    #[test]
    fn a_file_arrives_in_pieces_and_appears_whole() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("a/b/file");
        let mut first = request(&path, b"hello ");
        first.file_size = 11;
        copy_below(base.path(), first).unwrap();
        assert!(!path.exists());
        let mut second = request(&path, b"world");
        (second.file_size, second.offset) = (11, 6);
        copy_below(base.path(), second).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"hello world");
        assert_eq!(
            std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777,
            0o640
        );
        assert_eq!(
            std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
            1
        );
    }

    #[test]
    fn directories_and_links_are_made() {
        let base = tempfile::tempdir().unwrap();
        let mut directory = request(&base.path().join("d"), b"");
        directory.file_mode = 0o040_711;
        copy_below(base.path(), directory).unwrap();
        let mut link = request(&base.path().join("d/link"), b"../target");
        link.file_mode = 0o120_777;
        copy_below(base.path(), link.clone()).unwrap();
        copy_below(base.path(), link).unwrap();
        let target = std::fs::read_link(base.path().join("d/link")).unwrap();
        assert_eq!(target, Path::new("../target"));
    }

    #[test]
    fn a_planted_link_is_not_followed() {
        let base = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), base.path().join("way")).unwrap();
        assert!(copy_below(base.path(), request(&base.path().join("way/file"), b"x")).is_err());
        symlink(
            outside.path().join("file"),
            base.path().join("file.partial-copy"),
        )
        .unwrap();
        assert!(copy_below(base.path(), request(&base.path().join("file"), b"x")).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for path in [
            "/etc/passwd",
            "/run",
            "/run/../etc/x",
            "run/x",
            "/running/x",
            "/run/a\0b",
        ] {
            assert_eq!(split(path, Path::new(BASE)), None, "{path:?}");
        }
    }

    #[test]
    fn a_piece_past_the_end_is_refused() {
        let mut piece = request(Path::new("/run/x"), b"abc");
        piece.offset = 1;
        assert!(Copy::new(piece, Path::new(BASE)).is_err());
    }
}
