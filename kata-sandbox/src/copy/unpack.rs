//! Unpacking an archive that the guest made, which may say anything.
//!
//! It is unpacked in a fresh directory, so that no link that is there already
//! can lead it astray, and moved to its place at the end. Only directories,
//! files and links are made, without owners, and none through a link: the `tar`
//! crate refuses paths that leave the directory.

use std::fs::DirBuilder;
use std::io::{self, Read};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use tar::{Archive, EntryType};

/// The most entries of one archive.
const ENTRIES: usize = 1 << 20;

/// Numbers the fresh directories of this process.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// Where an archive goes. Dropping it removes what was not moved to its place.
#[derive(Debug)]
pub(super) struct Target {
    fresh: PathBuf,
    name: String,
    place: PathBuf,
}

impl Target {
    /// Makes a fresh directory below `host` for something named `name`.
    pub(super) fn new(host: &Path, name: &str) -> io::Result<Self> {
        let place = host.join(name);
        if place.symlink_metadata().is_ok() {
            let message = format!("{} is there already", place.display());
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
        }
        let (process, number) = (std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let fresh = host.join(format!(".kata-copy-{process}-{number}"));
        DirBuilder::new().mode(0o700).create(&fresh)?;
        Ok(Self {
            fresh,
            name: name.to_owned(),
            place,
        })
    }

    /// Unpacks into the fresh directory, an archive that is whole.
    pub(super) fn unpack(self, source: impl Read) -> io::Result<Self> {
        let mut source = Ending::new(source);
        let mut archive = Archive::new(&mut source);
        archive.set_preserve_permissions(false);
        archive.set_preserve_mtime(true);
        archive.set_unpack_xattrs(false);
        for (count, entry) in archive.entries()?.enumerate() {
            let mut entry = entry?;
            if count >= ENTRIES {
                return Err(refuse(format!(
                    "the archive has more than {ENTRIES} entries"
                )));
            }
            let wanted = matches!(
                entry.header().entry_type(),
                EntryType::Regular
                    | EntryType::Continuous
                    | EntryType::GNUSparse
                    | EntryType::Directory
                    | EntryType::Symlink
                    | EntryType::Link
            );
            if wanted && !entry.unpack_in(&self.fresh)? {
                let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
                return Err(refuse(format!(
                    "the archive's path {path:?} leads out of it"
                )));
            }
        }
        // To the end: the guest may still be sending padding.
        io::copy(&mut source, &mut io::sink())?;
        if source.zeros < END_MARK {
            return Err(refuse("the archive breaks off".to_owned()));
        }
        Ok(self)
    }

    /// Moves what was asked for to its place.
    pub(super) fn place(self) -> io::Result<()> {
        let unpacked = self.fresh.join(&self.name);
        if unpacked.symlink_metadata().is_err() {
            return Err(refuse(format!(
                "the archive has nothing named {:?}",
                self.name
            )));
        }
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            &unpacked,
            rustix::fs::CWD,
            &self.place,
            rustix::fs::RenameFlags::NOREPLACE,
        )?;
        Ok(())
    }
}

/// How many zeros end an archive: a stream that was cut between two entries
/// would look whole without them.
const END_MARK: u64 = 1024;

/// Counts the zeros that a stream has ended with so far.
struct Ending<R> {
    source: R,
    zeros: u64,
}

impl<R: Read> Ending<R> {
    fn new(source: R) -> Self {
        Self { source, zeros: 0 }
    }
}

impl<R: Read> Read for Ending<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(buffer)?;
        let read = &buffer[..count];
        let zeros = read.iter().rev().take_while(|byte| **byte == 0).count();
        let before = if zeros == count { self.zeros } else { 0 };
        self.zeros = before + zeros as u64;
        Ok(count)
    }
}

fn refuse(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}

impl Drop for Target {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.fresh) {
            log::warn!(error:%; "cannot remove what was not copied");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(build: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        build(&mut builder);
        builder.into_inner().unwrap()
    }

    fn file(builder: &mut tar::Builder<Vec<u8>>, path: &[u8], content: &[u8]) {
        let mut header = tar::Header::new_gnu();
        // Not through `set_path`, which refuses what is tested here.
        header.as_old_mut().name[..path.len()].copy_from_slice(path);
        header.set_size(content.len() as u64);
        header.set_mode(0o4777);
        header.set_cksum();
        builder.append(&header, content).unwrap();
    }

    fn unpack(host: &Path, bytes: &[u8]) -> io::Result<()> {
        Target::new(host, "data")?.unpack(bytes)?.place()
    }

    fn entries(host: &Path) -> usize {
        std::fs::read_dir(host).unwrap().count()
    }

    #[test]
    fn what_was_asked_for_is_unpacked_without_special_bits() {
        use std::os::unix::fs::PermissionsExt as _;
        let host = tempfile::tempdir().unwrap();
        let bytes = archive(|builder| {
            file(builder, b"data/a", b"hello");
            file(builder, b"stray", b"x");
        });
        unpack(host.path(), &bytes).unwrap();
        let unpacked = host.path().join("data/a");
        assert_eq!(std::fs::read(&unpacked).unwrap(), b"hello");
        assert_eq!(
            unpacked.metadata().unwrap().permissions().mode() & 0o7000,
            0
        );
        assert_eq!(entries(host.path()), 1);
    }

    #[test]
    fn a_path_that_leads_out_is_refused_and_nothing_is_left() {
        let host = tempfile::tempdir().unwrap();
        let bytes = archive(|builder| file(builder, b"data/../../out", b"x"));
        assert!(unpack(host.path(), &bytes).is_err());
        assert_eq!(entries(host.path()), 0);
    }

    #[test]
    fn nothing_is_written_through_a_link_of_the_archive() {
        let (host, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let bytes = archive(|builder| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(EntryType::Symlink);
            header.set_size(0);
            builder
                .append_link(&mut header, "data", outside.path())
                .unwrap();
            file(builder, b"data/file", b"x");
        });
        assert!(unpack(host.path(), &bytes).is_err());
        assert_eq!(entries(outside.path()), 0);
        assert_eq!(entries(host.path()), 0);
    }

    #[test]
    fn devices_are_left_out() {
        let host = tempfile::tempdir().unwrap();
        let bytes = archive(|builder| {
            file(builder, b"data/a", b"x");
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(EntryType::Char);
            header.set_path("data/null").unwrap();
            header.set_size(0);
            header.set_cksum();
            builder.append(&header, io::empty()).unwrap();
        });
        unpack(host.path(), &bytes).unwrap();
        assert_eq!(entries(&host.path().join("data")), 1);
    }

    #[test]
    fn garbage_and_an_archive_of_something_else_are_refused() {
        let host = tempfile::tempdir().unwrap();
        assert!(unpack(host.path(), &[1; 2048]).is_err());
        let other = archive(|builder| file(builder, b"other", b"x"));
        let error = unpack(host.path(), &other).unwrap_err();
        assert!(
            error.to_string().contains("nothing named \"data\""),
            "{error}"
        );
        assert_eq!(entries(host.path()), 0);
    }

    #[test]
    fn an_archive_that_breaks_off_is_refused_wherever_it_does() {
        let host = tempfile::tempdir().unwrap();
        let bytes = archive(|builder| {
            file(builder, b"data/a", &[7; 600]);
            file(builder, b"data/b", b"x");
        });
        for length in (0..bytes.len() - 512).step_by(256) {
            assert!(unpack(host.path(), &bytes[..length]).is_err(), "{length}");
            assert_eq!(entries(host.path()), 0);
        }
        unpack(host.path(), &bytes).unwrap();
    }

    #[test]
    fn what_was_unpacked_and_is_not_wanted_any_more_is_removed() {
        let host = tempfile::tempdir().unwrap();
        let bytes = archive(|builder| file(builder, b"data/a", b"x"));
        let target = Target::new(host.path(), "data").unwrap();
        drop(target.unpack(&*bytes).unwrap());
        assert_eq!(entries(host.path()), 0);
    }

    #[test]
    fn what_is_there_is_not_replaced() {
        let host = tempfile::tempdir().unwrap();
        std::fs::write(host.path().join("data"), "mine").unwrap();
        let error = unpack(host.path(), b"").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }
}
